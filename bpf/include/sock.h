/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Sockets: who talks to whom, from the kernel's own socket, or from the address that a call names. */
#pragma once
#include "path.h"

#define KS_UNIX_NAME 112 /* sun_path and a NUL, in whole words */
#define KS_AF_UNIX 1
#define KS_AF_INET 2
#define KS_AF_INET6 10

/* The struct sock behind a struct file that is a socket; 0: none. */
static __always_inline u64 ks_sock(u64 file)
{
	u64 inode = ks_inode(file);

	if ((ks_mode(inode) & 0170000) != 0140000)
		return 0;
	return KS_KREAD(u64, KS_KREAD(u64, file + KS_FILE_PRIVATE) + KS_SOCKET_SK);
}

/* The name of a unix socket, interned like a path; abstract names keep their leading NUL. */
static __always_inline u64 ks_unix_name(struct ks_scratch *s, u64 sk)
{
	u64 address = KS_KREAD(u64, sk + KS_UNIX_ADDR);
	s32 length;

	if (!address)
		return 0;
	length = KS_KREAD(s32, address + KS_UNIX_ADDRESS_LEN) - 2;
	if (length <= 0 || length > 108)
		return 0;
	KS_OPAQUE(length);
	length &= 127;
	if (ks_read_kernel(s->path.bytes, length, (void *)(address + KS_UNIX_ADDRESS_NAME + 2)))
		return 0;
	return ks_bytes_id(s, length, KS_UNIX_NAME, 0);
}

static __always_inline void ks_describe_sock(struct ks_scratch *s, u64 sk)
{
	struct ks_op *op = &s->op;

	op->family = KS_KREAD(u16, sk + KS_SOCK_FAMILY);
	op->protocol = KS_KREAD(u16, sk + KS_SOCK_PROTOCOL);
	if (op->family == KS_AF_UNIX) {
		u64 peer = KS_KREAD(u64, sk + KS_UNIX_PEER);

		if (peer)
			op->path = ks_unix_name(s, peer);
		if (!op->path)
			op->path2 = ks_unix_name(s, sk);
		return;
	}
	if (op->family != KS_AF_INET && op->family != KS_AF_INET6)
		return;
	op->local_port = KS_KREAD(u16, sk + KS_SOCK_NUM);
	op->peer_port = __builtin_bswap16(KS_KREAD(u16, sk + KS_SOCK_DPORT));
	if (op->family == KS_AF_INET) {
		*(u32 *)op->peer_address = KS_KREAD(u32, sk + KS_SOCK_DADDR);
		*(u32 *)op->local_address = KS_KREAD(u32, sk + KS_SOCK_RCV_SADDR);
	} else {
		((u64 *)op->peer_address)[0] = KS_KREAD(u64, sk + KS_SOCK_V6_DADDR);
		((u64 *)op->peer_address)[1] = KS_KREAD(u64, sk + KS_SOCK_V6_DADDR + 8);
		((u64 *)op->local_address)[0] = KS_KREAD(u64, sk + KS_SOCK_V6_RCV_SADDR);
		((u64 *)op->local_address)[1] = KS_KREAD(u64, sk + KS_SOCK_V6_RCV_SADDR + 8);
	}
}

/* The address that a call names itself (connect, sendto): it is the peer whatever became of the socket. */
static __always_inline void ks_describe_address(struct ks_scratch *s, u64 address, u32 length)
{
	struct ks_op *op = &s->op;
	u16 family = 0;

	if (!address || length < 2 || ks_read_user(&family, 2, (void *)address))
		return;
	if (family == KS_AF_INET && length >= 8) {
		op->family = family;
		op->peer_port = __builtin_bswap16(KS_UREAD(u16, address + 2));
		__builtin_memset(op->peer_address, 0, 16);
		ks_read_user(op->peer_address, 4, (void *)(address + 4));
	} else if (family == KS_AF_INET6 && length >= 24) {
		op->family = family;
		op->peer_port = __builtin_bswap16(KS_UREAD(u16, address + 2));
		ks_read_user(op->peer_address, 16, (void *)(address + 8));
	} else if (family == KS_AF_UNIX && length > 2) {
		u32 size = length - 2;

		op->family = family;
		KS_OPAQUE(size);
		size &= 127;
		if (size > 108)
			size = 108;
		if (!ks_read_user(s->path.bytes, size, (void *)(address + 2))) {
			/* the terminating NUL of a path, which a program may or may not count */
			if (size > 1 && s->path.bytes[0]) {
				long n = ks_read_user_str(s->path.bytes, size + 1, (void *)(address + 2));

				if (n > 0 && n <= 109)
					size = n;
			}
			op->path = ks_bytes_id(s, size, KS_UNIX_NAME, 0);
		}
	}
}
