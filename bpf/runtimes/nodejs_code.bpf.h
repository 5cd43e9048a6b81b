/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * What names JavaScript's functions, sent once for each while it is on a stack: the name, the script's name, and of
 * interpreted code the table of positions. Objects move, functions are dropped, and short programs are gone at once.
 *
 * struct ks_js_code_rec is generated from runtimes/nodejs/layout.py (JS_CODE).
 */
#pragma once
#include "runtimes/nodejs.bpf.h"

#define KS_JS_NAME 512 /* bytes of a name; a longer one is cut, and says so */
#define KS_JS_FILE 1024
#define KS_JS_TEXTS 2048 /* a power of two above both */
#define KS_JS_TABLE 16384 /* a power of two: one byte less is sent at most */
#define KS_JS_SOURCE 128 /* of a source, at its beginning and its end: nodejs/lines.py */
#define KS_JS_AT_ONCE 8
#define KS_JS_INLINE_LOCALS 75 /* a scope with more has their names in a table */
#define KS_JS_STRING_HOPS 3
#define KS_JS_STRING_PIECES 5
#define KS_JS_STRING_LENGTH 12
#define KS_JS_STRING_TEXT 16
#define KS_JS_STRING_FIRST 16 /* of what is put together; what another stands for */
#define KS_JS_STRING_SECOND 24
#define KS_JS_FIRST_NON_STRING 128

/* the low bits of a string's type */
#define KS_JS_REPRESENTATION 7
#define KS_JS_SEQUENTIAL 0
#define KS_JS_CONS 1
#define KS_JS_EXTERNAL 2
#define KS_JS_SLICED 3
#define KS_JS_THIN 5
#define KS_JS_ONE_BYTE 8
#define KS_JS_UNCACHED 16
#define KS_JS_NO_STRING 0xffffff80

_Static_assert(__builtin_offsetof(struct ks_js_code_rec, layout) == __builtin_offsetof(struct ks_code_header, layout),
	       "a CODE record begins with its header");

struct ks_js_code_scratch {
	struct ks_js_code_rec header;
	u8 bytes[KS_JS_TEXTS + KS_JS_TABLE + KS_SLOT];
	/* in memory for the reason of ks_walk: */
	u64 at; /* where the next text goes */
	u64 from, offset; /* a string, and characters of it that are left out */
	u64 left, next;
	u64 size;
	u64 outside; /* the characters are not in the heap */
	u64 words[8];
	u64 users; /* threads that are at it: see ks_js_send_code */
};

BPF_PERCPU_ARRAY(ks_js_code_scratches, struct ks_js_code_scratch, 1);

/* The type of a tagged value's object; -1: it is none. By the helper: these are read once. */
static __always_inline u32 ks_js_kind(u64 value)
{
	u64 map;

	if ((value & 3) != 1)
		return -1;
	map = KS_UREAD(u64, value - 1);
	if ((map & 3) != 1)
		return -1;
	return KS_UREAD(u16, map - 1 + KS_JS_MAP_TYPE);
}

/* Makes of c->from the address of its characters, following strings that stand for others; gives their width. -1: they are
 * not in one place. */
static __always_inline int ks_js_characters(struct ks_js_code_scratch *c)
{
	c->offset = 0;
	c->outside = 0;
	for (u32 i = 0; i < KS_JS_STRING_HOPS; i++) {
		u64 string = KS_LOAD(c->from);
		u32 kind = ks_js_kind(string);

		if (kind >= KS_JS_FIRST_NON_STRING)
			return -1;
		switch (kind & KS_JS_REPRESENTATION) {
		case KS_JS_SEQUENTIAL:
			c->from = string - 1 + KS_JS_STRING_TEXT;
			return kind & KS_JS_ONE_BYTE ? 1 : 2;
		case KS_JS_EXTERNAL:
			if (kind & KS_JS_UNCACHED)
				return -1;
			c->from = KS_UREAD(u64, string - 1 + KS_JS_STRING_SECOND);
			c->outside = 1;
			return kind & KS_JS_ONE_BYTE ? 1 : 2;
		case KS_JS_SLICED:
			c->offset = KS_LOAD(c->offset) + (KS_UREAD(u64, string - 1 + KS_JS_STRING_SECOND) >> 32);
			break;
		case KS_JS_CONS: /* made one: the second is empty */
			if (KS_UREAD(u32, KS_UREAD(u64, string - 1 + KS_JS_STRING_SECOND) - 1 + KS_JS_STRING_LENGTH))
				return -1;
			break;
		case KS_JS_THIN:
			break;
		default:
			return -1;
		}
		c->from = KS_UREAD(u64, string - 1 + KS_JS_STRING_FIRST);
	}
	return -1;
}

