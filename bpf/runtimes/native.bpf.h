/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Programs without a runtime, x86-64: the frames of the thread, by what their files say of every instruction (.eh_frame).
 *
 *   segments:  the pieces of code that a process has mapped, in the order of their addresses, and which file each is of. The agent
 *              has read them at some time; that the file lies there now is seen by its build id, which is mapped with it: of a
 *              file with code on the thread's stack nothing is given back meanwhile
 *   rows:      of each file, where the caller's frame begins from an instruction on: see runtimes/native/rows.py
 *   frames:    instruction -> segment -> row -> where the frame begins, below which the caller's instruction lies
 *   identity:  the file's number, which is never used twice, and the place in it
 *
 * Both tables are rewritten where nobody uses them any more: the agent waits for KS_NATIVE_QUARANTINE_NS, and no walk may last as
 * long as that.
 */
#pragma once
#include "op.h"
#include "user.h"
#include "runtimes/walker.bpf.h"

#define KS_NATIVE_AT_ONCE 8
#define KS_NATIVE_SEGMENT_STEPS 10 /* more than the binary logarithm of a process's segments */
#define KS_NATIVE_ROW_STEPS 19 /* and of a file's rows */
#define KS_NATIVE_AREA_BP 120 /* in struct ucontext, which the kernel puts below a signal's handler */
#define KS_NATIVE_AREA_SP 160 /* behind it: the instruction */

BPF_ARRAY(ks_native_rows, u64, KS_NATIVE_ROWS);
BPF_ARRAY(ks_native_parts, struct ks_native_part, KS_NATIVE_PARTS);

_Static_assert(1 << (KS_NATIVE_SEGMENT_STEPS - 1) >= KS_NATIVE_PARTS_EACH, "steps");
_Static_assert(1 << (KS_NATIVE_ROW_STEPS - 1) >= KS_NATIVE_ROWS_EACH, "steps");

/*
 * Of the walk's words (struct ks_walk): at, mnt: the stack pointer and %rbp in the frame; root: its instruction; root_mnt: it is where
 * the thread stood, and not where a call returns to; globals: the process's segments, first and above 32 bits how many; module: the last
 * segment that was seen to lie there, counted from 1; found: a search's bounds; last: there are no more frames.
 */
static __always_inline void ks_native_begin(struct ks_scratch *s, u64 segments)
{
	u64 task = ks_current_task(), regs = KS_KREAD(u64, task + KS_TASK_STACK) + KS_THREAD_SIZE - KS_REGS_SIZE;
	struct ks_walk *w = &s->walk;

	s->op.frame_state = KS_FRAMES_PENDING;
	if (!segments) /* the agent has not read them yet */
		return;
	if (KS_KREAD(u16, regs + KS_REGS_CS) != KS_USER_CS)
		regs -= 16; /* see ks_in_system_call */
	ks_user_begin(s);
	s->op.frame_state = KS_FRAMES_READ_FAILED;
	s->stage = KS_WALK_FRAMES;
	w->globals = segments;
	w->module = 0;
	w->last = 0;
	w->hash = ks_hash2(s->proc_start, s->op.tgid);
	w->count = 0;
	w->state = KS_FRAMES_COMPLETE;
	w->at = KS_KREAD(u64, regs + KS_REGS_SP);
	w->mnt = KS_KREAD(u64, regs + KS_REGS_BP);
	w->root = KS_KREAD(u64, regs + KS_REGS_IP);
	w->root_mnt = 0; /* it is behind the system call's instruction, as it would be behind a call's */
}

static __always_inline void ks_native_note(struct ks_scratch *s, u64 code, u64 object)
{
	struct ks_walk *w = &s->walk;
	u32 n = KS_LOAD(w->count);
	struct ks_frame *f;

	w->count = n + 1;
	w->hash = ks_mix(KS_LOAD(w->hash), code ^ object << 40);
	KS_OPAQUE(n);
	f = &s->stack.frames[n & 127];
	f->code = code;
	f->pc = KS_LOAD(w->root);
	f->globals = object;
	f->check = 0;
	f->owner = 0;
	f->runtime = KS_RUNTIME_NATIVE;
	f->tag = 0;
}

/* The last of the process's segments that begins at `address` or before, counted from 1; 0: there is none. */
static __always_inline u32 ks_native_find_part(struct ks_scratch *s, u64 address)
{
	struct ks_walk *w = &s->walk;
	u64 segments = KS_LOAD(w->globals);

	w->found[0] = (u32)segments;
	w->found[1] = (u32)segments + (segments >> 32);
#pragma clang loop unroll(disable)
	for (u32 i = 0; i < KS_NATIVE_SEGMENT_STEPS; i++) {
		u64 low = KS_LOAD(w->found[0]), high = KS_LOAD(w->found[1]);
		u32 middle = (low + high) / 2;
		struct ks_native_part *part;

		if (low >= high)
			break;
		part = ks_native_parts.lookup(&middle);
		if (!part)
			break;
		if (KS_LOAD(part->start) <= address)
			w->found[0] = middle + 1;
		else
			w->found[1] = middle;
	}
	return KS_LOAD(w->found[0]) == (u32)segments ? 0 : KS_LOAD(w->found[0]);
}

