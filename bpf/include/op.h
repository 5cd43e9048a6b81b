/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * An operation: entry and return of a system call of a process that somebody wants.
 *
 *   enter:  wanted process? wanted operation? -> remember start and arguments by thread
 *           a call that a signal stopped and that begins anew goes on as the same operation
 *   exit:   take them out -> filters -> rate limit -> details -> walk (tail call) -> record
 *
 * Every early return after the operation was seen adds one to a counter: seen = sent + filtered + rate limited +
 * dropped by reason + in flight.
 */
#pragma once
#include "path.h"

#define KS_EINTR 4

#if KS_RAW
#define KS_COMPAT 2 /* TS_COMPAT: a 32-bit call has other numbers */

/* The number of the call that begins; -1 for a 32-bit one. */
static __always_inline s32 ks_nr(struct ks_sys_enter *ctx)
{
	return KS_KREAD(u32, bpf_get_current_task() + KS_TASK_STATUS) & KS_COMPAT ? -1 : ctx->nr;
}

static __always_inline s32 ks_exit_nr(struct ks_sys_exit *ctx)
{
	return KS_KREAD(u32, bpf_get_current_task() + KS_TASK_STATUS) & KS_COMPAT ?
		       -1 :
		       KS_KREAD(s64, ctx->regs + KS_REGS_ORIG_AX);
}

/* The arguments of a call, from its registers: r10 to di lie in a row. */
static __always_inline void ks_args(struct ks_sys_enter *ctx, struct ks_args *args)
{
	u64 regs[8] = {};

	bpf_probe_read_kernel(regs, sizeof(regs), (void *)(ctx->regs + KS_REGS_R10));
	args->v[0] = regs[7];
	args->v[1] = regs[6];
	args->v[2] = regs[5];
	args->v[3] = regs[0];
	args->v[4] = regs[2];
	args->v[5] = regs[1];
}
#else
static __always_inline s32 ks_nr(struct ks_sys_enter *ctx)
{
	return ctx->nr;
}

static __always_inline s32 ks_exit_nr(struct ks_sys_exit *ctx)
{
	return ctx->nr;
}

/*
 * The arguments of a call. Read by address: a program that reads further into its context than the shortest of the calls
 * it is attached to is refused. What lies behind a short call's arguments is never used.
 */
static __always_inline void ks_args(struct ks_sys_enter *ctx, struct ks_args *args)
{
	bpf_probe_read_kernel(args, sizeof(*args), (void *)(ctx + 1));
}
#endif

static __always_inline u32 ks_tgid(void)
{
	return bpf_get_current_pid_tgid() >> 32;
}

static __always_inline struct ks_class *ks_wants(struct ks_proc *p, u32 op)
{
	struct ks_class *c = ks_classes.lookup(&p->cls);

	KS_OPAQUE(c);
	if (!c)
		return 0;
	if (!(c->operations & (1ULL << (op & 63))))
		return 0;
	KS_OPAQUE(c);
	return c;
}

/* Virtual scheduling (GCRA): one word, whose race between CPUs lets at most one more event through for each. */
static __always_inline int ks_rate_limited(struct ks_class *c, u32 cls)
{
	u64 now, next, *tat;

	if (!c->interval_ns)
		return 0;
	tat = ks_tat.lookup(&cls);
	if (!tat)
		return 0;
	now = bpf_ktime_get_ns();
	next = *tat > now ? *tat : now;
	if (next - now > c->burst_ns)
		return 1;
	*tat = next + c->interval_ns;
	return 0;
}

static __always_inline void ks_send(struct ks_scratch *s)
{
	ks_count(s->op.cls, ks_ring.ringbuf_output(&s->op, sizeof(s->op), ks_wake()) ? KS_C_RING_FULL : KS_C_SENT);
}

/* The last step of every operation: of the walkers, and of those that are not walked. */
static __always_inline void ks_finish(struct ks_scratch *s)
{
	s->walking = 0;
	if (s->stash) {
		u32 tid = s->op.tid;

		if (ks_stash.update(&tid, &s->op))
			ks_count(s->op.cls, KS_C_INFLIGHT_FULL);
		return;
	}
	ks_send(s);
}