/* Puts the characters of c->from, c->left of them, where they belong: c->left behind c->at. 0: they cannot be had. */
static __always_inline int ks_js_copy(struct ks_js_code_scratch *c, u64 before, u64 count, int width)
{
	u64 at, size;

	if (ks_js_characters(c) != width)
		return 0;
	/* Bounds by masks, right where they are used: before 6.8 the verifier forgets those of a value that clang spills. */
	at = KS_LOAD(c->at) + before * width;
	size = count * width;
	KS_OPAQUE(at);
	KS_OPAQUE(size);
	return !ks_read_user(&c->bytes[at & (KS_JS_TEXTS - 1)], size & (KS_JS_TEXTS - 1),
			     (void *)(KS_LOAD(c->from) + KS_LOAD(c->offset) * width));
}

/*
 * Copies a string of c->left characters of that width. What is put together of two strings, the first of which may be again,
 * is filled from its end.
 */
static __always_inline int ks_js_pieces(struct ks_js_code_scratch *c, u64 string, u64 most, int width)
{
	for (u32 i = 0; i < KS_JS_STRING_PIECES; i++) {
		u64 second, length;

		string = KS_LOAD(c->from);
		if ((ks_js_kind(string) & (KS_JS_REPRESENTATION | KS_JS_NO_STRING)) != KS_JS_CONS)
			return ks_js_copy(c, 0, KS_LOAD(c->left) < most ? KS_LOAD(c->left) : most, width);
		if (KS_LOAD(c->left) > most)
			return 0;
		second = KS_UREAD(u64, string - 1 + KS_JS_STRING_SECOND);
		length = KS_UREAD(u32, second - 1 + KS_JS_STRING_LENGTH);
		c->next = KS_UREAD(u64, string - 1 + KS_JS_STRING_FIRST);
		if (length > KS_LOAD(c->left))
			return 0;
		c->left = KS_LOAD(c->left) - length;
		c->from = second;
		if (length && !ks_js_copy(c, KS_LOAD(c->left), length, width))
			return 0;
		c->from = KS_LOAD(c->next);
	}
	return 0;
}

/* Appends the text of a string, `limit` bytes at most. `cut`: flag that says it was longer; KS_JS_MISSING times it: unread. */
static __always_inline void ks_js_append(struct ks_js_code_scratch *c, u64 string, u64 limit, u32 cut, u16 *bytes,
					 u8 *width)
{
	u32 kind = ks_js_kind(string);
	int wide;

	if ((kind & (KS_JS_REPRESENTATION | KS_JS_NO_STRING)) ==
	    KS_JS_THIN) { /* it does not tell the other one's width */
		string = KS_UREAD(u64, string - 1 + KS_JS_STRING_FIRST);
		kind = ks_js_kind(string);
	}
	wide = kind & KS_JS_ONE_BYTE ? 1 : 2;
	*bytes = 0;
	*width = wide;
	if (kind >= KS_JS_FIRST_NON_STRING)
		return;
	c->size = c->left = KS_UREAD(u32, string - 1 + KS_JS_STRING_LENGTH);
	c->from = string;
	if (KS_LOAD(c->size) > limit / wide) {
		c->size = limit / wide;
		c->header.flags |= cut;
	}
	if (!ks_js_pieces(c, string, limit / wide, wide)) {
		c->header.flags |= cut * KS_JS_MISSING;
		return;
	}
	*bytes = KS_LOAD(c->size) * wide;
	c->at = KS_LOAD(c->at) + KS_LOAD(c->size) * wide;
}

/* Looks at one slot of a scope, at c->from, and goes on to the next. 1: no more are to be looked at; *name: what was found. */
static __always_inline int ks_js_scope_slot(struct ks_js_code_scratch *c, struct ks_js_layout *l, u64 *name)
{
	u64 value = KS_UREAD(u64, KS_LOAD(c->from));
	u32 kind;

	c->from = KS_LOAD(c->from) + 8;
	if (!(value & 1))
		return 0;
	kind = ks_js_kind(value);
	if (kind >= KS_JS_FIRST_NON_STRING)
		return kind != l->type_oddball; /* the scope outside of it */
	if (!KS_UREAD(u32, value - 1 + KS_JS_STRING_LENGTH))
		return 0;
	*name = value;
	return 1;
}

