// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * Core: keeps ks_procs true with no race, in the kernel, for every group.
 *
 *   fork:  the child of a traced process is traced from its first instruction, with its parent's runtime
 *   exec:  another image: its runtime is not known yet, but for a program that was seen before
 *   exit:  the thread's state goes; with the last thread the process's
 *   mmap:  where the raw pair is used, last in its chain: a process whose runtime is not known maps a file that is known to
 *          hold one (a libpython), or one whose runtime is known a library that makes it another (KS_FLAGGED). With a tracepoint
 *          for each call the agent finds both itself, some milliseconds later, or a second.
 */
#include "op.h"
#include <asm/unistd.h>
#include "image.h"

/* Names a directory by its mount and entry: two that are equal, with the first still open, are one. */
static __always_inline u64 directory(u64 path)
{
	return ks_mix(ks_mix(0, KS_KREAD(u64, path)), KS_KREAD(u64, path + 8));
}

static __always_inline void send_process(u32 event, u32 tgid, u32 tid, u32 parent, s32 exit_code, u64 start,
					 u64 executable)
{
	struct ks_proc_rec r = {};
	u64 fs;

	r.kind = KS_KIND_PROCESS;
	r.version = KS_VERSION;
	r.size = sizeof(r);
	r.time = bpf_ktime_get_ns();
	r.tgid = tgid;
	r.tid = tid;
	r.event = event;
	r.parent = parent;
	r.exit_code = exit_code;
	r.start = start;
	r.executable = executable;
	bpf_get_current_comm(r.comm, sizeof(r.comm));
	fs = KS_KREAD(u64, ks_current_task() + KS_TASK_FS);
	if (fs) {
		r.root = directory(fs + KS_FS_ROOT);
		r.cwd = directory(fs + KS_FS_PWD);
	}
	if (ks_ring.ringbuf_output(&r, sizeof(r), 2 /* FORCE_WAKEUP */))
		ks_count(0, KS_C_PROCESS_LOST);
}

int ks_fork(struct bpf_raw_tracepoint_args *ctx)
{
	u64 child = ctx->args[1];
	u64 id = ks_ids();
	u32 tgid = id >> 32, child_tgid = ks_ids_of(child) >> 32, thread = KS_THREAD(id);
	struct ks_runtime *rt, child_rt;
	struct ks_proc *p, child_proc;
	struct ks_call *call;

	if (tgid == child_tgid)
		return 0; /* a thread */
	p = ks_procs.lookup(&tgid);
	if (!p)
		return 0;
	child_proc = *p;
	child_proc.start = bpf_ktime_get_ns();
	rt = ks_runtimes.lookup(&tgid);
	if (rt && rt->start == p->start) {
		child_rt = *rt;
		child_rt.start = child_proc.start;
		ks_runtimes.update(&child_tgid, &child_rt);
	}
	if (ks_procs.update(&child_tgid, &child_proc))
		ks_count(p->cls, KS_C_PROCESS_LOST);
	call = ks_call_of(thread);
	if (call && call->op == KS_OP_Fork)
		call->inode = child_tgid; /* the call's result is its number in the parent's PID name space */
	send_process(KS_PROCESS_FORK, child_tgid, id, tgid, 0, child_proc.start, 0);
	return 0;
}

/* The path of the new image's file, where it may be asked for: the process may have ended before anybody can look. */
static __always_inline u64 executable_path(u64 id, u32 cls)
{
#if KS_EXECUTABLES
	u64 mm = KS_KREAD(u64, ks_current_task() + KS_TASK_MM), file = KS_KREAD(u64, mm + KS_MM_EXE_FILE);
	struct ks_scratch *s = ks_scratch(KS_SCRATCH_EXEC);

	if (!s || !file)
		return 0;
	s->op.tgid = id >> 32;
	s->op.tid = id;
	s->op.cls = cls;
	return ks_path_id(s, file + KS_FILE_PATH);
#else
	return 0;
#endif
}

/* The new image's program may be one whose runtime is known already. */
static __always_inline void known_executable(u32 tgid, u64 start)
{
	u64 mm = KS_KREAD(u64, ks_current_task() + KS_TASK_MM), file = KS_KREAD(u64, mm + KS_MM_EXE_FILE);
	struct ks_image *image = ks_image_of(KS_KREAD(u64, file + KS_FILE_INODE));

	if (image && image->offset == KS_IMAGE_EXECUTABLE)
		ks_image_use(tgid, start, image, KS_KREAD(u64, mm + KS_MM_START_CODE) + image->delta);
}

/*
 * The operation waits in ks_stash since the call's entry. It ends here and not at the call's return: that bears another
 * number where the new image is a 32-bit one. A second thread that execs has become the first by now.
 */
