/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * HTTP/2: a connection's frames without the bodies in them.
 *
 * Headers lie anywhere between bodies, and one that is not seen makes all that follow on the connection unreadable. So where
 * a frame begins is kept for both directions of a connection, what a DATA frame carries is stepped over, and the rest is
 * copied. The place is lost where a call was not seen, has more frames than we follow, or is no such frame; it is found
 * again where a call begins with one that can be nothing else. See RFC 9113, 4.1.
 */
#pragma once
#include "user.h"

#define HTTP2_DATA 0
#define HTTP2_HEADERS 1
#define HTTP2_RST_STREAM 3
#define HTTP2_SETTINGS 4
#define HTTP2_PING 6
#define HTTP2_WINDOW_UPDATE 8
#define HTTP2_TYPES 10
#define HTTP2_FLAGS 0x2d /* that HEADERS may have: END_STREAM, END_HEADERS, PADDED, PRIORITY */
#define HTTP2_END_HEADERS 4
#define HTTP2_ACK 1
#define HTTP2_FRAME 9 /* bytes of a frame's header */
#define HTTP2_PREFACE 24
#define HTTP2_PREFACE_WORD 0x20495250 /* "PRI " */
#define HTTP2_STEPS 112 /* of one call: parts, headers and payloads, or two short frames */
#define HTTP2_PIECE 1024 /* bytes of a payload that are copied in a step; a power of two */
#define HTTP2_MOST 7168 /* bytes of a call that are copied */

/* One direction. */
struct http2_side {
	u32 known; /* whether the place is */
	u32 next; /* of TCP's numbers: of the byte that this is about */
	u32 left; /* of the payload that is on its way */
	u32 body; /* which is a body's */
	u32 have; /* bytes of the next frame's header that have come */
	u32 reserved;
	u8 head[32]; /* they: at most 9, and room for the verifier */
};

BPF_TABLE("lru_hash", u64, struct http2_side, ks_http2, KS_MAX_HTTP2);

/* Of a frame's first eight bytes. */
static __always_inline u32 http2_length(u64 bytes)
{
	return (bytes & 0xff) << 16 | (bytes >> 8 & 0xff) << 8 | (bytes >> 16 & 0xff);
}

/* All of a frame that has no body: it is copied in one step, as there may be hundreds of them; 0: it has one. */
static __always_inline u32 http2_whole(u64 bytes)
{
	u32 size = http2_length(bytes), kind = bytes >> 24 & 0xff;

	return kind < HTTP2_TYPES && (kind != HTTP2_DATA || !size) ? HTTP2_FRAME + size : 0;
}

/* Whether they begin the whole headers of a stream. */
static __always_inline int http2_headers(u64 bytes, u64 length)
{
	u32 size = http2_length(bytes), flags = bytes >> 32 & 0xff;

	return (bytes >> 24 & 0xff) == HTTP2_HEADERS && size && size < 1 << 16 && size + HTTP2_FRAME <= length &&
	       flags & HTTP2_END_HEADERS && !(flags & ~HTTP2_FLAGS) && !(bytes >> 40 & 0x80);
}

/* Whether a frame is certain to begin with them. */
static __always_inline int http2_begins(u64 bytes, u64 length)
{
	u32 size = http2_length(bytes), flags = bytes >> 32 & 0xff, stream = bytes >> 40;

	switch (bytes >> 24 & 0xff) {
	case HTTP2_HEADERS:
		return http2_headers(bytes, length);
	case HTTP2_RST_STREAM:
	case HTTP2_WINDOW_UPDATE:
		return size == 4 && !flags && !(stream & 0x80);
	case HTTP2_SETTINGS:
		return size < 256 && size % 6 == 0 && !(flags & ~HTTP2_ACK) && !stream;
	case HTTP2_PING:
		return size == 8 && !(flags & ~HTTP2_ACK) && !stream;
	}
	return 0;
}

/* Finds the place at the beginning of a call, if it is not known; gives whether it is. */
static __always_inline int http2_find(struct http2_side *side, struct ks_scratch *s, u64 bytes)
{
	u32 is_preface = (u32)bytes == HTTP2_PREFACE_WORD;

	if (is_preface || (!side->known && http2_begins(bytes, s->op.ret))) {
		side->known = 1;
		side->left = is_preface ? HTTP2_PREFACE : 0;
		side->body = side->have = 0;
	}
	return side->known;
}

