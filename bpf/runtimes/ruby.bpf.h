/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * CRuby 2.7 and later: the frames of the current thread, or of the fiber that it runs.
 *
 *   thread:   its execution context is the thread-local ruby_current_ec; before 3.0 it is that of the rb_thread_t whose
 *             thread_id is this thread's pointer. Never the interpreter's "current" one: a thread that waits in a system
 *             call has let go of the lock, and that is another's.
 *   frames:   an array of control frames from ec->cfp upwards; what a frame looks like:
 *             iseq and pc     Ruby's own code: line by pc
 *             no iseq         a C function: the id of its name, and where it is
 *             iseq, no pc     none of a backtrace: a block that is a C function, the dummies at the end
 *   identity: a frame's `code` is a hash of all that it is shown by: label, class and file; the line is looked up here and
 *             travels with the frame. No address is in it: those of iseqs, strings and classes are used again after each
 *             collection. Where a text's page is not there (names of C functions lie in libruby's own pages, which a forked
 *             worker has not touched), its address takes the hash's place, and the frame says so (KS_RUBY_UNREAD).
 *
 * Offsets come from runtimes/ruby/layout.py; facts and sources are there.
 */
#pragma once
#include "op.h"
#include "user.h"
#include "runtimes/walker.bpf.h"

#define KS_RUBY_WALK_AT_ONCE 6 /* the kernel allows 33 tail calls in a row: 22 for the frames, 8 for what names them */
#define KS_RUBY_NONE 0xffff
#define KS_RUBY_THREAD_SCAN 512
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
#define KS_RUBY_IMEMO_KIND(flags) ((flags) >> 12 & 15)
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
#define KS_RUBY_CLASS_BODY 3
#define KS_RUBY_RESCUE 4 /* then ENSURE, EVAL */
#define KS_RUBY_EVAL 6
#define KS_RUBY_MAIN 7

_Static_assert(sizeof(struct ks_ruby_layout) <= sizeof(struct ks_layout), "ks_ruby_layout");

