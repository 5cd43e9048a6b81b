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
#include "runtimes/ruby_objects.bpf.h"
#include "runtimes/walker.bpf.h"

#define KS_RUBY_WALK_AT_ONCE 6 /* the kernel allows 33 tail calls in a row: 22 for the frames, 8 for what names them */
#define KS_RUBY_THREAD_SCAN 512

_Static_assert(sizeof(struct ks_ruby_layout) <= sizeof(struct ks_layout), "ks_ruby_layout");

static __always_inline struct ks_ruby_layout *ks_ruby_layout_of(struct ks_runtime *rt)
{
	return (struct ks_ruby_layout *)ks_layouts.lookup(&rt->layout);
}

static __always_inline u64 ks_ruby_thread_pointer(void)
{
	return KS_KREAD(u64, ks_current_task() + KS_TASK_FSBASE);
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
	w->hash = ks_hash2(s->proc_start, s->op.tgid);
	w->globals = w->module = w->last = w->root_mnt = 0;
	s->module[KS_RUBY_NAME] = 0;
	w->found[1] = w->length = 0;
	w->count = 0;
	w->state = KS_FRAMES_COMPLETE;
	fiber = ks_user_word(s, ec + l->ec_fiber);
	root = ks_user_word(s, ks_user_word(s, ec + l->ec_thread) + l->thread_root_fiber);
	w->task_frame = root && fiber != root ? fiber : 0;
	w->thread = w->task_outer = w->mnt = 0;
	s->op.context = ec; /* since 3.3 a thread of the kernel may carry several of Ruby's in turn */
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
	s->module[KS_RUBY_LABEL] = KS_LOAD(b->label);
	if (KS_LOAD(b->type) - KS_RUBY_RESCUE <= KS_RUBY_EVAL - KS_RUBY_RESCUE)
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
 * Whose method it is: w->thread becomes its definition; gives the class that has it, 0: not known. ~0: it cannot be read. The
 * entry that a method's own frame leads to is that method's; a block's may be another's, whose body it is.
 */
static __always_inline u64 ks_ruby_whose(struct ks_scratch *s, struct ks_ruby_layout *l, u32 kind)
{
	u64 *v = s->words, entry = ks_ruby_method_of(s, KS_LOAD(s->walk.thread)), class;
	struct ks_walk *w = &s->walk;
	u32 by;

	if (!entry)
		return 0;
	class = v[4];
	if (kind == KS_RUBY_METHOD)
		return class;
	w->thread = v[2];
	if (ks_user_words(s, v, 5, KS_LOAD(w->thread))) /* type, body: 3 words, id */
		return ~0ULL;
	by = v[0] & 15;
	if (KS_LOAD(w->mnt))
		return by == KS_RUBY_BY_ISEQ && v[1] == ks_user_word(s, KS_LOAD(w->mnt) + l->local_iseq) ? class : 0;
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
		class = ks_ruby_whose(s, l, kind);
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
