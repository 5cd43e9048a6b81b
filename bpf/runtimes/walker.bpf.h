/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * What every walker has: the runtime of the process it walks, that runtime's layout, how a walk ends, and the way its stacks
 * and what names their code are sent.
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

/*
 * The end of a walk: names the stack that lies in s->stack, and leaves in s->frames how many of its frames are to be sent:
 * none, or all.
 */
static __always_inline void ks_name_stack(struct ks_scratch *s)
{
	struct ks_walk *w = &s->walk;
	u64 hash;

	if (!KS_LOAD(w->count)) {
		if (KS_LOAD(w->state) == KS_FRAMES_COMPLETE)
			s->op.frame_state = KS_FRAMES_NONE;
		return;
	}
	hash = ks_mix(KS_LOAD(w->hash), KS_LOAD(w->state));
	s->op.stack = hash;
	if (!ks_stacks.lookup(&hash))
		s->frames = KS_LOAD(w->count);
}

/* Behind a walk: a stack that the agent does not know goes on to `codes`, the program that sends it; else the operation is sent. */
static __always_inline void ks_end_walk(void *ctx, struct ks_scratch *s, u32 codes)
{
	if (KS_LOAD(s->frames)) {
		s->walk.count = 0;
		ks_continue(ctx, codes);
		s->op.stack = 0;
		s->op.frame_state = KS_FRAMES_STACK_LOST;
	}
	ks_finish(s);
}

/* Behind some frames' codes: `codes`, the program itself, goes on with the rest; at their end the stack and the operation go. */
static __always_inline void ks_end_codes(void *ctx, struct ks_scratch *s, u32 codes, u32 runtime)
{
	if (KS_LOAD(s->walk.count) < KS_LOAD(s->frames))
		ks_continue(ctx, codes);
	ks_send_stack(s, runtime, s->op.stack, KS_LOAD(s->frames));
	ks_finish(s);
}

/* What every CODE record begins with: CODE_HEADER of ring/records.py. */
struct ks_code_header {
	u16 kind, version;
	u32 size;
	u64 time;
	u32 tgid, tid, layout;
};

/* Sends a record of `size` bytes, in whole slots, that lies in `most` (a constant); the code is known by `key` from then on. */
static __always_inline void ks_send_code(struct ks_scratch *s, struct ks_code_header *r, u64 size, u32 most, u64 key)
{
	u8 one = 1;

	r->kind = KS_KIND_CODE;
	r->version = KS_VERSION;
	r->time = s->op.time;
	r->tgid = s->op.tgid;
	r->tid = s->op.tid;
	r->layout = s->layout;
	size = ks_slots(size);
	r->size = size;
	KS_OPAQUE(size);
	if (size > most)
		return;
	if (ks_ring.ringbuf_output(r, size, 1 /* NO_WAKEUP: the stack's record follows */)) {
		ks_count(s->op.cls, KS_C_STACK_LOST);
		return;
	}
	ks_codes.update(&key, &one);
	ks_count(s->op.cls, KS_C_CODES_SENT);
}
