// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * Requests: the first bytes of what a process sends and receives, for connections that carry a protocol somebody wants.
 *
 * Reached by a tail call from the end of a send or receive (network.bpf.c) whose class wants requests. A connection is
 * known by its first bytes: one that begins with none of a protocol's words costs a look-up from then on. The bytes go out
 * in a record of their own, before that of the operation, which they are found by (thread and time).
 */
#include "calls.h"
#include "sock.h"
#include <asm/unistd.h>

#define HEAD_BYTES 2048 /* of a call's beginning that are copied at most, and of its end; a power of two */
#define MAX_PARTS 8 /* of a vectored call that are looked at */
#define MAX_MISSES 8 /* calls whose bytes begin no message, after which a connection is opaque */
#define MSG_PEEK 2
#define PROTOCOL_TCP 6

enum { UNKNOWN, CARRIES, OPAQUE };

struct connection {
	u32 state, misses;
};

BPF_TABLE("lru_hash", u64, struct connection, ks_connections, KS_MAX_CONNECTIONS);

#define WORD(a, b, c, d) ((u32)(a) | (u32)(b) << 8 | (u32)(c) << 16 | (u32)(d) << 24)

/* Whether these bytes can begin a request or a response of HTTP/1. */
static __always_inline int begins_message(u32 word)
{
	switch (word) {
	case WORD('G', 'E', 'T', ' '):
	case WORD('P', 'O', 'S', 'T'):
	case WORD('P', 'U', 'T', ' '):
	case WORD('H', 'E', 'A', 'D'):
	case WORD('D', 'E', 'L', 'E'):
	case WORD('O', 'P', 'T', 'I'):
	case WORD('P', 'A', 'T', 'C'):
	case WORD('C', 'O', 'N', 'N'):
	case WORD('T', 'R', 'A', 'C'):
	case WORD('H', 'T', 'T', 'P'):
		return 1;
	}
	return 0;
}

/* Where the bytes of a call lie: w->at, w->length of the first part, w->found the others. */
static __always_inline void parts_of(struct ks_call *call, struct ks_walk *w)
{
	w->found[0] = 0;
	w->count = 1;
	w->at = call->args[1];
	w->length = ~0ULL;
	switch (call->nr) {
	case __NR_readv:
	case __NR_writev:
		w->found[0] = call->args[1];
		w->count = call->args[2];
		break;
	case __NR_recvmsg:
	case __NR_sendmsg:
		w->found[0] = KS_UREAD(u64, call->args[1] + 16);
		w->count = KS_UREAD(u32, call->args[1] + 24);
		break;
	case __NR_read:
	case __NR_write:
	case __NR_recvfrom:
	case __NR_sendto:
		break;
	default: /* sendfile, and several messages at once */
		w->count = 0;
	}
}

/* Copies the beginning of what was moved; gives how much. */
static __always_inline u32 copy(struct ks_scratch *s)
{
	struct ks_walk *w = &s->walk;

	w->state = 0;
	w->hash = s->op.ret; /* what is left */
	for (u32 i = 0; i < MAX_PARTS; i++) {
		u64 length, at = KS_LOAD(w->state), size;

		if (i >= KS_LOAD(w->count))
			break;
		if (KS_LOAD(w->found[0])) {
			w->at = KS_UREAD(u64, KS_LOAD(w->found[0]) + 16 * i);
			w->length = KS_UREAD(u64, KS_LOAD(w->found[0]) + 16 * i + 8);
		}
		length = KS_LOAD(w->length);
		if (length > KS_LOAD(w->hash))
			length = KS_LOAD(w->hash);
		w->hash = KS_LOAD(w->hash) - length;
		if (at >= HEAD_BYTES)
			break;
		if (length > HEAD_BYTES - at)
			length = HEAD_BYTES - at;
		size = length;
		KS_OPAQUE(size);
		KS_OPAQUE(at);
		if (size > HEAD_BYTES || at > HEAD_BYTES)
			break;
		if (size && ks_read_user(s->bytes.bytes + at, size, (void *)KS_LOAD(w->at)))
			break;
		w->state = at + size;
		if (!KS_LOAD(w->hash))
			break;
	}
	return KS_LOAD(w->state);
}