/* What is read of an iseq's body: at s->words + 8. In memory, as is all that one step of a frame leaves for the next: see ks_walk. */
struct ks_ruby_body {
	u64 type, encoded, path, lines, size, index, local;
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

static __always_inline struct ks_ruby_layout *ks_ruby_layout_of(struct ks_runtime *rt)
{
	return (struct ks_ruby_layout *)ks_layouts.lookup(&rt->layout);
}

static __always_inline u64 ks_ruby_thread_pointer(void)
{
	return KS_KREAD(u64, bpf_get_current_task() + KS_TASK_FSBASE);
}

/* 2.7: is `th` still a member of the list of threads, and this one's? Freed memory keeps its old words. */
static __always_inline u64 ks_ruby_held(struct ks_scratch *s, struct ks_ruby_layout *l, u64 tp)
{
	u32 tid = KS_THREAD(s->op.tid);
	u64 *held = ks_threads.lookup(&tid), th;

	s->walk.thread = 0;
	if (!held)
		return 0;
	th = *held;
	if (ks_user_word(s, th + l->thread_id) != tp || ks_user_word(s, ks_user_word(s, th + 8)) != th)
		return 0;
	s->walk.thread = th;
	return th;
}

/* 2.7: looks for the thread's rb_thread_t, and keeps it. 0: s->op.frame_state says why there is none. */
static __always_inline u64 ks_ruby_look(struct ks_scratch *s, struct ks_ruby_layout *l, u64 base, u64 tp)
{
	u64 head = KS_UREAD(u64, base) + l->vm_threads, th;
	struct ks_walk *w = &s->walk;
	u32 tid = KS_THREAD(s->op.tid);

	w->thread = 0;
	w->at = KS_UREAD(u64, head);
	for (u32 i = 0; i < KS_RUBY_THREAD_SCAN; i++) {
		th = KS_LOAD(w->at);
		if (!th || th == head) {
			s->op.frame_state = KS_FRAMES_NO_THREAD_STATE;
			return 0;
		}
		if (KS_UREAD(u64, th + l->thread_id) == tp) {
			w->thread = th;
			ks_threads.update(&tid, &th);
			return th;
		}
		w->at = KS_UREAD(u64, th);
	}
	s->op.frame_state = KS_FRAMES_SCAN_LIMIT;
	return 0;
}

/* The execution context of the thread; 0: it has none. */
static __always_inline u64 ks_ruby_context(struct ks_scratch *s, struct ks_ruby_layout *l, u64 base)
{
	u64 tp = ks_ruby_thread_pointer(), *v = s->words, block;

	if (l->tls == KS_RUBY_TLS_NONE)
		return ks_user_word(s, KS_LOAD(s->walk.thread) + l->thread_ec);
	if (l->tls == KS_RUBY_TLS_FIXED)
		return ks_user_word(s, tp + l->tls_offset);
	if (ks_user_words(s, v, 2, base)) /* the module's number, the variable's place in its block */
		return 0;
	block = ks_user_word(s, ks_user_word(s, tp + 8) + v[0] * l->tls_step);
	if (!block || block == ~0ULL) /* not made yet in this thread */
		return 0;
	return ks_user_word(s, block + v[1]);
}

static __always_inline void ks_ruby_begin(struct ks_scratch *s, struct ks_ruby_layout *l, u64 base)
{
	u64 ec = ks_ruby_context(s, l, base), *v = s->words, fiber, root;
	struct ks_walk *w = &s->walk;

	s->op.frame_state = KS_FRAMES_NO_THREAD_STATE;
	if (!ec || ks_user_words(s, v, 3, ec) || !v[0] || !v[2]) /* stack, its size in words, innermost frame */
		return;
	if (v[1] >> 32 || v[2] < v[0]) {
		s->op.frame_state = KS_FRAMES_READ_FAILED;
		return;
	}
	s->stage = KS_WALK_FRAMES;
	w->at = v[2];
	w->root = v[0] + 8 * v[1] - 2 * l->frame_bytes; /* the outermost one */
	w->hash = ks_mix(s->proc_start, s->op.tgid);
	w->globals = w->module = w->last = w->root_mnt = 0;
	s->module[KS_RUBY_NAME] = 0;
	w->found[1] = w->length = 0;
	w->count = 0;
	w->state = KS_FRAMES_COMPLETE;
	fiber = ks_user_word(s, ec + l->ec_fiber);
	root = ks_user_word(s, ks_user_word(s, ec + l->ec_thread) + l->thread_root_fiber);
	w->task_frame = root && fiber != root ? fiber : 0;
	w->thread = w->task_outer = w->mnt = 0;
}

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

/* The method entry that an environment belongs to; 0: none. */
static __always_inline u64 ks_ruby_method_of(struct ks_scratch *s, u64 ep)
{
	u64 *v = s->words, flags, entry, local;

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
			flags = ks_user_word(s, entry);
			if (local && (flags & KS_RUBY_TYPE) == KS_RUBY_IMEMO &&
			    KS_RUBY_IMEMO_KIND(flags) == KS_RUBY_SVAR) {
				entry = ks_user_word(s, entry + 8);
				flags = ks_user_word(s, entry);
			}
			if ((flags & KS_RUBY_TYPE) == KS_RUBY_IMEMO &&
			    KS_RUBY_IMEMO_KIND(flags) == KS_RUBY_METHOD_ENTRY)
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

	if (ks_user_words(s, v, 2, body)) /* type and size, the code */
		return -1;
	b->type = v[0] & 15;
	b->encoded = v[1];
	b->path = ks_user_word(s, body + KS_RUBY_PATHOBJ);
	if (ks_user_words(s, v, 4, body + l->lines)) /* entries, positions, count, succinct table */
		return -1;
	b->lines = v[0];
	b->size = (u32)v[2];
	b->index = v[3];
	b->local = ks_user_word(s, body + l->local_iseq);
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
	if (l->version >= KS_RUBY_LOOKED_UP) {
#pragma clang loop unroll(disable)
		for (u32 i = 0; i < KS_RUBY_WITHIN; i++) {
			u64 at = KS_LOAD(s->module[6]), parent;
			u32 kind = ks_user_word(s, at) & 15;

			if (kind < KS_RUBY_RESCUE || kind > KS_RUBY_EVAL)
				break;
			parent = ks_user_word(s, at + l->local_iseq - 8);
			if (!parent)
				break;
			s->module[6] = ks_user_word(s, parent + KS_RUBY_ISEQ_BODY);
		}
	}
	return ks_user_word(s, KS_LOAD(s->module[6]) + KS_RUBY_PATHOBJ + 16);
}

/* The hashes of the strings in s->module. 0: one of them is no string. */
static __always_inline int ks_ruby_texts(struct ks_scratch *s, struct ks_ruby_layout *l)
{
	struct ks_walk *w = &s->walk;

#pragma clang loop unroll(disable)
	for (u32 i = 0; i < KS_RUBY_TEXTS; i++) {
		u64 string = KS_LOAD(s->module[i]), h;

		if (!string)
			continue;
		w->found[0] = 0;
		h = ks_ruby_text(s, l, string);
		if (!h)
			return 0;
		if (i == KS_RUBY_LABEL) {
			s->module[KS_RUBY_HASH] = h;
			s->module[KS_RUBY_FLAGS] = KS_LOAD(w->found[0]);
		} else if (i == KS_RUBY_CLASS) {
			w->module = h;
			w->found[1] = KS_LOAD(w->found[1]) | KS_LOAD(w->found[0]);
		} else {
			w->root_mnt = h;
			w->length = KS_LOAD(w->found[0]);
		}
	}
	return 1;
}

/* Of the class that a method belongs to: its name is asked for where the frame before was another's. */
static __always_inline void ks_ruby_want_class(struct ks_scratch *s, struct ks_ruby_layout *l, u64 class)
{
	struct ks_walk *w = &s->walk;
	u32 singleton = 0;

	s->module[KS_RUBY_CLASS] = 0;
	if (class == KS_LOAD(w->globals))
		return;
	w->globals = class;
	w->module = 0;
	w->found[1] = 0;
	s->module[KS_RUBY_NAME] = 0;
	if (!class)
		return;
	s->module[KS_RUBY_CLASS] = s->module[KS_RUBY_NAME] = ks_ruby_class_name(s, l, class, &singleton);
	if (KS_LOAD(s->module[KS_RUBY_NAME]))
		w->found[1] = singleton;
}

/* What runs in the frame at w->at: w->mnt its body, 0: a C function; w->task_outer its kind. As ks_ruby_frame. */
static __always_inline int ks_ruby_what(struct ks_scratch *s, struct ks_ruby_layout *l)
{
	struct ks_ruby_body *b = (struct ks_ruby_body *)(s->words + 8);
	struct ks_walk *w = &s->walk;
	u64 *v = s->words, pc, iseq;

	if (ks_user_words(s, v, 5, KS_LOAD(w->at))) /* pc, sp, iseq, self, ep */
		return 0;
	pc = v[0];
	iseq = v[2];
	w->thread = v[4];
	w->mnt = 0;
	s->module[KS_RUBY_LABEL] = s->module[KS_RUBY_FILE] = 0;
	s->module[KS_RUBY_HASH] = s->module[KS_RUBY_FLAGS] = 0;
	w->task_outer = KS_RUBY_CFUNC;
	if (!iseq)
		return (ks_user_word(s, KS_LOAD(w->thread)) & KS_RUBY_MAGIC) == KS_RUBY_MAGIC_CFUNC ? 1 : 2;
	if (!pc)
		return 2;
	w->mnt = ks_user_word(s, iseq + KS_RUBY_ISEQ_BODY);
	if (!KS_LOAD(w->mnt) || ks_ruby_body_of(s, l, KS_LOAD(w->mnt), b))
		return 0;
	w->task_outer = KS_LOAD(b->type);
	s->module[KS_RUBY_LABEL] = ks_ruby_label_of(s, l, KS_LOAD(w->mnt));
	if (KS_LOAD(b->path) != KS_LOAD(w->last)) { /* functions that call one another are of one file */
		w->last = KS_LOAD(b->path);
		s->module[KS_RUBY_FILE] = ks_ruby_path_string(s, KS_LOAD(w->last));
	}
	pc = (pc - KS_LOAD(b->encoded)) / 8;
	w->found[0] = ks_ruby_line(s, l, b, pc) | pc << 32;
	return 1;
}

/*
 * Whose method it is: w->task_outer becomes its definition where it is a C function's; gives the class that has it, 0: not
 * known. ~0: it cannot be read.
 */
static __always_inline u64 ks_ruby_whose(struct ks_scratch *s)
{
	struct ks_ruby_body *b = (struct ks_ruby_body *)(s->words + 8);
	struct ks_walk *w = &s->walk;
	u64 *v = s->words, entry = ks_ruby_method_of(s, KS_LOAD(w->thread)), class;
	u32 by;

	if (!entry)
		return 0;
	if (ks_user_words(s, v, 5, entry)) /* flags, class, definition, id, owner */
		return ~0ULL;
	class = v[4];
	w->thread = v[2];
	if (ks_user_words(s, v, 5, KS_LOAD(w->thread))) /* type, body: 3 words, id */
		return ~0ULL;
	by = v[0] & 15;
	if (KS_LOAD(w->mnt)) /* else a block of one method that is another's body */
		return by == KS_RUBY_BY_ISEQ && v[1] == KS_LOAD(b->local) ? class : 0;
	w->mnt = 0;
	s->module[KS_RUBY_HASH] = ks_mix(ks_mix(1, v[4]), by == KS_RUBY_BY_CFUNC ? v[1] : 0); /* id, function */
	return class;
}

/* The frame at w->at: noted in f. 1: it is one; 2: it is none, go on; 0: it cannot be read. */
static __always_inline int ks_ruby_frame(struct ks_scratch *s, struct ks_ruby_layout *l, struct ks_frame *f)
{
	struct ks_walk *w = &s->walk;
	u64 class = 0, h;
	u32 kind;
	int what = ks_ruby_what(s, l);

	if (what != 1)
		return what;
	f->pc = KS_LOAD(w->mnt) ? KS_LOAD(w->found[0]) : 0;
	kind = KS_LOAD(w->task_outer);
	if (kind != KS_RUBY_TOP && kind != KS_RUBY_CLASS_BODY && kind != KS_RUBY_MAIN) {
		class = ks_ruby_whose(s);
		if (class == ~0ULL)
			return 0;
	}
	if (!KS_LOAD(w->mnt) && !KS_LOAD(s->module[KS_RUBY_HASH]))
		return 0; /* a C function of no method */
	f->globals = KS_LOAD(w->mnt) ? KS_LOAD(w->mnt) : KS_LOAD(w->thread);
	f->runtime = KS_RUNTIME_RUBY;
	ks_ruby_want_class(s, l, class);
	f->check = KS_LOAD(s->module[KS_RUBY_NAME]);
	f->tag = KS_LOAD(s->module[KS_RUBY_NAME]) >> 32;
	if (!ks_ruby_texts(s, l))
		return 0;
	kind = KS_LOAD(w->task_outer) | KS_LOAD(w->found[1]) | KS_LOAD(s->module[KS_RUBY_FLAGS]);
	h = ks_mix(ks_mix(0, KS_LOAD(s->module[KS_RUBY_HASH])), KS_LOAD(w->module));
	if (KS_LOAD(w->mnt)) {
		h = ks_mix(h, KS_LOAD(w->root_mnt));
		kind |= KS_LOAD(w->length);
	}
	f->owner = kind;
	f->code = ks_mix(h, kind);
	return 1;
}

/* One step outwards. 0: that was the last. */
static __always_inline int ks_ruby_step(struct ks_scratch *s, struct ks_ruby_layout *l)
{
	struct ks_walk *w = &s->walk;
	u32 slot = KS_LOAD(w->count);
	struct ks_frame *f;
	int found;

	if (slot >= KS_LOAD(s->max_depth) || slot >= KS_MAX_DEPTH) {
		w->state = KS_FRAMES_DEPTH;
		return 0;
	}
	KS_OPAQUE(slot); /* bounded where it is used: before 6.8 the verifier forgets the bounds of what clang spills */
	f = &s->stack.frames[slot & 127];
	found = ks_ruby_frame(s, l, f);
	if (!found) {
		w->state = KS_FRAMES_READ;
		return 0;
	}
	w->at = KS_LOAD(w->at) + l->frame_bytes;
	if (found == 1) {
		w->hash = ks_mix(ks_mix(KS_LOAD(w->hash), KS_LOAD(f->code)), KS_LOAD(f->pc));
		w->count = slot + 1;
	}
	return 1;
}

/*
 * Leaves the frames in s->stack, and in s->frames how many of them are to be sent: none, or all. Gives 1 where there are
 * more frames: it is to be called again.
 */
static __always_inline int ks_ruby_walk(struct ks_scratch *s, struct ks_ruby_layout *l)
{
	struct ks_walk *w = &s->walk;

	for (u32 i = 0; i < KS_RUBY_WALK_AT_ONCE; i++) {
		ks_user_turn(s);
		if (KS_LOAD(w->at) > KS_LOAD(w->root))
			break;
		if (!ks_ruby_step(s, l))
			break;
	}
	if (KS_LOAD(w->at) <= KS_LOAD(w->root) && KS_LOAD(w->state) == KS_FRAMES_COMPLETE)
		return 1;
	s->op.frame_state = KS_LOAD(w->state);
	if (KS_LOAD(w->task_frame)) {
		s->op.context_kind = KS_CONTEXT_FIBER;
		s->op.context = KS_LOAD(w->task_frame);
	}
	ks_name_stack(s);
	return 0;
}
