/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * What names Ruby's functions, sent once for each while it is on a stack: code that is made by eval goes with its last call.
 *
 * struct ks_ruby_code_rec is generated from runtimes/ruby/layout.py (RUBY_CODE).
 */
#pragma once
#include "runtimes/ruby.bpf.h"

#define KS_RUBY_TEXT_BYTES 2048 /* a power of two above all three */
#define KS_RUBY_AT_ONCE 16
#define KS_RUBY_OPERATORS 1024 /* an id below is its own number; others bear four bits of what kind of name it is */
#define KS_RUBY_UNIT 512 /* symbols an array of their table has */
#define KS_RUBY_STATIC_SYMBOL 12

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
					   struct ks_ruby_layout *l, u64 string, u32 cut, u64 *address, u16 *bytes)
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

/* An array's element; 0 where there is none. */
static __always_inline u64 ks_ruby_element(struct ks_ruby_layout *l, u64 array, u32 index)
{
	u64 flags, count;

	if (!array || array & 7)
		return 0;
	flags = KS_UREAD(u64, array);
	if ((flags & KS_RUBY_TYPE) != KS_RUBY_ARRAY_OBJECT)
		return 0;
	if (flags & KS_RUBY_FLAG_1) {
		count = flags >> 15 & (l->string_text == 24 ? 127 : 3);
		return index < count ? KS_UREAD(u64, array + 16 + index * 8) : 0;
	}
	return index < KS_UREAD(u64, array + 16) ? KS_UREAD(u64, KS_UREAD(u64, array + 32) + index * 8) : 0;
}

/* The string that an id stands for; 0: it is not to be found. */
static __always_inline u64 ks_ruby_name_of(struct ks_ruby_layout *l, u64 base, u64 id)
{
	u32 serial = id < KS_RUBY_OPERATORS ? id : id >> 4;
	u64 unit;

	if (!l->symbols)
		return 0;
	unit = ks_ruby_element(l, KS_UREAD(u64, base + l->symbols + 16), serial / KS_RUBY_UNIT);
	if (ks_ruby_element(l, unit, serial % KS_RUBY_UNIT * 2 + 1) != (id << 8 | KS_RUBY_STATIC_SYMBOL))
		return 0;
	return ks_ruby_element(l, unit, serial % KS_RUBY_UNIT * 2);
}

static __always_inline void ks_ruby_fill(struct ks_scratch *s, struct ks_ruby_code_scratch *c, struct ks_ruby_layout *l,
					 u64 base, struct ks_frame *f)
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
		label = ks_ruby_name_of(l, base, r->id);
	} else {
		file = ks_ruby_path_string(s, KS_UREAD(u64, f->globals + KS_RUBY_PATHOBJ));
		label = ks_ruby_label_of(s, l, f->globals);
	}
	c->at = 0;
	ks_ruby_append(s, c, l, label, KS_RUBY_CUT_NAME, &r->name_at, &r->name_bytes);
	ks_ruby_append(s, c, l, name, KS_RUBY_CUT_CLASS, &r->class_at, &r->class_bytes);
	ks_ruby_append(s, c, l, file, KS_RUBY_CUT_FILE, &r->file_at, &r->file_bytes);
}

static __always_inline void ks_ruby_make_code(struct ks_scratch *s, struct ks_ruby_code_scratch *c,
					      struct ks_ruby_layout *l, u64 base, struct ks_frame *f, u64 key)
{
	ks_ruby_fill(s, c, l, base, f);
	ks_send_code(s, (struct ks_code_header *)&c->header, sizeof(c->header) + KS_LOAD(c->at),
		     sizeof(c->header) + sizeof(c->bytes), key);
}

/* Where one thread interrupted another at it (see KS_SCRATCH_ENTER), its codes are not sent; they are at the next stack. */
static __always_inline void ks_ruby_send_code(struct ks_scratch *s, struct ks_ruby_layout *l, u64 base,
					      struct ks_frame *f, u64 key)
{
	struct ks_ruby_code_scratch *c;
	u32 zero = 0;

	c = ks_ruby_codes_sent.lookup(&zero);
	KS_OPAQUE(c);
	if (!c)
		return;
	__sync_fetch_and_add(&c->users, 1);
	if (KS_LOAD(c->users) == 1)
		ks_ruby_make_code(s, c, l, base, f, key);
	__sync_fetch_and_add(&c->users, -1);
}

/* Goes on with frame s->walk.count, for KS_RUBY_AT_ONCE frames at most: the program calls itself for the rest. */
static __always_inline void ks_ruby_send_codes(struct ks_scratch *s, struct ks_ruby_layout *l, u64 base)
{
	for (u32 i = 0; i < KS_RUBY_AT_ONCE; i++) {
		u32 n = KS_LOAD(s->walk.count);
		struct ks_frame *f = &s->stack.frames[n & 127];
		u64 key;

		if (n >= KS_LOAD(s->frames))
			break;
		s->walk.count = n + 1;
		key = ks_mix(ks_hash2(s->proc_start, s->op.tgid), f->code);
		if (!ks_codes.lookup(&key))
			ks_ruby_send_code(s, l, base, f, key);
	}
}
