/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * An operation: what a system call of a process that somebody wants came to. Who wants it, how often, where it goes; calls.h
 * has how it comes about.
 */
#pragma once
#include "path.h"

#if KS_REGISTERS
#define KS_COMPAT 2 /* TS_COMPAT: a 32-bit call has other numbers */

/* The number of the call that begins; -1 for a 32-bit one. */
static __always_inline s32 ks_nr(struct ks_sys_enter *ctx)
{
#if KS_FENTRY
	s32 nr = KS_KREAD(s64, ctx->regs + KS_REGS_ORIG_AX);
#else
	s32 nr = ctx->nr;
#endif

	return KS_KREAD(u32, ks_current_task() + KS_TASK_STATUS) & KS_COMPAT ? -1 : nr;
}

static __always_inline s32 ks_exit_nr(struct ks_sys_exit *ctx)
{
	return KS_KREAD(u32, ks_current_task() + KS_TASK_STATUS) & KS_COMPAT ?
		       -1 :
		       KS_KREAD(s64, ctx->regs + KS_REGS_ORIG_AX);
}

/* The arguments of a call, from its registers: r10 to di lie in a row. */
static __always_inline void ks_args(struct ks_sys_enter *ctx, struct ks_args *args)
{
	u64 regs[8] = {};

#if KS_DIRECT
#pragma unroll
	for (u32 i = 0; i < 8; i++)
		regs[i] = KS_KREAD(u64, ctx->regs + KS_REGS_R10 + i * 8);
#else
	ks_read_kernel(regs, sizeof(regs), (void *)(ctx->regs + KS_REGS_R10));
#endif
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
	ks_read_kernel(args, sizeof(*args), (void *)(ctx + 1));
}
#endif

/*
 * Somebody wants that process; `is` becomes what is known of it now. The map's entry may be another's by the time that a program
 * goes on which was interrupted. 0: nobody does.
 */
static __always_inline struct ks_proc *ks_wanted(u32 tgid, struct ks_proc *is)
{
	struct ks_proc *found = ks_procs.lookup(&tgid);

	if (!found)
		return 0;
	*is = *found;
	return is;
}

static __always_inline int ks_class_wants(struct ks_class *c, u32 op)
{
	return !!(c->operations & (1ULL << (op & 63)));
}

static __always_inline struct ks_class *ks_wants(struct ks_proc *p, u32 op)
{
	struct ks_class *c = ks_classes.lookup(&p->cls);

	KS_OPAQUE(c);
	if (!c)
		return 0;
	if (!ks_class_wants(c, op))
		return 0;
	KS_OPAQUE(c);
	return c;
}

/*
 * Virtual scheduling (GCRA): one word, whose race between CPUs lets at most one more event through for each. `now`: when
 * the operation ended.
 */
static __always_inline int ks_rate_limited(struct ks_class *c, u32 cls, u64 now)
{
	u64 next, *tat;

	if (!c->interval_ns)
		return 0;
	tat = ks_tat.lookup(&cls);
	if (!tat)
		return 0;
	next = *tat > now ? *tat : now;
	if (next - now > c->burst_ns)
		return 1;
	*tat = next + c->interval_ns;
	return 0;
}

/* Whether it moves what connections carry, or ends one: who works on which request hangs on having seen all of these. */
static __always_inline int ks_moves(u32 op)
{
	return op == KS_OP_Send || op == KS_OP_Receive || op == KS_OP_Close;
}

/*
 * A call of the current thread's that moves is not told, or not with its bytes. It is counted for the thread and for the process,
 * by their last bits: whoever has the same is taken for less sure than it is, never for more.
 */
static __always_inline void ks_lose(void)
{
	u64 id = ks_current_ids();
	u32 thread = id & (KS_MAX_LOST - 1), process = KS_MAX_LOST + (id >> 32 & (KS_MAX_LOST - 1)), *count;

	count = ks_lost.lookup(&thread);
	if (count)
		__sync_fetch_and_add(count, 1);
	count = ks_lost.lookup(&process);
	if (count)
		__sync_fetch_and_add(count, 1);
}