/*
 * The string that a function is shown by: its name, else the one that was inferred, of what its scope says; 0: it has none.
 * Its six slots in no loop: 5.10 refuses one whose counter falls into its head ("back-edge"), as clang makes it.
 */
static __always_inline u64 ks_js_scope_name(struct ks_js_code_scratch *c, struct ks_js_layout *l, u64 scope)
{
	u64 locals = KS_UREAD(u64, scope - 1 + l->scope_locals) >> 32, name = 0;

	locals = locals < KS_JS_INLINE_LOCALS ? locals * 2 : locals + 1;
	c->from = scope - 1 + l->scope_variables + locals * 8;
	if (ks_js_scope_slot(c, l, &name) || ks_js_scope_slot(c, l, &name) || ks_js_scope_slot(c, l, &name) ||
	    ks_js_scope_slot(c, l, &name) || ks_js_scope_slot(c, l, &name))
		return name;
	ks_js_scope_slot(c, l, &name);
	return name;
}

/* Appends the table of positions of a frame's bytecode; none is there, or all of it. */
static __always_inline void ks_js_table(struct ks_js_code_scratch *c, struct ks_js_layout *l, u64 array)
{
	u64 table = KS_UREAD(u64, array - 1 + l->bytecode_positions), at, size;

	c->header.table_bytes = 0;
	if (!array || ks_js_kind(table) != l->type_positions)
		return;
	c->size = KS_UREAD(u64, table - 1 + 8) >> 32;
	at = KS_LOAD(c->at);
	size = KS_LOAD(c->size);
	if (size >= KS_JS_TABLE)
		return;
	if (ks_read_user(&c->bytes[at & (KS_JS_TEXTS - 1)], size & (KS_JS_TABLE - 1), (void *)(table - 1 + 16)))
		return;
	c->header.table_bytes = KS_LOAD(c->size);
	c->at = KS_LOAD(c->at) + KS_LOAD(c->size);
}

/*
 * A hash of how a script's source begins and ends, c->size characters: another may lie there when the agent reads it. What is
 * not in the heap stays where it is, and may not have been touched yet.
 */
static __always_inline void ks_js_source(struct ks_scratch *s, struct ks_js_code_scratch *c, u64 source)
{
	u64 *v = s->words;
	int width;

	c->header.source_check = 0;
	c->from = source;
	width = ks_js_characters(c);
	if (width < 0)
		return;
	if (KS_LOAD(c->outside)) {
		c->header.source_check = KS_JS_OUTSIDE;
		return;
	}
	c->from = KS_LOAD(c->from) + KS_LOAD(c->offset) * width;
	c->left = KS_LOAD(c->size) * width;
	c->next = 0;
#pragma clang loop unroll(disable)
	for (u32 i = 0; i < 2; i++) {
		u64 bytes = KS_LOAD(c->left) < KS_JS_SOURCE ? KS_LOAD(c->left) : KS_JS_SOURCE;
		u64 at = KS_LOAD(c->from) + (i ? KS_LOAD(c->left) - bytes : 0), lanes[4] = {};

#pragma unroll
		for (u32 n = 0; n < KS_JS_SOURCE / 8; n++)
			v[n] = 0;
		KS_OPAQUE(bytes);
		ks_read_user(v, bytes < KS_JS_SOURCE ? bytes & (KS_JS_SOURCE - 1) : KS_JS_SOURCE, (void *)at);
#pragma unroll
		for (u32 n = 0; n < KS_JS_SOURCE / 8; n++)
			lanes[n & 3] = ks_mix(lanes[n & 3], v[n]);
		for (u32 n = 1; n < 4; n++)
			lanes[0] = ks_mix(lanes[0], lanes[n]);
		c->next = ks_mix(KS_LOAD(c->next), lanes[0]);
	}
	c->header.source_check = KS_LOAD(c->next);
}

static __always_inline int ks_js_fill(struct ks_scratch *s, struct ks_js_code_scratch *c, struct ks_js_layout *l,
				      struct ks_frame *f, u64 array)
{
	struct ks_js_code_rec *r = &c->header;
	u64 *v = c->words, script, name;

