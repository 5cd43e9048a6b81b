/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * PHP 7.4 and later, builds without threads: the frames of the process's main thread, the only one that runs PHP.
 *
 *   frames:   a list of execute_data from EG(current_execute_data) outwards; what a call looks like from inside:
 *             user code          function, line of its current instruction
 *             internal function  its name
 *             no function        skipped; but of a generator that others delegate to (yield from) it stands for all
 *                                generators between the one that runs and the one that was asked for a value
 *             no name            the beginning of a Fiber's own stack
 *             a frameless call   (8.4) user code's instruction names an internal function that has no call of its own
 *   identity: a frame's `code` is a hash of all that it is shown by: names of function and class, file, first and last
 *             line. No address is in it, so none can lead to the function that had it before: closures are made anew for
 *             every use, and the functions of a request go with it. Strings bear a hash of their own (zend_string.h). Where
 *             a string's page is not there (opcache's shared memory, in a process that has not touched it), its address
 *             takes the hash's place, and the frame says so (KS_PHP_UNREAD): the agent is told where it is, and reads
 *             it, which brings the page.
 *
 * Offsets come from runtimes/php/layout.py; facts and sources are there.
 */
#pragma once
#include "op.h"
#include "user.h"
#include "runtimes/walker.bpf.h"

#define KS_PHP_WALK_AT_ONCE 6 /* the kernel allows 33 tail calls in a row: 22 for the frames, 4 for what names them */
#define KS_PHP_DELEGATES 16 /* generators that delegate one to another, at most */
#define KS_PHP_NONE 0xffff
#define KS_PHP_NO_ADDRESS 1

/* the same in every version */
#define KS_PHP_INTERNAL 1 /* zend_function.type */
#define KS_PHP_USER 2
#define KS_PHP_EVAL 4
#define KS_PHP_OBJECT 8 /* IS_OBJECT */
#define KS_PHP_OBJECT_CLASS 16 /* zend_object.ce */
#define KS_PHP_CLASS_NAME 8 /* zend_class_entry.name */
#define KS_PHP_STRING_HASH 8 /* zend_string.h, len, val */
#define KS_PHP_STRING_TEXT 24
#define KS_PHP_EXTENDED 20 /* zend_op.extended_value, lineno, opcode */
#define KS_PHP_LINE 24
#define KS_PHP_CALL_TOP 0x20000 /* of This.u1.type_info: code that nobody in PHP has called */
#define KS_PHP_HANDLE_EXCEPTION 149

_Static_assert(sizeof(struct ks_php_layout) <= sizeof(struct ks_layout), "ks_php_layout");

static __always_inline struct ks_php_layout *ks_php_layout_of(struct ks_runtime *rt)
{
	return (struct ks_php_layout *)ks_layouts.lookup(&rt->layout);
}

/* A string's part in an identity: its length and hash; where nobody has hashed it yet, the last 128 bytes of its text. */
static __always_inline u64 ks_php_text(struct ks_scratch *s, u64 str, u64 *v)
{
	struct ks_walk *w = &s->walk;
	u64 bytes, h;

	if (!str)
		return 0;
	if (ks_user_words(s, v, 2, str + KS_PHP_STRING_HASH)) {
		w->found[0] = KS_PHP_UNREAD;
		return str;
	}
	h = ks_mix(ks_mix(0, v[0]), v[1]);
	if (v[0])
		return h;
	bytes = v[1] < 128 ? v[1] : 128;
	return ks_mix(h, ks_user_hash(s, str + KS_PHP_STRING_TEXT + v[1] - bytes, bytes, v + 2));
}

/*
 * The frame at `ex`: noted in f. 1: it is one; 2: it is none, go on; 0: it cannot be read. w->mnt becomes the next one,
 * w->root what it belongs to where it has no function.
 */
static __always_inline int ks_php_frame(struct ks_scratch *s, struct ks_php_layout *l, u64 base, u64 ex,
					struct ks_frame *f)
{
	struct ks_walk *w = &s->walk;
	u64 *v = s->words, opline, func, lines = 0, at = 0, line = 0, h;
	u32 type, info;

