// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * Network: what a process does to sockets.
 *
 *   enter:  wanted? the descriptor a socket? : remember
 *   exit:   filters -> both ends -> port filter -> rate limit -> walk -> record
 *
 * Resolve is the time from a question sent to port 53 to its answer, received on the same socket by the same thread; the
 * send and the receive are reported as such only to a profile that wants them.
 */
#include "calls.h"
#include "sock.h"

/* roles: descriptor is argument 0 throughout */
#define SIZE(n) (1 + (n))
#define ADDRESS(n) ((1 + (n)) << 4) /* socket address in argument n, its length in the next */
#define ACCEPTS (1 << 8) /* the result is the socket */
#define SENDS (1 << 9)
#define RECEIVES (1 << 10)
#define MESSAGE (1 << 11) /* argument 1 is a struct msghdr */
#define AT_ENTRY (1 << 12) /* the socket is gone at return */
#define TOLD (1 << 13) /* the address is the kernel's to fill; the argument after it points to its length */
#define MANY (1 << 14) /* argument 1 is an array of struct mmsghdr, the result their number */
#define HAS_ADDRESS 0xf0

#define KS_SYSCALLS(X)                                                                                                 \
	X(connect, Connect, ADDRESS(1))                                                                                \
	X(accept, Accept, ACCEPTS)                                                                                     \
	X(accept4, Accept, ACCEPTS)                                                                                    \
	X(sendto, Send, SENDS | SIZE(2) | ADDRESS(4))                                                                  \
	X(sendmsg, Send, SENDS | MESSAGE)                                                                              \
	X(sendmmsg, Send, SENDS | MESSAGE | MANY)                                                                      \
	X(write, Send, SENDS | SIZE(2))                                                                                \
	X(writev, Send, SENDS)                                                                                         \
	X(sendfile, Send, SENDS | SIZE(3))                                                                             \
	X(recvfrom, Receive, RECEIVES | SIZE(2) | ADDRESS(4) | TOLD)                                                   \
	X(recvmsg, Receive, RECEIVES | MESSAGE)                                                                        \
	X(recvmmsg, Receive, RECEIVES | MESSAGE | MANY)                                                                \
	X(read, Receive, RECEIVES | SIZE(2))                                                                           \
	X(readv, Receive, RECEIVES)                                                                                    \
	X(close, Close, AT_ENTRY)

#include "syscalls.h"

#define DNS_PORT 53
#define PROTOCOL_TCP 6
#define PROTOCOL_UDP 17
#define MAX_MESSAGES 32 /* that are summed up */
#define MMSGHDR 64 /* struct mmsghdr: a struct msghdr, the bytes that were sent or received */

#define QUESTION_WORDS 8 /* of a question that tell it from another; it has two at least */
#define QUESTION_STAYS 60000000000ULL /* ns: sent again within it is the same question, else another one */

struct question {
	u64 start; /* 0: none */
	u64 what; /* a hash of its beginning and of who is asked; the last 16 bits are its number, which the answer repeats */
};

/* The last two that are open on a socket: glibc asks for both families at once. */
struct questions {
	u64 who; /* has asked */
	struct question last[2];
};

BPF_TABLE("lru_hash", u64, struct questions, ks_questions, 4096); /* by the socket and its inode's number */

static __always_inline int wanted_port(struct ks_class *c, struct ks_op *op)
{
	if (!c->port_count)
		return 1;
	for (u32 i = 0; i < KS_MAX_PORTS; i++) {
		u16 port = KS_LOAD(c->ports[i]); /* at a fixed place, and not by a pointer that clang moves on */

		if (i >= KS_LOAD(c->port_count))
			break;
		if (port == op->peer_port || port == op->local_port)
			return 1;
	}
	return 0;
}

/* Talk with a name server, or with nobody yet. */
static __always_inline u32 may_be_dns(u64 sk)
{
	u16 port = __builtin_bswap16(KS_KREAD(u16, sk + KS_SOCK_DPORT));

	return port == DNS_PORT || (!port && KS_KREAD(u16, sk + KS_SOCK_PROTOCOL) == PROTOCOL_UDP);
}

