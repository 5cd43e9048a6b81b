/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * HotSpot, JDK 8 and later: the Java frames of the current thread.
 *
 *   thread:   the JavaThread whose OSThread has this thread's pointer, found once in the JVM's list of threads, then held by
 *             tid with its place in the list, where it must still be
 *   frames:   from the anchor that the thread set when it left Java for native code, outwards (frame_x86.cpp):
 *             interpreted   words beside its frame pointer: Method, current bytecode, the caller's three
 *             compiled      the caller's lie at the end of the frame, whose size the code's blob says; a blob is found by the
 *                           segment map of its heap
 *             the call stub native code has called Java: on from the anchor that was put aside
 *             others        stubs, of which only the size matters; of what has no size, the stack beyond is not known
 *   identity: an interpreted frame's `code` is a hash of what it is shown by: names of class and method, numbers of the
 *             method in its class, the beginning of its table of lines. No address is in it: classes are made and dropped.
 *             A compiled frame's is its blob, which lives as long as it is on a stack, with the number that each compilation
 *             of a process has for itself.
 *
 * Offsets come from runtimes/java/layout.py; facts and sources are there.
 */
#pragma once
#include "op.h"
#include "user.h"
#include "runtimes/java_thread.bpf.h"

#define KS_JAVA_WALK_AT_ONCE 6 /* the kernel allows 33 tail calls in a row: 23 for the frames, 5 for what names them */
#define KS_JAVA_HEAPS 4 /* of code: three, or one */
#define KS_JAVA_HOPS 24 /* of 254 segments each, from a pc to the beginning of its blob */
#define KS_JAVA_MAX_FRAME_WORDS 65536

/* Where a JVM's code lies: the same as long as it runs. */
struct ks_java_places {
	u64 start; /* of the process's image */
	u64 call_stub; /* where native code that called Java goes on */
	u64 interpreter, interpreter_end;
	u64 low[KS_JAVA_HEAPS], high[KS_JAVA_HEAPS], segments[KS_JAVA_HEAPS];
	u32 shift, pad;
};

BPF_TABLE("lru_hash", u32, struct ks_java_places, ks_java_jvms, 1024);

static __always_inline void ks_java_find_heap(struct ks_java_layout *l, struct ks_java_places *j, u64 heap, u32 at)
{
	at &= KS_JAVA_HEAPS - 1;
	j->low[at] = KS_UREAD(u64, heap + l->heap_memory + l->space_low);
	j->high[at] = KS_UREAD(u64, heap + l->heap_memory + l->space_high);
	j->segments[at] = KS_UREAD(u64, heap + l->heap_segments + l->space_low);
	j->shift = KS_UREAD(u32, heap + l->heap_shift) & 31;
}

/* Finds out where the JVM's code lies, and keeps it once there is all of it. */
static __always_inline struct ks_java_places *ks_java_find_places(struct ks_scratch *s, struct ks_java_layout *l,
								  u64 base)
{
	struct ks_java_places found = {};
	u64 heaps = KS_UREAD(u64, base + l->code_heaps), queue, data;
	u32 tgid = s->op.tgid, count;

	found.start = s->proc_start;
	found.call_stub = KS_UREAD(u64, base + l->call_stub);
	queue = KS_UREAD(u64, base + l->interpreter);
	found.interpreter = KS_UREAD(u64, queue + l->queue_buffer);
	found.interpreter_end = found.interpreter + KS_UREAD(u32, queue + l->queue_limit);
	if (!heaps || !found.call_stub || !found.interpreter)
		return 0;
	if (l->array_data == KS_JAVA_NONE) {
		ks_java_find_heap(l, &found, heaps, 0);
	} else {
		count = KS_UREAD(u32, heaps + l->array_length);
		data = KS_UREAD(u64, heaps + l->array_data);
		if (!count || count > KS_JAVA_HEAPS)
			return 0;
#pragma unroll
		for (u32 i = 0; i < KS_JAVA_HEAPS; i++) {
			if (i < count)
				ks_java_find_heap(l, &found, KS_UREAD(u64, data + i * 8), i);
		}
	}
	ks_java_jvms.update(&tgid, &found);
	return ks_java_jvms.lookup(&tgid);
}

static __always_inline struct ks_java_places *ks_java_places_of(struct ks_scratch *s)
{
	u32 tgid = s->op.tgid;
	struct ks_java_places *j = ks_java_jvms.lookup(&tgid);

	KS_OPAQUE(j);
	if (!j || j->start != s->proc_start)
		return 0;
	KS_OPAQUE(j);
	return j;
}

