// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * The walker of native programs, reached by a tail call from the return of an operation.
 *
 *   ks_native:  walk, some frames at a time -> a stack that the agent does not know is sent -> send the operation
 *
 * Nothing else is sent: what a frame names, a file and a place in it, never changes.
 */
#include "op.h"
#include "path.h"
#include "runtimes/native.bpf.h"

int ks_native(void *ctx)
{
	struct ks_scratch *s = ks_walkers_scratch();
	struct ks_runtime *rt;

	if (!s)
		return 0;
	s->frames = 0;
	rt = ks_runtime_of(s);
	if (rt) {
		s->layout = rt->layout;
		if (KS_LOAD(s->stage) == KS_WALK_BEGIN)
			ks_native_begin(s, rt->words[0]);
		if (KS_LOAD(s->stage) == KS_WALK_FRAMES && ks_native_walk(s))
			ks_continue(ctx, KS_WALKER_NATIVE);
	}
	if (KS_LOAD(s->frames))
		ks_send_stack(s, KS_RUNTIME_NATIVE, s->op.stack, KS_LOAD(s->frames));
	ks_finish(s);
	return 0;
}