int ks_net_enter(struct ks_sys_enter *ctx)
{
	s32 nr;
	u64 id = ks_ids();
	u32 tgid = id >> 32, op, roles = 0, dns = 0;
	struct ks_proc is, *p = ks_wanted(tgid, &is);
	struct ks_args args = {};
	struct ks_class *c;
	u64 file, sk;

	if (!p)
		return 0;
	nr = ks_nr(ctx);
	if (nr == __NR_restart_syscall) {
		ks_resume();
		return 0;
	}
	op = ks_describe(nr, &roles);
	if (!op)
		return ks_next_enter(ctx, KS_GROUP_NETWORK);
	c = ks_wants(p, op);
	if (!c && !(roles & (SENDS | RECEIVES) && ks_wants(p, KS_OP_Resolve)))
		return ks_next_enter(ctx, KS_GROUP_NETWORK);
	ks_args(ctx, &args);
	file = ks_file(args.v[0]);
	sk = file ? ks_sock(file) : 0;
	if (!sk)
		return ks_next_enter(ctx, KS_GROUP_NETWORK);
	if (roles & (SENDS | RECEIVES) && ks_wants(p, KS_OP_Resolve))
		dns = may_be_dns(sk);
	if (!c && !dns) /* only Resolve is wanted */
		return 0;
	/* what may be half of a name resolution is not thrown away: it may be no operation by itself */
	if (!ks_enter(KS_THREAD(id), nr, &args, p, dns ? 0 : c, KS_GROUP_NETWORK, op, file, ks_inode(file), dns))
		return 0;
	if (roles & AT_ENTRY) {
		struct ks_scratch *s = ks_scratch(KS_SCRATCH_ENTER(KS_GROUP_NETWORK));
		u32 tid = KS_THREAD(id);

		if (!s)
			return 0;
		ks_begin(s, p->start, p->cls, id, op, 0);
		s->op.fd = args.v[0];
		ks_describe_sock(s, sk);
		ks_kept_still(tid);
		ks_stash.update(&tid, &s->op);
	}
	return 0;
}

/*
 * Where a message of DNS begins, the `nth` of those that the call moved; 0: in none of its buffers. On a stream a length goes
 * before it, or has gone by a call of its own.
 */
static __always_inline u64 message_at(struct ks_scratch *s, struct ks_call *call, u32 roles, u32 nth)
{
	u64 at = call->args[1], parts = 0;

	if (roles & MESSAGE)
		parts = KS_UREAD(u64, at + nth * MMSGHDR + 16);
	else if (!(roles & 15))
		parts = at;
	else if ((roles & 15) != SIZE(2)) /* sendfile */
		return 0;
	if (parts)
		at = KS_UREAD(u64, parts);
	if (s->op.protocol != PROTOCOL_TCP)
		return at;
	if (s->op.ret == 2)
		return 0;
	if (__builtin_bswap16(KS_UREAD(u16, at)) + 2 != s->op.ret)
		return at;
	return parts && KS_UREAD(u64, parts + 8) == 2 ? KS_UREAD(u64, parts + 16) : at + 2;
}

static __always_inline void asks(struct ks_scratch *s, struct ks_call *call, u64 key, u64 who, u64 at)
{
	struct questions *open = ks_questions.lookup(&key), now = {};
	u64 *whom = (u64 *)s->op.peer_address, what = ks_hash2(whom[0], whom[1]);

	__builtin_memset(s->words, 0, QUESTION_WORDS * 8);
	if (!at || ks_read_user(s->words, 16, (void *)at))
		return;
	ks_read_user(s->words + 2, QUESTION_WORDS * 8 - 16, (void *)(at + 16)); /* or as much as can be read at once */
#pragma unroll
	for (u32 i = 0; i < QUESTION_WORDS; i++)
		what = ks_mix(what, s->words[i]);
	what = (what & ~0xffffULL) | (u16)s->words[0];
	now.who = who;
	now.last[0].start = call->start;
	now.last[0].what = what;
	if (open && open->who == who) {
#pragma unroll
		for (u32 i = 0; i < 2; i++) {
			if (open->last[i].what == what && call->start - open->last[i].start < QUESTION_STAYS)
				return;
		}
		now.last[1] = open->last[0];
	}
	ks_questions.update(&key, &now);
}

/* When the question began that this answers; 0: it is nobody's that is known. */
static __always_inline u64 asked_at(struct questions *open, u64 at)
{
	u16 number;

	if (!at || ks_read_user(&number, 2, (void *)at))
		return 0;
	if (open->last[0].start && (u16)open->last[0].what == number)
		return open->last[0].start;
	return (u16)open->last[1].what == number ? open->last[1].start : 0;
}

