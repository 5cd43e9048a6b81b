// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * Requests: the first bytes of what a process sends and receives, for connections that carry a protocol somebody wants.
 *
 * Reached by a tail call from the end of a send or receive (network.bpf.c) whose class wants requests. A connection is
 * known by its first bytes: one that begins like none of the protocols costs a look-up from then on. The bytes go out
 * in a record of their own, before that of the operation, which they are found by (thread and time).
 */
#include "calls.h"
#include "http2.h"
#include "protocols.h"
#include "sock.h"
#include <asm/unistd.h>

#define HEAD_BYTES 2048 /* of a call's beginning that are copied at most, and of its end; a power of two */
#define MAX_PARTS 8 /* of a vectored call that are looked at */
#define MAX_MISSES 8 /* calls whose bytes begin no message, after which a connection is opaque */
#define MAX_DATAGRAMS 8 /* of one call that are looked at */
#define DATAGRAM_BYTES 1024 /* of each that are copied at most, where a call moves several */
#define DATAGRAM_HEADER 4 /* before each of these: its length, how much of it was copied */
#define MMSGHDR 64 /* struct mmsghdr: a struct msghdr, the bytes that were sent or received */
#define NOT_MOVED 0x2002 /* MSG_PEEK, and MSG_ERRQUEUE, which gives back what was sent */

#define OPAQUE 255 /* instead of a protocol */
#define RECEIVES_NO_MORE 1 /* RCV_SHUTDOWN: of a socket's sk_shutdown */
#define PROTOCOL_TCP 6
#define PROTOCOL_UDP 17

struct connection {
	u32 protocol; /* KS_PROTOCOL_UNKNOWN: not yet */
	u32 misses;
	u32 expected; /* bytes of the next call, where this one was a header of MySQL's or a length of DNS's, read alone; of TLS: TLS_* */
	u32 size; /* the same, where it was a length of Kafka's */
};

BPF_TABLE("lru_hash", u64, struct connection, ks_connections, KS_MAX_CONNECTIONS);

/* Where the bytes of a call lie: w->at, w->length of the first part, w->found the others. */
static __always_inline void parts_of(struct ks_call *call, struct ks_walk *w)
{
	w->found[0] = 0;
	w->count = 1;
	w->at = call->args[1];
	w->length = call->args[2]; /* a datagram may have been longer: MSG_TRUNC */
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
	case __NR_recvmmsg:
	case __NR_sendmmsg: /* of the first message */
		w->found[0] = KS_UREAD(u64, call->args[1] + 16);
		w->count = KS_UREAD(u32, call->args[1] + 24);
		break;
	default: /* sendfile */
		w->count = 0;
	}
}

static __always_inline int is_many(struct ks_call *call)
{
	return call->nr == __NR_recvmmsg || call->nr == __NR_sendmmsg;
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

	if (KS_LOAD(s->walk.found[0]) || length < HEAD_BYTES || s->op.ret <= length || s->op.ret > s->call.args[2])
		return 0;
	size = left < HEAD_BYTES ? left : HEAD_BYTES;
	KS_OPAQUE(size);
	if (size > HEAD_BYTES)
		return 0;
	if (ks_read_user(s->bytes.bytes + HEAD_BYTES, size, (void *)(s->call.args[1] + s->op.ret - size)))
		return 0;
	return size;
}

/*
 * Copies several datagrams, each behind a header; gives how much. Of one that lies in several parts the first is copied.
 * Those that there is no room for are missing from the sum of lengths.
 */
