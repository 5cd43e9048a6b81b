/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Go 1.18 and later, x86-64: the frames of the goroutine that runs on the thread.
 *
 *   goroutine:  runtime.g, by the thread's own variable (never by a register: C code may run); the stack it runs on is known
 *               by its bounds, and every frame must lie in them, further out than the one before
 *   frames:     the chain of frame pointers that Go functions keep, two words a frame. The innermost function may keep none
 *               (a system call's stub): what lies on top of the stack then is its return, and is sent with it. Up to 1.20
 *               so may one that is not innermost: the word behind a return is sent too, where it may be another return
 *   g0:         the scheduler, and C, run on a stack of the thread's own. Where that ends the goroutine goes on where it left
 *               its own stack (m.curg, g.sched); where C is innermost nothing of that stack is walked: C keeps no chain.
 *               Where C calls Go again that runs on the goroutine's stack, above what was left there, but its chain leads to
 *               C: what lies between is as long as the functions that do the calling have it
 *   context:    the goroutine, by its address and its number, which is never used twice
 *   identity:   addresses, from the first code of the program on: code never moves. `globals` says of which file they are
 *
 * Offsets come from runtimes/go/layout.py; facts and sources are there.
 */
#pragma once
#include "op.h"
#include "user.h"
#include "runtimes/walker.bpf.h"

#define KS_GO_WALK_AT_ONCE 32
#define KS_GO_FRAMELESS 20 /* up to this minor version functions that call others may keep no frame */
#define KS_GO_FAR (1ULL << 16)
#define KS_GO_M 6 /* words of runtime.g: stack.lo, stack.hi, two guards, panic, defer, m */

_Static_assert(sizeof(struct ks_go_layout) <= sizeof(struct ks_layout), "ks_go_layout");

static __always_inline struct ks_go_layout *ks_go_layout_of(struct ks_runtime *rt)
{
	return (struct ks_go_layout *)ks_layouts.lookup(&rt->layout);
}

/*
 * Of the walk's words (struct ks_walk): at: a frame pointer; mnt: frames lie above it; root, root_mnt: the stack's bounds;
 * module, length: first code and bytes of code; globals: which file; thread: the goroutine to go on with where the stack of
 * g0 ends; last: which stack it is (KS_GO_*); task_frame: the goroutine; task_outer: its runtime.m.
 */
static __always_inline u64 ks_go_file(struct ks_walk *w)
{
	u64 mm = KS_KREAD(u64, ks_current_task() + KS_TASK_MM);
	u64 inode = KS_KREAD(u64, KS_KREAD(u64, mm + KS_MM_EXE_FILE) + KS_FILE_INODE);
	u64 code = KS_KREAD(u64, mm + KS_MM_START_CODE);

	w->length = KS_KREAD(u64, mm + KS_MM_END_CODE) - code;
	return ks_mix(
		ks_mix(ks_mix(ks_mix(0, KS_KREAD(u64, inode + KS_INODE_SIZE)), KS_KREAD(u64, inode + KS_INODE_MTIME)),
		       w->length),
		KS_KREAD(u64, mm + KS_MM_END_DATA) - code);
}

/* From the first code on; 0: it is no code of the program. */
static __always_inline u64 ks_go_code(struct ks_walk *w, u64 pc)
{
	u64 at = pc - KS_LOAD(w->module);

	return at < KS_LOAD(w->length) ? at : 0;
}

static __always_inline void ks_go_note(struct ks_scratch *s, u64 code, u64 leaf)
{
	struct ks_walk *w = &s->walk;
	u32 n = KS_LOAD(w->count);
	struct ks_frame *f;

	w->count = n + 1;
	w->hash = ks_mix(ks_mix(KS_LOAD(w->hash), code), leaf ^ KS_LOAD(w->last));
	KS_OPAQUE(n);
	f = &s->stack.frames[n & 127];
	f->code = code;
	f->pc = leaf;
	f->globals = KS_LOAD(w->globals);
	f->check = 0;
	f->owner = KS_LOAD(w->last);
	f->runtime = KS_RUNTIME_GO;
	f->tag = 0;
}

static __always_inline void ks_go_begin(struct ks_scratch *s, struct ks_go_layout *l, u64 base)
{
	u64 task = ks_current_task(), regs = KS_KREAD(u64, task + KS_TASK_STACK) + KS_THREAD_SIZE - KS_REGS_SIZE;
	struct ks_walk *w = &s->walk;
	u64 *v = s->words, g, m, sp, leaf;

	if (KS_KREAD(u16, regs + KS_REGS_CS) != KS_USER_CS)
		regs -= 16; /* see ks_in_system_call */
	ks_user_begin(s);
	s->op.frame_state = KS_FRAMES_NO_THREAD_STATE; /* a thread that is not Go's */
	g = ks_user_word(s, KS_KREAD(u64, task + KS_TASK_FSBASE) + l->tls);
	if (!g || ks_user_words(s, v, KS_GO_M + 1, g))
		return;
	w->root = v[0];
	w->root_mnt = v[1];
	m = v[KS_GO_M];
	w->task_frame = g;
	w->task_outer = m;
	w->thread = 0;
	w->last = KS_GO_OWN;
	sp = KS_KREAD(u64, regs + KS_REGS_SP);
	if (ks_user_word(s, m) == g) { /* m.g0 */
		w->thread = w->task_frame = ks_user_word(s, m + l->curg);
		w->last = KS_GO_SYSTEM;
	} else if (sp <= v[0] || sp > v[1]) {
		return; /* on a stack of somebody else's: a signal's handler */
	}
	s->op.frame_state = KS_FRAMES_READ_FAILED;
	s->stage = KS_WALK_FRAMES;
	w->module = base;
	w->globals = ks_go_file(w);
	w->hash = ks_hash2(s->proc_start, s->op.tgid);
	w->count = 0;
	w->found[0] = 0; /* 1: there are no more frames */
	w->state = KS_FRAMES_COMPLETE;
	w->mnt = sp;
	w->at = KS_KREAD(u64, regs + KS_REGS_BP);
	if (sp <= KS_LOAD(w->root) || sp > KS_LOAD(w->root_mnt))
		w->root = w->root_mnt = 0; /* C's, below what Go takes for the thread's stack */
	leaf = ks_go_code(w, ks_user_word(s, sp));
	g = ks_go_code(w, KS_KREAD(u64, regs + KS_REGS_IP));
	w->found[1] = !g;
	if (!g)
		w->at = leaf = 0; /* C, in a library */
	ks_go_note(s, g, leaf);
	/* vfork's stub has taken its return from the stack, where the child would overwrite it (rawVforkSyscall) */
	if (!leaf) {
		s->stack.frames[0].check = ks_go_code(w, KS_KREAD(u64, regs + KS_REGS_R12));
		w->hash = ks_mix(KS_LOAD(w->hash), KS_LOAD(s->stack.frames[0].check));
	}
}

/* Where the stack of g0 ends: goes on with the goroutine, where it called out of its own stack. 0: there is none. */
static __always_inline int ks_go_leave(struct ks_scratch *s, struct ks_go_layout *l)
{
	struct ks_walk *w = &s->walk;
	u64 *v = s->words, g = KS_LOAD(w->thread), sp, bp, pc;

	w->thread = 0;
	if (!g)
		return 0;
	w->last = KS_GO_LEFT;
	w->state = KS_FRAMES_READ;
	if (ks_user_words(s, v, 2, g))
		return 0;
	w->root = v[0];
	w->root_mnt = v[1];
	sp = ks_user_word(s, g + l->sched_sp);
	bp = ks_user_word(s, g + l->sched_bp);
	if (sp <= KS_LOAD(w->root) || sp >= KS_LOAD(w->root_mnt))
		return 0;
	w->mnt = sp;
	pc = ks_go_code(w, ks_user_word(s, sp));
	if (!pc) { /* the function that left has a frame, which lies there */
		w->at = sp;
		w->state = KS_FRAMES_COMPLETE;
		return 1;
	}
	/* Else its return lies there. Of what has called C since, sched.bp may be: the frame is as long as it always is. */
	if (l->callback_frame && KS_LOAD(w->found[1]))
		bp = sp + l->callback_frame;
	w->at = bp;
	w->state = KS_FRAMES_COMPLETE;
	ks_go_note(s, pc, bp - sp < KS_GO_FAR ? KS_GO_FRAME | (bp - sp) : 0);
	return 1;
}

/* The chain has led from the goroutine's stack to that of g0: C has called Go. The frame outside it; 0: it is not so. */
static __always_inline int ks_go_outside_c(struct ks_scratch *s, struct ks_go_layout *l, u64 at)
{
	struct ks_walk *w = &s->walk;
	u64 *v = s->words, g0, left, pc;

	if (!l->callback_left)
		return 0;
	g0 = ks_user_word(s, KS_LOAD(w->task_outer));
	if (ks_user_words(s, v, 2, g0) || at <= v[0] || at > v[1])
		return 0;
	left = KS_LOAD(w->mnt) + l->callback_left; /* the stack pointer that the goroutine left with */
	if (left >= KS_LOAD(w->root_mnt) || left <= KS_LOAD(w->root) || ks_user_words(s, v, 3, left - 8))
		return 0;
	pc = ks_go_code(w, v[0]);
	if (!pc)
		return 0;
	ks_go_note(s, pc, KS_GO_FRAME);
	w->mnt = left;
	w->at = left;
	if (l->callback_frame) { /* a return lies there, and further out the frame of the function it is in */
		pc = ks_go_code(w, v[1]);
		if (pc)
			ks_go_note(s, pc, 0);
		w->at = left + l->callback_frame;
		v[2] = pc;
	}
	if (!v[2]) /* a thread of C's: there is nothing outside, and its goroutine is lent to one such thread after another */
		w->at = w->task_frame = 0;
	return 1;
}

/* One step outwards. 0: that was the last. */
static __always_inline int ks_go_step(struct ks_scratch *s, struct ks_go_layout *l)
{
	struct ks_walk *w = &s->walk;
	u64 *v = s->words, at = KS_LOAD(w->at), code = 0;

	if (KS_LOAD(w->count) >= KS_LOAD(s->max_depth) || KS_LOAD(w->count) >= KS_MAX_DEPTH) {
		w->state = KS_FRAMES_DEPTH;
		return 0;
	}
	if (at >= KS_LOAD(w->mnt) && at < KS_LOAD(w->root_mnt) && at > KS_LOAD(w->root) && !(at & 7)) {
		if (!ks_user_words(s, v, 2, at))
			code = ks_go_code(w, v[1]);
	}
	if (code) {
		w->mnt = at + 16;
		w->at = v[0];
		ks_go_note(s, code, l->version <= KS_GO_FRAMELESS ? ks_go_code(w, ks_user_word(s, at + 16)) : 0);
		return 1;
	}
	if (KS_LOAD(w->last) == KS_GO_SYSTEM)
		return ks_go_leave(s, l);
	if (!at)
		return 0;
	w->state = KS_FRAMES_DEPTH;
	if (KS_LOAD(w->count) + 1 >= KS_LOAD(s->max_depth)) /* these are two at once */
		return 0;
	w->state = KS_FRAMES_COMPLETE;
	if (ks_go_outside_c(s, l, at))
		return 1;
	w->state = KS_FRAMES_READ;
	return 0;
}

/* As those of other runtimes: 1 where there are more frames. */
static __always_inline int ks_go_walk(struct ks_scratch *s, struct ks_go_layout *l)
{
	struct ks_walk *w = &s->walk;
	u64 g;

	for (u32 i = 0; i < KS_GO_WALK_AT_ONCE; i++) {
		ks_user_turn(s);
		if (!ks_go_step(s, l)) {
			w->found[0] = 1;
			break;
		}
	}
	if (!KS_LOAD(w->found[0]))
		return 1;
	s->op.frame_state = KS_LOAD(w->state);
	g = KS_LOAD(w->task_frame);
	if (g) {
		s->op.context = g;
		s->op.generation = ks_user_word(s, g + l->goid);
		if (s->op.generation)
			s->op.context_kind = KS_CONTEXT_GOROUTINE;
	}
	ks_name_stack(s);
	return 0;
}
