/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * What a Ruby walker reads of objects: strings and their texts, names of classes, method entries, bodies of iseqs and lines.
 *
 * Offsets come from runtimes/ruby/layout.py; facts and sources are there.
 */
#pragma once
#include "op.h"
#include "user.h"

#define KS_RUBY_NONE 0xffff
#define KS_RUBY_ENVIRONMENTS 8 /* blocks within blocks, at most */
#define KS_RUBY_WITHIN 8 /* evals and rescues within one another */
#define KS_RUBY_LOOKED_UP 304
#define KS_RUBY_VARIABLES 8 /* a class's name is among its first, or is not found */

/* the same in every version */
#define KS_RUBY_TYPE 31 /* of an object's flags */
#define KS_RUBY_CLASS_OBJECT 2
#define KS_RUBY_MODULE_OBJECT 3
#define KS_RUBY_STRING_OBJECT 5
#define KS_RUBY_ARRAY_OBJECT 7
#define KS_RUBY_IMEMO 26
#define KS_RUBY_IMEMO_MASK 0xf01f /* its type, and of which kind it is */
#define KS_RUBY_SVAR 2
#define KS_RUBY_METHOD_ENTRY 6
#define KS_RUBY_FLAG_1 0x2000 /* of a string: it is not embedded; of an array: it is */
#define KS_RUBY_LOCAL 2 /* of an environment: it is the method's own */
#define KS_RUBY_MAGIC 0x7fff0001
#define KS_RUBY_MAGIC_CFUNC 0x55550001
#define KS_RUBY_BY_ISEQ 0 /* rb_method_definition_t.type */
#define KS_RUBY_BY_CFUNC 1
#define KS_RUBY_ISEQ_BODY 16
#define KS_RUBY_PATHOBJ 64 /* of a body; base label, label */
#define KS_RUBY_IMMEDIATE 54 /* positions that a succinct table has in its first words */

/* iseq types, rb_iseq_t.body->type */
#define KS_RUBY_TOP 0
#define KS_RUBY_METHOD 1
#define KS_RUBY_CLASS_BODY 3
#define KS_RUBY_RESCUE 4 /* then ENSURE, EVAL */
#define KS_RUBY_EVAL 6
#define KS_RUBY_MAIN 7

/* What is read of an iseq's body: at s->words + 8. In memory, as is all that one step of a frame leaves for the next: see ks_walk. */
struct ks_ruby_body {
	u64 type, encoded, path, label, lines, size, index;
};

/*
 * s->module: strings whose hashes are wanted; then of the label, or of a C function, its hash and whether it was read; the
 * string that names the class.
 */
enum {
	KS_RUBY_LABEL,
	KS_RUBY_CLASS,
	KS_RUBY_FILE,
	KS_RUBY_TEXTS,
	KS_RUBY_HASH = KS_RUBY_TEXTS,
	KS_RUBY_FLAGS,
	KS_RUBY_NAME
};

/* A string's text: 0 where there is one. v: 4 words of room. */
static __always_inline int ks_ruby_string(struct ks_scratch *s, struct ks_ruby_layout *l, u64 string, u64 *v, u64 *at,
					  u64 *length)
{
	if (ks_user_words(s, v, 4, string)) /* flags, class, length, address */
		return -1;
	if ((v[0] & KS_RUBY_TYPE) != KS_RUBY_STRING_OBJECT)
		return -1;
	if (v[0] & KS_RUBY_FLAG_1) {
		*at = v[3];
		*length = v[2];
	} else {
		*at = string + l->string_text;
		*length = l->string_text == 24 ? v[2] : v[0] >> 14 & 31;
	}
	return 0;
}

/*
 * A string's part in an identity: its length, and its text as far as it will be shown. 0: it is no string. Sets in
 * w->found[0] that it was not resident: its address stands for it then.
 */