/* The caller's sp, pc and fp (w->at, mnt, root) from an anchor; sp 0: there are no more frames. */
static __always_inline int ks_java_anchor(struct ks_scratch *s, u64 anchor)
{
	struct ks_walk *w = &s->walk;
	u64 *v = s->words;

	if (ks_user_words(s, v, 3, anchor)) /* sp, pc, fp: layout.py has seen to it */
		return 0;
	w->at = v[0];
	w->mnt = v[1];
	w->root = v[2];
	if (v[0] && !v[1])
		w->mnt = ks_user_word(s, v[0] - 8);
	return 1;
}

/*
 * A Symbol's part in an identity: its length, and the last 128 bytes of its text; its address where its page is not there: those
 * of an archive of classes are mapped from a file, and not every one has been looked at. v: 16 words.
 */
static __always_inline u64 ks_java_text(struct ks_scratch *s, struct ks_java_layout *l, u64 symbol, u64 *v)
{
	u64 length, bytes;

	if (ks_user_words(s, v, 1, symbol)) {
		s->walk.task_frame = KS_JAVA_UNREAD;
		return symbol;
	}
	length = (v[0] >> ((l->symbol_length & 7) * 8)) & 0xffff;
	bytes = length < 128 ? length : 128;
	return ks_mix(length, ks_user_hash(s, symbol + l->symbol_body + length - bytes, bytes, v));
}

static __always_inline u64 ks_java_u16(u64 *v, u32 at)
{
	return (v[(at >> 3) & 7] >> ((at & 7) * 8)) & 0xffff;
}

/* What names the method at `method`, as f->code; f->pc becomes the bytecode's place in it. 0: it cannot be read. */
static __always_inline int ks_java_method(struct ks_scratch *s, struct ks_java_layout *l, u64 method, u64 bcp,
					  struct ks_frame *f)
{
	struct ks_walk *w = &s->walk;
	u64 *v = s->words, cm = ks_user_word(s, method + l->method_const), pool, name, numbers, size, klass;

	if (!cm || ks_user_words(s, v, 7, cm))
		return 0;
	pool = v[(l->const_pool >> 3) & 7];
	w->length =
		cm + ((v[(l->const_size >> 3) & 7] >> ((l->const_size & 7) * 8)) & 0xffffff) * 8; /* where it ends */
	size = ks_java_u16(v, l->const_code_size);
	name = ks_java_u16(v, l->const_name);
	numbers = size | name << 16 | ks_java_u16(v, l->const_signature) << 32 | ks_java_u16(v, l->const_number) << 48;
	f->pc = bcp < 65536 ? bcp : bcp - cm - l->const_bytes; /* JDK 8 turns the address into a number at times */
	w->found[0] = cm + l->const_bytes + size;
	w->found[1] = numbers;
	w->last = pool + l->pool_bytes + name * 8;
	klass = ks_user_word(s, pool + l->pool_holder);
	if (!klass)
		return 0;
	if (klass != KS_LOAD(w->globals)) { /* methods that call one another are often of one class */
		name = ks_user_word(s, klass + l->klass_name);
		if (!name)
			return 0;
		w->globals = klass;
		w->task_frame = 0;
		w->module = ks_java_text(s, l, name, v);
		w->root_mnt = KS_LOAD(w->task_frame);
	}
	w->task_frame = KS_LOAD(w->root_mnt);
	name = ks_user_word(s, KS_LOAD(w->last));
	if (!name)
		return 0;
	f->code = ks_mix(ks_mix(KS_LOAD(w->module), ks_java_text(s, l, name, v)), KS_LOAD(w->found[1]));
	/* The table of lines, where there is one, comes next; else it is something else of the same method. */
	size = KS_LOAD(w->length) - KS_LOAD(w->found[0]);
	if (size > KS_JAVA_LINE_BYTES)
		size = KS_JAVA_LINE_BYTES;
	f->code = ks_mix(f->code, ks_user_hash(s, KS_LOAD(w->found[0]), size, v));
	f->globals = method;
	f->owner = KS_JAVA_INTERPRETED | KS_LOAD(w->task_frame);
	return 1;
}

