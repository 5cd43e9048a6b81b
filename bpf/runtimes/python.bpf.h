/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * CPython 3.8 and later: the frames of the current thread.
 *
 *   thread:   the PyThreadState whose thread_id is this thread's pointer (never the runtime's "current" one: it is
 *             cleared while the GIL is dropped), found once by walking the interpreters, then held by tid and checked
 *             at every use to be still linked in its list
 *   frames:   one bulk read for each, one more for the identity words of its code object
 *   context:  the outermost frame that a coroutine owns, or that of the task which a pool's thread works for; else, where the
 *             process uses greenlets, the outermost frame
 *
 * Offsets come from runtimes/python/layout.py; facts and sources are there.
 */
#pragma once
#include "op.h"
#include "user.h"
#include "runtimes/python_identity.bpf.h"
#include "runtimes/python_tasks.bpf.h"
#include "runtimes/walker.bpf.h"

#define KS_PY_WALK_AT_ONCE 8 /* the kernel allows 33 tail calls in a row */
#define KS_PY_COROUTINE 0x380 /* CO_COROUTINE | CO_ITERABLE_COROUTINE | CO_ASYNC_GENERATOR */

_Static_assert(sizeof(struct ks_py_layout) <= sizeof(struct ks_layout), "ks_py_layout");

static __always_inline struct ks_py_layout *ks_py_layout_of(struct ks_runtime *rt)
{
	return (struct ks_py_layout *)ks_layouts.lookup(&rt->layout);
}

static __always_inline u64 ks_thread_pointer(void)
{
	return KS_KREAD(u64, ks_current_task() + KS_TASK_FSBASE);
}

/* Is `ts` still a member of the list of thread states, and this thread's? Freed memory keeps its old words. */
static __always_inline int ks_py_linked(struct ks_scratch *s, struct ks_py_layout *l, u64 ts, u64 tp)
{
	u64 *v = s->words, previous, at;

	if (ks_user_word(s, ts + l->ts_thread_id) != tp)
		return 0;
	/* previous and next, in either order; behind them the interpreter, in every version */
	if (ks_user_words(s, v, 3, ts))
		return 0;
	previous = v[(l->ts_prev >> 3) & 1];
	at = previous ? previous + l->ts_next : v[2] + l->interp_threads_head;
	return ks_user_word(s, at) == ts;
}

static __always_inline u64 ks_py_frame_of(struct ks_scratch *s, struct ks_py_layout *l, u64 ts)
{
	u64 frame = ks_user_word(s, ts + l->ts_frame);

	if (frame && l->cframe_current != KS_PY_NONE)
		frame = ks_user_word(s, frame + l->cframe_current);
	return frame;
}

/* The same for one of many: the helper reads, since a kept page would not be read from again. */
static __always_inline int ks_py_has_frame(struct ks_py_layout *l, u64 ts)
{
	u64 frame = KS_UREAD(u64, ts + l->ts_frame);

	return frame && (l->cframe_current == KS_PY_NONE || KS_UREAD(u64, frame + l->cframe_current));
}

/* The thread's state, where it was found before and still is; 0: it must be looked for (ks_py_find). */
static __always_inline u64 ks_py_held(struct ks_scratch *s, struct ks_py_layout *l, u64 base, u64 tp)
{
	u32 tid = KS_THREAD(s->op.tid);
	u64 *held = ks_threads.lookup(&tid);

	if (!held)
		return 0;
	/* of two interpreters one may be the thread's at one time, the other at another */
	if (ks_user_word(s, ks_user_word(s, base) + l->interp_next) || !ks_py_linked(s, l, *held, tp))
		return 0;
	return *held;
}

/* The next interpreter, when the one before is known: whether others than those who say so may run its states. */
static __always_inline u64 ks_py_next_interpreter(struct ks_walk *w, struct ks_py_layout *l)
{
	if (KS_LOAD(w->handed) && !KS_LOAD(w->count))
		w->marked = 1;
	w->count = 0;
	w->task_frame = w->last = w->handed = 0;
	w->root = KS_UREAD(u64, KS_LOAD(w->root) + l->interp_next);
	return KS_LOAD(w->root);
}

/*
 * Looks for the thread's state, and keeps it where there is one interpreter: nothing to confuse. Sub-interpreters give one
 * thread several: the running one is told by its frames where only one has any; else it is ambiguous. 0: s->op.frame_state
 * says why there is none.
 *
 * A program may make states in one thread that others run, as uwsgi's threads do in a sub-interpreter: two of an interpreter, the
 * newer before the older, then say that they are the same thread's. The oldest is its own. Others may be at work in any
 * newer one, which is nobody's therefore; and who has no frames, and no state there, may have them there.
 */
