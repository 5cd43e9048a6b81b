/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * An operation: entry and return of a system call of a process that somebody wants.
 *
 *   enter:  wanted process? wanted operation? thrown away? -> remember start and arguments by thread
 *           a call that a signal stopped and that begins anew goes on as the same operation
 *   exit:   take them out -> filters -> rate limit -> details -> walk (tail call) -> record
 *
 * Every early return after the operation was seen adds one to a counter: seen = sent + filtered + rate limited +
 * dropped by reason + in flight.
 */
#pragma once
#include "op.h"
#include <asm/unistd.h>

#define KS_EINTR 4

/*
 * A call that was to be restarted (-ERESTART*) but is not: the thread went on with something else. It is sent without
 * frames, as interrupted: the thread's stack is another by now. Nor is its file or peer known: a filter of those rejects
 * it (of paths and addresses in user space).
 */
static __always_inline void ks_interrupted(struct ks_call *call, u32 group)
{
	u32 cls = call->cls;
	struct ks_class *c = ks_classes.lookup(&cls);
	struct ks_scratch *s = ks_scratch(KS_SCRATCH_ENTER(group));

	if (!s || !c)
		return;
	if (call->end - call->start < c->min_duration_ns[call->group & 3] ||
	    (call->group == KS_GROUP_NETWORK && c->port_count)) {
		ks_count(cls, KS_C_FILTERED);
		return;
	}
	if (ks_rate_limited(c, cls, call->end)) {
		ks_count(cls, KS_C_RATE_LIMITED);
		return;
	}
	ks_begin(s, call->image, cls, ks_ids(), call->op, call->start);
	s->op.time = call->end;
	s->op.ret = -KS_EINTR;
	s->op.flags |= KS_OP_INTERRUPTED;
	s->op.lost = ks_lost_so_far(&s->op);
	ks_send(s);
}

static __always_inline int ks_restarts(s64 ret)
{
	return ret <= -512 && ret >= -516;
}