static __always_inline int ks_java_interpreted(struct ks_scratch *s, struct ks_java_layout *l, struct ks_frame *f)
{
	struct ks_walk *w = &s->walk;
	u64 *v = s->words, fp = KS_LOAD(w->root), bcp;

	if (ks_user_words(s, v, 10,
			  fp - 64)) /* bcp at fp - 64 (56 on JDK 8), method at - 24, caller's sp at - 8, its fp, pc */
		return 0;
	w->at = v[7];
	w->root = v[8];
	w->mnt = v[9];
	bcp = v[(8 - l->frame_bcp) & 7];
	f->check = 0;
	return ks_java_method(s, l, v[5], bcp, f);
}

/* w->length becomes the blob of `pc`; 0: there is none. */
static __always_inline u64 ks_java_blob(struct ks_scratch *s, struct ks_java_layout *l, struct ks_java_places *j,
					u64 pc)
{
	struct ks_walk *w = &s->walk;
	u64 low = 0, segments = 0;
	u8 tag;

#pragma unroll
	for (u32 i = 0; i < KS_JAVA_HEAPS; i++) {
		if (pc >= j->low[i] && pc < j->high[i]) {
			low = j->low[i];
			segments = j->segments[i];
		}
	}
	if (!low)
		return 0;
	w->length = (pc - low) >> (j->shift & 31);
	for (u32 i = 0; i < KS_JAVA_HOPS; i++) {
		tag = (u8)ks_user_word(s, segments + KS_LOAD(w->length));
		if (!tag)
			return low + (KS_LOAD(w->length) << (j->shift & 31)) + l->block_bytes;
		if (tag == 255 || tag > KS_LOAD(w->length))
			return 0;
		w->length = KS_LOAD(w->length) - tag;
	}
	return 0;
}

#define KS_JAVA_NMETHOD 0x00646f6874656d6eULL /* "nmethod" */
#define KS_JAVA_NATIVE 0x6e2065766974616eULL /* "native n" */

/* A frame of code in a blob. 1: noted; 2: it is none of Java's; 0: the stack cannot be followed, w->state says why. */
static __always_inline int ks_java_compiled(struct ks_scratch *s, struct ks_java_layout *l, struct ks_java_places *j,
					    struct ks_frame *f)
{
	struct ks_walk *w = &s->walk;
	u64 *v = s->words, pc = KS_LOAD(w->mnt), sp = KS_LOAD(w->at), blob, name, deopt;
	u32 size;

	blob = ks_java_blob(s, l, j, pc);
	w->state = KS_FRAMES_READ;
	if (!blob)
		return 0;
	name = ks_user_word(s, ks_user_word(s, blob + l->blob_name));
	size = (u32)ks_user_word(s, blob + l->blob_frame_size);
	if (!size) { /* a stub's: of a virtual thread the frames further out are on the heap */
		w->state = KS_FRAMES_ELSEWHERE;
		return 0;
	}
	if (size > KS_JAVA_MAX_FRAME_WORDS || ks_user_words(s, v, 2, sp + (u64)size * 8 - 16))
		return 0;
	w->state = KS_FRAMES_COMPLETE;
	w->at = sp + (u64)size * 8;
	w->root = v[0];
	w->mnt = v[1];
	if (name != KS_JAVA_NMETHOD && name != KS_JAVA_NATIVE)
		return 2;
	f->owner = name == KS_JAVA_NATIVE ? KS_JAVA_WRAPPER : KS_JAVA_COMPILED;
	if (f->owner == KS_JAVA_COMPILED) {
		deopt = ks_user_word(s, blob + l->nmethod_deopt);
		if (!l->deopt_is_address)
			deopt = blob + (u32)(l->deopt_bytes == 2 ? (u16)deopt : deopt);
		if (pc ==
		    deopt) /* made invalid while it was on the stack: the true pc has been put aside in the frame */
			pc = ks_user_word(s, sp + (u32)ks_user_word(s, blob + l->nmethod_orig_pc));
	}
	f->code = blob;
	f->pc = pc;
	f->globals = 0;
	f->check = (u32)ks_user_word(s, blob + l->nmethod_number);
	return 1;
}

/* Whether the thread runs a virtual thread now. */
static __always_inline int ks_java_is_virtual(struct ks_scratch *s, struct ks_java_layout *l, u64 thread)
{
	u64 own, now;

	if (l->thread_continuation != KS_JAVA_NONE)
		return ks_user_word(s, thread + l->thread_continuation) != 0;
	if (l->thread_virtual == KS_JAVA_NONE)
		return 0;
	now = ks_user_word(s, ks_user_word(s, thread + l->thread_virtual));
	own = ks_user_word(s, ks_user_word(s, thread + l->thread_object));
	return now != own;
}

