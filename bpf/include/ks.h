/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * What every program shares: records, maps, counters.
 *
 * Each group is compiled on its own; maps of the same name are one map, made by the agent when it loads the programs.
 * Constants in capitals that are defined nowhere here come from the agent as -D (probes/constants.py): offsets of
 * kernel structs from BTF, operation numbers from api/kernelspan_api/operations.py, layouts from ring/records.py.
 */
#pragma once
#include <linux/kconfig.h>

#include "table.h"

/* records: described once in ring/records.py, held against it by static asserts */

struct ks_op {
	u16 kind, version;
	u32 size;
	u64 time;
	u32 tgid, tid;
	u64 start, stack, context, generation, file, path, path2;
	s64 ret;
	u64 arg;
	u16 op, cls;
	s32 fd;
	u8 frame_state, context_kind;
	u16 flags;
	u16 family, local_port, peer_port, protocol;
	u32 lost;
	u8 local_address[16], peer_address[16];
};

struct ks_frame {
	u64 code, pc, globals;
	u32 check;
	u8 owner, runtime;
	u16 tag;
};

struct ks_stack_rec {
	u16 kind, version;
	u32 size;
	u64 time;
	u32 tgid, tid;
	u64 stack;
	u16 count;
	u8 state, runtime;
	u32 layout; /* of the runtime, as in ks_runtime */
	struct ks_frame frames[];
};

struct ks_path_rec {
	u16 kind, version;
	u32 size;
	u64 time;
	u32 tgid, tid;
	u64 file;
	u16 length, count, flags, reserved;
	u8 bytes[];
};

struct ks_proc_rec {
	u16 kind, version;
	u32 size;
	u64 time;
	u32 tgid, tid;
	u32 event, parent;
	s32 exit_code;
	u32 pad;
	u64 start;
	char comm[16];
	u64 root, cwd; /* of the process that forks or execs: which directories, not where they are */
	u64 executable; /* the path's id of the file that was exec'd; 0: not told */
	u8 unused[KS_OP_SIZE - 88];
};

/* The first bytes of what one call sent or received. */
struct ks_bytes_rec {
	u16 kind, version;
	u32 size;
	u64 time;
	u32 tgid, tid;
	u64 connection;
	u32 moved;
	u16 length, tail;
	u16 flags, protocol;
	u32 position; /* on the connection, in this direction, of the last byte */
	u32 other; /* in the other direction, of the last that was moved so far */
	u32 untimed; /* the thread's switches that ks_call.away lacks */
	u64 away;
	u8 bytes[];
};

/* What one of the user's own probes read: probes/own/codegen.py makes what follows the header. */
struct ks_own_rec {
	u16 kind, version;
	u32 size;
	u64 time;
	u32 tgid, tid;
	u64 id;
	u16 probe, count;
	u32 reserved;
};

struct ks_own_arg {
	u64 value;
	u32 length;
	u8 state, pad[3];
};

/* A traced process. `start` names the image: the time of its exec, or of the fork of a child that has not exec'd. */
struct ks_proc {
	u64 start;
	u32 cls;
	u32 pod; /* a number of ours; 0: of none */
};

/* What user space found out about a process's runtime; valid only while `start` is that of ks_proc. */
struct ks_runtime {
	u64 start;
	u64 base;
	u32 layout;
	u16 runtime;
	u16 flags;
	u64 words[KS_RUNTIME_WORDS]; /* the runtime's own; 0: not known */
};

/* What a match class wants. */
struct ks_class {
	u64 operations; /* bit mask by operation number */
	u64 min_duration_ns[KS_GROUPS];
	u64 interval_ns; /* of the rate limit; 0: none */
	u64 burst_ns;
	u64 probes[KS_OWN_WORDS]; /* bit mask by the numbers of the user's own probes */
	u32 max_depth; /* 0: no walk */
	u32 flags;
	u16 ports[KS_MAX_PORTS];
	u32 port_count;
	u32 thrown; /* the guard's: of 2^32 operations, how many are thrown away as they begin */
};

/* A thread's call: see place.h. */
struct ks_call {
	u64 start;
	u64 args[6];
	u64 file; /* struct file behind the fd argument */
	u64 inode;
	u64 end; /* of a call that the kernel restarts */
	u32 nr;
	u16 op; /* 0: the thread is in no call that is wanted */
	u8 group, restart;
	u16 cls;
	u16 dns; /* may be half of a name resolution, whose duration is another */
	u32 nested; /* made by a signal's handler while another call of the thread waits in ks_aside */
	u64 received; /* when the thread's last receive began; 0: none, or that one was not remembered */
	u64 away; /* how long the thread was off the CPU, ns, in so many of its switches */
	u64 timed;
	u64 image; /* ks_proc.start */
	u32 thread, pad; /* whose it is; 0: nobody's */
};

_Static_assert(__builtin_offsetof(struct ks_call, op) == KS_CALL_OP_AT, "the agent counts calls by it");
_Static_assert(__builtin_offsetof(struct ks_call, cls) == KS_CALL_CLASS_AT, "and by whose they are");