	w->root = 0;
	if (ks_user_words(s, v, 7, ex)) /* opline, call, return value, func, This, its type, previous */
		return 0;
	opline = v[0];
	func = v[3];
	info = v[5];
	w->mnt = v[6];
	if (!func) {
		if ((info & 255) == KS_PHP_OBJECT)
			w->root = v[4];
		return 2;
	}
	type = (u32)ks_user_word(s, func) & 255;
	if (type != KS_PHP_INTERNAL) {
		if (!opline || ks_user_words(s, v, 2, opline + KS_PHP_EXTENDED)) /* extended_value; line, opcode */
			return 0;
		line = v[0] >> 32 | v[1] << 32;
		if (((line >> 32) & 255) - l->frameless < 4 && KS_LOAD(w->task_outer) != ex) {
			w->task_outer = w->mnt = ex; /* the same once more */
			func = ks_user_word(s, base + l->frameless_functions) + (v[0] & 0xffffffff) * 8;
			func = ks_user_word(s, func);
			type = KS_PHP_INTERNAL;
		}
	}
	if (ks_user_words(s, v, 3, func)) /* type and flags, name, class */
		return 0;
	if (type == KS_PHP_INTERNAL && !v[1]) {
		if (!KS_LOAD(w->task_frame))
			w->task_frame = ex;
		return 2;
	}
	w->root_mnt = v[1]; /* the function's name */
	w->found[0] = 0;
	if (v[2] != KS_LOAD(w->globals)) { /* methods that call one another are of one class */
		w->globals = v[2];
		w->module = 0;
		if (v[2]) {
			if (ks_user_words(s, v, 1, v[2] + KS_PHP_CLASS_NAME))
				return 0;
			w->module = ks_php_text(s, v[0], v);
			if (KS_LOAD(w->found[0]))
				w->globals = KS_PHP_NO_ADDRESS; /* to be told again by the next one */
		}
	}
	h = ks_mix(ks_mix(type, ks_php_text(s, KS_LOAD(w->root_mnt), v)), KS_LOAD(w->module));
	f->owner = type;
	f->pc = 0;
	if (type != KS_PHP_INTERNAL) {
		if (ks_user_words(s, v, 2, func + l->op_array_file)) /* file; first and last line */
			return 0;
		lines = v[1];
		if (v[0] != KS_LOAD(w->last)) { /* so are functions that call one another of one file */
			w->last = v[0];
			w->found[1] = ks_php_text(s, v[0], v);
			if (KS_LOAD(w->found[0]))
				w->last = KS_PHP_NO_ADDRESS;
		}
		h = ks_mix(ks_mix(h, KS_LOAD(w->found[1])), lines);
		if (ks_user_words(s, v, 1, func + l->op_array_opcodes))
			return 0;
		at = opline - v[0];
		if (((line >> 32) & 255) == KS_PHP_HANDLE_EXCEPTION) { /* one instruction for all that is thrown */
			line = at = 0;
			if (l->before_exception != KS_PHP_NONE) {
				opline = ks_user_word(s, base + l->before_exception);
				line = opline ? ks_user_word(s, opline + KS_PHP_LINE) : lines >> 32;
			}
		}
		f->pc = (line & 0xffffffff) | (u64)(u32)at << 32;
		if (!KS_LOAD(w->root_mnt) && type == KS_PHP_USER && info & KS_PHP_CALL_TOP) {
			f->owner = KS_PHP_MAIN;
			h = ks_mix(h, KS_PHP_MAIN);
		}
	}
	f->code = ks_mix(h, KS_LOAD(w->found[0]));
	f->globals = func;
	f->check = 0;
	f->tag = 0;
	f->owner |= KS_LOAD(w->found[0]);
	f->runtime = KS_RUNTIME_PHP;
	return 1;
}

/* How many generators delegate from the one at `generator` to the one that runs. */
static __always_inline u32 ks_php_delegates(struct ks_scratch *s, struct ks_php_layout *l, u64 generator)
{
	struct ks_walk *w = &s->walk;

	w->task_outer = generator;
	w->length = 0;
	for (u32 i = 0; i <= KS_PHP_DELEGATES; i++) {
		u64 parent = KS_UREAD(u64, KS_LOAD(w->task_outer) + l->generator_parent);

		if (!parent)
			break;
		w->task_outer = parent;
		w->length = KS_LOAD(w->length) + 1;
	}
	return KS_LOAD(w->length);
}

/*
 * A frame without a function of which w->root is the object. Where it stands for generators, these are the next frames:
 * they are known from the outermost on, so that slots are filled from there (w->length) inwards. 0: they cannot be walked.
 */
