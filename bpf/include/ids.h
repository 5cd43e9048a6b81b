/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Whose numbers: included by ks.h, of which it needs the reads. */
#pragma once

/*
 * Ids are those that the agent's PID name space has for a task; 0 for a task that it has none for. Processes are known by
 * such ids, in the maps and in the records; what a program keeps of a thread for itself is kept by the kernel's own number,
 * which no exec takes away before we are told.
 */
#if KS_PID_LEVEL
static __always_inline u32 ks_number(u64 task)
{
	u64 pid = KS_KREAD(u64, task + KS_TASK_THREAD_PID);
	u64 at = pid + KS_PID_NUMBERS + KS_PID_LEVEL * KS_UPID_SIZE;

	if (!pid || KS_KREAD(u32, pid + KS_PID_OWN_LEVEL) < KS_PID_LEVEL)
		return 0;
	if (KS_KREAD(u32, KS_KREAD(u64, at + KS_UPID_NS) + KS_PIDNS_INUM) != KS_PID_NS)
		return 0;
	return KS_KREAD(u32, at + KS_UPID_NR);
}

static __always_inline u64 ks_ids_of(u64 task)
{
	u64 tgid = ks_number(KS_KREAD(u64, task + KS_TASK_LEADER));

	return tgid ? tgid << 32 | ks_number(task) : 0;
}

static __always_inline u64 ks_ids(void)
{
	return ks_ids_of(ks_current_task());
}

#define KS_THREAD(id) ((u32)ks_current_ids())
#else
static __always_inline u64 ks_ids_of(u64 task)
{
	return (u64)KS_KREAD(u32, task + KS_TASK_TGID) << 32 | KS_KREAD(u32, task + KS_TASK_PID);
}

static __always_inline u64 ks_ids(void)
{
#if KS_DIRECT /* the task is asked for anyway */
	return ks_ids_of(ks_current_task());
#else
	return ks_current_ids();
#endif
}

#define KS_THREAD(id) ((u32)(id)) /* the kernel's number of the current thread, whose ids are `id` */
#endif

/* How often the thread has left the CPU so far. */
static __always_inline u64 ks_switches(void)
{
	u64 task = ks_current_task();

	return KS_KREAD(u64, task + KS_TASK_SWITCHES) + KS_KREAD(u64, task + KS_TASK_PREEMPTIONS);
}