/*
 * How many were lost so far, of the operation's thread; of what several threads may work for, of the process. What was lost before
 * an operation of a thread, task or goroutine is in its number: theirs come one after another.
 */
static __always_inline u32 ks_lost_so_far(struct ks_op *op)
{
	u32 at = KS_THREAD(op->tid) & (KS_MAX_LOST - 1), *count;

	if (op->context_kind == KS_CONTEXT_GOROUTINE || op->context_kind == KS_CONTEXT_TASK)
		at = KS_MAX_LOST + (ks_current_ids() >> 32 & (KS_MAX_LOST - 1));
	count = ks_lost.lookup(&at);
	return count ? *count : 0;
}

static __always_inline void ks_send(struct ks_scratch *s)
{
	u64 failed = ks_ring.ringbuf_output(&s->op, sizeof(s->op), ks_wake());

	ks_count(s->op.cls, failed ? KS_C_RING_FULL : KS_C_SENT);
	if (failed && ks_moves(s->op.op))
		ks_lose();
}

/*
 * The thread runs, so a time off the CPU that is kept for it has ended: the kernel did not say when. (It may leave a program
 * out, and some hide the switches of a task of theirs.) Gives what else is kept.
 */
static __always_inline struct ks_op *ks_kept_still(u32 tid)
{
	struct ks_op *kept = ks_stash.lookup(&tid);

	if (!kept || kept->op != KS_OP_OffCPU)
		return kept;
	ks_count(kept->cls, KS_C_REPLACED);
	ks_stash.delete(&tid);
	return 0;
}

/* The last step of every operation: of the walkers, and of those that are not walked. */
static __always_inline void ks_finish(struct ks_scratch *s)
{
	s->walking = 0;
	s->op.lost = ks_lost_so_far(&s->op);
	if (s->stash) {
		u32 tid = KS_THREAD(s->op.tid);

		if (ks_stash.update(&tid, &s->op))
			ks_count(s->op.cls, KS_C_INFLIGHT_FULL);
		return;
	}
	ks_send(s);
}

/* `image`: ks_proc.start. `id`: of the thread, as ks_ids gives it. */
static __always_inline void ks_begin(struct ks_scratch *s, u64 image, u32 cls, u64 id, u32 op, u64 start)
{
	__builtin_memset(&s->op, 0, sizeof(s->op));
	s->op.kind = KS_KIND_OPERATION;
	s->op.version = KS_VERSION;
	s->op.size = sizeof(s->op);
	s->op.tgid = id >> 32;
	s->op.tid = id;
	s->op.start = s->op.time = start;
	s->op.op = op;
	s->op.cls = cls;
	s->op.fd = -1;
	s->op.flags = KS_OP_NO_ARGUMENT;
	s->proc_start = image;
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
#if KS_FENTRY
	ks_walkers_fentry.call(ctx, walker);
#elif KS_RAW
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
			s->walking = KS_THREAD(s->op.tid);
			s->stage = KS_WALK_BEGIN;
			ks_continue(ctx, rt->runtime);
		}
	}
	ks_finish(s);
}

#define KS_THREAD_SIZE 16384 /* x86_64, without KASAN */
#define KS_USER_CS 0x33

/*
 * Frames are true only inside a system call: the saved user registers at the top of the kernel stack say whether this is
 * one. They lie 16 bytes lower in a kernel with FRED; the code segment tells which.
 */
static __always_inline int ks_in_system_call(void)
{
	u64 regs = KS_KREAD(u64, ks_current_task() + KS_TASK_STACK) + KS_THREAD_SIZE - KS_REGS_SIZE;

	if (KS_KREAD(u16, regs + KS_REGS_CS) != KS_USER_CS)
		regs -= 16;
	return KS_KREAD(u16, regs + KS_REGS_CS) == KS_USER_CS && KS_KREAD(s64, regs + KS_REGS_ORIG_AX) >= 0;
}