/* The kernel goes on with a call that a signal stopped (restart_syscall): it is the same operation. */
static __always_inline void ks_resume(void)
{
	u32 tid = ks_current_ids();
	struct ks_call *call = ks_call_of(tid);

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
static __always_inline u32 ks_put_aside(struct ks_call *old, u32 group)
{
#if KS_RAW
	u32 tid = ks_current_ids();

	if (old->nested) {
		ks_interrupted(old, group);
		return 1;
	}
	if (!ks_aside.update(&tid, old))
		return 1;
#endif
	ks_interrupted(old, group);
	return 0;
}

static __always_inline void ks_take_back(struct ks_call *call)
{
	u32 tid = ks_current_ids();
	struct ks_call *waits = ks_aside.lookup(&tid);

	if (waits) {
		*call = *waits;
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

/*
 * At a return: where the thread's calls are kept, if any was. `wanted`: whether somebody wants its process, for all that is
 * known; that is looked up only of a thread without a place of its own, so that others pay for nothing else.
 */
static __always_inline struct ks_call *ks_returning(u64 id, u32 *wanted)
{
	u32 tid = KS_THREAD(id), tgid = id >> 32;
	struct ks_call *call = ks_placed(tid);

	if (!call && ks_procs.lookup(&tgid)) {
		*wanted = 1;
		call = ks_more_calls.lookup(&tid);
	}
	KS_OPAQUE(call);
	if (call)
		*wanted = 1;
	return call;
}

/* Whether the thread is in that call, and it is this group's. */
static __always_inline int ks_in_own_call(struct ks_call *call, u32 group)
{
	return call->group == group && call->op;
}

/*
 * Whether the guard has this operation thrown away as it begins, which is the cheapest place: it is counted, nothing is
 * remembered of it, and its return finds nothing. `call`: the thread's place, or 0. One in which a call still waits takes
 * the new one in: it may be the same, begun anew, and the return must not be taken for the old one's.
 */
static __always_inline int ks_thrown_away(struct ks_class *c, struct ks_proc *p, struct ks_call *call)
{
	u32 thrown = KS_LOAD(c->thrown);

	if (!thrown || (call && call->op))
		return 0;
	if (bpf_get_prandom_u32() > thrown)
		return 0;
	ks_count(p->cls, KS_C_SEEN);
	ks_count(p->cls, KS_C_THROTTLED);
	return 1;
}

/*
 * Remembers a call; `file` is the struct file of its descriptor, or 0. `c`: the class that may have it thrown away; 0: it
 * must not be. Gives 0 where nothing is remembered.
 */
static __always_inline int ks_enter(u32 tid, s32 nr, struct ks_args *args, struct ks_proc *p, struct ks_class *c,
				    u32 group, u32 op, u64 file, u64 inode, u32 dns)
{
	struct ks_call *call = ks_call_of(tid);
	u32 nested = 0;

	if (call && op == KS_OP_Receive) /* whatever becomes of it: what follows is not for the one before */
		call->received = 0;
	if (c && ks_thrown_away(c, p, call)) {
		if (group == KS_GROUP_NETWORK && ks_moves(op))
			ks_lose();
		return 0;
	}
	if (!call)
		call = ks_new_place(tid);
	KS_OPAQUE(call);
	if (!call) {
		if (group == KS_GROUP_NETWORK && ks_moves(op))
			ks_lose();
		ks_count(p->cls, KS_C_SEEN);
		ks_count(p->cls, KS_C_INFLIGHT_FULL);
		return 0;
	}
	if (call->op && call->restart) {
		if (call->nr == (u32)nr && call->args[0] == args->v[0] && call->args[1] == args->v[1]) {
			call->restart = 0;
			return 1;
		}
		nested = ks_put_aside(call, group);
	} else if (call->op) {
		ks_count(call->cls, KS_C_REPLACED); /* its return was never seen */
		if (ks_moves(call->op))
			ks_lose();
		nested = call->nested;
	}
	ks_count(p->cls, KS_C_SEEN);
	call->start = bpf_ktime_get_ns();
	call->args[0] = args->v[0];
	call->args[1] = args->v[1];
	call->args[2] = args->v[2];
	call->args[3] = args->v[3];
	call->args[4] = args->v[4];
	call->args[5] = args->v[5];
	call->file = file;
	call->inode = inode;
	call->nr = nr;
	call->op = op;
	call->group = group;
	call->restart = 0;
	call->cls = p->cls;
	call->image = p->start;
	call->dns = dns;
	call->nested = nested;
	if (op == KS_OP_Receive)
		call->received = call->start;
	return 1;
}

/*
 * Whether the return at hand is of another call than `call`, whose own the kernel kept to itself: it may leave a program out
 * that was interrupted where these run with preemption on (see KS_SCRATCH_ENTER), as no kernel does with the raw pair in which
 * reading is dear. And a function whose programs change, whoever's they are, ends without them where it had begun before.
 * A number of -1 is the return from a signal's handler, or a 32-bit call's: never of what was entered.
 */
static __always_inline int ks_anothers(struct ks_sys_exit *ctx, struct ks_call *call)
{
#if KS_RAW && !KS_DIRECT
	return 0;
#else
	s32 nr = ks_exit_nr(ctx);

	if (call->restart || nr == __NR_restart_syscall)
		return 0;
	if (nr != (s32)call->nr)
		return 1;
#if KS_REGISTERS
	return KS_KREAD(u64, ctx->regs + KS_REGS_R10 + 7 * 8) != call->args[0] ||
	       KS_KREAD(u64, ctx->regs + KS_REGS_R10 + 6 * 8) != call->args[1]; /* di, si: see ks_args */
#else
	return 0;
#endif
#endif
}

/*
 * Ends the call `found` and applies the filters that need only its result. Gives 0 where there is nothing more to do; else
 * s->call is the call, and s->op begun.
 */
static __always_inline struct ks_scratch *ks_exit(struct ks_sys_exit *ctx, u64 id, struct ks_call *found, u32 group,
						  struct ks_class **cls)
{
	struct ks_scratch *s = ks_scratch(KS_SCRATCH_EXIT(group));
	u32 wanted_by = found->cls; /* by now it may be others that want the process */
	struct ks_class *c = ks_classes.lookup(&wanted_by);
	u64 now;

	KS_OPAQUE(c);
	if (!s)
		return 0;
	if (!c)
		return 0;
	if (ks_anothers(ctx, found)) {
		ks_count(wanted_by, KS_C_REPLACED);
		if (group == KS_GROUP_NETWORK && ks_moves(found->op))
			ks_lose();
		found->op = found->received = 0;
		if (found->nested)
			ks_take_back(found);
		return 0;
	}
	s->call = *found; /* before its time: a switch between the two is one that `away` lacks */
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
	found->op = 0;
	if (s->call.nested)
		ks_take_back(found);
	*cls = c;
	if (!s->call.dns && now - s->call.start < c->min_duration_ns[group]) {
		ks_count(wanted_by, KS_C_FILTERED);
		return 0;
	}
	ks_begin(s, s->call.image, wanted_by, id, s->call.op, s->call.start);
	s->op.time = now;
	s->op.ret = ctx->ret;
	return s;
}

/* The descriptor still stands for the file it stood for at entry. */
static __always_inline int ks_same_file(struct ks_call *call, s32 fd)
{
	return call->file && ks_file(fd) == call->file && ks_inode(call->file) == call->inode;
}