static __always_inline u32 copy_datagrams(struct ks_scratch *s, u64 count)
{
	struct ks_walk *w = &s->walk;

	w->state = 0;
	w->count = count;
	for (u32 i = 0; i < MAX_DATAGRAMS; i++) {
		u64 at = KS_LOAD(w->state), message = s->call.args[1] + MMSGHDR * i, parts, moved, size, buffer;

		if (i >= KS_LOAD(w->count) || at > 2 * HEAD_BYTES - DATAGRAM_BYTES - DATAGRAM_HEADER)
			break;
		parts = KS_UREAD(u64, message + 16);
		moved = KS_UREAD(u32, message + 56);
		buffer = KS_UREAD(u64, parts);
		size = KS_UREAD(u64, parts + 8);
		if (size > moved)
			size = moved;
		if (size > DATAGRAM_BYTES)
			size = DATAGRAM_BYTES;
		KS_OPAQUE(size);
		KS_OPAQUE(at);
		if (size > DATAGRAM_BYTES || at > 2 * HEAD_BYTES - DATAGRAM_BYTES - DATAGRAM_HEADER)
			break;
		*(u16 *)(s->bytes.bytes + at) = moved;
		*(u16 *)(s->bytes.bytes + at + 2) = size;
		if (size && ks_read_user(s->bytes.bytes + at + DATAGRAM_HEADER, size, (void *)buffer))
			break;
		w->state = at + DATAGRAM_HEADER + size;
	}
	return KS_LOAD(w->state);
}

/* Nothing has moved: it is only looked at, or comes back as an error. */
static __always_inline int peeks(struct ks_call *call)
{
	return ((call->nr == __NR_recvfrom || call->nr == __NR_recvmmsg) && call->args[3] & NOT_MOVED) ||
	       (call->nr == __NR_recvmsg && call->args[2] & NOT_MOVED);
}

static __always_inline int sends(u32 nr)
{
	return nr == __NR_write || nr == __NR_writev || nr == __NR_sendto || nr == __NR_sendmsg ||
	       nr == __NR_sendmmsg || nr == __NR_sendfile;
}

/*
 * What a TCP connection says of the bytes that this call moved: where they end, and whether they are the first of all. A
 * client's first bytes are sent before any are read, a server's the other way round. What a client has sent may count its
 * SYN; what has been read the other end's FIN, which a call takes with the last bytes. Read in this order a number that
 * changes meanwhile makes it too many bytes, never too few.
 */
static __always_inline u32 place(struct ks_bytes_rec *r, struct ks_scratch *s, u64 sk, u32 is_sent)
{
	u32 una, copied, next, written, has_fin;
	u64 sent, received;

	if (s->op.protocol != PROTOCOL_TCP || s->op.family == KS_AF_UNIX)
		return 0;
	una = KS_KREAD(u32, sk + KS_TCP_SND_UNA);
	sent = KS_KREAD(u64, sk + KS_TCP_ACKED);
	written = KS_KREAD(u32, sk + KS_TCP_WRITTEN);
	has_fin = KS_KREAD(u8, sk + KS_SOCK_SHUTDOWN) & RECEIVES_NO_MORE;
	next = KS_KREAD(u32, sk + KS_TCP_RCV_NXT);
	received = KS_KREAD(u64, sk + KS_TCP_RECEIVED);
	copied = KS_KREAD(u32, sk + KS_TCP_COPIED);
	if (has_fin && copied == next)
		copied--;
	sent += (u32)(written - una);
	received -= (u32)(next - copied); /* what has been read of it */
	r->position = is_sent ? written : copied;
	r->other = is_sent ? copied : written;
	if (is_sent ? received == 0 && sent - s->op.ret <= 1 : received == s->op.ret && sent <= 1)
		return KS_BYTES_PLACED | KS_BYTES_FIRST;
	return KS_BYTES_PLACED;
}

static __always_inline int is_datagram(struct ks_scratch *s)
{
	return s->op.protocol == PROTOCOL_UDP && s->op.family != KS_AF_UNIX;
}

