/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Which JavaThread the current thread is: the one whose OSThread has this thread's pointer. Found once in the JVM's list, or chain
 * before JDK 12, of threads, then held by tid with its place in the list: memory of a thread that has ended keeps its words.
 */
#pragma once
#include "op.h"
#include "user.h"
#include "runtimes/walker.bpf.h"

#define KS_JAVA_NONE 0xffff

_Static_assert(sizeof(struct ks_java_layout) <= sizeof(struct ks_layout), "ks_java_layout");

static __always_inline struct ks_java_layout *ks_java_layout_of(struct ks_runtime *rt)
{
	return (struct ks_java_layout *)ks_layouts.lookup(&rt->layout);
}

static __always_inline u64 ks_java_thread_pointer(void)
{
	return KS_KREAD(u64, ks_current_task() + KS_TASK_FSBASE);
}

static __always_inline int ks_java_is_mine(struct ks_scratch *s, struct ks_java_layout *l, u64 thread)
{
	u64 os = ks_user_word(s, thread + l->thread_os);

	return os && ks_user_word(s, os + l->os_pthread) == ks_java_thread_pointer();
}

#define KS_JAVA_ADDRESS ((1ULL << 48) - 1) /* of what ks_threads holds; above it the place in the list */

/* The thread, where it was found before and still is one; 0: it must be looked for (ks_java_find). */
static __always_inline u64 ks_java_held(struct ks_scratch *s, struct ks_java_layout *l, u64 base)
{
	u32 tid = KS_THREAD(s->op.tid);
	u64 *held = ks_threads.lookup(&tid), thread, list;

	if (!held)
		return 0;
	thread = *held & KS_JAVA_ADDRESS;
	if (!ks_java_is_mine(s, l, thread))
		return 0;
	if (l->list_threads == KS_JAVA_NONE) /* a chain: one without frames may have become another's */
		return ks_user_word(s, thread + l->thread_anchor) ? thread : 0;
	list = ks_user_word(s, ks_user_word(s, base + l->thread_list) + l->list_threads);
	return ks_user_word(s, list + (*held >> 48) * 8) == thread ? thread : 0;
}

/* Looks for the thread, from where it was in the list inwards: those that end bring the others forward. */
static __always_inline u64 ks_java_look(struct ks_scratch *s, struct ks_java_layout *l, u64 base)
{
	struct ks_walk *w =
		&s->walk; /* at: a thread, or the list; mnt: place in the list; length: how many there are */
	u64 *held, tp = ks_java_thread_pointer(), list, thread;
	u32 tid = KS_THREAD(s->op.tid);

	list = KS_UREAD(u64, base + l->thread_list);
	if (!list) {
		s->op.frame_state = KS_FRAMES_NO_THREAD_STATE; /* the JVM is starting or gone */
		return 0;
	}
	w->at = list;
	w->length = w->mnt = 0;
	if (l->list_threads != KS_JAVA_NONE) {
		w->length = KS_UREAD(u32, list + l->list_length);
		w->at = KS_UREAD(u64, list + l->list_threads);
		held = ks_threads.lookup(&tid);
		if (held && *held >> 48 < KS_LOAD(w->length))
			w->mnt = *held >> 48;
		else if (KS_LOAD(w->length))
			w->mnt = KS_LOAD(w->length) - 1; /* the newest comes last */
	}
	for (u32 i = 0; i < KS_JAVA_THREAD_SCAN; i++) {
		u64 at = KS_LOAD(w->mnt);

		if (l->list_threads != KS_JAVA_NONE) {
			if (i >= KS_LOAD(w->length))
				break;
			thread = KS_UREAD(u64, KS_LOAD(w->at) + at * 8);
			w->mnt = at ? at - 1 : KS_LOAD(w->length) - 1;
		} else {
			thread = KS_LOAD(w->at);
			if (!thread)
				break;
			w->at = KS_UREAD(u64, thread + l->thread_next);
		}
		if (KS_UREAD(u64, KS_UREAD(u64, thread + l->thread_os) + l->os_pthread) == tp) {
			u64 found = (thread & KS_JAVA_ADDRESS) | at << 48;

			ks_threads.update(&tid, &found);
			return thread;
		}
	}
	s->op.frame_state = KS_FRAMES_NO_THREAD_STATE;
	if (l->list_threads == KS_JAVA_NONE ? KS_LOAD(w->at) != 0 : KS_LOAD(w->length) > KS_JAVA_THREAD_SCAN)
		s->op.frame_state = KS_FRAMES_SCAN_LIMIT;
	return 0;
}
