// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * The Python walker, reached by a tail call from the return of an operation.
 *
 *   ks_py:       thread not known? -> ks_py_find -> ks_py
 *                walk, some frames at a time -> a stack that the agent knows? -> send the operation
 *                else -> ks_py_codes; if it may be a task's, first -> ks_py_task
 *   ks_py_task:  which task, or for which one a pool's thread works, whose outermost frame is one more -> ks_py
 *   ks_py_find:  walk the interpreters' threads
 *   ks_py_codes: what names the frames' code, a few frames at a time -> the stack -> send the operation
 */
#include "op.h"
#include "path.h"
#include "runtimes/python.bpf.h"
#include "runtimes/python_code.bpf.h"

int ks_py(void *ctx)
{
	struct ks_scratch *s = ks_walkers_scratch();
	struct ks_py_layout *l;
	struct ks_runtime *rt;

	if (!s)
		return 0;
	s->frames = 0;
	rt = ks_runtime_of(s);
	if (rt) {
		s->layout = rt->layout;
		l = ks_py_layout_of(rt);
		if (l && KS_LOAD(s->stage) == KS_WALK_BEGIN) {
			ks_user_begin(s);
			s->walk.thread = ks_py_held(s, l, rt->base, ks_thread_pointer());
			if (!KS_LOAD(s->walk.thread))
				ks_continue(ctx, KS_WALKER_PY_FIND);
		}
		if (l && KS_LOAD(s->walk.thread) && ks_py_walk(s, rt, l)) {
			s->stage = KS_WALK_FRAMES;
			ks_continue(ctx, KS_WALKER_PY);
		}
		if (l && KS_LOAD(s->walk.thread) && ks_py_may_be_task(s))
			ks_continue(ctx, KS_WALKER_PY_TASK);
	}
	ks_end_walk(ctx, s, KS_WALKER_PY_CODES);
	return 0;
}

int ks_py_task(void *ctx)
{
	struct ks_scratch *s = ks_walkers_scratch();
	struct ks_py_layout *l;
	struct ks_runtime *rt;

	if (!s)
		return 0;
	rt = ks_runtime_of(s);
	if (rt) {
		l = ks_py_layout_of(rt);
		if (l && KS_LOAD(s->walk.task_frame)) {
			ks_py_task_context(s, rt, l, KS_LOAD(s->walk.thread), KS_LOAD(s->walk.task_frame));
		} else if (l && ks_py_hand(s, rt, l)) {
			s->frames = 0;
			s->stage = KS_WALK_FRAMES;
			ks_continue(ctx, KS_WALKER_PY);
		}
	}
	ks_end_walk(ctx, s, KS_WALKER_PY_CODES);
	return 0;
}

int ks_py_find(void *ctx)
{
	struct ks_scratch *s = ks_walkers_scratch();
	struct ks_py_layout *l;
	struct ks_runtime *rt;

	if (!s)
		return 0;
	rt = ks_runtime_of(s);
	if (rt) {
		l = ks_py_layout_of(rt);
		if (l) {
			s->walk.thread = ks_py_look(s, l, rt->base, ks_thread_pointer());
			s->stage = KS_WALK_THREAD;
			if (KS_LOAD(s->walk.thread))
				ks_continue(ctx, KS_WALKER_PY);
		}
	}
	ks_finish(s);
	return 0;
}

int ks_py_codes(void *ctx)
{
	struct ks_scratch *s = ks_walkers_scratch();
	struct ks_py_layout *l;
	struct ks_runtime *rt;

	if (!s)
		return 0;
	rt = ks_runtime_of(s);
	if (rt) {
		l = ks_py_layout_of(rt);
		if (l)
			ks_py_send_codes(s, l, rt->base);
	}
	ks_end_codes(ctx, s, KS_WALKER_PY_CODES, KS_RUNTIME_PYTHON);
	return 0;
}