static __always_inline u64 ks_ruby_text(struct ks_scratch *s, struct ks_ruby_layout *l, u64 string)
{
	struct ks_walk *w = &s->walk;
	u64 *v = s->words, at, length, from = 0;
#if KS_USER_PAGES
	struct ks_page *page;
#endif

	if (ks_ruby_string(s, l, string, v, &at, &length))
		return 0;
	s->module[6] = ks_mix(1, length);
	if (length > KS_RUBY_TEXT)
		length = KS_RUBY_TEXT;
	s->module[7] = length;
#if KS_USER_PAGES
	from = ks_user_at(s, &page, at, (length + 7) & ~7ULL);
#endif
	if (!from) {
		length = KS_LOAD(s->module[7]);
		if (ks_read_user(s->stack.text, length & KS_RUBY_TEXT, (void *)at)) {
			w->found[0] = KS_RUBY_UNREAD;
			return ks_mix(KS_LOAD(s->module[6]), at);
		}
	}
#pragma clang loop unroll(disable)
	for (u32 i = 0; i < (KS_RUBY_TEXT + 1) / 8; i++) {
		u64 left = KS_LOAD(s->module[7]) - i * 8, word;

		if ((s64)left <= 0)
			break;
#if KS_USER_PAGES
		word = from ? KS_KREAD(u64, from + i * 8) : KS_LOAD(s->stack.text[i]);
#else
		word = KS_LOAD(s->stack.text[i]);
#endif
		if (left < 8)
			word &= (1ULL << left * 8) - 1;
		s->module[6] = ks_mix(KS_LOAD(s->module[6]), word);
	}
#if KS_USER_PAGES
	if (from && !ks_user_still(page)) {
		w->found[0] = KS_RUBY_UNREAD;
		return ks_mix(KS_LOAD(s->module[6]), at);
	}
#endif
	return KS_LOAD(s->module[6]);
}

/* The value of a class's variable `id`, before 3.2: in an st_table, whose first entries are looked at. */
static __always_inline u64 ks_ruby_variable(struct ks_scratch *s, u64 class, u64 id)
{
	u64 *v = s->words, table, entries;

	table = ks_user_word(s, ks_user_word(s, class + 24) + 8); /* class->ptr->iv_tbl */
	if (!table || ks_user_words(s, v, 3, table + 32)) /* first entry, end of entries, entries */
		return 0;
	entries = v[2] + v[0] * 24;
	s->module[7] = v[1] - v[0];
#pragma clang loop unroll(disable)
	for (u32 i = 0; i < KS_RUBY_VARIABLES; i++) {
		if (i >= KS_LOAD(s->module[7]) || ks_user_words(s, v, 3, entries + i * 24)) /* hash, key, value */
			break;
		if (v[1] == id && v[0] != ~0ULL) /* that one: it was deleted */
			return v[2];
	}
	return 0;
}

/* The string that names a class for good; 0: it has no such name. *singleton: it is a class's own, of its class methods. */
static __always_inline u64 ks_ruby_class_name(struct ks_scratch *s, struct ks_ruby_layout *l, u64 class, u32 *singleton)
{
	u64 *v = s->words, flags = ks_user_word(s, class);

	*singleton = 0;
	if ((flags & KS_RUBY_TYPE) == KS_RUBY_CLASS_OBJECT && flags & l->singleton) {
		*singleton = KS_RUBY_SINGLETON;
		class = l->class_path == KS_RUBY_NONE ? ks_ruby_variable(s, class, l->attached_id) :
							ks_user_word(s, class + l->class_attached);
		if (!class || class & 7)
			return 0;
		flags = ks_user_word(s, class);
	}
	flags &= KS_RUBY_TYPE;
	if (flags != KS_RUBY_CLASS_OBJECT && flags != KS_RUBY_MODULE_OBJECT)
		return 0;
	if (l->class_path == KS_RUBY_NONE)
		return ks_ruby_variable(s, class, l->classpath_id);
	if (ks_user_words(s, v, 2, class + l->class_path - 8)) /* flags, the path */
		return 0;
	return v[0] >> l->class_permanent & 1 ? v[1] : 0;
}

/* The method entry that an environment belongs to, its words at s->words: flags, class, definition, id, owner; 0: none. */
static __always_inline u64 ks_ruby_method_of(struct ks_scratch *s, u64 ep)
{
	u64 *v = s->words, entry, local;

	s->module[6] = ep;
#pragma clang loop unroll(disable)
	for (u32 i = 0; i < KS_RUBY_ENVIRONMENTS; i++) {
		if (ks_user_words(s, v, 3,
				  KS_LOAD(s->module[6]) - 16)) /* method or cref, environment around it, flags */
			return 0;
		entry = v[0];
		local = v[2] & KS_RUBY_LOCAL;
		s->module[6] = v[1] & ~3ULL;
		if (entry) {
			if (ks_user_words(s, v, 5, entry))
				return 0;
			if (local && (v[0] & KS_RUBY_IMEMO_MASK) == (KS_RUBY_IMEMO | KS_RUBY_SVAR << 12)) {
				entry = v[1];
				if (ks_user_words(s, v, 5, entry))
					return 0;
			}
			if ((v[0] & KS_RUBY_IMEMO_MASK) == (KS_RUBY_IMEMO | KS_RUBY_METHOD_ENTRY << 12))
				return entry;
		}
		if (local)
			return 0;
	}
	return 0;
}

