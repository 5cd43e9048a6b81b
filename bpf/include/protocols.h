/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* By what bytes the messages of each protocol are known that requests are read from: see requests.bpf.c. */
#pragma once
#include "ks.h"

#define WORD(a, b, c, d) ((u32)(a) | (u32)(b) << 8 | (u32)(c) << 16 | (u32)(d) << 24)

/* Whether these bytes can begin a request or a response of HTTP/1. */
static __always_inline int begins_http(u32 word)
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

static __always_inline int is_digit(u64 bytes)
{
	return (u8)bytes >= '0' && (u8)bytes <= '9';
}

/* A command of Redis is an array of strings: `*`, its length, CRLF, `$`. Some answers are too: user space knows them. */
static __always_inline int begins_redis(u64 bytes)
{
	if ((u8)bytes != '*' || !is_digit(bytes >> 8))
		return 0;
	bytes >>= 16;
	if (is_digit(bytes))
		bytes >>= 8;
	if (is_digit(bytes))
		bytes >>= 8;
	return (bytes & 0xffffff) == WORD('\r', '\n', '$', 0);
}

#define PG_VERSION_3 3 /* the major one; see "Message Formats" of PostgreSQL's manual */
#define PG_TLS 80877103
#define PG_GSS 80877104
#define PG_SYNC 0x0400000053ULL /* the message Sync, in this machine's order */
#define PG_FLUSH 0x0400000048ULL

/*
 * The first message of a connection of PostgreSQL is a length and a version, or what asks for TLS. One that is open
 * already is known by a call that is a query to its last byte, or parses or binds a statement and ends in Sync or Flush.
 */
static __always_inline int begins_postgresql(struct ks_scratch *s, u64 bytes, u64 at, u64 length)
{
	u32 size = __builtin_bswap32(bytes), code = __builtin_bswap32(bytes >> 32);
	u64 end;

	if (length != s->op.ret)
		return 0;
	if (size == length && ((code >> 16 == PG_VERSION_3 && (u16)code < 16) || code == PG_TLS || code == PG_GSS))
		return 1;
	size = __builtin_bswap32(bytes >> 8);
	if ((u8)bytes == 'Q')
		return size == length - 1;
	if (((u8)bytes != 'P' && (u8)bytes != 'B') || size < 8 || length < 16 || size > length - 6)
		return 0;
	end = KS_UREAD(u64, at + length - 8) >> 24;
	return end == PG_SYNC || end == PG_FLUSH;
}

#define MYSQL_PACKET 4 /* bytes of a packet's header: a length in three of them, and a number */
#define MYSQL_COLUMN                                                                                                   \
	0x666564030200ULL /* of a column's packet, from its length's end: a number, "def" behind its length */

/* What a packet with the number 0 holds: the greeting, 10 and a version, or a command. */
static __always_inline int begins_mysql_body(u64 bytes, u64 size)
{
	if ((u8)bytes == 10)
		return size == 1 || (size > 32 && is_digit(bytes >> 8));
	return ((u8)bytes && (u8)bytes <= 0x1f) || (u8)bytes == 0xfa;
}

/*
 * A connection of MySQL begins with the server's greeting: a packet that is the whole call, whose number is 0. One that
 * is open already is known by a command, whose number is 0 too, or by what answers one, whose number is 1: OK, an error, or
 * a result's number of columns and the first of them. See "Packets" of MySQL's manual.
 */
static __always_inline int begins_mysql(struct ks_scratch *s, u64 bytes, u64 at, u64 length)
{
	u64 size = bytes & 0xffffff, kind = bytes >> 32 & 0xff;

	if (length != s->op.ret)
		return 0;
	if (size == 1 && length >= 16 && (bytes & 0xff000000) == 0x1000000)
		return KS_UREAD(u64, at + 5) >> 16 == MYSQL_COLUMN;
	if (size != length - MYSQL_PACKET)
		return 0;
	if (bytes >> 24 & 0xff)
		return (bytes >> 24 & 0xff) == 1 && size >= 7 && (kind == 0 || kind == 0xff);
	return begins_mysql_body(bytes >> 32, size);
}

#define MONGO_HEADER 16 /* bytes before each message of MongoDB: its length, two numbers, what it is */
#define MONGO_MOST 48000000
#define MONGO_MSG 2013
#define MONGO_QUERY 2004 /* of old; drivers greet by it */

static __always_inline int begins_mongodb(struct ks_scratch *s, u64 bytes, u64 at)
{
	u32 size = bytes, kind;

	if (size <= MONGO_HEADER || size > MONGO_MOST)
		return 0;
	kind = KS_UREAD(u32, at + 12);
	return kind == MONGO_MSG || kind == MONGO_QUERY;
}

#define KAFKA_HEADER                                                                                                   \
	14 /* bytes that each request of Kafka begins with: its length, and what begins_kafka_header reads */
#define KAFKA_LENGTH 4
#define KAFKA_LEAST 10 /* that a length says, and that it may say: socket.request.max.bytes */
#define KAFKA_MOST 104857600
#define KAFKA_KEYS 100 /* of requests, and versions of one; there are 93, and 19 */
#define KAFKA_VERSIONS 24
#define KAFKA_CLIENT_ID 255