/* `messages`: how many the call has moved, if it is one that moves several. */
static __always_inline void tell(struct ks_scratch *s, u64 sk, u64 id, u32 protocol, u64 messages)
{
	u32 length, tail = 0, size, is_sent = sends(s->call.nr), flags = is_sent ? KS_BYTES_SENDS : 0;
	struct ks_bytes_rec *r = &s->bytes.header;
	struct http2_side *side = 0;

	r->position = r->other = 0;
	r->away = s->call.away;
	r->untimed = ks_switches() - s->call.timed;
	flags |= place(r, s, sk, is_sent);
	if (is_datagram(s))
		flags |= KS_BYTES_DATAGRAM;
	if (protocol == KS_PROTOCOL_HTTP2 && !is_many(&s->call))
		side = http2_side(s, id, is_sent, flags);
	if (side) {
		flags |= KS_BYTES_FRAMES | (side->left || side->have ? 0 : KS_BYTES_AT_FRAME);
		length = http2_copy(s, side, s->bytes.bytes);
	} else if (is_many(&s->call)) {
		flags |= KS_BYTES_MANY;
		length = is_datagram(s) ? copy_datagrams(s, messages) : 0;
	} else {
		length = copy(s);
		tail = copy_tail(s, length);
	}

	r->kind = KS_KIND_BYTES;
	r->version = KS_VERSION;
	r->time = s->op.time;
	r->tgid = s->op.tgid;
	r->tid = s->op.tid;
	r->connection = id;
	r->moved = s->op.ret;
	r->length = length;
	r->flags = flags;
	r->protocol = protocol;
	r->tail = tail;
	r->size = sizeof(*r) + length + tail;
	size = (sizeof(*r) + length + tail + KS_RING_HEADER + KS_SLOT - 1) / KS_SLOT * KS_SLOT - KS_RING_HEADER;
	KS_OPAQUE(size);
	size &= 4 * HEAD_BYTES - 1;
	if (ks_ring.ringbuf_output(r, size, ks_wake())) {
		ks_count(s->op.cls, KS_C_BYTES_LOST);
		ks_lose(); /* before the operation goes */
	}
}

/* What a connection carries, by what this call moved; KS_PROTOCOL_UNKNOWN: that does not say it. */
static __always_inline u32 classify(struct ks_scratch *s, struct connection *known)
{
	struct ks_walk *w = &s->walk;
	u64 at = KS_LOAD(w->at), length = s->op.ret, bytes = 0;
	u64 next = 0;
	u32 expected = known->expected, size = known->size;

	known->expected = known->size = 0;
	if (KS_LOAD(w->found[0])) {
		u64 part = KS_UREAD(u64, KS_LOAD(w->found[0]) + 8);

		at = KS_UREAD(u64, KS_LOAD(w->found[0]));
		next = KS_UREAD(u64, KS_LOAD(w->found[0]) + 16);
		if (length > part)
			length = part;
	}
	if (KS_LOAD(w->count) && is_datagram(s))
		return begins_dns(s, at, length) ? KS_PROTOCOL_DNS : KS_PROTOCOL_UNKNOWN;
	if (KS_LOAD(w->count) && length == 2) {
		u32 message = __builtin_bswap16(KS_UREAD(u16, at));

		if (s->op.ret == 2)
			known->expected = DNS_LENGTH | message;
		else if (message >= DNS_LEAST && begins_dns(s, next, message))
			return KS_PROTOCOL_DNS; /* a part of its own, as glibc sends it */
	}
	if (!KS_LOAD(w->count) || length < 4)
		return KS_PROTOCOL_UNKNOWN;
	if (length < 8)
		bytes = KS_UREAD(u32, at);
	else
		bytes = KS_UREAD(u64, at);
	if (begins_http(bytes))
		return KS_PROTOCOL_HTTP;
	if (begins_redis(bytes))
		return KS_PROTOCOL_REDIS;
	if (length >= DNS_LEAST && begins_dns_stream(s, bytes, at, length, expected))
		return KS_PROTOCOL_DNS;
	if (length >= 8 && begins_postgresql(s, bytes, at, length))
		return KS_PROTOCOL_POSTGRESQL;
	if (length >= 8 && begins_mysql(s, bytes, at, length))
		return KS_PROTOCOL_MYSQL;
	if (expected == length && begins_mysql_body(bytes, length))
		return KS_PROTOCOL_MYSQL;
	if (length >= 8 && ((u32)bytes == HTTP2_PREFACE_WORD || http2_headers(bytes, s->op.ret)))
		return KS_PROTOCOL_HTTP2;
	if (length >= MONGO_HEADER && begins_mongodb(s, bytes, at))
		return KS_PROTOCOL_MONGODB;
	if (begins_kafka(s, bytes, at, next, length, size))
		return KS_PROTOCOL_KAFKA;
	if (s->op.ret == KAFKA_LENGTH)
		known->size = __builtin_bswap32(bytes);
	if (begins_client_hello(bytes, length)) {
		known->expected = sends(s->call.nr) ? TLS_SENT : 0;
		return KS_PROTOCOL_TLS;
	}
	if (length == MYSQL_PACKET && !(bytes >> 24))
		known->expected = bytes;
	return KS_PROTOCOL_UNKNOWN;
}