/*
 * What a loop carries from turn to turn. It goes through memory (KS_LOAD): of a value in a register the verifier knows
 * how it came about, and follows what comes after the loop once for every turn the loop may have ended in.
 */
struct ks_walk {
	u64 at, mnt; /* where the loop is: a dentry in its mount, a thread state, a frame */
	u64 root, root_mnt;
	u64 hash, length;
	u64 found[2];
	u64 thread, task_frame, task_outer, last;
	u64 marked, marked_frame, handed; /* code that is looked for, its frame, what that works for */
	u64 globals, module; /* of the frame before: its name space, and a hash of its module's name */
	u32 count, state;
};

/* A page of a traced process, and where the kernel has it mapped for itself: see user.h. */
struct ks_page {
	u64 key; /* the process, and the address without its last 12 bits */
	u64 space; /* of addresses: see ks_scratch */
	u64 at;
	u64 entry, where; /* of the page table: what it says, and where */
};

#define KS_PAGES 512 /* 9 bits of a hash */

enum { KS_WALK_BEGIN, KS_WALK_THREAD /* found */, KS_WALK_FRAMES /* some of them */ };

struct ks_scratch {
	struct ks_op op;
	struct ks_call call; /* that returned */
	u64 proc_start;
	u32 max_depth;
	u32 frames; /* of a stack that is to be sent */
	u32 layout;
	u32 stage; /* of the walk, which goes on by tail calls */
	u32 roles; /* of the call's arguments; in memory for the reason of ks_walk */
	u32 stash; /* keep the finished operation by thread in ks_stash instead of sending it */
	u32 walking; /* the thread whose walker goes on with this, by a tail call */
	struct ks_walk walk;
	u64 path_at; /* the struct path that is to be interned; 0: none */
	struct ks_page pages[KS_PAGES]; /* that were read from, by the last bits of their number */
	u64 space; /* which image of the process, in which address space: exec changes the one a little before the other */
	u64 page_wanted; /* an address of the one that was not among them */
	u64 words[20]; /* bulk reads */
	u64 module[8]; /* what a walker knows of a module */
	union {
		struct {
			struct ks_stack_rec header;
			struct ks_frame frames[KS_MAX_DEPTH + 3]; /* whole slots */
			u64 text[64]; /* a walker's: one that lies in two pages */
		} stack;
		struct {
			struct ks_path_rec header;
			u8 bytes[KS_MAX_PATH + 256];
			u64 names[KS_MAX_COMPONENTS];
		} path;
		struct {
			struct ks_bytes_rec header;
			u8 bytes[2 * KS_MAX_PATH];
		} bytes;
	};
	u8 pad[KS_SLOT]; /* records are sent in whole slots */
};

BPF_HASH(ks_procs, u32, struct ks_proc, KS_MAX_PROCS);
BPF_HASH(ks_runtimes, u32, struct ks_runtime, KS_MAX_PROCS);
BPF_ARRAY(ks_classes, struct ks_class, KS_MAX_CLASSES);
BPF_ARRAY(ks_tat, u64, KS_MAX_CLASSES);
BPF_PERCPU_ARRAY(ks_counts, u64, KS_MAX_CLASSES *KS_COUNTERS);
BPF_HASH(ks_aside, u32, struct ks_call, KS_MAX_ASIDE);
BPF_HASH(ks_stash, u32, struct ks_op, KS_MAX_CALLS);
BPF_HASH(ks_threads, u32, u64, KS_MAX_THREADS); /* a thread's state in its runtime, by tid */
BPF_TABLE("lru_hash", u64, u8, ks_stacks, KS_MAX_STACKS);
BPF_TABLE("lru_hash", u64, u8, ks_codes, KS_MAX_CODES);
BPF_TABLE("lru_hash", u64, u8, ks_paths, KS_MAX_PATHS);
BPF_ARRAY(ks_told_paths, u64, KS_TOLD); /* some of these, by the last bits: see ks_path_told */
BPF_TABLE("lru_hash", u64, u8, ks_verdicts, KS_MAX_PATHS);

BPF_ARRAY(ks_lost, u32, 2 * KS_MAX_LOST); /* see ks_lose */

BPF_RINGBUF_OUTPUT(ks_ring, KS_RING_PAGES);

struct ks_args {
	u64 v[6];
};

/*
 * What the programs of a system call's entry and return are given. KS_RAW: one raw tracepoint for all calls; KS_FENTRY: the
 * kernel's function of each call, whose argument is the registers; else a tracepoint for each call, whose record is as long as
 * the call has arguments.
 */
#define KS_REGISTERS (KS_RAW || KS_FENTRY)

#if KS_FENTRY
struct ks_sys_enter {
	u64 regs;
};

struct ks_sys_exit {
	u64 regs;
	s64 ret;
};