static __always_inline u32 ks_ruby_ones(u64 x)
{
	x -= x >> 1 & 0x5555555555555555ULL;
	x = (x & 0x3333333333333333ULL) + (x >> 2 & 0x3333333333333333ULL);
	x = (x + (x >> 4)) & 0x0f0f0f0f0f0f0f0fULL;
	return x * 0x0101010101010101ULL >> 56;
}

/* Which entry of a succinct table (iseq.c: succ_index_lookup) belongs to a position, from 1 on; 0: none. */
static __always_inline u32 ks_ruby_entry(struct ks_scratch *s, u64 table, u32 at)
{
	u64 *v = s->words, block, small, bits;
	u32 bit;

	if (at < KS_RUBY_IMMEDIATE)
		return ks_user_word(s, table + at / 9 * 8) >> at % 9 * 7 & 127;
	at -= KS_RUBY_IMMEDIATE;
	block = table + 48 + (u64)(at >> 9) * 80;
	bit = at & 511;
	if (ks_user_words(s, v, 2, block)) /* rank, ranks within */
		return 0;
	small = bit >> 6 ? v[1] >> ((bit >> 6) - 1) * 9 & 511 : 0;
	bits = ks_user_word(s, block + 16 + (bit >> 6) * 8) << (63 - (bit & 63));
	return (u32)v[0] + small + ks_ruby_ones(bits);
}

static __always_inline u32 ks_ruby_line(struct ks_scratch *s, struct ks_ruby_layout *l, struct ks_ruby_body *b, u64 at)
{
	u32 entry = 1, size = b->size;

	if (!size)
		return 0;
	if (size > 1)
		entry = ks_ruby_entry(s, b->index, at ? at - 1 : 0);
	if (!entry || entry > size)
		return 0;
	return ks_user_word(s, b->lines + (u64)(entry - 1) * l->line_bytes);
}

static __always_inline int ks_ruby_body_of(struct ks_scratch *s, struct ks_ruby_layout *l, u64 body,
					   struct ks_ruby_body *b)
{
	u64 *v = s->words;

#if KS_USER_PAGES
	struct ks_page *page;
	u64 from = ks_user_at(s, &page, body, l->lines + 32);

	if (from) {
		b->type = KS_KREAD(u64, from) & 15;
		b->encoded = KS_KREAD(u64, from + 8);
		b->path = KS_KREAD(u64, from + KS_RUBY_PATHOBJ);
		b->label = KS_KREAD(u64, from + KS_RUBY_PATHOBJ + 16);
		from += l->lines;
		b->lines = KS_KREAD(u64, from);
		b->size = (u32)KS_KREAD(u64, from + 16);
		b->index = KS_KREAD(u64, from + 24);
		if (ks_user_still(page))
			return 0;
	}
#endif
	if (ks_user_words(s, v, 2, body)) /* type and size, the code */
		return -1;
	b->type = v[0] & 15;
	b->encoded = v[1];
	if (ks_user_words(s, v, 3, body + KS_RUBY_PATHOBJ)) /* path, base label, label */
		return -1;
	b->path = v[0];
	b->label = v[2];
	if (ks_user_words(s, v, 4, body + l->lines)) /* entries, positions, count, succinct table */
		return -1;
	b->lines = v[0];
	b->size = (u32)v[2];
	b->index = v[3];
	return 0;
}

/* The string in an iseq's pathobj: that itself, or the first of an array of two. */
static __always_inline u64 ks_ruby_path_string(struct ks_scratch *s, u64 path)
{
	u64 flags = ks_user_word(s, path);

	if ((flags & KS_RUBY_TYPE) != KS_RUBY_ARRAY_OBJECT)
		return path;
	if (flags & KS_RUBY_FLAG_1)
		return ks_user_word(s, path + 16);
	return ks_user_word(s, ks_user_word(s, path + 32));
}

/*
 * The label of an iseq. Since 3.4 code of eval and what handles an exception bear the name of what they stand in, which Ruby
 * looks up as here when it is asked for.
 */
static __always_inline u64 ks_ruby_label_of(struct ks_scratch *s, struct ks_ruby_layout *l, u64 body)
{
	s->module[6] = body;
#pragma clang loop unroll(disable)
	for (u32 i = 0; i < KS_RUBY_WITHIN; i++) {
		u64 at = KS_LOAD(s->module[6]), parent;
		u32 kind = ks_user_word(s, at) & 15;

		if (l->version < KS_RUBY_LOOKED_UP || kind < KS_RUBY_RESCUE || kind > KS_RUBY_EVAL)
			break;
		parent = ks_user_word(s, at + l->local_iseq - 8);
		if (!parent)
			break;
		s->module[6] = ks_user_word(s, parent + KS_RUBY_ISEQ_BODY);
	}
	return ks_user_word(s, KS_LOAD(s->module[6]) + KS_RUBY_PATHOBJ + 16);
}
