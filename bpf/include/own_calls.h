/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* The calls of one of the user's own probes that have begun: what needs the generated struct and its maps. */
#pragma once
#include "own.h"

BPF_HASH(ks_own_calls, struct ks_own_key, struct ks_own_value, KS_OWN_ENTRIES);
BPF_ARRAY(ks_own_blank, struct ks_own_value, 1);
/* Where an event of the kernel's is made: the probe's own, and no two of its programs are at work on a CPU (see Scratch in
 * docs/design/own-probes.md). What an event before it left there is behind what this one's lengths say. */
BPF_PERCPU_ARRAY(ks_own_moment, struct ks_own_value, 1);

/* A call that was left without a return at this place of the stack: it is over. */
static __always_inline void ks_own_put_out(struct ks_own_key *key)
{
	struct ks_own_value *v = ks_own_calls.lookup(key);

	if (v) {
		ks_count(v->call.cls, KS_C_REPLACED);
		ks_own_calls.delete(key);
	}
}

/* A place for a call; 0: there is no room. */
static __always_inline struct ks_own_value *ks_own_place(struct ks_own_key *key)
{
	struct ks_own_value *v;
	u32 zero = 0;

	v = ks_own_blank.lookup(&zero);
	if (!v)
		return 0;
	if (ks_own_calls.insert(key, v)) { /* taken, or there is no room */
		ks_own_put_out(key);
		ks_own_calls.insert(key, v);
	}
	v = ks_own_calls.lookup(key);
	KS_OPAQUE(v);
	return v;
}

static __always_inline struct ks_own_value *ks_own_moment_here(void)
{
	u32 zero = 0;
	struct ks_own_value *v = ks_own_moment.lookup(&zero);

	KS_OPAQUE(v);
	return v;
}

static __always_inline u32 ks_own_scope(struct ks_own_config *config, struct ks_proc *p, u32 tgid)
{
	if (config->scope == KS_OWN_SCOPE_PROCESS)
		return tgid;
	return config->scope == KS_OWN_SCOPE_POD ? p->pod : 0;
}

/* Whether the limits let a call through that has ended; counted where they do not. */
static __always_inline int ks_own_within_limits(struct ks_own_config *config, struct ks_class *c, struct ks_proc *p,
						struct ks_own_value *v, u64 now)
{
	if (!ks_rate_limited(c, v->call.cls, now) &&
	    !ks_own_rate_limited(config, ks_own_scope(config, p, v->call.tgid), now))
		return 1;
	ks_count(v->call.cls, KS_C_RATE_LIMITED);
	return 0;
}

/* Sends the arguments; gives the id by which the operation names them. 0: there are none, or they were lost. */
static __always_inline u64 ks_own_send(struct ks_own_value *v, u32 number, u64 now)
{
#if KS_OWN_ARGUMENTS
	ks_own_header(&v->record, &v->call, number, KS_OWN_ARGUMENTS, KS_OWN_RECORD, now);
	if (!ks_ring.ringbuf_output(&v->record, KS_OWN_RECORD, 1 /* NO_WAKEUP */))
		return v->record.id;
	ks_count(v->call.cls, KS_C_ARGUMENTS_LOST);
#endif
	return 0;
}
