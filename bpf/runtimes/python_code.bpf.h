/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * What names CPython's code objects, sent once for each while it is on a stack, so that nothing of it has to be read
 * later, when it may be gone: a module's body lives only as long as its import, a short process only milliseconds.
 *
 *   for each frame of a stack that is to be sent:  known by (process, code, check, globals)? else
 *   name, module (the namespace's first entry, if its key is __name__), file, line table -> one record
 *
 * struct ks_code_rec is generated from runtimes/python/layout.py (PY_CODE).
 */
#pragma once
#include "runtimes/python.bpf.h"

#define KS_PY_NAME 512 /* bytes of a name; a longer one is cut, and says so */
#define KS_PY_MODULE 256
#define KS_PY_FILE 1024
#define KS_PY_AT_ONCE 16 /* the kernel allows 33 tail calls in a row */
#define KS_PY_TEXTS 2048 /* a power of two above all three */
#define KS_PY_TABLE 16384

_Static_assert(__builtin_offsetof(struct ks_code_rec, layout) == __builtin_offsetof(struct ks_code_header, layout),
	       "a CODE record begins with its header");

struct ks_code_scratch {
	struct ks_code_rec header;
	u8 bytes[20480]; /* 18176 at most, in whole slots */
	/* in memory for the reason of ks_walk: */
	u64 at; /* where the next text goes */
	u64 from, size; /* where it comes from, its bytes */
	u64 users; /* threads that are at it: see ks_py_send_code */
};

BPF_PERCPU_ARRAY(ks_code_scratches, struct ks_code_scratch, 1);

struct ks_py_str {
	u64 length, hash, state;
};

/*
 * Appends the characters of the str c->from, `limit` bytes at most; `cut`: flag that says it was longer. *bytes: how many;
 * 0 where it is not readable.
 */
static __always_inline void ks_py_append(struct ks_code_scratch *c, struct ks_py_layout *l, u64 limit, u32 cut,
					 u16 *bytes, u8 *width)
{
	struct ks_py_str head;
	u64 at, kind, size, str = KS_LOAD(c->from);

	*bytes = 0;
	if (!str || ks_read_user(&head, sizeof(head), (void *)(str + l->str_length)))
		return;
	kind = (head.state >> 2) & 7;
	if (!(head.state & 0x20) || (kind != 1 && kind != 2 && kind != 4))
		return;
	*width = kind;
	c->size = head.length * kind;
	if (head.length > limit || KS_LOAD(c->size) > limit) {
		c->size = limit;
		c->header.flags |= cut;
	}
	c->from = str + l->str_data;
	if (!(head.state & 0x40))
		c->from = str + l->str_compact_data;
	/* Bounds by masks, right where they are used: before 6.8 the verifier forgets those of a value that clang spills. */
	at = KS_LOAD(c->at);
	size = KS_LOAD(c->size);
	if (ks_read_user(&c->bytes[at & (KS_PY_TEXTS - 1)], size & (KS_PY_TEXTS - 1), (void *)KS_LOAD(c->from)))
		return;
	*bytes = KS_LOAD(c->size);
	c->at = KS_LOAD(c->at) + KS_LOAD(c->size);
}

/* Where the entries of a dict are. */
static __always_inline u64 ks_py_entries(struct ks_code_scratch *c, struct ks_py_layout *l, u64 keys)
{
	u64 size;

	if (l->minor >= 11) {
		u8 log2_index_bytes = KS_UREAD(u8, keys + 9);

		if (log2_index_bytes > 24)
			return 0;
		c->from = keys + 32 + (1ULL << (log2_index_bytes & 31));
		if (KS_UREAD(u8, keys + 10) != 1) /* a table of keys that are not all str has the key's hash first */
			c->from = KS_LOAD(c->from) + 8;
		return KS_LOAD(c->from);
	}
	size = KS_UREAD(u64, keys + 8);
	if (size > 0xffffffff)
		return 0;
	c->size = size;
	if (size > 0xff)
		c->size = size * 2;
	if (size > 0xffff)
		c->size = size * 4;
	return keys + 40 + KS_LOAD(c->size) + 8;
}

/* c->from becomes the str that a module's namespace holds under __name__, where that is its first entry, as the import
 * system makes it; else 0. */
static __always_inline void ks_py_module(struct ks_code_scratch *c, struct ks_py_layout *l, u64 base, u64 globals)
{
	u64 entries = ks_py_entries(c, l, KS_UREAD(u64, globals + l->dict_keys)), key, value;

	c->from = 0;
	if (!entries)
		return;
	key = KS_UREAD(u64, entries);
	value = KS_UREAD(u64, entries + 8);
	if (KS_UREAD(u64, key + l->str_length) != 8 || KS_UREAD(u64, key + l->str_data) != KS_PY_NAME_KEY)
		return; /* not __name__ */
	if (!l->unicode_type || (s64)(KS_UREAD(u64, value + 8) - base) != l->unicode_type)
		return; /* a program may put anything there */
	c->from = value;
}

static __always_inline int ks_py_fill(struct ks_code_scratch *c, struct ks_py_layout *l, u64 base, struct ks_frame *f)
{
	struct ks_code_rec *r = &c->header;
	u64 table = KS_UREAD(u64, f->code + l->code_line_table), length = KS_UREAD(u64, table + l->bytes_size), at;
	u8 *to;

	r->code = f->code;
	r->globals = f->globals;
	r->tag = f->tag;
	r->first_traceable = 0;
	if (l->code_first_traceable != KS_PY_NONE)
		r->first_traceable = KS_UREAD(u32, f->code + l->code_first_traceable);
	r->check = f->check;
	r->first_line = KS_UREAD(u32, f->code + l->code_first_line);
	r->flags = 0;
	if (length > KS_PY_TABLE)
		return 0;
	r->table_bytes = length;
	c->at = 0;
	c->from = KS_UREAD(u64, f->code + l->code_name);
	ks_py_append(c, l, KS_PY_NAME, KS_CODE_CUT, &r->name_bytes, &r->name_width);
	ks_py_module(c, l, base, f->globals & KS_PY_ADDRESS);
	ks_py_append(c, l, KS_PY_MODULE, KS_CODE_CUT << 1, &r->module_bytes, &r->module_width);
	c->from = KS_UREAD(u64, f->code + l->code_file);
	ks_py_append(c, l, KS_PY_FILE, KS_CODE_CUT << 2, &r->file_bytes, &r->file_width);
	if (!KS_LOAD(r->name_bytes) || !KS_LOAD(r->file_bytes))
		return 0; /* not resident: the agent reads it itself, if it still can */
	at = KS_LOAD(c->at);
	to = &c->bytes[at & (KS_PY_TEXTS - 1)];
	table = KS_UREAD(u64, f->code + l->code_line_table) + l->bytes_data;
	length = KS_LOAD(r->table_bytes);
	if (length > KS_PY_TABLE || ks_read_user(to, length, (void *)table))
		return 0;
	c->at = KS_LOAD(c->at) + KS_LOAD(r->table_bytes);
	return 1;
}

static __always_inline void ks_py_make_code(struct ks_scratch *s, struct ks_code_scratch *c, struct ks_py_layout *l,
					    u64 base, struct ks_frame *f, u64 key)
{
	if (!ks_py_fill(c, l, base, f))
		return;
	ks_send_code(s, (struct ks_code_header *)&c->header, sizeof(c->header) + KS_LOAD(c->at),
		     sizeof(c->header) + sizeof(c->bytes), key);
}

/* Where one thread interrupted another at it (see KS_SCRATCH_ENTER), its codes are left to the agent to read. */
static __always_inline void ks_py_send_code(struct ks_scratch *s, struct ks_py_layout *l, u64 base, struct ks_frame *f,
					    u64 key)
{
	struct ks_code_scratch *c;
	u32 zero = 0;

	c = ks_code_scratches.lookup(&zero);
	KS_OPAQUE(c);
	if (!c)
		return;
	__sync_fetch_and_add(&c->users, 1);
	if (KS_LOAD(c->users) == 1)
		ks_py_make_code(s, c, l, base, f, key);
	__sync_fetch_and_add(&c->users, -1);
}

/*
 * Goes on with frame s->walk.count, for KS_PY_AT_ONCE frames at most: the program calls itself for the rest. All frames
 * in one loop would make the verifier follow half a million instructions.
 */
static __always_inline void ks_py_send_codes(struct ks_scratch *s, struct ks_py_layout *l, u64 base)
{
	for (u32 i = 0; i < KS_PY_AT_ONCE; i++) {
		u32 n = KS_LOAD(s->walk.count);
		struct ks_frame *f = &s->stack.frames[n & 127];
		u64 key, owner;

		if (n >= KS_LOAD(s->frames))
			break;
		s->walk.count = n + 1;
		owner = f->owner;
		if (owner >= l->owner_skip && l->frame_owner != KS_PY_NONE)
			continue;
		key = ks_mix(ks_mix(ks_hash2(s->proc_start, s->op.tgid), f->code ^ ((u64)f->check << 32)),
			     f->globals ^ ((u64)f->tag << 32));
		if (!ks_codes.lookup(&key))
			ks_py_send_code(s, l, base, f, key);
	}
}
