/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * One of the user's own probes: probes/own/codegen.py generates a program around this, and the maps that are named here.
 *
 *   enter:  wanted process? wanted probe? -> arguments -> conditions -> remembered by stack frame, and by thread or process
 *   exit:   take it out -> filters -> rate limits -> arguments (a record) -> walk, where frames are true -> operation
 *   event:  both in one
 *
 * What a call is known by is the address of its stack frame, with its thread (of user functions: its process, since a coroutine
 * may go on in another thread), so calls inside calls of the same function pair rightly, and one that is left by a jump (longjmp, an exception, the thread's end) can be mistaken for no other: the next
 * call at that place puts it out.
 */
#pragma once
#include "sock.h"
#include "entry.h"
#include "op.h"

struct ks_own_config {
	u64 min_duration_ns, interval_ns, burst_ns;
	u32 number; /* of the probe */
	u32 keep; /* the guard's: of 2^32 hits, how many are not thrown away; all ones: every one */
	u32 scope; /* KS_OWN_SCOPE_* of the rate limit */
	u32 epoch; /* how often it has been taken off: what began before then has ended unseen */
	u64 nothing; /* zero */
};

/* The places of a probe's own scratch: its programs may interrupt one another. */
#define KS_OWN_SCRATCH_ENTER 0
#define KS_OWN_SCRATCH_EXIT 1

enum { KS_OWN_SCOPE_PROCESS, KS_OWN_SCOPE_POD, KS_OWN_SCOPE_NODE };

struct ks_own_key {
	u64 frame; /* of Go: the goroutine */
	u32 thread; /* the kernel's own number; of a user function none: its frame says it; of Go: the frame, from the top of its stack */
	u32 space; /* of user functions: the process */
};

/* Where Go before 1.17 keeps the goroutine that runs: in the thread's own memory (linux/amd64). */
#define KS_OWN_OLD_GOROUTINE KS_UREAD(u64, KS_KREAD(u64, ks_current_task() + KS_TASK_FSBASE) - 8)

/* What is kept of a call between its entry and its return; the generated struct begins with it. */
struct ks_own_call {
	u64 start, image;
	u32 again; /* bits of the arguments that could not be read yet */
	u32 epoch;
	u32 tgid, tid;
	u32 cls;
	u32 groups; /* of the conditions, those that hold so far */
};

/* ctx of the program, by its registers, as an array of words, by its fields */
#define KS_OWN_REGISTER(offset) (*(u64 *)((void *)ctx + (offset)))
#define KS_OWN_WORD(index) (((u64 *)ctx)[index])
#define KS_OWN_FIELD(type, offset)                                                                                     \
	({                                                                                                             \
		type _value = 0;                                                                                       \
		ks_read_kernel(&_value, sizeof(_value), (void *)ctx + (offset));                                       \
		_value;                                                                                                \
	})

BPF_ARRAY(ks_own_config, struct ks_own_config, 1);
BPF_PROG_ARRAY(ks_own_nothing, 1); /* see ks_own_is_task */
BPF_TABLE("lru_hash", u32, u64, ks_own_rates, 4096);

/*
 * What only user space can decide, of a process's image or of a path: a mask of the probe's conditions that can hold still.
 * Until it has decided all can, and it decides about the operation itself.
 */
struct ks_own_question {
	u64 about; /* the image's start, or the path's id */
	u32 number; /* of the probe */
	u32 of; /* the process, with the highest bit; or which argument */
};

#define KS_OWN_IMAGE 0x80000000U

BPF_TABLE("lru_hash", struct ks_own_question, u32, ks_own_verdicts, 16384);

static __always_inline u32 ks_own_verdict(u64 about, u32 number, u32 of)
{
	struct ks_own_question question = {.about = about, .number = number, .of = of};
	u32 *mask = ks_own_verdicts.lookup(&question);

	return mask ? *mask : ~0U;
}

static __always_inline struct ks_own_config *ks_own_config_of(void)
{
	u32 zero = 0;
	struct ks_own_config *config = ks_own_config.lookup(&zero);

	KS_OPAQUE(config);
	return config;
}

/* What the process wants, if this probe is of it. */
static __always_inline struct ks_class *ks_own_wants(struct ks_proc *p, u32 number)
{
	struct ks_class *c = ks_classes.lookup(&p->cls);

	KS_OPAQUE(c);
	if (!c)
		return 0;
	if (!(c->probes[(number >> 6) & (KS_OWN_WORDS - 1)] & (1ULL << (number & 63))))
		return 0;
	KS_OPAQUE(c);
	return c;
}

/*
 * Whether the current task is the one that acts, and not one whose CPU an interrupt has taken, or the work that follows it.
 * One that takes the CPU from the kernel, and what a system call does behind locks that hold interrupts' work back, has a stack of
 * its own (x86_64, but for PREEMPT_RT), and so has the program then. Since 6.13 a program may also be given a stack that is
 * nobody's; not one that makes tail calls. One that takes the CPU from the program itself is on the task's stack, which is empty
 * then; so is a page fault. They are told apart by nothing that lies at a known place: of both, nothing is said.
 */
static __always_inline int ks_own_is_task(void)
{
	volatile u64 here = (u64)&here;
	u64 at = 0;

	ks_read_kernel(&at, sizeof(at),
		       (void *)&here); /* the verifier does not subtract from an address of the stack */
	return at - KS_KREAD(u64, ks_current_task() + KS_TASK_STACK) < KS_THREAD_SIZE && ks_in_system_call();
}

static __always_inline int ks_own_throttled(struct ks_own_config *config)
{
	u32 keep = KS_LOAD(config->keep);

	return keep != ~0U && bpf_get_prandom_u32() >= keep;
}

/* The probe's own limit; the profiles' is ks_rate_limited's. */
static __always_inline int ks_own_rate_limited(struct ks_own_config *config, u32 scope, u64 now)
{
	u64 next, *tat;

	if (!config->interval_ns)
		return 0;
	tat = ks_own_rates.lookup(&scope);
	if (!tat) {
		next = now + config->interval_ns;
		ks_own_rates.update(&scope, &next);
		return 0;
	}
	next = *tat > now ? *tat : now;
	if (next - now + config->interval_ns > config->burst_ns)
		return 1;
	*tat = next + config->interval_ns;
	return 0;
}

static __always_inline void ks_own_header(struct ks_own_rec *r, struct ks_own_call *call, u32 number, u32 count,
					  u32 size, u64 now)
{
	r->kind = KS_KIND_ARGUMENTS;
	r->version = KS_VERSION;
	r->size = size;
	r->time = now;
	r->tgid = call->tgid;
	r->tid = call->tid;
	r->id = ks_mix(ks_hash2(call->start, call->tid), number) | 1;
	r->probe = number;
	r->count = count;
	r->reserved = 0;
}

/*
 * What an address in this process or in the kernel holds: addresses of user space have no high bit. `user` (a constant): the
 * program itself has passed it, and may have passed any: none of the kernel's is read for it.
 */
static __always_inline long ks_own_read(void *to, u64 bytes, u64 address, int user)
{
	return !user && (s64)address < 0 ? ks_read_kernel(to, bytes, (void *)address) :
					   ks_read_user(to, bytes, (void *)address);
}

static __always_inline long ks_own_read_str(void *to, u32 most, u64 address, int user)
{
	return !user && (s64)address < 0 ? ks_read_kernel_str(to, most, (void *)address) :
					   ks_read_user_str(to, most, (void *)address);
}

/*
 * A text that ends with NUL. `most` (a constant): its bytes with the NUL and one more, so that what just fits is told from
 * what is longer.
 */
static __always_inline void ks_own_text(struct ks_own_arg *arg, void *to, u32 most, u64 address, int user)
{
	long n = ks_own_read_str(to, most, address, user);

	arg->value = address;
	arg->length = n == most ? most - 2 : n > 0 ? n - 1 : 0;
	arg->state = n < 0 || !address ? KS_ARGUMENT_UNREADABLE : n == most ? KS_ARGUMENT_CUT : KS_ARGUMENT_WHOLE;
}

/* `length` bytes, of which at most `most` (a constant) are taken: what is read is the 64 bits that were tested, no copy of them. */
static __always_inline void ks_own_bytes(struct ks_own_arg *arg, void *to, u32 most, u64 address, u64 length, int user)
{
	u64 take = length < most ? length : most;

	arg->value = address;
	arg->state = length > most ? KS_ARGUMENT_CUT : KS_ARGUMENT_WHOLE;
	KS_OPAQUE(take);
	if (take > most)
		take = most;
	if (take && (!address || ks_own_read(to, take, address, user))) {
		arg->state = KS_ARGUMENT_UNREADABLE;
		take = 0;
	}
	arg->length = take;
}

/* The first part of an array of struct iovec. */
static __always_inline void ks_own_vector(struct ks_own_arg *arg, void *to, u32 most, u64 address, int user)
{
	u64 part[2] = {};

	if (!address || ks_own_read(part, sizeof(part), address, user)) {
		arg->value = address;
		arg->length = 0;
		arg->state = KS_ARGUMENT_UNREADABLE;
		return;
	}
	ks_own_bytes(arg, to, most, part[0], part[1], user);
}

/* A step of a way along struct members, from what is not 0 or in its page; 0: it is cut. */
static __always_inline u64 ks_own_place_at(u64 base, s64 offset)
{
	return base > 4095 ? base + offset : 0;
}

static __always_inline u64 ks_own_load(u64 *place, u32 bytes, int user)
{
	u64 value = 0;

	if (*place &&
	    (user ? ks_read_user(&value, bytes, (void *)*place) : ks_read_kernel(&value, bytes, (void *)*place))) {
		*place = 0;
		value = 0;
	}
	return value;
}

static __always_inline u64 ks_own_follow(u64 base, s64 offset, int user)
{
	u64 at = ks_own_place_at(base, offset);

	return ks_own_load(&at, 8, user);
}

static __always_inline void ks_own_number(struct ks_own_arg *arg, u64 value)
{
	arg->value = value;
	arg->length = 0;
	arg->state = KS_ARGUMENT_WHOLE;
}

/* The path that a descriptor is open on, by its id; 0: none that has one. */
static __always_inline u64 ks_own_descriptor(struct ks_scratch *s, s32 fd)
{
	u64 file = ks_file(fd), type;

	if (!file)
		return 0;
	type = ks_mode(ks_inode(file)) & 0170000;
	return type == 0140000 || type == 0010000 ? 0 : ks_path_id(s, file + KS_FILE_PATH);
}

struct ks_own_socket {
	u16 family, protocol, local_port, peer_port;
	u8 local[16], peer[16];
};

static __always_inline void ks_own_socket(struct ks_own_arg *arg, struct ks_own_socket *to, u64 sk)
{
	to->family = KS_KREAD(u16, sk + KS_SOCK_FAMILY);
	to->protocol = KS_KREAD(u16, sk + KS_SOCK_PROTOCOL);
	to->local_port = KS_KREAD(u16, sk + KS_SOCK_NUM);
	to->peer_port = __builtin_bswap16(KS_KREAD(u16, sk + KS_SOCK_DPORT));
	__builtin_memset(to->local, 0, 32);
	if (to->family == KS_AF_INET) {
		*(u32 *)to->local = KS_KREAD(u32, sk + KS_SOCK_RCV_SADDR);
		*(u32 *)to->peer = KS_KREAD(u32, sk + KS_SOCK_DADDR);
	} else if (to->family == KS_AF_INET6) {
		((u64 *)to->local)[0] = KS_KREAD(u64, sk + KS_SOCK_V6_RCV_SADDR);
		((u64 *)to->local)[1] = KS_KREAD(u64, sk + KS_SOCK_V6_RCV_SADDR + 8);
		((u64 *)to->peer)[0] = KS_KREAD(u64, sk + KS_SOCK_V6_DADDR);
		((u64 *)to->peer)[1] = KS_KREAD(u64, sk + KS_SOCK_V6_DADDR + 8);
	}
	arg->value = sk;
	arg->length = sizeof(*to);
	arg->state = sk && to->family ? KS_ARGUMENT_WHOLE : KS_ARGUMENT_UNREADABLE;
}

/* A struct sockaddr: as much of it as its family has; of a unix socket's the path. */
static __always_inline void ks_own_address(struct ks_own_arg *arg, u8 *to, u64 address, int user)
{
	u16 family = 0;
	long n = -1;

	arg->value = address;
	arg->length = 0;
	arg->state = KS_ARGUMENT_UNREADABLE;
	if (!address || ks_own_read(&family, 2, address, user))
		return;
	*(u16 *)to = family;
	if (family == KS_AF_INET) {
		n = ks_own_read(to, 16, address, user) ? -1 : 16;
	} else if (family == KS_AF_INET6) {
		n = ks_own_read(to, 28, address, user) ? -1 : 28;
	} else if (family == KS_AF_UNIX) {
		n = ks_own_read_str(to + 2, 109, address + 2, user);
		n = n < 0 ? n : n + 2;
	} else {
		n = 2;
	}
	if (n < 0)
		return;
	arg->length = n;
	arg->state = KS_ARGUMENT_WHOLE;
}

struct ks_own_credentials {
	u32 uid, gid, euid, egid;
	u64 effective;
};

static __always_inline void ks_own_credentials(struct ks_own_arg *arg, struct ks_own_credentials *to, u64 cred)
{
	to->uid = KS_KREAD(u32, cred + KS_CRED_UID);
	to->gid = KS_KREAD(u32, cred + KS_CRED_GID);
	to->euid = KS_KREAD(u32, cred + KS_CRED_EUID);
	to->egid = KS_KREAD(u32, cred + KS_CRED_EGID);
	to->effective = KS_KREAD(u64, cred + KS_CRED_EFFECTIVE);
	arg->value = cred;
	arg->length = sizeof(*to);
	arg->state = cred ? KS_ARGUMENT_WHOLE : KS_ARGUMENT_UNREADABLE;
}

static __always_inline void ks_own_operation(struct ks_op *op, struct ks_own_call *call, u32 number, u64 id, u64 now)
{
	__builtin_memset(op, 0, sizeof(*op));
	op->kind = KS_KIND_OPERATION;
	op->version = KS_VERSION;
	op->size = sizeof(*op);
	op->tgid = call->tgid;
	op->tid = call->tid;
	op->start = call->start;
	op->time = now;
	op->op = KS_OWN_OPERATION + number;
	op->cls = call->cls;
	op->fd = -1;
	op->arg = id;
	op->flags = id ? 0 : KS_OP_NO_ARGUMENT;
	op->lost = ks_lost_so_far(op);
}
