// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * The walker of Node.js, reached by a tail call from the return of an operation.
 *
 *   ks_nodejs:        walk, some frames at a time -> a stack that the agent knows? -> send the operation
 *                     else -> ks_nodejs_codes
 *   ks_nodejs_codes:  what names the frames' functions, a few at a time -> the stack -> send the operation
 */
#include "op.h"
#include "path.h"
#include "runtimes/nodejs.bpf.h"
#include "runtimes/nodejs_code.bpf.h"

int ks_nodejs(void *ctx)
{
	struct ks_scratch *s = ks_walkers_scratch();
	struct ks_js_scratch *j = ks_js_own_scratch();
	struct ks_js_layout *l;
	struct ks_runtime *rt;

	if (!s)
		return 0;
	s->frames = 0;
	rt = ks_runtime_of(s);
	if (rt && j) {
		s->layout = rt->layout;
		l = ks_js_layout_of(rt);
		if (l && KS_LOAD(s->stage) == KS_WALK_BEGIN)
			ks_js_begin(s, l, rt->base);
		if (l && KS_LOAD(s->stage) == KS_WALK_FRAMES && ks_js_walk(s, rt, l, j))
			ks_continue(ctx, KS_WALKER_NODEJS);
	}
	ks_end_walk(ctx, s, KS_WALKER_NODEJS_CODES);
	return 0;
}

int ks_nodejs_codes(void *ctx)
{
	struct ks_scratch *s = ks_walkers_scratch();
	struct ks_js_scratch *j = ks_js_own_scratch();
	struct ks_js_layout *l;
	struct ks_runtime *rt;

	if (!s)
		return 0;
	rt = ks_runtime_of(s);
	if (rt && j) {
		l = ks_js_layout_of(rt);
		if (l)
			ks_js_send_codes(s, l, j);
	}
	ks_end_codes(ctx, s, KS_WALKER_NODEJS_CODES, KS_RUNTIME_NODEJS);
	return 0;
}
