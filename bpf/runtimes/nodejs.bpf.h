/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Node.js (V8): the JavaScript frames of the current thread.
 *
 *   isolate:  the one the thread has entered: a variable of the thread's. None: a thread that runs no JavaScript (libuv's
 *             pool, V8's helpers)
 *   begin:    where JavaScript was left for C++: c_entry_fp of the isolate, or the caller of a fast call. Neither: nothing
 *             of JavaScript is on the stack (the event loop waits)
 *   frames:   linked by frame pointers. Beside each is a context, then it is JavaScript's, or a number, the kind of frame:
 *             an entry frame leads to where the JavaScript outside of it was left
 *   identity: a function is (thread, script's number, number of the function in it): V8 moves its objects, so no address is
 *             a name. An isolate is its thread's in Node.js, and scripts are numbered in it.
 *   where:    interpreted code by its offset in the bytecode, which every return to the interpreter leaves beside the frame;
 *             compiled code by its return address, with a hash of the code around it: such memory is used again
 *
 * Offsets come from runtimes/nodejs/layout.py; facts and sources are there.
 */
#pragma once
#include "op.h"
#include "user.h"
#include "runtimes/walker.bpf.h"

#define KS_JS_WALK_AT_ONCE 8 /* the kernel allows 33 tail calls in a row: 22 for the frames, 4 for what names them */
#define KS_JS_CODE_BYTES                                                                                               \
	64 /* around a return address, most of it before: behind a code's end others' words may change */
#define KS_JS_CODE_BEFORE 56

/* the same in every version, x86-64, pointers not compressed */
#define KS_JS_FRAME 40 /* the words that are read of a frame begin so far below its frame pointer */
#define KS_JS_ENTRY 1 /* StackFrame::Type */
#define KS_JS_CONSTRUCT_ENTRY 2
#define KS_JS_ENTRY_SAVED 80 /* below an entry's frame pointer: the fast call's pc and fp, c_entry_fp */
#define KS_JS_TARGET 24 /* a builtin exit frame's function */
#define KS_JS_NATIVE 0x20 /* of SharedFunctionInfo's flags: shown in stack traces though it is no user's */
#define KS_JS_MAP_TYPE 12
#define KS_JS_TSD 0x310 /* struct pthread of glibc: 32 values of 16 bytes, the second word is the value */

_Static_assert(sizeof(struct ks_js_layout) <= sizeof(struct ks_layout), "ks_js_layout");

/* What a frame's bytecode is; `code` proves that it is still that frame's. */
struct ks_js_bytecode {
	u64 code, array;
};

struct ks_js_scratch {
	struct ks_js_bytecode of[128];
};

BPF_PERCPU_ARRAY(ks_js_scratches, struct ks_js_scratch, 1);

static __always_inline struct ks_js_layout *ks_js_layout_of(struct ks_runtime *rt)
{
	return (struct ks_js_layout *)ks_layouts.lookup(&rt->layout);
}

static __always_inline struct ks_js_scratch *ks_js_own_scratch(void)
{
	u32 zero = 0;
	struct ks_js_scratch *j = ks_js_scratches.lookup(&zero);

	KS_OPAQUE(j);
	return j;
}

/* The type of the object that a tagged value is; 0: it is none. */
static __always_inline u32 ks_js_type(struct ks_scratch *s, u64 value)
{
	u64 map;

	if ((value & 3) != 1)
		return 0;
	map = ks_user_word(s, value - 1);
	if ((map & 3) != 1)
		return 0;
	return (ks_user_word(s, map - 1 + (KS_JS_MAP_TYPE & ~7)) >> 32) & 0xffff;
}

static __always_inline u64 ks_js_isolate(struct ks_scratch *s, struct ks_js_layout *l, u64 base)
{
	u64 tp = KS_KREAD(u64, ks_current_task() + KS_TASK_FSBASE), key;

	if (!l->isolate_key)
		return ks_user_word(s, tp + l->isolate);
	key = (u32)ks_user_word(s, base + l->isolate_key);
	return key < 32 ? ks_user_word(s, tp + KS_JS_TSD + key * 16 + 8) : 0;
}

/* Sets w->at and w->last, a frame and the address it goes on at (0: none of JavaScript's), to where C++ was called from. */
static __always_inline void ks_js_left(struct ks_walk *w, u64 entry_fp, u64 fast_fp, u64 fast_pc)
{
	w->at = entry_fp;
	w->last = 0;
	if (fast_fp) {
		w->at = fast_fp;
		w->last = fast_pc;
	}
}

/* The operation's generation: when the thread has received last. The event loop calls what that brought at once. */
static __always_inline void ks_js_received(struct ks_scratch *s)
{
	u32 tid = KS_THREAD(s->op.tid);
	struct ks_call *call = ks_call_of(tid);

	KS_OPAQUE(call);
	if (call)
		s->op.generation = call->received;
}

static __always_inline void ks_js_begin(struct ks_scratch *s, struct ks_js_layout *l, u64 base)
{
	struct ks_walk *w = &s->walk;
	u64 isolate, fast;

	ks_js_received(s);
	ks_user_begin(s);
	isolate = ks_js_isolate(s, l, base);
	if (!isolate) {
		s->op.frame_state = KS_FRAMES_NO_THREAD_STATE;
		return;
	}
	fast = ks_user_word(s, isolate + l->fast_fp);
	ks_js_left(w, ks_user_word(s, isolate + l->entry_fp), fast, ks_user_word(s, isolate + l->fast_pc));
	s->stage = KS_WALK_FRAMES;
	w->hash = ks_hash2(s->proc_start, s->op.tgid);
	w->thread = ks_mix(0, s->op.tid);
	w->globals = 0; /* the script of the frame before, and the number that it has here */
	w->module = 0;
	w->count = 0;
	w->state = KS_FRAMES_COMPLETE;
}

/*
 * w->module becomes the number of the script in the slot `script` of a function, 0 where the slot holds none. 0: it cannot
 * be read.
 */
static __always_inline int ks_js_script(struct ks_scratch *s, struct ks_js_layout *l, u64 script)
{
	struct ks_walk *w = &s->walk;
	u64 *v = s->words, at = script, source, name;
	u32 type;

	if (script == KS_LOAD(w->globals))
		return 1;
	w->globals = script;
	w->module = 0;
	type = ks_js_type(s, at);
	if (type == l->type_debug_info && l->debug_info_script) {
		at = ks_user_word(s, at - 1 + l->debug_info_script);
		type = ks_js_type(s, at);
	}
	if (type != l->type_script)
		return type != 0;
	if (ks_user_words(s, v, 8, at - 1 + 8)) /* source, name, …, id at 64 */
		return 0;
	source = v[0];
	name = v[1];
	w->module = ks_mix(KS_LOAD(w->thread), v[(l->script_id - 8) >> 3 & 7]);
	w->module = ks_mix(KS_LOAD(w->module), ks_user_word(s, source - 1 + 8) >> 32); /* its length */
	w->module = ks_mix(KS_LOAD(w->module), (name & 3) == 1 ? ks_user_word(s, name - 1 + 8) >> 32 : 0) | 1;
	return 1;
}

/* The function of a frame, noted in f. 1: it is one; 2: none that a stack trace shows; 0: it cannot be read. */
static __always_inline int ks_js_function(struct ks_scratch *s, struct ks_js_layout *l, u64 function,
					  struct ks_frame *f)
{
	struct ks_walk *w = &s->walk;
	u64 *v = s->words, shared, script, flags, builtin;

	shared = ks_user_word(s, function - 1 + l->function_shared);
	if ((shared & 3) != 1 || ks_user_words(s, v, 8, shared - 1))
		return 0;
	script = v[l->shared_script >> 3 & 7];
	flags = v[l->shared_flags >> 3 & 7]; /* and the function's number in the script */
	builtin = v[l->shared_builtin >> 3 & 7];
	if (!ks_js_script(s, l, script))
		return 0;
	f->globals = shared;
	f->runtime = KS_RUNTIME_NODEJS;
	f->check = 0;
	f->tag = 0;
	f->pc = 0;
	if (KS_LOAD(w->module)) {
		f->owner = KS_JS_COMPILED;
		f->code = ks_mix(KS_LOAD(w->module), flags >> 32);
		return 1;
	}
	if (!(flags & KS_JS_NATIVE) || (builtin & 1) || (s64)builtin < 0)
		return 2;
	f->owner = KS_JS_BUILTIN;
	f->code = ks_mix(0, builtin);
	return 1;
}

/*
 * Whether a frame goes on in the interpreter: behind its call of a bytecode's handler, or where optimised code that was left
 * has its functions go on. V8 may run a copy of its own code, so such places are told by what stands there.
 */
static __always_inline int ks_js_interpreter(struct ks_scratch *s, struct ks_js_layout *l, u64 base, u64 pc)
{
	u64 *v = s->words;

	if (pc == base)
		return 1;
	if (ks_user_words(s, v, 4, pc))
		return 0;
	if (v[0] == l->interpreter_0 && v[1] == l->interpreter_1 && v[2] == l->interpreter_2 &&
	    v[3] == l->interpreter_3)
		return 1;
	return v[0] == l->entered_0 && v[1] == l->entered_1 && v[2] == l->entered_2 && v[3] == l->entered_3;
}

/* Where in its function a frame is, that goes on at `pc`: noted in f. v: the frame's words. */
static __always_inline void ks_js_where(struct ks_scratch *s, struct ks_js_layout *l, u64 base, u64 pc, u64 offset,
					u64 array, struct ks_js_bytecode *bytecode, struct ks_frame *f)
{
	u64 *v = s->words;

	bytecode->code = bytecode->array = 0;
	if (f->owner == KS_JS_BUILTIN)
		return;
	if (ks_js_interpreter(s, l, base, pc)) {
		f->owner = KS_JS_INTERPRETED;
		f->pc = (offset >> 32) - (l->bytecode_data - 1);
		f->check = ks_user_word(s, array - 1 + 8) >> 32; /* bytes of the bytecode */
		bytecode->array = array;
		bytecode->code = f->code;
		return;
	}
	f->pc = pc;
	if (pc - (base + l->builtins) >= l->builtins_bytes)
		f->check = ks_user_hash(s, pc - KS_JS_CODE_BEFORE, KS_JS_CODE_BYTES, v);
}

/* One step outwards. 0: that was the last. */
static __always_inline int ks_js_step(struct ks_scratch *s, struct ks_js_layout *l, u64 base, struct ks_js_scratch *j)
{
	struct ks_walk *w = &s->walk;
	u64 *v = s->words, offset, array, function, kind, fp = KS_LOAD(w->at), pc = KS_LOAD(w->last);
	u32 slot = KS_LOAD(w->count);
	struct ks_frame *f;
	int found = 2;

	if (ks_user_words(s, v, 9,
			  fp - KS_JS_FRAME)) { /* … bytecode's offset, bytecode, count, function, context; fp, pc */
		w->state = KS_FRAMES_READ;
		return 0;
	}
	offset = v[0];
	array = v[1];
	function = v[3];
	kind = v[4];
	w->at = v[5];
	w->last = v[6];
	if (!(kind & 1)) {
		kind >>= 1;
		if (kind == KS_JS_ENTRY || kind == KS_JS_CONSTRUCT_ENTRY) {
			if (ks_user_words(s, v, 3, fp - KS_JS_ENTRY_SAVED)) {
				w->state = KS_FRAMES_READ;
				return 0;
			}
			ks_js_left(w, v[2], l->entry_saves_fast ? v[1] : 0, v[0]);
			return KS_LOAD(w->at) != 0;
		}
		if (kind != l->frame_builtin_exit)
			return 1;
		function = v[(KS_JS_FRAME + KS_JS_TARGET) / 8];
	}
	if (slot >= KS_LOAD(s->max_depth) || slot >= KS_MAX_DEPTH) {
		w->state = KS_FRAMES_DEPTH;
		return 0;
	}
	KS_OPAQUE(slot); /* bounded where it is used: before 6.8 the verifier forgets the bounds of what clang spills */
	f = &s->stack.frames[slot & 127];
	if ((function & 3) == 1)
		found = ks_js_function(s, l, function, f);
	if (found == 2)
		return 1;
	if (!found) {
		w->state = KS_FRAMES_READ;
		return 0;
	}
	ks_js_where(s, l, base, pc, offset, array, &j->of[slot & 127], f);
	w->hash = ks_mix(ks_mix(KS_LOAD(w->hash), KS_LOAD(f->code)), KS_LOAD(f->pc) ^ ((u64)KS_LOAD(f->check) << 32));
	w->count = slot + 1;
	return 1;
}

/*
 * Leaves the frames in s->stack, and in s->frames how many of them are to be sent: none, or all. Gives 1 where there are
 * more frames: it is to be called again.
 */
static __always_inline int ks_js_walk(struct ks_scratch *s, struct ks_runtime *rt, struct ks_js_layout *l,
				      struct ks_js_scratch *j)
{
	struct ks_walk *w = &s->walk;

	for (u32 i = 0; i < KS_JS_WALK_AT_ONCE; i++) {
		ks_user_turn(s);
		if (!KS_LOAD(w->at))
			break;
		if (!ks_js_step(s, l, rt->base, j)) {
			w->at = 0;
			break;
		}
	}
	if (KS_LOAD(w->at))
		return 1;
	s->op.frame_state = KS_LOAD(w->state);
	ks_name_stack(s);
	return 0;
}
