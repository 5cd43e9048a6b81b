/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * What tells a code object, and the name space it runs in, from others that have their addresses later. All of it is read
 * at every walk: freed memory is used again at once, mostly by something of the same kind.
 */
#pragma once
#include "op.h"
#include "user.h"

#define KS_PY_NONE 0xffff
#define KS_PY_NAME_KEY 0x5f5f656d616e5f5fULL /* "__name__" */
#define KS_PY_ADDRESS ((1ULL << 48) - 1) /* of user memory; above it ks_frame.globals has bits of the module's hash */
#define KS_PY_NO_MODULE 1

/*
 * A str's part in an identity: its length and hash; where nobody has hashed it yet (-1), the end of its text as well.
 * v: 7 words.
 */
static __always_inline u64 ks_py_text(struct ks_scratch *s, struct ks_py_layout *l, u64 h, u64 str, u64 *v)
{
	u64 data = str + l->str_data, size;

	if (ks_user_words(s, v, 3, str + l->str_length)) /* length, hash, state */
		return h;
	h = ks_mix(ks_mix(h, v[0]), v[1]);
	if (v[1] != ~0ULL || !(v[2] & 0x20))
		return h;
	if (!(v[2] & 0x40))
		data = str + l->str_compact_data;
	size = v[0] * ((v[2] >> 2) & 7);
	v[3] = v[4] = v[5] = v[6] = 0;
	if (size < 32)
		ks_read_user(&v[3], size & 31, (void *)data);
	else
		ks_user_words(s, &v[3], 4, data + size - 32);
	return ks_mix(ks_mix(ks_mix(ks_mix(h, v[3]), v[4]), v[5]), v[6]);
}

/*
 * Words that tell a code object from another that has its address later (layout.py says which, and computes the same):
 * counts and first line, with co_version where there is one; before 3.12 also its name, its file, and its line table: the
 * hash, which the compiler leaves there since 3.10, else the beginning.
 */
static __always_inline int ks_py_identity(struct ks_scratch *s, struct ks_py_layout *l, u64 code, u64 *v, u32 *check)
{
	struct ks_walk *w = &s->walk;
	u64 h, length, name, table;

	if (ks_user_words(s, &v[16], 4, code + l->code_check))
		return -1;
	if (l->code_check_bytes == 28)
		v[19] = (u32)v[19];
	h = ks_mix(ks_mix(ks_mix(ks_mix(0, v[16]), v[17]), v[18]), v[19]);
	if (l->code_strings != KS_PY_NONE) {
		if (ks_user_words(s, &v[16], 4, code + l->code_strings))
			return -1;
		name = v[17];
		table = v[18];
		if (l->code_line_table - l->code_strings == 24) { /* 3.11: the qualified name stands between */
			name = v[18];
			table = v[19];
		}
		h = ks_py_text(s, l, h, name, v);
		if (v[16] != KS_LOAD(w->root)) { /* frames of one module share the str */
			w->root = v[16];
			w->root_mnt = ks_py_text(s, l, 0, v[16], v);
		}
		h = ks_mix(h, KS_LOAD(w->root_mnt));
		if (ks_user_words(s, &v[16], 2, table + l->bytes_size)) /* size, hash */
			return -1;
		h = ks_mix(ks_mix(h, v[16]), v[17]);
		if (v[17] == ~0ULL) {
			length = v[16];
			h = ks_mix(h, ks_user_hash(s, table + l->bytes_data, length < 128 ? length : 128, v));
		}
	}
	*check = (u32)(h >> 32) ^ (u32)h;
	return 0;
}

/*
 * Where a module's name was found: each look costs five reads, and stacks go through the same modules again and again.
 * Looks that interrupt one another on a CPU (see KS_SCRATCH_ENTER) may mix theirs: each works on a copy, and `sum` tells
 * a mixture.
 */
struct ks_py_module {
	u64 start; /* of the process's image */
	u64 globals, version, keys; /* before 3.14 every change gives a dict a version that no other ever had */
	u64 entry, key, hash, sum;
};

_Static_assert(sizeof(struct ks_py_module) == sizeof(((struct ks_scratch *)0)->module), "ks_py_module");

#define KS_PY_MODULES 64
BPF_PERCPU_ARRAY(ks_py_modules, struct ks_py_module, KS_PY_MODULES);

static __always_inline u64 ks_py_first_entry(struct ks_py_layout *l, u64 *v, u64 keys)
{
	if (ks_read_user(v, 16, (void *)keys))
		return 0;
	if (l->minor >= 11) { /* log2 of the index's bytes; kind 1: keys are str, else the key's hash comes first */
		v[2] = keys + 32 + (1ULL << ((v[1] >> 8) & 31));
		if (((v[1] >> 16) & 255) != 1)
			v[2] = KS_LOAD(v[2]) + 8;
		return KS_LOAD(v[2]);
	}
	v[2] = v[1];
	if (v[1] > 0xff)
		v[2] = v[1] * 2;
	if (v[1] > 0xffff)
		v[2] = v[1] * 4;
	return keys + 48 + KS_LOAD(v[2]);
}

static __always_inline u64 ks_py_module_sum(struct ks_py_module *m)
{
	u64 sum = ks_mix(ks_mix(ks_mix(m->start, m->globals), m->version), m->keys);

	return ks_mix(ks_mix(ks_mix(sum, m->entry), m->key), m->hash);
}

/* Looks for the name where it was, else where it must be; `m` is what was known, and becomes what is. */
static __always_inline void ks_py_find_module(struct ks_scratch *s, struct ks_py_layout *l, struct ks_py_module *m,
					      u64 *v)
{
	m->hash = KS_PY_NO_MODULE;
	v[4] = 0;
	if (KS_LOAD(m->entry))
		ks_user_words(s, &v[4], 2, KS_LOAD(m->entry));
	if (!KS_LOAD(m->entry) || v[4] != m->key) {
		m->entry = ks_py_first_entry(l, v, m->keys);
		if (ks_read_user(&v[4], 16, (void *)KS_LOAD(m->entry)))
			return;
		if (KS_UREAD(u64, v[4] + l->str_data) != KS_PY_NAME_KEY) {
			m->entry = 0;
			return;
		}
		m->key = v[4];
	}
	m->hash = ks_py_text(s, l, 0, v[5], &v[8]);
}

/*
 * A hash of the name of a name space's module, of which a frame keeps 32 bits: the same code may run in one name space after
 * another that had the same address. KS_PY_NO_MODULE: its first entry is no name.
 */
static __always_inline u64 ks_py_module_hash(struct ks_scratch *s, struct ks_py_layout *l, u64 globals)
{
	u32 slot = (globals >> 4 ^ globals >> 10) & (KS_PY_MODULES - 1);
	struct ks_py_module *kept = ks_py_modules.lookup(&slot), *m = (struct ks_py_module *)s->module;
	u64 *v = s->words;

	KS_OPAQUE(kept);
	if (!kept || ks_user_words(s, v, 2, globals + l->dict_keys - 8)) /* version, keys */
		return KS_PY_NO_MODULE;
	*m = *kept;
	if (m->globals != globals || m->keys != v[1] || m->start != s->proc_start || m->sum != ks_py_module_sum(m))
		m->entry = 0;
	else if (m->version == v[0] && l->minor < 14)
		return m->hash;
	m->start = s->proc_start;
	m->globals = globals;
	m->version = v[0];
	m->keys = v[1];
	ks_py_find_module(s, l, m, v);
	m->sum = ks_py_module_sum(m);
	*kept = *m;
	return KS_LOAD(m->hash);
}