/* Questions go out, or answers come in: gives 1 when s->op has become a finished Resolve. `messages`: how many, of MANY. */
static __always_inline int resolve(struct ks_scratch *s, struct ks_call *call, u32 roles, u64 sk, s64 messages)
{
	struct questions *open;
	u64 key, who, start;

	if (!sk || !(roles & (SENDS | RECEIVES)) || s->op.peer_port != DNS_PORT || s->op.ret <= 0)
		return 0;
	key = ks_mix(ks_mix(0, sk), KS_KREAD(u64, call->inode + KS_INODE_INO));
	who = ks_hash2(s->proc_start, s->op.tid);
	if (roles & SENDS) {
		asks(s, call, key, who, message_at(s, call, roles, 0));
		if (roles & MANY && messages > 1)
			asks(s, call, key, who, message_at(s, call, roles, 1));
		return 0;
	}
	open = ks_questions.lookup(&key);
	if (!open || open->who != who)
		return 0;
	start = asked_at(open, message_at(s, call, roles, 0));
	if (!start)
		return 0;
	s->op.start = start;
	s->op.op = KS_OP_Resolve;
	ks_questions.delete(&key);
	return 1;
}

/* Of several messages the result is their number: adds up their bytes. Gives 1 if they all have one address. */
static __always_inline int sum_up(struct ks_scratch *s, u64 messages)
{
	struct ks_walk *w = &s->walk;

	w->count = s->op.ret;
	w->state = w->count > MAX_MESSAGES;
	w->length = 0;
	w->found[0] = KS_UREAD(u64, messages);
	w->found[1] = 0;
	for (u32 i = 0; i < MAX_MESSAGES; i++) {
		if (i >= KS_LOAD(w->count))
			break;
		if (ks_read_user(s->words, MMSGHDR, (void *)(messages + i * MMSGHDR)))
			w->state = 1;
		if (s->words[0] != KS_LOAD(w->found[0]))
			w->found[1] = 1;
		w->length = KS_LOAD(w->length) + (u32)s->words[MMSGHDR / 8 - 1];
	}
	s->op.ret = KS_LOAD(w->length);
	if (KS_LOAD(w->state))
		s->op.flags |= KS_OP_NO_RESULT;
	return !KS_LOAD(w->state) && !KS_LOAD(w->found[1]);
}

/* The peer by the address that the call names, or is told. Of a stream it is who it is connected to. */
static __always_inline void describe_peer(struct ks_scratch *s, struct ks_call *call, u32 roles)
{
	int known = s->op.peer_port || s->op.path;
	u64 address = 0;
	u32 length = 0;

	if (roles & RECEIVES ? known || s->op.ret < 0 : roles & SENDS && known && s->op.protocol == PROTOCOL_TCP)
		return;
	if (roles & MESSAGE) {
		address = KS_UREAD(u64, call->args[1]);
		length = KS_UREAD(u32, call->args[1] + 8);
	} else if ((roles & HAS_ADDRESS) == ADDRESS(1)) {
		address = call->args[1];
		length = call->args[2];
	} else if ((roles & HAS_ADDRESS) == ADDRESS(4)) {
		address = call->args[4];
		length = roles & TOLD ? KS_UREAD(u32, call->args[5]) : call->args[5];
	}
	ks_describe_address(s, address, length);
}

/* A call whose entry the kernel kept to itself: what follows a receive is not for what the thread had received before. */
static __always_inline void unseen_move(struct ks_sys_exit *ctx, u64 id, struct ks_call *call)
{
#if KS_REGISTERS
	u32 tgid = id >> 32, roles = 0;
	struct ks_proc *p;
	struct ks_class *c;
	u64 file;

	if (call->op)
		return;
	if (!ks_describe(ks_exit_nr(ctx), &roles) || !(roles & (SENDS | RECEIVES)))
		return;
	p = ks_procs.lookup(&tgid);
	c = p ? ks_classes.lookup(&p->cls) : 0;
	if (!c || !(c->flags & KS_CLASS_REQUESTS))
		return;
	file = ks_file(KS_KREAD(u64, ctx->regs + KS_REGS_R10 + 7 * 8)); /* di: see ks_args */
	if (!file || !ks_sock(file))
		return;
	if (roles & RECEIVES)
		call->received = 0;
	ks_lose();
#endif
}

