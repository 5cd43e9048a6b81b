// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * The Java walker, reached by a tail call from the return of an operation.
 *
 *   ks_java:        thread not known? -> ks_java_find -> ks_java
 *                   walk, some frames at a time -> a stack that the agent knows? -> send the operation
 *                   else -> ks_java_codes
 *   ks_java_find:   walk the JVM's list of threads
 *   ks_java_codes:  what names the interpreted methods, a few at a time -> the stack -> send the operation
 */
#include "op.h"
#include "path.h"
#include "runtimes/java.bpf.h"
#include "runtimes/java_code.bpf.h"

int ks_java(void *ctx)
{
	struct ks_scratch *s = ks_walkers_scratch();
	struct ks_java_layout *l;
	struct ks_runtime *rt;

	if (!s)
		return 0;
	s->frames = 0;
	rt = ks_runtime_of(s);
	if (rt) {
		s->layout = rt->layout;
		l = ks_java_layout_of(rt);
		if (l && KS_LOAD(s->stage) == KS_WALK_BEGIN) {
			ks_user_begin(s);
			s->walk.thread = ks_java_held(s, l, rt->base);
			if (!KS_LOAD(s->walk.thread))
				ks_continue(ctx, KS_WALKER_JAVA_FIND);
		}
		if (l && KS_LOAD(s->walk.thread) && ks_java_walk(s, rt, l)) {
			s->stage = KS_WALK_FRAMES;
			ks_continue(ctx, KS_WALKER_JAVA);
		}
	}
	ks_end_walk(ctx, s, KS_WALKER_JAVA_CODES);
	return 0;
}

int ks_java_find(void *ctx)
{
	struct ks_scratch *s = ks_walkers_scratch();
	struct ks_java_layout *l;
	struct ks_runtime *rt;

	if (!s)
		return 0;
	rt = ks_runtime_of(s);
	if (rt) {
		l = ks_java_layout_of(rt);
		if (l) {
			s->walk.thread = ks_java_look(s, l, rt->base);
			s->stage = KS_WALK_THREAD;
			if (KS_LOAD(s->walk.thread))
				ks_continue(ctx, KS_WALKER_JAVA);
		}
	}
	ks_finish(s);
	return 0;
}

int ks_java_codes(void *ctx)
{
	struct ks_scratch *s = ks_walkers_scratch();
	struct ks_java_layout *l;
	struct ks_runtime *rt;

	if (!s)
		return 0;
	rt = ks_runtime_of(s);
	if (rt) {
		l = ks_java_layout_of(rt);
		if (l)
			ks_java_send_codes(s, l);
	}
	ks_end_codes(ctx, s, KS_WALKER_JAVA_CODES, KS_RUNTIME_JAVA);
	return 0;
}