/* One step outwards. 0: that was the last. */
static __always_inline int ks_java_step(struct ks_scratch *s, struct ks_java_layout *l, struct ks_java_places *j)
{
	struct ks_walk *w = &s->walk;
	u32 slot = KS_LOAD(w->count);
	u64 pc = KS_LOAD(w->mnt);
	struct ks_frame *f;
	int found;

	if (pc == j->call_stub) {
		u64 wrapper = ks_user_word(s, KS_LOAD(w->root) - l->frame_wrapper * 8);

		if (wrapper && ks_java_anchor(s, wrapper + l->wrapper_anchor))
			return KS_LOAD(w->at) != 0;
		w->state = KS_FRAMES_READ;
		return 0;
	}
	if (slot >= KS_LOAD(s->max_depth) || slot >= KS_MAX_DEPTH) {
		w->state = KS_FRAMES_DEPTH;
		return 0;
	}
	KS_OPAQUE(slot); /* bounded where it is used: before 6.8 the verifier forgets the bounds of what clang spills */
	f = &s->stack.frames[slot & 127];
	f->runtime = KS_RUNTIME_JAVA;
	f->tag = 0;
	if (pc >= j->interpreter && pc < j->interpreter_end) {
		found = ks_java_interpreted(s, l, f);
		if (!found)
			w->state = KS_FRAMES_READ;
	} else {
		found = ks_java_compiled(s, l, j, f);
	}
	if (!found)
		return 0;
	if (found == 1) {
		w->hash = ks_mix(ks_mix(KS_LOAD(w->hash), KS_LOAD(f->code) ^ (u64)KS_LOAD(f->check) << 32),
				 KS_LOAD(f->pc) ^ (u64)KS_LOAD(f->owner) << 56);
		w->count = slot + 1;
	}
	return 1;
}

static __always_inline int ks_java_begin(struct ks_scratch *s, struct ks_java_layout *l, u64 base)
{
	struct ks_walk *w = &s->walk;
	u64 thread = KS_LOAD(w->thread);

	w->hash = ks_hash2(s->proc_start, s->op.tgid);
	w->globals = w->module = 0;
	w->count = 0;
	w->state = KS_FRAMES_COMPLETE;
	if (!ks_java_anchor(s, thread + l->thread_anchor)) {
		w->state = KS_FRAMES_READ_FAILED;
		return 0;
	}
	if (!KS_LOAD(w->at)) {
		/* In Java all the same: a leaf that leaves no anchor, or a signal's handler. */
		if ((u32)ks_user_word(s, thread + l->thread_state) == l->in_java)
			w->state = KS_FRAMES_NO_TRUE_WALK;
		return 0;
	}
	if (ks_java_is_virtual(s, l, thread)) {
		s->op.context_kind = KS_CONTEXT_FIBER;
		s->op.context = thread;
	}
	if (!ks_java_places_of(s) && !ks_java_find_places(s, l, base)) {
		w->state = KS_FRAMES_READ_FAILED;
		return 0;
	}
	return 1;
}

/*
 * Leaves the frames in s->stack, and in s->frames how many of them are to be sent: none, or all. Gives 1 where there are
 * more frames: it is to be called again.
 */
static __always_inline int ks_java_walk(struct ks_scratch *s, struct ks_runtime *rt, struct ks_java_layout *l)
{
	struct ks_walk *w = &s->walk; /* at, mnt, root: sp, pc and fp of the frame that is next */
	struct ks_java_places *j;

	w->task_outer = 1;
	if (KS_LOAD(s->stage) != KS_WALK_FRAMES)
		w->task_outer = ks_java_begin(s, l, rt->base);
	j = ks_java_places_of(s);
	if (!j)
		w->task_outer = 0;
	for (u32 i = 0; i < KS_JAVA_WALK_AT_ONCE; i++) {
		if (!j || !KS_LOAD(w->task_outer))
			break;
		ks_user_turn(s);
		w->task_outer = ks_java_step(s, l, j);
	}
	if (KS_LOAD(w->task_outer))
		return 1;
	s->op.frame_state = KS_LOAD(w->state);
	ks_name_stack(s);
	return 0;
}