/* The rule that holds at an address of the file; 0: none. */
static __always_inline u32 ks_native_rule(struct ks_scratch *s, u32 first, u32 count, u32 address)
{
	struct ks_walk *w = &s->walk;
	u32 at;
	u64 *row;

	w->found[0] = first;
	w->found[1] = (u64)first + count;
#pragma clang loop unroll(disable)
	for (u32 i = 0; i < KS_NATIVE_ROW_STEPS; i++) {
		u64 low = KS_LOAD(w->found[0]), high = KS_LOAD(w->found[1]);
		u32 middle = (low + high) / 2;

		if (low >= high)
			break;
		row = ks_native_rows.lookup(&middle);
		if (!row)
			break;
		if (KS_LOAD(*row) >> 32 <= address)
			w->found[0] = middle + 1;
		else
			w->found[1] = middle;
	}
	at = KS_LOAD(w->found[0]);
	if (at == first)
		return 0;
	at--;
	row = ks_native_rows.lookup(&at);
	return row ? KS_LOAD(*row) : 0;
}

/* Whether the segment's file lies there now; else how the walk ends. */
static __always_inline u32 ks_native_lies(struct ks_scratch *s, struct ks_native_part *part, u32 number)
{
	u64 *v = s->words, at = part->identity_at;

	if (!at || KS_LOAD(s->walk.module) == number)
		return KS_FRAMES_COMPLETE;
	if (ks_user_words(s, v, 2, at))
		return KS_FRAMES_READ;
	if (v[0] != part->identity_low || v[1] != part->identity_high)
		return KS_FRAMES_UNMAPPED;
	s->walk.module = number;
	return KS_FRAMES_COMPLETE;
}

/* The caller's registers, by the rule. 0: there is no caller, or it is not known. */
static __always_inline int ks_native_leave(struct ks_scratch *s, u32 rule)
{
	struct ks_walk *w = &s->walk;
	u64 *v = s->words, sp = KS_LOAD(w->at), bp = KS_LOAD(w->mnt), frame,
	    offset = rule >> KS_NATIVE_OFFSET_SHIFT << 3;
	u32 kind = rule & 7, kept = rule >> KS_NATIVE_RBP_SHIFT & 255;

	if (kind == KS_NATIVE_OUTERMOST)
		return 0;
	w->state = KS_FRAMES_READ;
	if (kind == KS_NATIVE_SIGNAL) {
		if (ks_user_words(s, v, 2, sp + KS_NATIVE_AREA_SP))
			return 0;
		w->at = v[0];
		w->root = v[1];
		w->root_mnt = 1;
		if (ks_user_words(s, v, 1, sp + KS_NATIVE_AREA_BP))
			return 0;
		w->mnt = v[0];
		w->state = KS_FRAMES_COMPLETE;
		return 1;
	}
	frame = sp + offset;
	if (kind == KS_NATIVE_RBP)
		frame = bp + offset;
	if (kind == KS_NATIVE_AT_RBP) {
		if (ks_user_words(s, v, 1, bp - offset))
			return 0;
		frame = v[0];
	}
	if (!kind || frame <= sp || frame & 7) {
		w->state = KS_FRAMES_NO_RULE;
		return 0;
	}
	if (kept) {
		if (ks_user_words(s, v, 1, kept == KS_NATIVE_HELD ? bp : frame - kept * 8))
			return 0;
		w->mnt = v[0];
	}
	if (ks_user_words(s, v, 1, frame - 8))
		return 0;
	w->at = frame;
	w->root = v[0];
	w->root_mnt = 0;
	w->state = KS_FRAMES_COMPLETE;
	return !!v[0];
}

/* One step outwards. 0: that was the last. */
static __always_inline int ks_native_step(struct ks_scratch *s)
{
	struct ks_walk *w = &s->walk;
	u64 address = KS_LOAD(w->root) - !KS_LOAD(w->root_mnt);
	u32 number, index, rule, lies = KS_FRAMES_UNMAPPED;
	struct ks_native_part *part;

	if (KS_LOAD(w->count) >= KS_LOAD(s->max_depth) || KS_LOAD(w->count) >= KS_MAX_DEPTH) {
		w->state = KS_FRAMES_DEPTH;
		return 0;
	}
	number = ks_native_find_part(s, address);
	index = number - 1;
	part = ks_native_parts.lookup(&index);
	if (number && part && address < KS_LOAD(part->end))
		lies = ks_native_lies(s, part, number);
	if (lies != KS_FRAMES_COMPLETE || !part) {
		w->state = lies;
		return 0;
	}
	address -= part->bias;
	rule = ks_native_rule(s, part->rows, part->count, address);
	/* a signal's handler returns to the first instruction of a function, and nothing has called that one */
	ks_native_note(s, address + ((rule & 7) == KS_NATIVE_SIGNAL), part->object);
	return ks_native_leave(s, rule);
}

/* As those of other runtimes: 1 where there are more frames. */
static __always_inline int ks_native_walk(struct ks_scratch *s)
{
	struct ks_walk *w = &s->walk;

	for (u32 i = 0; i < KS_NATIVE_AT_ONCE; i++) {
		ks_user_turn(s);
		if (!ks_native_step(s)) {
			w->last = 1;
			break;
		}
	}
	if (!KS_LOAD(w->last))
		return 1;
	if (bpf_ktime_get_ns() - s->op.time > KS_NATIVE_QUARANTINE_NS / 2)
		return 0; /* what it read may have been rewritten */
	s->op.frame_state = KS_LOAD(w->state);
	ks_name_stack(s);
	return 0;
}
