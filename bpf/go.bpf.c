// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * The walker of Go programs, reached by a tail call from the return of an operation.
 *
 *   ks_go:  walk, some frames at a time -> a stack that the agent does not know is sent -> send the operation
 *
 * Nothing else is sent: code is never moved and never made anew, its names are in the program's file.
 */
#include "op.h"
#include "path.h"
#include "runtimes/go.bpf.h"

int ks_go(void *ctx)
{
	struct ks_scratch *s = ks_walkers_scratch();
	struct ks_go_layout *l;
	struct ks_runtime *rt;

	if (!s)
		return 0;
	s->frames = 0;
	rt = ks_runtime_of(s);
	if (rt) {
		s->layout = rt->layout;
		l = ks_go_layout_of(rt);
		if (l && KS_LOAD(s->stage) == KS_WALK_BEGIN)
			ks_go_begin(s, l, rt->base);
		if (l && KS_LOAD(s->stage) == KS_WALK_FRAMES && ks_go_walk(s, l))
			ks_continue(ctx, KS_WALKER_GO);
	}
	if (KS_LOAD(s->frames))
		ks_send_stack(s, KS_RUNTIME_GO, s->op.stack, KS_LOAD(s->frames));
	ks_finish(s);
	return 0;
}