static __always_inline void ks_begin(struct ks_scratch *s, struct ks_proc *p, u32 op, u64 start)
{
	u64 id = bpf_get_current_pid_tgid();

	__builtin_memset(&s->op, 0, sizeof(s->op));
	s->op.kind = KS_KIND_OPERATION;
	s->op.version = KS_VERSION;
	s->op.size = sizeof(s->op);
	s->op.tgid = id >> 32;
	s->op.tid = id;
	s->op.start = s->op.time = start;
	s->op.op = op;
	s->op.cls = p->cls;
	s->op.fd = -1;
	s->op.flags = KS_OP_NO_ARGUMENT;
	s->proc_start = p->start;
	s->stash = 0;
}

static __always_inline void ks_argument(struct ks_scratch *s, u64 value)
{
	s->op.arg = value;
	s->op.flags &= ~KS_OP_NO_ARGUMENT;
}

/* Goes on in another program; comes back only where that failed. */
static __always_inline void ks_continue(void *ctx, u32 walker)
{
#if KS_RAW
	ks_walkers_raw.call(ctx, walker);
#else
	ks_walkers.call(ctx, walker);
#endif
}

/* Walks the thread's frames and finishes; only a failed tail call comes back. */
static __always_inline void ks_walk(void *ctx, struct ks_scratch *s, struct ks_class *c)
{
	u32 tgid = s->op.tgid;
	struct ks_runtime *rt;

	s->max_depth = c->max_depth;
	if (c->max_depth) {
		rt = ks_runtimes.lookup(&tgid);
		if (!rt || rt->start != s->proc_start) {
			s->op.frame_state = KS_FRAMES_PENDING;
		} else if (rt->runtime) {
			s->op.frame_state = KS_FRAMES_READ_FAILED;
			s->walking = s->op.tid;
			s->resumed = 0;
			ks_continue(ctx, rt->runtime);
		}
	}
	ks_finish(s);
}

/*
 * A call that was to be restarted (-ERESTART*) but is not: the thread went on with something else. It is sent without
 * frames, as interrupted: the thread's stack is another by now. Nor is its file or peer known: a filter of those rejects
 * it (of paths and addresses in user space).
 */
static __always_inline void ks_interrupted(struct ks_proc *p, struct ks_call *call, u32 group)
{
	struct ks_class *c = ks_classes.lookup(&p->cls);
	struct ks_scratch *s = ks_scratch(KS_SCRATCH_ENTER(group));

	if (!s || !c)
		return;
	if (call->end - call->start < c->min_duration_ns[call->group & 3] ||
	    (call->group == KS_GROUP_NETWORK && c->port_count)) {
		ks_count(p->cls, KS_C_FILTERED);
		return;
	}
	if (ks_rate_limited(c, p->cls)) {
		ks_count(p->cls, KS_C_RATE_LIMITED);
		return;
	}
	ks_begin(s, p, call->op, call->start);
	s->op.time = call->end;
	s->op.ret = -KS_EINTR;
	s->op.flags |= KS_OP_INTERRUPTED;
	ks_send(s);
}

static __always_inline int ks_restarts(s64 ret)
{
	return ret <= -512 && ret >= -516;
}

/* The kernel goes on with a call that a signal stopped (restart_syscall): it is the same operation. */
static __always_inline void ks_resume(void)
{
	u32 tid = bpf_get_current_pid_tgid();
	struct ks_call *call = ks_calls.lookup(&tid);

	if (call)
		call->restart = 0;
}

/*
 * What is not this group's may be the next one's. With one attachment for all calls the groups are a chain of tail calls,
 * so that a process nobody wants costs one look-up however many groups there are; with one for each call every group is
 * attached by itself.
 */
static __always_inline int ks_next_enter(void *ctx, u32 group)
{
#if KS_RAW
	ks_enter_chain.call(ctx, group);
#endif
	return 0;
}

static __always_inline int ks_next_exit(void *ctx, u32 group)
{
#if KS_RAW
	ks_exit_chain.call(ctx, group);
#endif
	return 0;
}

/*
 * A signal's handler makes a call of its own. The raw pair sees the handler return, and what becomes of the call it
 * stopped: that one waits aside. Otherwise it counts as interrupted.
 */
static __always_inline u32 ks_put_aside(struct ks_proc *p, struct ks_call *old, u32 group)
{
#if KS_RAW
	u32 tid = bpf_get_current_pid_tgid();

	if (old->nested) {
		ks_interrupted(p, old, group);
		return 1;
	}
	if (!ks_aside.update(&tid, old))
		return 1;
#endif
	ks_interrupted(p, old, group);
	return 0;
}