/* Copies the end of what one buffer took or gave, as far as it lies behind its beginning; gives how much. */
static __always_inline u32 copy_tail(struct ks_scratch *s, u32 length)
{
	u64 left = s->op.ret - length, size; /* in 64 bits: older verifiers lose what is known of half a register */

	if (KS_LOAD(s->walk.found[0]) || length < HEAD_BYTES || s->op.ret <= length)
		return 0;
	size = left < HEAD_BYTES ? left : HEAD_BYTES;
	KS_OPAQUE(size);
	if (size > HEAD_BYTES)
		return 0;
	if (ks_read_user(s->bytes.bytes + HEAD_BYTES, size, (void *)(s->call.args[1] + s->op.ret - size)))
		return 0;
	return size;
}

static __always_inline int peeks(struct ks_call *call)
{
	return (call->nr == __NR_recvfrom && call->args[3] & MSG_PEEK) ||
	       (call->nr == __NR_recvmsg && call->args[2] & MSG_PEEK);
}

static __always_inline int sends(u32 nr)
{
	return nr == __NR_write || nr == __NR_writev || nr == __NR_sendto || nr == __NR_sendmsg || nr == __NR_sendfile;
}

/*
 * Where both directions of a TCP connection are after this call. What one end has written the other reads at the same
 * number, whatever translates addresses between them: so both know an exchange by the same two.
 */
static __always_inline void directions(struct ks_scratch *s, u64 sk)
{
	struct ks_bytes_rec *r = &s->bytes.header;
	int is_tcp = s->op.protocol == PROTOCOL_TCP && s->op.family != KS_AF_UNIX;

	r->written = is_tcp ? KS_KREAD(u32, sk + KS_TCP_WRITTEN) : 0;
	r->copied = is_tcp ? KS_KREAD(u32, sk + KS_TCP_COPIED) : 0;
}

static __always_inline void tell(struct ks_scratch *s, u64 sk, u64 id)
{
	u32 length = copy(s), tail = copy_tail(s, length), size;
	struct ks_bytes_rec *r = &s->bytes.header;

	directions(s, sk);
	r->kind = KS_KIND_BYTES;
	r->version = KS_VERSION;
	r->time = s->op.time;
	r->tgid = s->op.tgid;
	r->tid = s->op.tid;
	r->connection = id;
	r->moved = s->op.ret;
	r->length = length;
	r->sends = sends(s->call.nr);
	r->tail = tail;
	r->size = sizeof(*r) + length + tail;
	size = (sizeof(*r) + length + tail + KS_RING_HEADER + KS_SLOT - 1) / KS_SLOT * KS_SLOT - KS_RING_HEADER;
	KS_OPAQUE(size);
	size &= 4 * HEAD_BYTES - 1;
	if (ks_ring.ringbuf_output(r, size, ks_wake()))
		ks_count(s->op.cls, KS_C_BYTES_LOST);
}

static __always_inline void look(struct ks_scratch *s)
{
	struct ks_call *call = &s->call;
	u64 sk = ks_sock(call->file), id;
	struct connection *known, none = {};
	u32 word = 0;

	if (!sk || peeks(call))
		return;
	parts_of(call, &s->walk);
	id = ks_mix(ks_mix(0, sk), KS_KREAD(u64, call->inode + KS_INODE_INO));
	known = ks_connections.lookup(&id);
	if (known && known->state == OPAQUE)
		return;
	if (!known) {
		ks_connections.update(&id, &none);
		known = ks_connections.lookup(&id);
		if (!known)
			return;
	}
	if (known->state == UNKNOWN) {
		u64 at = KS_LOAD(s->walk.at);

		if (KS_LOAD(s->walk.found[0]))
			at = KS_UREAD(u64, KS_LOAD(s->walk.found[0]));
		if (KS_LOAD(s->walk.count) && s->op.ret >= 4)
			ks_read_user(&word, 4, (void *)at);
		if (begins_message(word)) {
			known->state = CARRIES;
		} else if (known->misses++ >= MAX_MISSES) {
			known->state = OPAQUE;
			return;
		} else if (s->op.ret >= 4) {
			return;
		}
	}
	tell(s, sk, id);
}

int ks_requests(struct ks_sys_exit *ctx)
{
	struct ks_scratch *s = ks_scratch(KS_SCRATCH_EXIT(KS_GROUP_NETWORK));
	struct ks_class *c;
	u32 cls;

	if (!s)
		return 0;
	cls = s->op.cls;
	c = ks_classes.lookup(&cls);
	if (!c)
		return 0;
	look(s);
	ks_walk(ctx, s, c);
	return 0;
}
