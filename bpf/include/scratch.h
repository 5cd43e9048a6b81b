/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Whose scratch is whose. KS_SCRATCH_*: of the programs that the kernel calls by itself; KS_SCRATCHES: how many there are;
 * KS_SCRATCH_NTH: in which order a walker looks for the one it works for.
 */
#pragma once

/*
 * On 7.2, not yet on 6.18, the programs of system calls run with preemption on (trace_call_bpf_faultable in the kernel), those
 * of functions wherever the kernel is preemptible: another thread's may start on the CPU in the middle of one, and so may the
 * switch's. The kernel only keeps a program that it calls itself from being entered twice on a CPU. So each such program has
 * a scratch of its own; those that it goes on to by a tail call share it.
 */
#if KS_FENTRY
#define KS_SCRATCH_EXEC 0
#define KS_SCRATCH_ENTER(group) ks_own_seat()
#define KS_SCRATCH_EXIT(group) ks_own_seat()
#define KS_SCRATCH_SWITCH KS_SCRATCH_EXEC /* not seen so */
#define KS_SCRATCHES (1 + 2 * KS_MOST_FUNCTIONS)
#define KS_SCRATCH_NTH(n) (n)
#else
#if KS_RAW
#define KS_SCRATCH_ENTER(group) 0
#define KS_SCRATCH_EXIT(group) 1
#define KS_SCRATCH_EXEC 2
#else
#define KS_SCRATCH_ENTER(group) (group)
#define KS_SCRATCH_EXIT(group) (KS_GROUPS + (group))
#define KS_SCRATCH_EXEC (2 * KS_GROUPS)
#endif
#define KS_SCRATCH_SWITCH (KS_SCRATCH_EXEC + 1)
#define KS_SCRATCHES (KS_SCRATCH_SWITCH + 1)
#define KS_SCRATCH_NTH(n) (KS_SCRATCH_SWITCH - (n))
#endif
BPF_PERCPU_ARRAY(ks_scratches, struct ks_scratch, KS_SCRATCHES);

#if KS_FENTRY
BPF_ARRAY(ks_seats, u32, 1); /* each program has its own */

/* The scratch of the program that the kernel called, by the number that the agent gave it. */
static __always_inline u32 ks_own_seat(void)
{
	u32 first = 0, *seat = ks_seats.lookup(&first);

	return seat ? *seat : KS_SCRATCHES;
}
#endif

/* `which`: KS_SCRATCH_* of the program that the kernel called. */
static __always_inline struct ks_scratch *ks_scratch(u32 which)
{
	struct ks_scratch *s = ks_scratches.lookup(&which);

	KS_OPAQUE(s);
	return s;
}

/*
 * Of a program that was gone on to: that of the one it was called by. The switch comes first: it may interrupt the others'
 * walk.
 */
static __always_inline struct ks_scratch *ks_walkers_scratch(void)
{
	u32 tid = ks_current_ids();
	struct ks_scratch *s;

	for (u32 i = 0; i < KS_SCRATCHES; i++) {
		s = ks_scratch(KS_SCRATCH_NTH(i));
		if (s && s->walking == tid)
			return s;
	}
	return 0;
}

/* The same, of a program that only returns of one group go on to. */
static __always_inline struct ks_scratch *ks_handed_scratch(u32 group)
{
#if KS_FENTRY
	return ks_walkers_scratch();
#else
	return ks_scratch(KS_SCRATCH_EXIT(group));
#endif
}