int ks_net_exit(struct ks_sys_exit *ctx)
{
	u64 id = ks_ids();
	u32 wanted = 0, roles = 0, tid = KS_THREAD(id), n;
	struct ks_call *own = ks_returning(id, &wanted), *call;
	struct ks_class *c = 0;
	struct ks_scratch *s;
	struct ks_op *early;
	u64 file, sk = 0;

	if (!wanted)
		return 0;
	if (!own)
		return ks_next_exit(ctx, KS_GROUP_NETWORK);
	if (!ks_in_own_call(own, KS_GROUP_NETWORK)) {
		unseen_move(ctx, id, own);
		return ks_next_exit(ctx, KS_GROUP_NETWORK);
	}
	KS_OPAQUE(own);
	s = ks_exit(ctx, id, own, KS_GROUP_NETWORK, &c);
	if (!s) {
		early = ks_stash.lookup(&tid);
		if (early && early->op == KS_OP_Close && !own->op)
			ks_stash.delete(&tid);
		return 0;
	}
	call = &s->call;
	ks_describe(call->nr, &s->roles);
	roles = s->roles;
	s->op.fd = call->args[0];
	if (roles & 15) {
		n = (roles & 15) - 1;
		ks_argument(s, n == 2 ? call->args[2] : call->args[3]);
	}
	if (roles & AT_ENTRY) {
		early = ks_stash.lookup(&tid);
		if (early && early->op == KS_OP_Close) {
			s->op.family = early->family;
			s->op.protocol = early->protocol;
			s->op.local_port = early->local_port;
			s->op.peer_port = early->peer_port;
			s->op.path = early->path;
			s->op.path2 = early->path2;
			__builtin_memcpy(s->op.local_address, early->local_address, 32);
			ks_stash.delete(&tid);
		}
	} else if (roles & ACCEPTS && ctx->ret >= 0) {
		s->op.fd = ctx->ret;
		file = ks_file(ctx->ret);
		sk = file ? ks_sock(file) : 0;
	} else if (ks_same_file(call, call->args[0])) {
		sk = ks_sock(call->file);
	}
	if (sk)
		ks_describe_sock(s, sk);
	n = 1;
	if (roles & MANY && ctx->ret > 0)
		n = sum_up(s, call->args[1]) && (roles & SENDS || ctx->ret == 1);
	if (n && roles & (MESSAGE | HAS_ADDRESS))
		describe_peer(s, call, roles);
	if (resolve(s, call, roles, sk, ctx->ret) && ks_class_wants(c, KS_OP_Resolve)) {
		s->op.flags |= KS_OP_NO_RESULT;
	} else if (call->dns && !ks_class_wants(c, call->op)) {
		ks_count(s->op.cls, KS_C_UNSEEN); /* one half of a name resolution that is not finished */
		return 0;
	} else {
		s->op.op = call->op;
		s->op.start = call->start;
	}
	if (call->dns && s->op.time - s->op.start < c->min_duration_ns[KS_GROUP_NETWORK]) {
		ks_count(s->op.cls, KS_C_FILTERED);
		return 0;
	}
	if (!wanted_port(c, &s->op)) {
		ks_count(s->op.cls, KS_C_FILTERED);
		return 0;
	}
	if (ks_rate_limited(c, s->op.cls, s->op.time)) {
		ks_count(s->op.cls, KS_C_RATE_LIMITED);
		if (ks_moves(call->op))
			ks_lose();
		return 0;
	}
	if (c->flags & KS_CLASS_REQUESTS && roles & (SENDS | RECEIVES) && sk && ctx->ret > 0 &&
	    (s->op.protocol == PROTOCOL_TCP || s->op.family == KS_AF_UNIX ||
	     (s->op.protocol == PROTOCOL_UDP && c->flags >> KS_CLASS_PROTOCOLS_AT >> KS_PROTOCOL_DNS & 1))) {
		s->walking = tid;
		ks_continue(ctx, KS_REQUESTS_PLACE); /* requests.bpf.c, which goes on as this does */
		ks_lose();
	}
	ks_walk(ctx, s, c);
	return 0;
}
