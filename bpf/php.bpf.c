// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * The PHP walker, reached by a tail call from the return of an operation.
 *
 *   ks_php:        walk, some frames at a time -> a stack that the agent knows? -> send the operation
 *                  else -> ks_php_codes
 *   ks_php_codes:  what names the frames' functions, a few at a time -> the stack -> send the operation
 */
#include "op.h"
#include "path.h"
#include "runtimes/php.bpf.h"
#include "runtimes/php_code.bpf.h"

int ks_php(void *ctx)
{
	struct ks_scratch *s = ks_walkers_scratch();
	struct ks_php_layout *l;
	struct ks_runtime *rt;

	if (!s)
		return 0;
	s->frames = 0;
	rt = ks_runtime_of(s);
	if (rt) {
		s->layout = rt->layout;
		l = ks_php_layout_of(rt);
		if (l && KS_LOAD(s->stage) == KS_WALK_BEGIN)
			ks_php_begin(s, rt->base);
		if (l && KS_LOAD(s->stage) == KS_WALK_FRAMES && ks_php_walk(s, rt, l))
			ks_continue(ctx, KS_WALKER_PHP);
	}
	ks_end_walk(ctx, s, KS_WALKER_PHP_CODES);
	return 0;
}

int ks_php_codes(void *ctx)
{
	struct ks_scratch *s = ks_walkers_scratch();
	struct ks_php_layout *l;
	struct ks_runtime *rt;

	if (!s)
		return 0;
	rt = ks_runtime_of(s);
	if (rt) {
		l = ks_php_layout_of(rt);
		if (l)
			ks_php_send_codes(s, l);
	}
	ks_end_codes(ctx, s, KS_WALKER_PHP_CODES, KS_RUNTIME_PHP);
	return 0;
}
