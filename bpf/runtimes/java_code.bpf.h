/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * What names Java's interpreted methods, sent once for each while it is on a stack: classes may be dropped, and a short process
 * is gone before anybody looks. Compiled frames are read by the agent: their code holds on to all that they name.
 *
 * struct ks_java_code_rec is generated from runtimes/java/layout.py (JAVA_CODE).
 */
#pragma once
#include "runtimes/java.bpf.h"

#define KS_JAVA_NAME 1024 /* a power of two: one byte less of a text is sent at most */
#define KS_JAVA_TABLE 2048 /* of the table of lines, whose length is nowhere: one byte less at most */
#define KS_JAVA_TEXTS 4096
#define KS_JAVA_AT_ONCE 26

_Static_assert(__builtin_offsetof(struct ks_java_code_rec, layout) == __builtin_offsetof(struct ks_code_header, layout),
	       "a CODE record begins with its header");

struct ks_java_code_scratch {
	struct ks_java_code_rec header;
	u8 bytes[KS_JAVA_TEXTS + KS_JAVA_TABLE];
	/* in memory for the reason of ks_walk: */
	u64 at; /* where the next text goes */
	u64 left; /* of the ConstMethod, from its table of lines on */
	u64 users; /* threads that are at it: see ks_java_send_code */
};

BPF_PERCPU_ARRAY(ks_java_code_scratches, struct ks_java_code_scratch, 1);

/* Appends a Symbol's text; `cut`: flag that says that it was longer, or cannot be read. */
static __always_inline void ks_java_append(struct ks_java_code_scratch *c, struct ks_java_layout *l, u64 symbol,
					   u32 cut, u16 *bytes)
{
	u64 at, size;

	*bytes = 0;
	if (!symbol)
		return;
	size = KS_UREAD(u16, symbol + l->symbol_length);
	if (size > KS_JAVA_NAME - 1) {
		size = KS_JAVA_NAME - 1;
		c->header.flags |= cut;
	}
	*bytes = size;
	/* Bounds by masks, right where they are used: before 6.8 the verifier forgets those of a value that clang spills. */
	at = KS_LOAD(c->at);
	size = KS_LOAD(*bytes);
	if (ks_read_user(&c->bytes[at & (KS_JAVA_TEXTS - 1)], size & (KS_JAVA_NAME - 1),
			 (void *)(symbol + l->symbol_body))) {
		c->header.flags |= cut;
		*bytes = 0;
		return;
	}
	c->at = KS_LOAD(c->at) + size;
}

static __always_inline void ks_java_fill(struct ks_java_code_scratch *c, struct ks_java_layout *l, struct ks_frame *f)
{
	struct ks_java_code_rec *r = &c->header;
	u64 method = f->globals, cm = KS_UREAD(u64, method + l->method_const), pool, klass, at, table;
	u16 index;

	pool = KS_UREAD(u64, cm + l->const_pool);
	klass = KS_UREAD(u64, pool + l->pool_holder);
	r->code = f->code;
	r->flags = 0;
	r->method = method;
	r->klass = klass;
	r->access = KS_UREAD(u32, method + l->method_access);
	r->method_flags = KS_UREAD(u32, (l->hidden_in_const ? cm : method) + l->hidden_at);
	r->const_flags = KS_UREAD(u32, cm + l->const_flags);
	r->code_size = KS_UREAD(u16, cm + l->const_code_size);
	c->at = 0;
	ks_java_append(c, l, KS_UREAD(u64, klass + l->klass_name), KS_JAVA_CUT, &r->class_bytes);
	index = KS_UREAD(u16, cm + l->const_name);
	ks_java_append(c, l, KS_UREAD(u64, pool + l->pool_bytes + index * 8), KS_JAVA_CUT, &r->name_bytes);
	index = KS_UREAD(u16, (l->source_in_pool ? pool : klass) + l->source_file);
	r->file_bytes = 0;
	if (index)
		ks_java_append(c, l, KS_UREAD(u64, pool + l->pool_bytes + index * 8), KS_JAVA_CUT << 1, &r->file_bytes);
	table = cm + l->const_bytes + r->code_size;
	c->left = cm + (u64)KS_UREAD(u32, cm + l->const_size) * 8 - table;
	if (KS_LOAD(c->left) > KS_JAVA_TABLE - 1)
		c->left = KS_JAVA_TABLE - 1;
	r->table_bytes = KS_LOAD(c->left);
	at = KS_LOAD(c->at);
	if (ks_read_user(&c->bytes[at & (KS_JAVA_TEXTS - 1)], KS_LOAD(r->table_bytes) & (KS_JAVA_TABLE - 1),
			 (void *)table))
		r->table_bytes = 0;
	c->at = KS_LOAD(c->at) + KS_LOAD(r->table_bytes);
}

static __always_inline void ks_java_make_code(struct ks_scratch *s, struct ks_java_code_scratch *c,
					      struct ks_java_layout *l, struct ks_frame *f, u64 key)
{
	ks_java_fill(c, l, f);
	if (KS_LOAD(c->header.flags) & KS_JAVA_CUT)
		return; /* the agent reads it itself, if it still can */
	ks_send_code(s, (struct ks_code_header *)&c->header, sizeof(c->header) + KS_LOAD(c->at),
		     sizeof(c->header) + sizeof(c->bytes), key);
}

/* Where one thread interrupted another at it (see KS_SCRATCH_ENTER), its codes are left to the agent to read. */
static __always_inline void ks_java_send_code(struct ks_scratch *s, struct ks_java_layout *l, struct ks_frame *f,
					      u64 key)
{
	struct ks_java_code_scratch *c;
	u32 zero = 0;

	c = ks_java_code_scratches.lookup(&zero);
	KS_OPAQUE(c);
	if (!c)
		return;
	__sync_fetch_and_add(&c->users, 1);
	if (KS_LOAD(c->users) == 1)
		ks_java_make_code(s, c, l, f, key);
	__sync_fetch_and_add(&c->users, -1);
}

/* Goes on with frame s->walk.count, for KS_JAVA_AT_ONCE frames at most: the program calls itself for the rest. */
static __always_inline void ks_java_send_codes(struct ks_scratch *s, struct ks_java_layout *l)
{
	for (u32 i = 0; i < KS_JAVA_AT_ONCE; i++) {
		u32 n = KS_LOAD(s->walk.count);
		struct ks_frame *f = &s->stack.frames[n & 127];
		u64 key;

		if (n >= KS_LOAD(s->frames))
			break;
		s->walk.count = n + 1;
		if (f->owner != KS_JAVA_INTERPRETED) /* nor one that could not be read */
			continue;
		key = ks_mix(ks_hash2(s->proc_start, s->op.tgid), f->code);
		if (!ks_codes.lookup(&key))
			ks_java_send_code(s, l, f, key);
	}
}
