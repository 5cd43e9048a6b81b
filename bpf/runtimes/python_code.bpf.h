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
#define KS_PY_TABLE 16384

struct ks_code_scratch {
	struct ks_code_rec header;
	u8 bytes[20480]; /* 18176 at most, in whole slots */
	u64 at; /* where the next text goes; read by KS_LOAD */
};

BPF_PERCPU_ARRAY(ks_code_scratches, struct ks_code_scratch, 1);

struct ks_py_str {
	u64 length, hash, state;
};

/* Appends a str's characters, `limit` bytes at most; gives their bytes, 0: not readable. */
static __always_inline u64 ks_py_append(struct ks_code_scratch *c, struct ks_py_layout *l, u64 str, u64 limit, u8 *width)
{
	struct ks_py_str head = {};
	u64 at = KS_LOAD(c->at), kind, size;

	if (!str || ks_read_user(&head, sizeof(head), (void *)(str + l->str_length)))
		return 0;
	kind = (head.state >> 2) & 7;
	if (!(head.state & 0x20) || (kind != 1 && kind != 2 && kind != 4))
		return 0;
	size = head.length * kind;
	if (head.length > limit || size > limit) {
		size = limit;
		c->header.flags |= KS_CODE_CUT;
	}
	*width = kind;
	KS_OPAQUE(size);
	if (size > limit || at > 2048)
		return 0;
	if (ks_read_user(&c->bytes[at], size, (void *)(str + (head.state & 0x40 ? l->str_data : l->str_compact_data))))
		return 0;
	c->at = at + size;
	return size;
}

/* The str that a module's namespace holds under __name__, where that is its first entry, as the import system makes it. */
static __always_inline u64 ks_py_module(struct ks_py_layout *l, u64 base, u64 globals)
{
	u64 keys = KS_UREAD(u64, globals + l->dict_keys), entries, key, value;

	if (l->minor >= 11) {
		u8 log2_index_bytes = KS_UREAD(u8, keys + 9), kind = KS_UREAD(u8, keys + 10);

		if (log2_index_bytes > 24)
			return 0;
		entries = keys + 32 + (1ULL << (log2_index_bytes & 31));
		entries += kind == 1 ? 0 : 8; /* a table of keys that are not all str has the key's hash first */
	} else {
		u64 size = KS_UREAD(u64, keys + 8);

		if (size > 0xffffffff)
			return 0;
		entries = keys + 40 + size * (size <= 0xff ? 1 : size <= 0xffff ? 2 : 4) + 8;
	}
	key = KS_UREAD(u64, entries);
	value = KS_UREAD(u64, entries + 8);
	if (KS_UREAD(u64, key + l->str_length) != 8 || KS_UREAD(u64, key + l->str_data) != 0x5f5f656d616e5f5fULL)
		return 0; /* not __name__ */
	if (!l->unicode_type || (s64)(KS_UREAD(u64, value + 8) - base) != l->unicode_type)
		return 0; /* a program may put anything there */
	return value;
}

static __always_inline int ks_py_fill(struct ks_code_scratch *c, struct ks_py_layout *l, u64 base, struct ks_frame *f)
{
	u64 table = KS_UREAD(u64, f->code + l->code_line_table), length = KS_UREAD(u64, table + l->bytes_size), at;

	c->at = 0;
	c->header.code = f->code;
	c->header.globals = f->globals;
	c->header.check = f->check;
	c->header.first_line = KS_UREAD(u32, f->code + l->code_first_line);
	c->header.flags = 0;
	c->header.name_bytes =
		ks_py_append(c, l, KS_UREAD(u64, f->code + l->code_name), KS_PY_NAME, &c->header.name_width);
	c->header.module_bytes =
		ks_py_append(c, l, ks_py_module(l, base, f->globals), KS_PY_MODULE, &c->header.module_width);
	c->header.file_bytes =
		ks_py_append(c, l, KS_UREAD(u64, f->code + l->code_file), KS_PY_FILE, &c->header.file_width);
	if (!c->header.name_bytes || !c->header.file_bytes)
		return 0; /* not resident: the agent reads it itself, if it still can */
	at = KS_LOAD(c->at);
	KS_OPAQUE(length);
	if (length > KS_PY_TABLE || at > 2048)
		return 0;
	if (ks_read_user(&c->bytes[at], length, (void *)(table + l->bytes_data)))
		return 0;
	c->header.table_bytes = length;
	c->at = at + length;
	return 1;
}

static __always_inline void ks_py_send_code(struct ks_scratch *s, struct ks_py_layout *l, u64 base, struct ks_frame *f,
					    u64 key)
{
	struct ks_code_scratch *c;
	u32 zero = 0;
	u64 size;
	u8 one = 1;

	c = ks_code_scratches.lookup(&zero);
	KS_OPAQUE(c);
	if (!c)
		return;
	if (!ks_py_fill(c, l, base, f))
		return;
	c->header.kind = KS_KIND_CODE;
	c->header.version = KS_VERSION;
	c->header.time = s->op.time;
	c->header.tgid = s->op.tgid;
	c->header.tid = s->op.tid;
	c->header.reserved = 0;
	size = ks_slots(sizeof(c->header) + KS_LOAD(c->at));
	c->header.size = size;
	KS_OPAQUE(size);
	if (size > 20000)
		return;
	if (ks_ring.ringbuf_output(c, size, 1 /* NO_WAKEUP: the stack's record follows */)) {
		ks_count(s->op.cls, KS_C_STACK_LOST);
		return;
	}
	ks_codes.update(&key, &one);
	ks_count(s->op.cls, KS_C_CODES_SENT);
}

static __always_inline void ks_py_send_codes(struct ks_scratch *s, struct ks_py_layout *l, u64 base)
{
	for (u32 i = 0; i < KS_MAX_DEPTH; i++) {
		struct ks_frame *f = &s->stack.frames[i & 127];
		u64 key;

		if (i >= KS_LOAD(s->frames))
			break;
		if (l->frame_owner != KS_PY_NONE && f->owner >= l->owner_skip)
			continue;
		key = ks_mix(ks_mix(ks_mix(s->proc_start, s->op.tgid), f->code ^ ((u64)f->check << 32)), f->globals);
		if (!ks_codes.lookup(&key))
			ks_py_send_code(s, l, base, f, key);
	}
}
