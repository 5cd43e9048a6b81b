/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * What every walker has: the runtime of the process it walks, that runtime's layout, and the way its stacks are sent.
 *
 * A walker's own constants, places in the program array (KS_WALKER_*) and structs stand before this text: they come from
 * the runtime's package, by probes/source.py.
 */
#pragma once
#include "op.h"

/* A row is as long as the longest struct of a runtime's layout may be; the runtime knows its own. */
struct ks_layout {
	u64 words[KS_LAYOUT_BYTES / 8];
};

BPF_ARRAY(ks_layouts, struct ks_layout, KS_MAX_LAYOUTS);

static __always_inline struct ks_runtime *ks_runtime_of(struct ks_scratch *s)
{
	u32 tgid = s->op.tgid;
	struct ks_runtime *rt = ks_runtimes.lookup(&tgid);

	KS_OPAQUE(rt);
	if (!rt)
		return 0;
	if (rt->start != s->proc_start)
		return 0;
	KS_OPAQUE(rt);
	return rt;
}

/* Sends s->stack, `count` frames of it, as stack `id`; where that cannot be, the operation says so. */
static __always_inline void ks_send_stack(struct ks_scratch *s, u32 runtime, u64 id, u64 count)
{
	struct ks_stack_rec *r = &s->stack.header;
	u64 size = ks_slots(sizeof(*r) + count * sizeof(struct ks_frame));
	u8 one = 1;

	r->kind = KS_KIND_STACK;
	r->version = KS_VERSION;
	r->size = size;
	r->time = s->op.time;
	r->tgid = s->op.tgid;
	r->tid = s->op.tid;
	r->stack = id;
	r->count = count;
	r->state = s->op.frame_state;
	r->runtime = runtime;
	r->layout = s->layout;
	KS_OPAQUE(size);
	if (size > sizeof(s->stack))
		return;
	if (ks_ring.ringbuf_output(&s->stack, size, 2 /* FORCE_WAKEUP: symbols are read while they are young */)) {
		ks_count(s->op.cls, KS_C_STACK_LOST);
		s->op.frame_state = KS_FRAMES_STACK_LOST;
		s->op.stack = 0;
		return;
	}
	ks_stacks.update(&id, &one);
	ks_count(s->op.cls, KS_C_STACKS_SENT);
}