static __always_inline void finish_exec(u32 thread)
{
	struct ks_op *early = ks_stash.lookup(&thread);
	struct ks_scratch *s = ks_scratch(KS_SCRATCH_EXEC);

	if (!s || !early || early->op != KS_OP_Exec)
		return;
	s->op = *early;
	ks_stash.delete(&thread);
	s->op.time = bpf_ktime_get_ns();
	ks_send(s);
}

/* The thread has ended, or has another number now: so has the call that it was in. */
static __always_inline void leave(u32 tid)
{
	struct ks_call *call = ks_call_of(tid);

	if (!call)
		return;
	if (call->op) {
		ks_count(call->cls, KS_C_TARGET_GONE);
		if (call->nested && !ks_aside.delete(&tid))
			ks_count(call->cls, KS_C_TARGET_GONE);
	}
	ks_leave_place(tid);
}

int ks_exec(struct bpf_raw_tracepoint_args *ctx)
{
	u64 id = ks_ids();
	u32 tgid = id >> 32, before = ctx->args[1];
	struct ks_proc *p = ks_procs.lookup(&tgid), next;

	if (!p) {
		if (KS_WATCH_EXEC && tgid)
			send_process(KS_PROCESS_EXEC, tgid, id, 0, 0, 0, 0);
		return 0;
	}
	next = *p;
	next.start = bpf_ktime_get_ns();
	ks_procs.update(&tgid, &next);
	known_executable(tgid, next.start);
	send_process(KS_PROCESS_EXEC, tgid, id, 0, 0, next.start, executable_path(id, next.cls));
	finish_exec(before);
	if (before != KS_THREAD(id))
		leave(before); /* no thread has this number any more */
	return 0;
}

int ks_gone(struct bpf_raw_tracepoint_args *ctx)
{
	u64 id = ks_ids(), task = ks_current_task(), signal;
	u32 tgid = id >> 32, tid = KS_THREAD(id);
	struct ks_proc *p = ks_procs.lookup(&tgid);
	struct ks_op *kept = ks_kept_still(tid);
	s32 code;

	/* before the process is looked up: of two threads that end at once the first may have taken it away */
	leave(tid);
	if (kept) {
		if (kept->op != KS_OP_Close) /* whose call was counted */
			ks_count(kept->cls, KS_C_TARGET_GONE);
		ks_stash.delete(&tid);
	}
	if (!p)
		return 0;
	ks_threads.delete(&tid);
	signal = KS_KREAD(u64, task + KS_TASK_SIGNAL);
	if (KS_KREAD(s32, signal + KS_SIGNAL_LIVE))
		return 0; /* other threads go on */
	code = KS_KREAD(u32, signal + KS_SIGNAL_FLAGS) & 4 /* SIGNAL_GROUP_EXIT */ ?
		       KS_KREAD(s32, signal + KS_SIGNAL_EXIT_CODE) :
		       KS_KREAD(s32, task + KS_TASK_EXIT_CODE);
	send_process(KS_PROCESS_EXIT, tgid, id, 0, code, p->start, 0);
	ks_procs.delete(&tgid);
	ks_runtimes.delete(&tgid);
	return 0;
}

/* What a process of this runtime is by having mapped that file: see registry.Runtime.flagged_by. */
static __always_inline u32 flag_by(u32 runtime, u64 file)
{
	u64 dentry = KS_KREAD(u64, file + KS_FILE_PATH + 8), name = KS_KREAD(u64, dentry + KS_DENTRY_NAME + 8);
	u64 first = KS_KREAD(u64, name), rest = KS_KREAD(u64, name + 8);

#define KS_FLAG(number, flag, begins, goes_on, mask)                                                                   \
	if (runtime == (number) && first == (begins) && (rest & (mask)) == (goes_on))                                  \
		return flag;
	KS_FLAGGED(KS_FLAG)
	return 0;
}

int ks_map_exit(struct ks_sys_exit *ctx)
{
#if KS_RAW
	u32 tgid = ks_ids() >> 32;
	struct ks_proc *p = ks_procs.lookup(&tgid);
	struct ks_runtime *rt;
	struct ks_image *image;
	u64 file;

	if (!p)
		return 0;
	if (ks_exit_nr(ctx) != __NR_mmap)
		return 0;
	if (ctx->ret < 0 && ctx->ret > -4096)
		return 0;
	file = ks_file(KS_KREAD(u32, ctx->regs + KS_REGS_R8));
	if (!file)
		return 0;
	rt = ks_runtimes.lookup(&tgid);
	if (rt && rt->start == p->start && rt->runtime) {
		rt->flags |= flag_by(rt->runtime, file);
		return 0;
	}
	image = ks_image_of(ks_inode(file));
	if (image && image->offset == KS_KREAD(u64, ctx->regs + KS_REGS_R9))
		ks_image_use(tgid, p->start, image, ctx->ret + image->delta);
#endif
	return 0;
}
