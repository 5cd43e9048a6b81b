/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * What names Ruby's functions, sent once for each while it is on a stack: code that is made by eval goes with its last call.
 *
 * struct ks_ruby_code_rec is generated from runtimes/ruby/layout.py (RUBY_CODE).
 */
#pragma once
#include "runtimes/ruby.bpf.h"

#define KS_RUBY_TEXT_BYTES 2048 /* a power of two above all three */
#define KS_RUBY_AT_ONCE 32

_Static_assert(__builtin_offsetof(struct ks_ruby_code_rec, layout) == __builtin_offsetof(struct ks_code_header, layout),
	       "a CODE record begins with its header");

struct ks_ruby_code_scratch {
	struct ks_ruby_code_rec header;
	u8 bytes[KS_RUBY_TEXT_BYTES + KS_RUBY_TEXT + 1];
	/* in memory for the reason of ks_walk: */
	u64 at; /* where the next text goes */
	u64 users; /* threads that are at it: see ks_ruby_send_code */
};

BPF_PERCPU_ARRAY(ks_ruby_codes_sent, struct ks_ruby_code_scratch, 1);

/*
 * Appends the text of a string, KS_RUBY_TEXT bytes at most; `cut`: flag that says it was longer, or, KS_RUBY_MISSING times it, that
 * it cannot be read: the agent has its address, *address.
 */
static __always_inline void ks_ruby_append(struct ks_scratch *s, struct ks_ruby_code_scratch *c,
					   struct ks_ruby_layout *l, u64 string, u32 cut, u64 *address,
					   u16 *bytes)
{
	u64 v[4], at, length, place, size;

	*bytes = 0;
	*address = 0;
	if (!string || ks_ruby_string(s, l, string, v, &at, &length))
		return;
	if (length > KS_RUBY_TEXT) {
		length = KS_RUBY_TEXT;
		c->header.flags |= cut;
	}
	*address = at;
	*bytes = length;
	/* Bounds by masks, right where they are used: before 6.8 the verifier forgets those of a value that clang spills. */
	place = KS_LOAD(c->at);
	size = KS_LOAD(*bytes);
	if (ks_read_user(&c->bytes[place & (KS_RUBY_TEXT_BYTES - 1)], size & KS_RUBY_TEXT, (void *)at)) {
		c->header.flags |= cut * KS_RUBY_MISSING;
		return;
	}
	c->at = KS_LOAD(c->at) + size;
}

static __always_inline void ks_ruby_fill(struct ks_scratch *s, struct ks_ruby_code_scratch *c, struct ks_ruby_layout *l,
					 struct ks_frame *f)
{
	u64 name = f->check | (u64)f->tag << 32, label = 0, file = 0;
	struct ks_ruby_code_rec *r = &c->header;

	r->code = f->code;
	r->flags = 0;
	r->owner = f->owner;
	r->id = r->function = 0;
	if ((f->owner & KS_RUBY_KIND) == KS_RUBY_CFUNC) {
		r->function = KS_UREAD(u64, f->globals + 8);
		r->id = KS_UREAD(u64, f->globals + 32);
	} else {
		file = ks_ruby_path_string(s, KS_UREAD(u64, f->globals + KS_RUBY_PATHOBJ));
		label = KS_UREAD(u64, f->globals + KS_RUBY_PATHOBJ + 16);
	}
	c->at = 0;
	ks_ruby_append(s, c, l, label, KS_RUBY_CUT_NAME, &r->name_at, &r->name_bytes);
	ks_ruby_append(s, c, l, name, KS_RUBY_CUT_CLASS, &r->class_at, &r->class_bytes);
	ks_ruby_append(s, c, l, file, KS_RUBY_CUT_FILE, &r->file_at, &r->file_bytes);
}

static __always_inline void ks_ruby_make_code(struct ks_scratch *s, struct ks_ruby_code_scratch *c,
					      struct ks_ruby_layout *l, struct ks_frame *f, u64 key)
{
	ks_ruby_fill(s, c, l, f);
	ks_send_code(s, (struct ks_code_header *)&c->header, sizeof(c->header) + KS_LOAD(c->at),
		     sizeof(c->header) + sizeof(c->bytes), key);
}

/* Where one thread interrupted another at it (see KS_SCRATCH_ENTER), its codes are not sent; they are at the next stack. */
static __always_inline void ks_ruby_send_code(struct ks_scratch *s, struct ks_ruby_layout *l, struct ks_frame *f, u64 key)
{
	struct ks_ruby_code_scratch *c;
	u32 zero = 0;

	c = ks_ruby_codes_sent.lookup(&zero);
	KS_OPAQUE(c);
	if (!c)
		return;
	__sync_fetch_and_add(&c->users, 1);
	if (KS_LOAD(c->users) == 1)
		ks_ruby_make_code(s, c, l, f, key);
	__sync_fetch_and_add(&c->users, -1);
}

/* Goes on with frame s->walk.count, for KS_RUBY_AT_ONCE frames at most: the program calls itself for the rest. */
static __always_inline void ks_ruby_send_codes(struct ks_scratch *s, struct ks_ruby_layout *l)
{
	for (u32 i = 0; i < KS_RUBY_AT_ONCE; i++) {
		u32 n = KS_LOAD(s->walk.count);
		struct ks_frame *f = &s->stack.frames[n & 127];
		u64 key;

		if (n >= KS_LOAD(s->frames))
			break;
		s->walk.count = n + 1;
		key = ks_mix(ks_mix(s->proc_start, s->op.tgid), f->code);
		if (!ks_codes.lookup(&key))
			ks_ruby_send_code(s, l, f, key);
	}
}