static __always_inline int ks_php_placeholder(struct ks_scratch *s, struct ks_php_layout *l, u64 base)
{
	struct ks_walk *w = &s->walk;
	u64 generator = KS_LOAD(w->root), class;
	u32 count;

	if (!generator || !l->generator_class)
		return 1;
	class = ks_user_word(s, generator + KS_PHP_OBJECT_CLASS);
	if (!class || class != ks_user_word(s, base + l->generator_class))
		return 1;
	if (l->generator_parent == KS_PHP_NONE) {
		w->state = KS_FRAMES_READ;
		return 0;
	}
	count = ks_php_delegates(s, l, generator);
	if (!count)
		return 1;
	if (count > KS_PHP_DELEGATES || KS_LOAD(w->count) + count > KS_LOAD(s->max_depth)) {
		w->state = KS_FRAMES_DEPTH;
		return 0;
	}
	w->thread = generator;
	w->length = KS_LOAD(w->count) + count;
	w->count = KS_LOAD(w->length);
	return 1;
}

static __always_inline void ks_php_begin(struct ks_scratch *s, u64 base)
{
	u64 id = ks_current_ids();
	struct ks_walk *w = &s->walk;

	if (id >> 32 != (u32)id) { /* a thread of some library's */
		s->op.frame_state = KS_FRAMES_NO_THREAD_STATE;
		return;
	}
	ks_user_begin(s);
	s->stage = KS_WALK_FRAMES;
	w->at = ks_user_word(s, base);
	w->hash = ks_hash2(s->proc_start, s->op.tgid);
	w->thread = 0; /* the generator whose frame comes next; 0: none */
	w->task_frame = 0; /* where the innermost Fiber's stack begins */
	w->task_outer = 0; /* the frame whose frameless call was noted */
	w->globals = w->module = w->last = 0;
	w->found[0] = w->found[1] = 0;
	w->length = 0;
	w->count = 0;
	w->state = KS_FRAMES_COMPLETE;
}

/* One step outwards. 0: that was the last. */
static __always_inline int ks_php_step(struct ks_scratch *s, struct ks_php_layout *l, u64 base)
{
	struct ks_walk *w = &s->walk;
	u64 generator = KS_LOAD(w->thread), ex = KS_LOAD(w->at);
	u32 slot = KS_LOAD(w->count);
	struct ks_frame *f;
	int found;

	if (generator) {
		ex = ks_user_word(s, generator + l->generator_frame);
		slot = KS_LOAD(w->length) - 1;
	} else if (slot >= KS_LOAD(s->max_depth) || slot >= KS_MAX_DEPTH) {
		w->state = KS_FRAMES_DEPTH;
		return 0;
	}
	KS_OPAQUE(slot); /* bounded where it is used: before 6.8 the verifier forgets the bounds of what clang spills */
	f = &s->stack.frames[slot & 127];
	found = ks_php_frame(s, l, base, ex, f);
	if (!found || (generator && found != 1)) {
		w->state = KS_FRAMES_READ;
		return 0;
	}
	if (found == 1)
		w->hash = ks_mix(ks_mix(KS_LOAD(w->hash), KS_LOAD(f->code)), KS_LOAD(f->pc));
	if (generator) {
		w->length = slot;
		w->thread = ks_user_word(s, generator + l->generator_parent);
		if (!ks_user_word(s, KS_LOAD(w->thread) + l->generator_parent))
			w->thread = 0; /* the one that runs: it was the frame before */
		return 1;
	}
	w->at = KS_LOAD(w->mnt);
	if (found == 1) {
		w->count = slot + 1;
		return 1;
	}
	return ks_php_placeholder(s, l, base);
}

/*
 * Leaves the frames in s->stack, and in s->frames how many of them are to be sent: none, or all. Gives 1 where there are
 * more frames: it is to be called again.
 */
static __always_inline int ks_php_walk(struct ks_scratch *s, struct ks_runtime *rt, struct ks_php_layout *l)
{
	struct ks_walk *w = &s->walk;

	for (u32 i = 0; i < KS_PHP_WALK_AT_ONCE; i++) {
		ks_user_turn(s);
		if (!KS_LOAD(w->at) && !KS_LOAD(w->thread))
			break;
		if (!ks_php_step(s, l, rt->base))
			break;
	}
	if ((KS_LOAD(w->at) || KS_LOAD(w->thread)) && KS_LOAD(w->state) == KS_FRAMES_COMPLETE)
		return 1;
	s->op.frame_state = KS_LOAD(w->state);
	if (KS_LOAD(w->task_frame)) {
		s->op.context_kind = KS_CONTEXT_FIBER;
		s->op.context = KS_LOAD(w->task_frame);
	}
	ks_name_stack(s);
	return 0;
}