/* Whether this call is the last of a TLS connection that says anything: the first that answers the client's hello. */
static __always_inline int ends_hellos(struct ks_scratch *s, struct connection *known)
{
	if (known->misses++ >= MAX_MISSES)
		return 1;
	if ((known->expected & TLS_SENT) == (sends(s->call.nr) ? TLS_SENT : 0))
		return 0;
	if (s->op.ret != TLS_HEADER || known->expected & TLS_ANSWERS)
		return 1;
	known->expected |= TLS_ANSWERS;
	return 0;
}

/* `wanted`: bits of the protocols whose bytes somebody wants. */
static __always_inline void look(struct ks_scratch *s, u32 wanted, u64 messages)
{
	struct ks_call *call = &s->call;
	u64 sk = ks_sock(call->file), id;
	struct connection *known, none = {};
	u32 protocol;

	if (!sk || peeks(call))
		return;
	parts_of(call, &s->walk);
	id = ks_mix(ks_mix(0, sk), KS_KREAD(u64, call->inode + KS_INODE_INO));
	known = ks_connections.lookup(&id);
	if (known && known->protocol == OPAQUE)
		return;
	if (!known) {
		ks_connections.update(&id, &none);
		known = ks_connections.lookup(&id);
		if (!known)
			return ks_lose();
	}
	protocol = known->protocol;
	if (protocol == KS_PROTOCOL_UNKNOWN) {
		protocol = classify(s, known);
		if (protocol) {
			known->protocol = protocol;
		} else if (known->misses++ >= MAX_MISSES) {
			known->protocol = OPAQUE;
			return;
		} else if (is_datagram(s) ||
			   (s->op.ret >= 4 && !(known->expected && wanted >> KS_PROTOCOL_MYSQL & 1))) {
			return;
		}
	} else if ((protocol == KS_PROTOCOL_POSTGRESQL || protocol == KS_PROTOCOL_MYSQL) && begins_tls(s, protocol)) {
		known->protocol = OPAQUE;
		return;
	} else if (protocol == KS_PROTOCOL_TLS && ends_hellos(s, known)) {
		known->protocol = OPAQUE;
	}
	if (protocol && !(wanted >> protocol & 1))
		return;
	tell(s, sk, id, protocol, messages);
}

int ks_requests(struct ks_sys_exit *ctx)
{
	struct ks_scratch *s = ks_handed_scratch(KS_GROUP_NETWORK);
	struct ks_class *c;
	u32 cls;

	if (!s)
		return 0;
	s->walking = 0;
	cls = s->op.cls;
	c = ks_classes.lookup(&cls);
	if (!c)
		return 0;
	if (ks_class_wants(c, KS_OP_OffCPU))
		ks_kept_still(KS_THREAD(s->op.tid)); /* or the time until now would be added to `away` */
	look(s, c->flags >> KS_CLASS_PROTOCOLS_AT, ctx->ret);
	ks_walk(ctx, s, c);
	return 0;
}
