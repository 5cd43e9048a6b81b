/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * What names PHP's functions, sent once for each while it is on a stack: the functions of a request go with it.
 *
 * struct ks_php_code_rec is generated from runtimes/php/layout.py (PHP_CODE).
 */
#pragma once
#include "runtimes/php.bpf.h"

#define KS_PHP_NAME 512 /* bytes of a name; a longer one is cut, and says so */
#define KS_PHP_FILE 1024 /* a power of two: one byte less of a text is sent at most */
#define KS_PHP_TEXTS 4096 /* a power of two above all three */
#define KS_PHP_AT_ONCE 32

_Static_assert(__builtin_offsetof(struct ks_php_code_rec, layout) == __builtin_offsetof(struct ks_code_header, layout),
	       "a CODE record begins with its header");

struct ks_php_code_scratch {
	struct ks_php_code_rec header;
	u8 bytes[KS_PHP_TEXTS + KS_PHP_FILE];
	/* in memory for the reason of ks_walk: */
	u64 at; /* where the next text goes */
	u64 users; /* threads that are at it: see ks_php_send_code */
};

BPF_PERCPU_ARRAY(ks_php_code_scratches, struct ks_php_code_scratch, 1);

/*
 * Appends the text of a string, `limit` bytes at most; `cut`: flag that says it was longer, or, KS_PHP_MISSING times it, that
 * it cannot be read: the agent has its address.
 */
static __always_inline void ks_php_append(struct ks_php_code_scratch *c, u64 str, u64 limit, u32 cut, u16 *bytes)
{
	u64 length, at, size;

	*bytes = 0;
	if (!str)
		return;
	if (ks_read_user(&length, sizeof(length), (void *)(str + KS_PHP_STRING_HASH + 8))) {
		c->header.flags |= cut * KS_PHP_MISSING;
		return;
	}
	if (length > limit) {
		length = limit;
		c->header.flags |= cut;
	}
	*bytes = length;
	/* Bounds by masks, right where they are used: before 6.8 the verifier forgets those of a value that clang spills. */
	at = KS_LOAD(c->at);
	size = KS_LOAD(*bytes);
	if (ks_read_user(&c->bytes[at & (KS_PHP_TEXTS - 1)], size & (KS_PHP_FILE - 1),
			 (void *)(str + KS_PHP_STRING_TEXT))) {
		c->header.flags |= cut * KS_PHP_MISSING;
		*bytes = 0;
		return;
	}
	c->at = KS_LOAD(c->at) + size;
}

static __always_inline void ks_php_fill(struct ks_php_code_scratch *c, struct ks_php_layout *l, struct ks_frame *f)
{
	struct ks_php_code_rec *r = &c->header;
	u64 func = f->globals, class = KS_UREAD(u64, func + 16);

	r->code = f->code;
	r->flags = 0;
	r->name_at = KS_UREAD(u64, func + 8);
	r->class_at = r->file_at = 0;
	if (class)
		r->class_at = KS_UREAD(u64, class + KS_PHP_CLASS_NAME);
	if ((f->owner & ~KS_PHP_UNREAD) != KS_PHP_INTERNAL)
		r->file_at = KS_UREAD(u64, func + l->op_array_file);
	c->at = 0;
	ks_php_append(c, r->name_at, KS_PHP_NAME, KS_PHP_CUT_NAME, &r->name_bytes);
	ks_php_append(c, r->class_at, KS_PHP_NAME, KS_PHP_CUT_CLASS, &r->class_bytes);
	ks_php_append(c, r->file_at, KS_PHP_FILE - 1, KS_PHP_CUT_FILE, &r->file_bytes);
}

static __always_inline void ks_php_make_code(struct ks_scratch *s, struct ks_php_code_scratch *c,
					     struct ks_php_layout *l, struct ks_frame *f, u64 key)
{
	ks_php_fill(c, l, f);
	ks_send_code(s, (struct ks_code_header *)&c->header, sizeof(c->header) + KS_LOAD(c->at),
		     sizeof(c->header) + sizeof(c->bytes), key);
}

/* Where one thread interrupted another at it (see KS_SCRATCH_ENTER), its codes are left to the agent to read. */
static __always_inline void ks_php_send_code(struct ks_scratch *s, struct ks_php_layout *l, struct ks_frame *f, u64 key)
{
	struct ks_php_code_scratch *c;
	u32 zero = 0;

	c = ks_php_code_scratches.lookup(&zero);
	KS_OPAQUE(c);
	if (!c)
		return;
	__sync_fetch_and_add(&c->users, 1);
	if (KS_LOAD(c->users) == 1)
		ks_php_make_code(s, c, l, f, key);
	__sync_fetch_and_add(&c->users, -1);
}

/* Goes on with frame s->walk.count, for KS_PHP_AT_ONCE frames at most: the program calls itself for the rest. */
static __always_inline void ks_php_send_codes(struct ks_scratch *s, struct ks_php_layout *l)
{
	for (u32 i = 0; i < KS_PHP_AT_ONCE; i++) {
		u32 n = KS_LOAD(s->walk.count);
		struct ks_frame *f = &s->stack.frames[n & 127];
		u64 key;

		if (n >= KS_LOAD(s->frames))
			break;
		s->walk.count = n + 1;
		key = ks_mix(ks_hash2(s->proc_start, s->op.tgid), f->code);
		if (!ks_codes.lookup(&key))
			ks_php_send_code(s, l, f, key);
	}
}
