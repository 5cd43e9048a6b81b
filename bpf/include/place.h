/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Where a thread's call is kept from its entry to its return. A place is the thread's until it ends: to put an entry into a
 * hash and take it out at each call costs 90 ns, and to find it there 25, twice a call. So the places are an array, a thread's
 * follows from its number, and one whose place is another thread's already has an entry in a hash.
 */
#pragma once

BPF_ARRAY(ks_calls, struct ks_call, KS_PLACES);
BPF_HASH(ks_taken, u32, u32, KS_PLACES); /* place to thread: of two that want one the kernel lets the first have it */
BPF_HASH(ks_more_calls, u32, struct ks_call, KS_MAX_THREADS - KS_PLACES); /* by thread */

/* Threads that began together are on several CPUs, and their places not beside each other, in one line of a cache. */
static __always_inline u32 ks_place_of(u32 tid)
{
	return (tid << 3 | (tid >> 12 & 7)) & (KS_PLACES - 1);
}

/* The thread's place in the array, if it has one. */
static __always_inline struct ks_call *ks_placed(u32 tid)
{
	u32 place = ks_place_of(tid);
	struct ks_call *call = ks_calls.lookup(&place);

	return call && call->thread == tid ? call : 0;
}

/* Where the thread's calls are kept, if any was. */
static __always_inline struct ks_call *ks_call_of(u32 tid)
{
	struct ks_call *call = ks_placed(tid);

	return call ? call : ks_more_calls.lookup(&tid);
}

/* A place for a thread that has none; 0: there is no room. */
static __always_inline struct ks_call *ks_new_place(u32 tid)
{
	u32 place = ks_place_of(tid);
	struct ks_call *call, none = {.thread = tid};

	if (ks_taken.insert(&place, &tid)) {
		ks_more_calls.update(&tid, &none);
		return ks_more_calls.lookup(&tid);
	}
	call = ks_calls.lookup(&place);
	if (call)
		*call = none;
	return call;
}

/* The thread has ended, or has another number now. */
static __always_inline void ks_leave_place(u32 tid)
{
	u32 place = ks_place_of(tid);
	struct ks_call *call = ks_placed(tid);

	if (!call) {
		ks_more_calls.delete(&tid);
		return;
	}
	call->op = 0;
	call->thread = 0;
	ks_taken.delete(&place);
}