BPF_PROG_ARRAY(ks_walkers_fentry, KS_MAX_WALKERS);
#elif KS_RAW
struct ks_sys_enter {
	u64 regs;
	s64 nr;
};

struct ks_sys_exit {
	u64 regs;
	s64 ret;
};

BPF_PROG_ARRAY(ks_walkers_raw, KS_MAX_WALKERS);
/* Of several groups only the first is attached; each hands on what is not its own: see ks_next_enter. */
BPF_PROG_ARRAY(ks_enter_chain, KS_GROUPS);
BPF_PROG_ARRAY(ks_exit_chain, KS_GROUPS);
#else
struct ks_sys_enter {
	u64 common;
	s32 nr; /* 32 bits: a call without arguments has no more of a record than that */
	s32 pad;
};

struct ks_sys_exit {
	u64 common;
	s32 nr;
	s32 pad;
	s64 ret;
};

BPF_PROG_ARRAY(ks_walkers, KS_MAX_WALKERS);
#endif

/* Keeps clang from folding a value's test into another's: the verifier follows neither arithmetic on pointers nor bounds
 * that were checked on a copy. */
#define KS_OPAQUE(value) asm volatile("" : "+r"(value))

/* A value read anew from memory, of which neither clang nor the verifier knows anything. */
#define KS_LOAD(place) (*(volatile typeof(place) *)&(place))

/*
 * Named otherwise than the helpers they are: bcc puts what it thinks best in place of their names, and to know what that is
 * it parses all of /proc/kallsyms, 0.1 s a module. Nothing is asked of it (see compiler.py).
 */
static int (*ks_read_user)(void *to, u32 bytes, const void *from) = (void *)BPF_FUNC_probe_read_user;
static int (*ks_read_user_str)(void *to, u32 bytes, const void *from) = (void *)BPF_FUNC_probe_read_user_str;
static int (*ks_read_kernel)(void *to, u32 bytes, const void *from) = (void *)BPF_FUNC_probe_read_kernel;
static int (*ks_read_kernel_str)(void *to, u32 bytes, const void *from) = (void *)BPF_FUNC_probe_read_kernel_str;

/*
 * The same for as long as a program runs, even where it is interrupted: clang asks once, however often it is written. Each call of
 * a helper costs up to 10 ns where returns are guarded.
 */
static u64 (*ks_current_task)(void) __attribute__((const)) = (void *)BPF_FUNC_get_current_task;
static u64 (*ks_current_ids)(void) __attribute__((const)) = (void *)BPF_FUNC_get_current_pid_tgid;

/*
 * What cannot be read is 0. Since 6.2 (KS_DIRECT: the kernel was asked, see probes/direct.py) any address can be made one
 * that a program loads from by itself, a word at a time; a fault gives 0. 1.5 ns, where the helper takes 11.
 */
#if KS_DIRECT
static void *(*ks_cast)(const void *address, u32 type) = (void *)KS_CAST_TOKEN;

#define KS_KREAD(type, address) ((type) * (volatile u64 *)ks_cast((void *)(u64)(address), KS_CAST_TYPE))
#else
#define KS_KREAD(type, address)                                                                                        \
	({                                                                                                             \
		type _value;                                                                                           \
		ks_read_kernel(&_value, sizeof(_value), (void *)(address));                                            \
		_value;                                                                                                \
	})
#endif

#define KS_UREAD(type, address)                                                                                        \
	({                                                                                                             \
		type _value;                                                                                           \
		ks_read_user(&_value, sizeof(_value), (void *)(address));                                              \
		_value;                                                                                                \
	})

#include "ids.h"
#include "place.h"
#include "scratch.h"

static __always_inline void ks_count(u32 cls, u32 counter)
{
	u32 key = cls * KS_COUNTERS + counter;
	u64 *count = ks_counts.lookup(&key);

	if (count)
		__sync_fetch_and_add(count, 1);
}

static __always_inline u64 ks_mix(u64 hash, u64 word)
{
	hash = (hash ^ word) * 0x9E3779B97F4A7C15ULL;
	return hash ^ (hash >> 29);
}

/* Of two words that are no hashes: a time and a thread's number, mixed at once, are the same as of the next thread a little later. */
static __always_inline u64 ks_hash2(u64 first, u64 second)
{
	return ks_mix(ks_mix(0, first), second);
}

/*
 * The reader looks at the ring every few milliseconds by itself; it is woken where a quarter of the ring is full, a half and
 * three, and not at every record from then on: to wake somebody costs more than the record.
 */
static __always_inline u64 ks_wake(void)
{
	void *ring = (void *)bpf_pseudo_fd(1, KS_RING_TOKEN); /* bcc has no query: the loader knows the token */
	u64 filled = bpf_ringbuf_query(ring, 0 /* BPF_RB_AVAIL_DATA */);

	return filled >= KS_WAKE_BYTES && (filled & (KS_WAKE_BYTES - 1)) < KS_WAKE_SPAN ? 2 /* FORCE_WAKEUP */ :
											  1 /* NO_WAKEUP */;
}
