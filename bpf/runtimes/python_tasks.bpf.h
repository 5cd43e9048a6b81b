/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Which task a coroutine is run by, and what tells it from those that had its address before: runtimes/python/tasks.py says
 * it in words. What a thread's loop has at hand besides, runtimes/python/loops.py finds.
 */
#pragma once
#include "op.h"
#include "user.h"
#include "runtimes/python_identity.bpf.h"

/* Of ks_runtime's words; 0: not known. */
#define KS_PY_RUNNING_TASKS 0 /* address of the dict of tasks that run */
#define KS_PY_TASK_COUNT 1 /* address of the count of all tasks there were */
#define KS_PY_HANDING 2 /* code of a pool's threads, and above its address which local variable has the future */

#define KS_PY_FIRST_EAGER 12 /* since then a task may begin inside of another one's step */
#define KS_PY_RUNNING 4 /* tasks that are looked at: of a process's loops each has one at most */
#define KS_PY_INSIDE 24 /* frames between a task that has begun eagerly and the outermost one */

/* The number in "Task-123", which is how asyncio names a task; 0 for every other name. */
static __always_inline u64 ks_py_name_number(struct ks_scratch *s, u64 address, u64 length)
{
	char *text = (char *)s->words;
	struct ks_walk *w = &s->walk;

	if (length < 6 || length > 24)
		return 0;
	w->length = length;
	KS_OPAQUE(length);
	if (ks_read_user(text, length & 31, (void *)address) || *(u32 *)text != 0x6b736154 /* "Task" */ ||
	    text[4] != '-' || text[5] == '0')
		return 0;
	w->found[0] = 0;
	for (u32 i = 5; i < 24; i++) {
		u8 digit = KS_LOAD(text[i]) - '0';

		if (i >= KS_LOAD(w->length))
			break;
		if (digit > 9)
			return 0; /* a name of the user's own */
		w->found[0] = KS_LOAD(w->found[0]) * 10 + digit;
	}
	return KS_LOAD(w->found[0]);
}

/* The number that asyncio has given a task; 0: it has a name of the user's own. */
static __always_inline u64 ks_py_task_number(struct ks_scratch *s, struct ks_py_layout *l, u64 base, u64 task)
{
	u64 name = KS_UREAD(u64, task + l->task_name), tag;
	s64 type = KS_UREAD(u64, name + 8) - base;

	if (type == l->long_type && l->long_tag != KS_PY_NONE) {
		tag = KS_UREAD(u64, name + l->long_tag);
		if ((tag & 3) == 0 && (tag >> 3 == 1 || tag >> 3 == 2)) {
			u64 number = KS_UREAD(u32, name + l->long_digits);

			if (tag >> 3 == 2)
				number |= (u64)KS_UREAD(u32, name + l->long_digits + 4) << 30;
			return number;
		}
	}
	if (type == l->unicode_type && (KS_UREAD(u32, name + l->str_state) & 0x60) == 0x60)
		return ks_py_name_number(s, name + l->str_data, KS_UREAD(u64, name + l->str_length));
	return 0;
}

static __always_inline u64 ks_py_coroutine_of(struct ks_py_layout *l, u64 task)
{
	return task ? KS_UREAD(u64, task + l->task_coro) : 0;
}

/* The task that a callback of asyncio's is a step or the waking of, whatever runs it; 0: it is of none that runs this coroutine. */
static __always_inline u64 ks_py_task_of_callback(struct ks_py_layout *l, u64 callback, u64 coroutine)
{
	u64 task = KS_UREAD(u64, callback + l->callback_task);

	if (ks_py_coroutine_of(l, task) == coroutine)
		return task;
	task = KS_UREAD(u64, callback + l->method_self);
	return ks_py_coroutine_of(l, task) == coroutine ? task : 0;
}

/* By the Handle that runs its step, whose _run is the frame outside of the coroutine's. */
static __always_inline u64 ks_py_task_of_handle(struct ks_py_layout *l, u64 outer, u64 coroutine)
{
	u64 handle;

	if (!outer)
		return 0;
	handle = KS_UREAD(u64, outer + l->frame_localsplus) & ~(u64)l->tag_mask;
	return ks_py_task_of_callback(l, KS_UREAD(u64, handle + l->handle_callback), coroutine);
}

/*
 * By what asyncio says is running: since 3.14 the thread knows it; before there is a dict of all loops, where the one that has
 * begun last stands last. Gives the task of this coroutine; 0 where there is none: then *other is the last of them.
 */
static __always_inline u64 ks_py_task_running(struct ks_scratch *s, struct ks_runtime *rt, struct ks_py_layout *l,
					      u64 ts, u64 coroutine, u64 *other)
{
	struct ks_walk *w = &s->walk;
	u64 keys, first, task, count;

	*other = 0;
	if (l->ts_running_task != KS_PY_NONE) {
		task = KS_UREAD(u64, ts + l->ts_running_task);
		if (ks_py_coroutine_of(l, task) == coroutine)
			return task;
		*other = task;
		return 0;
	}
	if (!rt->words[KS_PY_RUNNING_TASKS])
		return 0;
	keys = KS_UREAD(u64, rt->words[KS_PY_RUNNING_TASKS] + l->dict_keys);
	count = KS_UREAD(u64, keys + (l->minor >= 11 ? 24 : 32));
	first = ks_py_first_entry(l, s->words, keys); /* its key; its value follows, and the next entry's hash */
	w->at = first + 8 + count * 24;
	for (u32 i = 0; i < KS_PY_RUNNING; i++) {
		w->at = KS_LOAD(w->at) - 24;
		if (KS_LOAD(w->at) < first)
			break;
		task = KS_UREAD(u64, KS_LOAD(w->at));
		if (ks_py_coroutine_of(l, task) == coroutine)
			return task;
		if (i == 0)
			*other = task;
	}
	return 0;
}