/* The first bytes of a call. */
static __always_inline u64 first_word(struct ks_scratch *s)
{
	struct ks_walk *w = &s->walk;
	u64 at = KS_LOAD(w->at), length = s->op.ret;

	if (KS_LOAD(w->found[0])) {
		u64 part = KS_UREAD(u64, KS_LOAD(w->found[0]) + 8);

		at = KS_UREAD(u64, KS_LOAD(w->found[0]));
		if (length > part)
			length = part;
	}
	return KS_LOAD(w->count) && length >= 8 ? KS_UREAD(u64, at) : ~0ULL;
}

/* A direction of a connection of HTTP/2, with its place at the beginning of the call if it is known; 0: it is not. */
static __always_inline struct http2_side *http2_side(struct ks_scratch *s, u64 id, u32 is_sent, u32 flags)
{
	struct ks_bytes_rec *r = &s->bytes.header;
	struct http2_side *side, none = {};
	u64 key = (id & ~1ULL) | is_sent;

	side = ks_http2.lookup(&key);
	if (!side) {
		ks_http2.update(&key, &none);
		side = ks_http2.lookup(&key);
		if (!side)
			return 0;
	}
	if (flags & KS_BYTES_PLACED && side->next != r->position - (u32)s->op.ret)
		side->known = 0;
	side->next = r->position;
	return http2_find(side, s, first_word(s)) ? side : 0;
}

/* The header that has come in whole: what follows it. */
static __always_inline void http2_header(struct http2_side *side)
{
	u32 size = http2_length(*(u64 *)side->head), kind = side->head[3];

	side->have = 0;
	side->left = size;
	side->body = kind == HTTP2_DATA;
	if (kind >= HTTP2_TYPES)
		side->known = 0;
}

/*
 * Copies what a call moved but for bodies; gives how much. The parts of the call are as parts_of has found them.
 */
static __always_inline u32 http2_copy(struct ks_scratch *s, struct http2_side *side, u8 *to)
{
	struct ks_walk *w = &s->walk;

	w->state = 0;
	w->hash = s->op.ret; /* what is left */
	w->root = 0; /* the next part */
	if (w->found[0])
		w->length = 0;
	for (u32 i = 0; i < HTTP2_STEPS; i++) {
		u64 size = KS_LOAD(w->length), at = KS_LOAD(w->state), have = KS_LOAD(side->have);
		u32 left = KS_LOAD(side->left), is_header = !left;

		if (!KS_LOAD(w->hash) || !KS_LOAD(side->known))
			break;
		if (!size) {
			u64 part = KS_LOAD(w->root);

			if (part >= KS_LOAD(w->count))
				break;
			w->at = KS_UREAD(u64, KS_LOAD(w->found[0]) + 16 * part);
			w->length = KS_UREAD(u64, KS_LOAD(w->found[0]) + 16 * part + 8);
			w->root = part + 1;
		} else {
			u32 is_copied = is_header || !KS_LOAD(side->body);
			u32 whole = 0;

			if (size > KS_LOAD(w->hash))
				size = KS_LOAD(w->hash);
			if (is_header && !have && size >= HTTP2_FRAME)
				whole = http2_whole(KS_UREAD(u64, KS_LOAD(w->at)));
			if (whole) {
				is_header = 0;
				left = whole;
				if (size >= left + HTTP2_FRAME) { /* with the next one, if that is short enough */
					whole = http2_whole(KS_UREAD(u64, KS_LOAD(w->at) + left));
					if (whole <= size - left)
						left += whole;
				}
				side->left = left;
				side->body = 0;
			}
			if (is_header)
				left = HTTP2_FRAME - have;
			if (size > left)
				size = left;
			if (is_copied) {
				if (size > HTTP2_PIECE)
					size = HTTP2_PIECE;
				KS_OPAQUE(size);
				KS_OPAQUE(at);
				if (size > HTTP2_PIECE || at > HTTP2_MOST - HTTP2_PIECE ||
				    ks_read_user(to + at, size, (void *)KS_LOAD(w->at))) {
					side->known = 0;
					break;
				}
				w->state = at + size;
			}
			w->at = KS_LOAD(w->at) + size;
			w->length = KS_LOAD(w->length) - size;
			w->hash = KS_LOAD(w->hash) - size;
			if (is_header) {
				KS_OPAQUE(have);
				KS_OPAQUE(size);
				have &= 15;
				size &= 15;
				ks_read_user(side->head + have, size, (void *)(KS_LOAD(w->at) - size));
				side->have = have + size;
				if (have + size >= HTTP2_FRAME)
					http2_header(side);
			} else {
				side->left = left - size;
			}
		}
	}
	if (KS_LOAD(w->hash))
		side->known = 0;
	return KS_LOAD(w->state);
}