/*
 * What follows a request's length: key, version, number, and the client's name behind its length, which is -1 where it
 * has none. An empty one would be ZooKeeper's request as well.
 */
static __always_inline int begins_kafka_header(struct ks_scratch *s, u64 at)
{
	u64 head = KS_UREAD(u64, at);
	u32 client = KS_UREAD(u32, at + 8), first = client >> 16 & 0xff;
	u16 key = __builtin_bswap16(head), version = __builtin_bswap16(head >> 16), size = __builtin_bswap16(client);

	if (key >= KAFKA_KEYS || version >= KAFKA_VERSIONS || head >> 32 & 0x80)
		return 0;
	return size == 0xffff || (size && size <= KAFKA_CLIENT_ID && first > ' ' && first < 0x7f);
}

/*
 * A request of Kafka is the whole of a call, or the beginning of what is produced (key 0). Its length may have been read
 * alone (`alone`), or be a part of its own: `next`. See "Kafka protocol guide" of Kafka's documentation.
 */
static __always_inline int begins_kafka(struct ks_scratch *s, u64 bytes, u64 at, u64 next, u64 length, u32 alone)
{
	u32 size = __builtin_bswap32(bytes);
	u64 left = s->op.ret - KAFKA_LENGTH;

	if (alone && alone == s->op.ret)
		return begins_kafka_header(s, at);
	if (s->op.ret < KAFKA_HEADER || size < KAFKA_LEAST || size > KAFKA_MOST || size < left)
		return 0;
	at = length == KAFKA_LENGTH ? next : at + KAFKA_LENGTH;
	return (size == left || !KS_UREAD(u16, at)) && begins_kafka_header(s, at);
}

#define TLS_HEADER 5 /* bytes of a record's header, which may be read alone */
#define TLS_SENT 1 /* in `expected`: the client's hello was sent; else received */
#define TLS_ANSWERS 2 /* the header of what answers it was read alone */

/* A client's hello: a record of a handshake (0x16), of SSL 3 to TLS 1.3, whose first message is of type 1. RFC 8446, 5.1. */
static __always_inline int begins_client_hello(u64 bytes, u64 length)
{
	if ((u16)bytes != 0x0316 || (bytes >> 16 & 0xff) > 4)
		return 0;
	return length == TLS_HEADER || (length >= 8 && (bytes >> 40 & 0xff) == 1);
}

/*
 * A connection of PostgreSQL or MySQL that has asked for TLS goes on as one: a handshake's record begins with 0x16, 3. A
 * packet of MySQL may too; but what follows a record's header is as long as that says, or read by another call.
 */
static __always_inline int begins_tls(struct ks_scratch *s, u32 protocol)
{
	u64 bytes;

	if (!KS_LOAD(s->walk.count) || KS_LOAD(s->walk.found[0]) || s->op.ret < TLS_HEADER)
		return 0;
	bytes = KS_UREAD(u64, s->call.args[1]);
	if ((u16)bytes != 0x0316)
		return 0;
	return protocol == KS_PROTOCOL_POSTGRESQL || s->op.ret == TLS_HEADER ||
	       __builtin_bswap16(bytes >> 24) + TLS_HEADER == s->op.ret;
}

#define DNS_LEAST 17 /* a head of 12 bytes, the root's name, a type and a class: RFC 1035, 4.1 */
#define DNS_ONE_QUESTION 0x0100 /* QDCOUNT, in this machine's order */
#define DNS_ANSWER 0x8000 /* of the head's flags, in the wire's order: QR */
#define DNS_NOT_ANSWER 0x7840 /* an opcode that is not QUERY, or the reserved bit */
#define DNS_QUESTION 0x0130 /* what a question may have set: RD, AD, CD */
#define DNS_MORE 2 /* records that a question may bring with it: OPT, TSIG */
#define DNS_LENGTH 0x80000000 /* in `expected`: what was read alone is a length */

/* A message of DNS: of a question all is known but its number and some flags, of an answer less. */
static __always_inline int begins_dns(struct ks_scratch *s, u64 at, u64 length)
{
	u64 head = KS_UREAD(u64, at);
	u32 more = KS_UREAD(u32, at + 8);
	u16 flags = __builtin_bswap16(head >> 16);

	if (length < DNS_LEAST || (head >> 32 & 0xffff) != DNS_ONE_QUESTION)
		return 0;
	if (flags & DNS_ANSWER)
		return !(flags & DNS_NOT_ANSWER);
	return !(flags & ~DNS_QUESTION) && !(head >> 48) && !(more & 0xffff) &&
	       __builtin_bswap16(more >> 16) <= DNS_MORE;
}

/* The same on a stream, where its length comes before it, by the same call or alone by the one before. */
static __always_inline int begins_dns_stream(struct ks_scratch *s, u64 bytes, u64 at, u64 length, u32 expected)
{
	if (expected & DNS_LENGTH)
		return (expected & 0xffff) <= length && begins_dns(s, at, length);
	return __builtin_bswap16(bytes) <= length - 2 && begins_dns(s, at + 2, __builtin_bswap16(bytes));
}