static __always_inline void ks_take_back(u32 tid)
{
	struct ks_call *waits = ks_aside.lookup(&tid);

	if (waits) {
		ks_calls.update(&tid, waits);
		ks_aside.delete(&tid);
	}
}

/* The return from a signal's handler, with the result that the call it stopped has now: EINTR, or it is to begin anew. */
static __always_inline int ks_handled(struct ks_sys_exit *ctx)
{
#if KS_RAW
	return ctx->ret == -KS_EINTR && KS_KREAD(s64, ctx->regs + KS_REGS_ORIG_AX) == -1;
#else
	return 0;
#endif
}

/* The call that the thread is in, if it is this group's. */
static __always_inline struct ks_call *ks_own_call(u32 group)
{
	u32 tid = bpf_get_current_pid_tgid();
	struct ks_call *call = ks_calls.lookup(&tid);

	KS_OPAQUE(call);
	if (!call)
		return 0;
	if (call->group != group)
		return 0;
	KS_OPAQUE(call);
	return call;
}

/* Remembers a call; `fd_file` is the struct file of its descriptor, or 0. */
static __always_inline void ks_enter(s32 nr, struct ks_args *args, struct ks_proc *p, u32 group, u32 op, u64 file,
				     u64 inode, u32 dns)
{
	u32 tid = bpf_get_current_pid_tgid();
	struct ks_call call = {}, *old = ks_calls.lookup(&tid);

	if (old && old->restart) {
		if (old->nr == (u32)nr && old->args[0] == args->v[0] && old->args[1] == args->v[1]) {
			old->restart = 0;
			return;
		}
		call.nested = ks_put_aside(p, old, group);
	} else if (old) {
		ks_count(p->cls, KS_C_REPLACED); /* its return was never seen */
		call.nested = old->nested;
	}
	ks_count(p->cls, KS_C_SEEN);
	call.start = bpf_ktime_get_ns();
	call.args[0] = args->v[0];
	call.args[1] = args->v[1];
	call.args[2] = args->v[2];
	call.args[3] = args->v[3];
	call.args[4] = args->v[4];
	call.args[5] = args->v[5];
	call.file = file;
	call.inode = inode;
	call.nr = nr;
	call.op = op;
	call.group = group;
	call.cls = p->cls;
	call.dns = dns;
	if (ks_calls.update(&tid, &call))
		ks_count(p->cls, KS_C_INFLIGHT_FULL);
}

/*
 * Takes the call `found` out and applies the filters that need only its result. Gives 0 where there is nothing more to do;
 * else `call` is filled, and s->op begun.
 */
static __always_inline struct ks_scratch *ks_exit(struct ks_sys_exit *ctx, struct ks_proc *p, struct ks_call *found,
						  struct ks_call *call, struct ks_class **cls)
{
	u32 tid = bpf_get_current_pid_tgid();
	struct ks_scratch *s;
	struct ks_class *c;
	u64 now;

	now = bpf_ktime_get_ns();
	if (found->restart) { /* this is the return of another call */
		if (!ks_handled(ctx))
			return 0;
		now = found->end;
	} else if (ks_restarts(ctx->ret)) {
		found->restart = 1;
		found->end = now;
		return 0;
	}
	*call = *found;
	ks_calls.delete(&tid);
	if (call->nested)
		ks_take_back(tid);
	c = ks_classes.lookup(&p->cls);
	if (!c)
		return 0;
	*cls = c;
	if (!call->dns && now - call->start < c->min_duration_ns[call->group & 3]) {
		ks_count(p->cls, KS_C_FILTERED);
		return 0;
	}
	s = ks_scratch(KS_SCRATCH_EXIT(call->group & 3));
	KS_OPAQUE(s);
	if (!s)
		return 0;
	ks_begin(s, p, call->op, call->start);
	s->op.time = now;
	s->op.ret = ctx->ret;
	return s;
}

/* The descriptor still stands for the file it stood for at entry. */
static __always_inline int ks_same_file(struct ks_call *call, s32 fd)
{
	return call->file && ks_file(fd) == call->file && ks_inode(call->file) == call->inode;
}