static __always_inline u64 ks_py_look(struct ks_scratch *s, struct ks_py_layout *l, u64 base, u64 tp)
{
	/*
	 * at: a thread state; root: its interpreter; found: any, and one with frames. In the interpreter count: of this thread's;
	 * task_frame: one of them, with frames; last: whose the state before is; handed: two in a row are one thread's
	 */
	struct ks_walk *w = &s->walk;
	u32 tid = KS_THREAD(s->op.tid);
	u64 interp, ts, owner;

	w->root = KS_UREAD(u64, base);
	if (!KS_LOAD(w->root)) {
		s->op.frame_state = KS_FRAMES_NO_THREAD_STATE; /* the interpreter is starting or gone */
		return 0;
	}
	w->found[0] = w->found[1] = w->marked = w->task_frame = w->last = w->handed = 0;
	w->count = 0;
	w->at = KS_UREAD(u64, KS_LOAD(w->root) + l->interp_threads_head);
	for (u32 i = 0; i < KS_PY_THREAD_SCAN; i++) {
		ts = KS_LOAD(w->at);
		if (!ts) {
			interp = ks_py_next_interpreter(w, l);
			if (!interp)
				break;
			w->at = KS_UREAD(u64, interp + l->interp_threads_head);
			continue;
		}
		owner = KS_UREAD(u64, ts + l->ts_thread_id);
		if (owner == KS_LOAD(w->last))
			w->handed = 1;
		w->last = owner;
		if (owner == tp) {
			if (KS_LOAD(w->task_frame))
				goto ambiguous;
			w->found[0] = ts;
			w->count = 1;
			if (ks_py_has_frame(l, ts)) {
				if (KS_LOAD(w->found[1]))
					goto ambiguous;
				w->found[1] = w->task_frame = ts;
			}
		}
		w->at = KS_UREAD(u64, ts + l->ts_next);
	}
	ts = KS_LOAD(w->found[1]);
	if (!ts && KS_LOAD(w->marked))
		goto ambiguous;
	if (!ts)
		ts = KS_LOAD(w->found[0]);
	if (ts) {
		if (!KS_UREAD(u64, KS_UREAD(u64, base) + l->interp_next))
			ks_threads.update(&tid, &ts);
		return ts;
	}
	s->op.frame_state = KS_LOAD(w->root) ? KS_FRAMES_SCAN_LIMIT : KS_FRAMES_NO_THREAD_STATE;
	return 0;
ambiguous:
	s->op.frame_state = KS_FRAMES_AMBIGUOUS;
	return 0;
}

/* What is read of a frame. */
struct ks_py_words {
	u64 previous, code, pc, globals, owner; /* owner: its byte; before 3.11 whether a generator owns it */
};

static __always_inline int ks_py_frame_words(struct ks_scratch *s, struct ks_py_layout *l, u64 frame,
					     struct ks_py_words *f)
{
	u64 *v = s->words, owner = l->frame_owner != KS_PY_NONE ? l->frame_owner : l->frame_generator;

#if KS_USER_PAGES
	struct ks_page *page;
	u64 from = ks_user_at(s, &page, frame, l->frame_header_bytes);

	if (from) {
		f->previous = KS_KREAD(u64, from + l->frame_previous);
		f->code = KS_KREAD(u64, from + l->frame_code);
		f->pc = KS_KREAD(u64, from + (l->frame_pc & ~7U));
		f->globals = KS_KREAD(u64, from + l->frame_globals);
		f->owner = KS_KREAD(u64, from + (owner & ~7ULL));
		if (ks_user_still(page))
			return 0;
	}
#endif
	if (ks_read_user(v, l->frame_header_bytes & 127, (void *)frame))
		return -1;
	f->previous = v[(l->frame_previous >> 3) & 15];
	f->code = v[(l->frame_code >> 3) & 15];
	f->pc = v[(l->frame_pc >> 3) & 15];
	f->globals = v[(l->frame_globals >> 3) & 15];
	owner >>= 3;
	KS_OPAQUE(owner);
	f->owner = v[owner & 15];
	return 0;
}

