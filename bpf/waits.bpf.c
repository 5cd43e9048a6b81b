// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * Waits: locks, sleeps, polls, and time off the CPU.
 *
 *   enter / exit:  as every system call
 *   switch:        a thread leaves the CPU -> walked now (its frames are not to be had later), kept by thread;
 *                  a thread comes back -> its operation ends -> filter by duration -> record
 */
#include "calls.h"

#define FUTEX (1 << 0) /* only the operations that wait */

#define KS_SYSCALLS(X)                                                                                                 \
	X(futex, Lock, FUTEX)                                                                                          \
	X(futex_wait, Lock, 0)                                                                                         \
	X(futex_waitv, Lock, 0)                                                                                        \
	X(nanosleep, Sleep, 0)                                                                                         \
	X(clock_nanosleep, Sleep, 0)                                                                                   \
	X(pause, Sleep, 0)                                                                                             \
	X(poll, Poll, 0)                                                                                               \
	X(ppoll, Poll, 0)                                                                                              \
	X(select, Poll, 0)                                                                                             \
	X(pselect6, Poll, 0)                                                                                           \
	X(epoll_wait, Poll, 0)                                                                                         \
	X(epoll_pwait, Poll, 0)                                                                                        \
	X(epoll_pwait2, Poll, 0)

#include "syscalls.h"

int ks_wait_enter(struct ks_sys_enter *ctx)
{
	s32 nr;
	u64 id = ks_ids();
	u32 tgid = id >> 32, op, roles = 0;
	struct ks_proc is, *p = ks_wanted(tgid, &is);
	struct ks_class *c;
	struct ks_args args = {};

	if (!p)
		return 0;
	nr = ks_nr(ctx);
	if (nr == __NR_restart_syscall) {
		ks_resume();
		return 0;
	}
	op = ks_describe(nr, &roles);
	c = op ? ks_wants(p, op) : 0;
	if (!c)
		return ks_next_enter(ctx, KS_GROUP_WAITS);
	ks_args(ctx, &args);
	if (roles & FUTEX) {
		u32 futex_op = args.v[1] & 0x7f; /* WAIT, LOCK_PI, WAIT_BITSET, WAIT_REQUEUE_PI, LOCK_PI2 */

		if (futex_op != 0 && futex_op != 6 && futex_op != 9 && futex_op != 11 && futex_op != 13)
			return 0;
	}
	ks_enter(KS_THREAD(id), nr, &args, p, c, KS_GROUP_WAITS, op, 0, 0, 0);
	return 0;
}

int ks_wait_exit(struct ks_sys_exit *ctx)
{
	u64 id = ks_ids();
	u32 wanted = 0;
	struct ks_call *call = ks_returning(id, &wanted);
	struct ks_class *c = 0;
	struct ks_scratch *s;

	if (!wanted)
		return 0;
	if (!call)
		return ks_next_exit(ctx, KS_GROUP_WAITS);
	if (!ks_in_own_call(call, KS_GROUP_WAITS))
		return ks_next_exit(ctx, KS_GROUP_WAITS);
	KS_OPAQUE(call);
	s = ks_exit(ctx, id, call, KS_GROUP_WAITS, &c);
	if (!s)
		return 0;
	if (ks_rate_limited(c, s->op.cls, s->op.time)) {
		ks_count(s->op.cls, KS_C_RATE_LIMITED);
		return 0;
	}
	ks_walk(ctx, s, c);
	return 0;
}

#if KS_RAW
struct ks_sched_switch {
	u64 preempt, previous, next;
};

#define NEXT_TID(ctx) KS_KREAD(u32, (ctx)->next + KS_TASK_PID)
#else
struct ks_sched_switch {
	u8 before[KS_SWITCH_NEXT_PID];
	u32 next_pid;
};

#define NEXT_TID(ctx) ((ctx)->next_pid)
#endif

static __always_inline void comes_back(u32 tid)
{
	struct ks_op *kept = ks_stash.lookup(&tid);
	struct ks_call *call;
	struct ks_scratch *s;
	struct ks_class *c;
	u32 cls;

	if (!kept || kept->op != KS_OP_OffCPU)
		return;
	s = ks_scratch(KS_SCRATCH_SWITCH);
	if (!s)
		return;
	s->op = *kept;
	ks_stash.delete(&tid);
	s->op.time = bpf_ktime_get_ns();
	call = ks_call_of(tid);
	if (call) {
		call->away += s->op.time - s->op.start;
		call->timed++;
	}
	cls = s->op.cls;
	c = ks_classes.lookup(&cls);
	if (!c || s->op.time - s->op.start < c->min_duration_ns[KS_GROUP_WAITS]) {
		ks_count(cls, KS_C_FILTERED);
		return;
	}
	if (ks_rate_limited(c, cls, s->op.time)) {
		ks_count(cls, KS_C_RATE_LIMITED);
		return;
	}
	ks_send(s);
}

#define PF_EXITING 4 /* include/linux/sched.h */

int ks_switch(struct ks_sched_switch *ctx)
{
	u64 id = ks_ids();
	u32 tgid = id >> 32, tid = KS_THREAD(id);
	struct ks_proc *p;
	struct ks_class *c;
	struct ks_scratch *s;

	comes_back(NEXT_TID(ctx));
	p = ks_procs.lookup(&tgid);
	if (!p)
		return 0;
	if (KS_KREAD(u32, ks_current_task() + KS_TASK_FLAGS) & PF_EXITING)
		return 0; /* it does not come back */
	c = ks_wants(p, KS_OP_OffCPU);
	if (ks_kept_still(tid) || !c)
		return 0;
	if (ks_thrown_away(c, p, 0))
		return 0;
	s = ks_scratch(KS_SCRATCH_SWITCH);
	if (!s)
		return 0;
	ks_count(p->cls, KS_C_SEEN);
	ks_begin(s, p->start, p->cls, id, KS_OP_OffCPU, bpf_ktime_get_ns());
	s->stash = 1;
	if (ks_in_system_call())
		ks_walk(ctx, s, c);
	else
		ks_finish(s);
	return 0;
}