	if (ks_read_user(v, sizeof(c->words), (void *)(f->globals - 1)))
		return 0;
	r->code = f->code;
	r->flags = 0;
	r->owner = f->owner;
	r->check = f->check;
	r->shared = f->globals;
	r->function_flags = v[l->shared_flags >> 3 & 7];
	r->number = v[l->shared_flags >> 3 & 7] >> 32;
	script = v[l->shared_script >> 3 & 7];
	name = v[l->shared_name >> 3 & 7];
	if (ks_js_kind(script) == l->type_debug_info && l->debug_info_script)
		script = KS_UREAD(u64, script - 1 + l->debug_info_script);
	if (ks_js_kind(name) == l->type_scope_info)
		name = ks_js_scope_name(c, l, name);
	r->name_at = name;
	r->file_at = 0;
	r->script = 0;
	r->script_id = r->source_length = 0;
	r->line_offset = 0;
	if (f->owner != KS_JS_BUILTIN) {
		if (ks_read_user(v, sizeof(c->words), (void *)(script - 1 + 8)))
			return 0;
		r->script = script;
		r->file_at = v[1];
		r->line_offset = v[2] >> 32;
		r->script_id = v[(l->script_id - 8) >> 3 & 7] >> 32;
		c->size = r->source_length = KS_UREAD(u32, v[0] - 1 + KS_JS_STRING_LENGTH);
		ks_js_source(s, c, v[0]);
		if ((KS_UREAD(u64, script - 1 + l->script_source_url - 8) >> 32) & 1) /* its flags */
			r->flags |= KS_JS_EVALUATED;
		if (ks_js_kind(r->file_at) >= KS_JS_FIRST_NON_STRING) {
			r->file_at = KS_UREAD(u64, script - 1 + l->script_source_url);
			r->flags |= KS_JS_FROM_URL;
		}
	}
	c->at = 0;
	ks_js_append(c, r->name_at, KS_JS_NAME, KS_JS_CUT_NAME, &r->name_bytes, &r->name_width);
	ks_js_append(c, r->file_at, KS_JS_FILE, KS_JS_CUT_FILE, &r->file_bytes, &r->file_width);
	ks_js_table(c, l, array);
	return 1;
}

static __always_inline void ks_js_make_code(struct ks_scratch *s, struct ks_js_code_scratch *c, struct ks_js_layout *l,
					    struct ks_frame *f, u64 array, u64 key)
{
	if (!ks_js_fill(s, c, l, f, array))
		return;
	ks_send_code(s, (struct ks_code_header *)&c->header, sizeof(c->header) + KS_LOAD(c->at),
		     sizeof(c->header) + sizeof(c->bytes), key);
}

/* Where one thread interrupted another at it (see KS_SCRATCH_ENTER), its codes are left to the agent to read. */
static __always_inline void ks_js_send_code(struct ks_scratch *s, struct ks_js_layout *l, struct ks_frame *f, u64 array,
					    u64 key)
{
	struct ks_js_code_scratch *c;
	u32 zero = 0;

	c = ks_js_code_scratches.lookup(&zero);
	KS_OPAQUE(c);
	if (!c)
		return;
	__sync_fetch_and_add(&c->users, 1);
	if (KS_LOAD(c->users) == 1)
		ks_js_make_code(s, c, l, f, array, key);
	__sync_fetch_and_add(&c->users, -1);
}

/* Goes on with frame s->walk.count, for KS_JS_AT_ONCE frames at most: the program calls itself for the rest. */
static __always_inline void ks_js_send_codes(struct ks_scratch *s, struct ks_js_layout *l, struct ks_js_scratch *j)
{
	for (u32 i = 0; i < KS_JS_AT_ONCE; i++) {
		u32 n = KS_LOAD(s->walk.count);
		struct ks_frame *f = &s->stack.frames[n & 127];
		struct ks_js_bytecode *bytecode = &j->of[n & 127];
		u64 key, array = 0;

		if (n >= KS_LOAD(s->frames))
			break;
		s->walk.count = n + 1;
		if (f->owner == KS_JS_INTERPRETED) {
			array = KS_LOAD(bytecode->array);
			if (KS_LOAD(bytecode->code) != f->code)
				array = 0; /* another thread's, that interrupted this one */
		}
		key = ks_mix(ks_hash2(s->proc_start, s->op.tgid), f->code);
		if (f->owner == KS_JS_INTERPRETED)
			key = ks_mix(key, f->check);
		if (!ks_codes.lookup(&key))
			ks_js_send_code(s, l, f, array, key);
	}
}
