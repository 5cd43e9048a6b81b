// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * The Ruby walker, reached by a tail call from the return of an operation.
 *
 *   ks_ruby:        thread not known (2.7)? -> ks_ruby_find -> ks_ruby
 *                   walk, some frames at a time -> a stack that the agent knows? -> send the operation
 *                   else -> ks_ruby_codes
 *   ks_ruby_find:   walk the interpreter's threads
 *   ks_ruby_codes:  what names the frames' functions, a few at a time -> the stack -> send the operation
 */
#include "op.h"
#include "path.h"
#include "runtimes/ruby.bpf.h"
#include "runtimes/ruby_code.bpf.h"

int ks_ruby(void *ctx)
{
	struct ks_scratch *s = ks_walkers_scratch();
	struct ks_ruby_layout *l;
	struct ks_runtime *rt;

	if (!s)
		return 0;
	s->frames = 0;
	rt = ks_runtime_of(s);
	if (rt) {
		s->layout = rt->layout;
		l = ks_ruby_layout_of(rt);
		if (l && KS_LOAD(s->stage) == KS_WALK_BEGIN) {
			ks_user_begin(s);
			if (l->tls == KS_RUBY_TLS_NONE && !ks_ruby_held(s, l, ks_ruby_thread_pointer()))
				ks_continue(ctx, KS_WALKER_RUBY_FIND);
			else
				ks_ruby_begin(s, l, rt->base);
		} else if (l && KS_LOAD(s->stage) == KS_WALK_THREAD) {
			ks_ruby_begin(s, l, rt->base);
		}
		if (l && KS_LOAD(s->stage) == KS_WALK_FRAMES && ks_ruby_walk(s, l))
			ks_continue(ctx, KS_WALKER_RUBY);
	}
	ks_end_walk(ctx, s, KS_WALKER_RUBY_CODES);
	return 0;
}

int ks_ruby_find(void *ctx)
{
	struct ks_scratch *s = ks_walkers_scratch();
	struct ks_ruby_layout *l;
	struct ks_runtime *rt;

	if (!s)
		return 0;
	rt = ks_runtime_of(s);
	if (rt) {
		l = ks_ruby_layout_of(rt);
		if (l && ks_ruby_look(s, l, rt->base, ks_ruby_thread_pointer())) {
			s->stage = KS_WALK_THREAD;
			ks_continue(ctx, KS_WALKER_RUBY);
		}
	}
	ks_finish(s);
	return 0;
}

int ks_ruby_codes(void *ctx)
{
	struct ks_scratch *s = ks_walkers_scratch();
	struct ks_ruby_layout *l;
	struct ks_runtime *rt;

	if (!s)
		return 0;
	rt = ks_runtime_of(s);
	if (rt) {
		l = ks_ruby_layout_of(rt);
		if (l)
			ks_ruby_send_codes(s, l, rt->base);
	}
	ks_end_codes(ctx, s, KS_WALKER_RUBY_CODES, KS_RUNTIME_RUBY);
	return 0;
}