/* One frame: noted in s->stack; 0 where it could not be read. w->at becomes the next one, w->hash covers this one. */
static __always_inline int ks_py_frame(struct ks_scratch *s, struct ks_py_layout *l, struct ks_frame *f)
{
	u64 frame = KS_LOAD(s->walk.at), code, pc, owner;
	struct ks_walk *w = &s->walk;
	struct ks_py_words read;
	u32 generator;

	if (ks_py_frame_words(s, l, frame, &read))
		return 0;
	code = read.code & ~(u64)l->tag_mask;
	pc = l->frame_pc_bytes == 4 ? (u32)(read.pc >> ((l->frame_pc & 4) * 8)) : read.pc;
	if (l->frame_owner != KS_PY_NONE) {
		owner = (read.owner >> ((l->frame_owner & 7) * 8)) & 255;
		generator = owner == l->owner_generator;
	} else {
		owner = generator = read.owner != 0;
	}
	f->code = code;
	f->pc = pc;
	f->owner = owner;
	f->runtime = KS_RUNTIME_PYTHON;
	f->check = 0;
	if (owner < l->owner_skip || l->frame_owner == KS_PY_NONE) {
		if (ks_py_identity(s, l, code, s->words, &f->check))
			return 0;
		if (read.globals != KS_LOAD(w->globals)) {
			w->globals = read.globals;
			w->module = ks_py_module_hash(s, l, read.globals);
		}
		if (KS_LOAD(w->task_frame) == KS_LOAD(w->last))
			w->task_outer = frame; /* the frame just outside the outermost coroutine so far */
		if (generator && (u32)ks_user_word(s, code + l->code_flags) & KS_PY_COROUTINE) {
			w->task_frame = frame;
			w->task_outer = 0;
		}
		if (code == KS_LOAD(w->marked))
			w->marked_frame = frame;
		w->last = frame;
	}
	f->globals = (read.globals & KS_PY_ADDRESS) | (KS_LOAD(w->module) & ~KS_PY_ADDRESS);
	f->tag = KS_LOAD(w->module);
	w->hash = ks_mix(ks_mix(ks_mix(KS_LOAD(w->hash), code ^ ((u64)KS_LOAD(f->check) << 32)), pc),
			 read.globals ^ KS_LOAD(w->module));
	w->at = KS_LOAD(w->handed) ? 0 : read.previous; /* of a task that waits the outermost frame is all we ask for */
	return 1;
}

/* Of what is no task's. */
static __always_inline void ks_py_context(struct ks_scratch *s, struct ks_runtime *rt, struct ks_py_layout *l, u64 ts)
{
	struct ks_walk *w = &s->walk;

	if (KS_LOAD(w->state) != KS_FRAMES_COMPLETE || KS_LOAD(w->task_frame))
		return;
	if (rt->flags & KS_RUNTIME_GREENLETS) {
		s->op.context_kind = KS_CONTEXT_GREENLET;
		s->op.context = w->last;
		s->op.generation = ks_py_switches(s, l, ts);
	} else if (rt->words[KS_PY_TASK_COUNT]) {
		s->op.generation = KS_UREAD(u64, rt->words[KS_PY_TASK_COUNT]);
	}
}

/* Notes KS_PY_WALK_AT_ONCE frames at most: all 127 in one loop are a third of what the verifier would follow at all. */
static __always_inline void ks_py_frames(struct ks_scratch *s, struct ks_py_layout *l)
{
	struct ks_walk *w = &s->walk;

	for (u32 i = 0; i < KS_PY_WALK_AT_ONCE; i++) {
		u32 n = KS_LOAD(w->count), slot;

		ks_user_turn(s);
		if (!KS_LOAD(w->at))
			break;
		if (n >= KS_LOAD(s->max_depth) || n >= KS_MAX_DEPTH) {
			w->state = KS_FRAMES_DEPTH;
			break;
		}
		slot = n;
		KS_OPAQUE(
			slot); /* bounded where it is used: before 6.8 the verifier forgets the bounds of what clang spills */
		if (!ks_py_frame(s, l, &s->stack.frames[slot & 127])) {
			w->state = KS_FRAMES_READ;
			break;
		}
		w->count = n + 1;
	}
}

/* Whether it may be a task's: behind the walk (ks_py_task) it is looked at more closely. */
static __always_inline int ks_py_may_be_task(struct ks_scratch *s)
{
	struct ks_walk *w = &s->walk;

	return KS_LOAD(w->state) == KS_FRAMES_COMPLETE &&
	       (KS_LOAD(w->task_frame) || (KS_LOAD(w->marked_frame) && !KS_LOAD(w->handed)));
}

/*
 * Leaves the frames in s->stack, and in s->frames how many of them are to be sent: none, or all. Gives 1 where there are
 * more frames: it is to be called again.
 */
static __always_inline int ks_py_walk(struct ks_scratch *s, struct ks_runtime *rt, struct ks_py_layout *l)
{
	struct ks_walk *w =
		&s->walk; /* at: a frame; count, state: of the frames; root: the last frame's file, hashed */

	if (KS_LOAD(s->stage) != KS_WALK_FRAMES) {
		w->at = ks_py_frame_of(s, l, KS_LOAD(w->thread));
		w->hash = ks_hash2(s->proc_start, s->op.tgid);
		w->task_frame = w->task_outer = w->last = 0;
		w->marked = rt->words[KS_PY_HANDING] & KS_PY_ADDRESS;
		w->marked_frame = w->handed = 0;
		w->globals = w->module = w->root = 0;
		w->count = 0;
		w->state = KS_FRAMES_COMPLETE;
	}
	ks_py_frames(s, l);
	if (KS_LOAD(w->at) && KS_LOAD(w->state) == KS_FRAMES_COMPLETE)
		return 1;
	s->op.frame_state = KS_LOAD(w->state);
	ks_py_context(s, rt, l, KS_LOAD(w->thread));
	ks_name_stack(s);
	return 0;
}