/*
 * A pool's thread works for the task that waits for its future: the future wakes that task, and the task waits for that future.
 * The walk goes on with the task's outermost frame.
 */
static __always_inline int ks_py_hand(struct ks_scratch *s, struct ks_runtime *rt, struct ks_py_layout *l)
{
	struct ks_walk *w = &s->walk;
	u64 slot = rt->words[KS_PY_HANDING] >> 48, future, callback, task;

	future = KS_UREAD(u64, KS_LOAD(w->marked_frame) + l->frame_localsplus + slot * 8) & ~(u64)l->tag_mask;
	if (!future)
		return 0;
	callback = KS_UREAD(u64, future + l->future_callback);
	if (!callback)
		return 0;
	task = KS_UREAD(u64, callback + l->callback_task);
	if (!task || KS_UREAD(u64, task + l->task_waiter) != future) {
		task = KS_UREAD(u64, callback + l->method_self);
		if (!task || KS_UREAD(u64, task + l->task_waiter) != future)
			return 0;
	}
	w->handed = task;
	w->at = ks_py_coroutine_of(l, task) + l->generator_frame;
	return 1;
}

/* Whether a coroutine's frame is among those that the outermost one's has called. */
static __always_inline int ks_py_is_inside(struct ks_scratch *s, struct ks_py_layout *l, u64 frame, u64 outermost)
{
	struct ks_walk *w = &s->walk;

	w->at = frame;
	for (u32 i = 0; i < KS_PY_INSIDE; i++) {
		w->at = KS_UREAD(u64, KS_LOAD(w->at) + l->frame_previous);
		if (!KS_LOAD(w->at))
			return 0;
		if (KS_LOAD(w->at) == outermost) {
			w->at = 0;
			return 1;
		}
	}
	w->at = 0;
	return 0;
}

/* The thread's count of context switches, in this thread: odd, which what a task's number gives never is; never 0. */
static __always_inline u64 ks_py_switches(struct ks_scratch *s, struct ks_py_layout *l, u64 ts)
{
	if (l->ts_context_ver == KS_PY_NONE)
		return 0;
	return ks_mix(ks_mix(KS_UREAD(u64, ts + l->ts_context_ver) | 1ULL << 62, 0), s->op.tid) | 1;
}

/*
 * What tells apart two tasks whose coroutines had the same address one after the other: the number in the name that asyncio
 * gave the task (its second bit says that asyncio itself says that it runs); else the count of context switches, which is
 * another one in every step: contexts are then only as long as a step, but never mixed.
 */
static __always_inline void ks_py_task_context(struct ks_scratch *s, struct ks_runtime *rt, struct ks_py_layout *l,
					       u64 ts, u64 frame)
{
	u64 coroutine = l->generator_frame != KS_PY_NONE ? frame - l->generator_frame :
							   KS_UREAD(u64, frame + l->frame_generator);
	u64 task = 0, number = 0, running, other = 0, is_said = 0;

	if (KS_LOAD(s->walk.handed)) {
		if (ks_py_coroutine_of(l, KS_LOAD(s->walk.handed)) == coroutine)
			task = KS_LOAD(s->walk.handed);
		if (l->ts_running_task != KS_PY_NONE || rt->words[KS_PY_RUNNING_TASKS])
			is_said = 2; /* as in its own steps */
	} else if (coroutine) {
		task = ks_py_task_of_handle(l, KS_LOAD(s->walk.task_outer), coroutine);
		if (!task || l->minor >= KS_PY_FIRST_EAGER) {
			running = ks_py_task_running(s, rt, l, ts, coroutine, &other);
			if (!running && other && l->minor >= KS_PY_FIRST_EAGER) {
				coroutine = ks_py_coroutine_of(l, other);
				if (coroutine && ks_py_is_inside(s, l, coroutine + l->generator_frame, frame)) {
					frame = coroutine + l->generator_frame;
					running = other;
				}
			}
			if (running) {
				task = running;
				is_said = 2;
			}
		}
	}
	if (task)
		number = ks_py_task_number(s, l, rt->base, task);
	if (l->minor < KS_PY_FIRST_EAGER)
		is_said = 0; /* nobody asks, where none begins in the midst of another */
	if (KS_LOAD(s->walk.handed) && !number)
		return;
	s->op.context_kind = KS_CONTEXT_TASK;
	s->op.context = frame;
	s->op.generation = number ? (ks_mix(number | 1ULL << 63, 0) & ~3ULL) | is_said : ks_py_switches(s, l, ts);
}
