// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * Processes: exec, fork, exit, signals, identity, ptrace, mounts, modules.
 *
 *   enter:  wanted? : remember. A successful exec and an exit never return to the stack that made them: their path is
 *           read and their stack walked at entry, and the operation waits in ks_stash for its result (see ks_exec).
 *   exit:   filters -> rate limit -> walk -> record
 */
#include "calls.h"
#include "path.h"

#define ARGUMENT(n) (1 + (n)) /* what the operation's `argument` attribute shows */
#define PATH(n) ((1 + (n)) << 4)
#define THREADS (1 << 9) /* argument 0 holds clone flags; a new thread is no new process */
#define THREADS_AT (1 << 10) /* the same, in memory that argument 0 points to */
#define EARLY (1 << 11)
#define FINAL (1 << 12) /* does not return */
#define DIRFD (1 << 13) /* PATH is relative to the argument before it */
#define FD (1 << 14) /* argument 0 is a file's descriptor */
#define HAS_ARGUMENT 0xf
#define HAS_PATH 0xf0
#define EMPTY_PATH 0x1000 /* AT_EMPTY_PATH in argument 4: the descriptor's own file */
#define EXIT_CODE 0xff

#define KS_SYSCALLS(X)                                                                                                 \
	X(execve, Exec, PATH(0) | EARLY)                                                                               \
	X(execveat, Exec, DIRFD | PATH(1) | EARLY)                                                                     \
	X(fork, Fork, 0)                                                                                               \
	X(vfork, Fork, 0)                                                                                              \
	X(clone, Fork, THREADS)                                                                                        \
	X(clone3, Fork, THREADS_AT)                                                                                    \
	X(exit_group, Exit, ARGUMENT(0) | EARLY | FINAL)                                                               \
	X(kill, Signal, ARGUMENT(1))                                                                                   \
	X(tkill, Signal, ARGUMENT(1))                                                                                  \
	X(tgkill, Signal, ARGUMENT(2))                                                                                 \
	X(rt_sigqueueinfo, Signal, ARGUMENT(1))                                                                        \
	X(rt_tgsigqueueinfo, Signal, ARGUMENT(2))                                                                      \
	X(pidfd_send_signal, Signal, ARGUMENT(1))                                                                      \
	X(setuid, SetID, ARGUMENT(0))                                                                                  \
	X(setgid, SetID, ARGUMENT(0))                                                                                  \
	X(setreuid, SetID, ARGUMENT(1))                                                                                \
	X(setregid, SetID, ARGUMENT(1))                                                                                \
	X(setresuid, SetID, ARGUMENT(1))                                                                               \
	X(setresgid, SetID, ARGUMENT(1))                                                                               \
	X(setfsuid, SetID, ARGUMENT(0))                                                                                \
	X(setfsgid, SetID, ARGUMENT(0))                                                                                \
	X(setgroups, SetID, ARGUMENT(0))                                                                               \
	X(ptrace, Ptrace, ARGUMENT(0))                                                                                 \
	X(mount, Mount, PATH(1))                                                                                       \
	X(umount2, Mount, PATH(0))                                                                                     \
	X(move_mount, Mount, DIRFD | PATH(3))                                                                          \
	X(pivot_root, Mount, PATH(0))                                                                                  \
	X(init_module, ModuleLoad, 0)                                                                                  \
	X(finit_module, ModuleLoad, FD)                                                                                \
	X(delete_module, ModuleLoad, 0)

#include "syscalls.h"

#define CLONE_THREAD 0x10000

static __always_inline void describe(struct ks_scratch *s, u32 roles, u64 a, u64 b, u64 c, u64 d, u64 e)
{
	u32 argument = roles & HAS_ARGUMENT, at = roles & HAS_PATH;
	u64 path = at == PATH(0) ? a : at == PATH(1) ? b : d, file = roles & FD ? ks_file(a) : 0;
	s32 dirfd = roles & DIRFD ? (s32)(at == PATH(1) ? a : c) : -100;
	char first = 0;

	if (argument)
		ks_argument(s, (u32)(argument == ARGUMENT(0) ? a :
				     argument == ARGUMENT(1) ? b :
							       c) &
				       (roles & FINAL ? EXIT_CODE : ~0U));
	s->path_at = file ? file + KS_FILE_PATH : 0;
	if (at) {
		ks_read_user(&first, 1, (void *)path);
		if (first ? first != '/' : roles & EARLY && roles & DIRFD && e & EMPTY_PATH)
			s->path_at = ks_base(dirfd);
		s->op.path = ks_user_path_id(s, path);
		if (!s->op.path)
			s->path_at = 0;
	}
	if (KS_LOAD(s->path_at))
		s->op.file = ks_path_id(s, KS_LOAD(s->path_at));
}

int ks_proc_enter(struct ks_sys_enter *ctx)
{
	s32 nr;
	u64 id = ks_ids();
	u32 tgid = id >> 32, op, roles = 0;
	struct ks_proc is, *p = ks_wanted(tgid, &is);
	struct ks_class *c;
	struct ks_scratch *s;
	struct ks_args args = {};
	struct ks_op *kept;
	u64 now;

	if (!p)
		return 0;
	nr = ks_nr(ctx);
	if (nr == __NR_restart_syscall) {
		ks_resume();
		return 0;
	}
	op = ks_describe(nr, &roles);
	if (!op)
		return ks_next_enter(ctx, KS_GROUP_PROCESSES);
	c = ks_wants(p, op);
	if (!c)
		return ks_next_enter(ctx, KS_GROUP_PROCESSES);
	ks_args(ctx, &args);
	if (roles & THREADS && args.v[0] & CLONE_THREAD)
		return 0;
	if (roles & THREADS_AT && KS_UREAD(u64, args.v[0]) & CLONE_THREAD)
		return 0;
	if (!(roles & EARLY)) {
		ks_enter(KS_THREAD(id), nr, &args, p, c, KS_GROUP_PROCESSES, op, 0, 0, 0);
		return 0;
	}
	if (ks_thrown_away(c, p, 0))
		return 0;
	ks_count(p->cls, KS_C_SEEN);
	s = ks_scratch(KS_SCRATCH_ENTER(KS_GROUP_PROCESSES));
	KS_OPAQUE(s);
	if (!s)
		return 0;
	now = bpf_ktime_get_ns();
	if (ks_rate_limited(c, p->cls, now)) {
		ks_count(p->cls, KS_C_RATE_LIMITED);
		return 0;
	}
	ks_begin(s, p->start, p->cls, id, op, now);
	s->op.time = s->op.start;
	s->roles = roles;
	describe(s, s->roles, args.v[0], args.v[1], args.v[2], args.v[3], args.v[4]);
	s->stash = !(roles & FINAL);
	if (s->stash) {
		kept = ks_kept_still(KS_THREAD(id));
		if (kept && kept->op == KS_OP_Exec)
			ks_count(kept->cls, KS_C_REPLACED); /* that failed, and its return was never seen */
	}
	ks_walk(ctx, s, c);
	return 0;
}

/* An exec that failed; one that succeeded ends in ks_exec. */
static __always_inline void failed_exec(struct ks_sys_exit *ctx, u64 id)
{
	u32 tid = KS_THREAD(id);
	struct ks_op *early = ks_stash.lookup(&tid);
	struct ks_scratch *s = ks_scratch(KS_SCRATCH_EXIT(KS_GROUP_PROCESSES));

	if (!s || !early || early->op != KS_OP_Exec)
		return;
	s->op = *early;
	ks_stash.delete(&tid);
	if (s->op.tgid != id >> 32) { /* of a process that ended in its exec, which took this number from the thread */
		ks_count(s->op.cls, KS_C_TARGET_GONE);
		return;
	}
	s->op.time = bpf_ktime_get_ns();
	s->op.ret = ctx->ret;
	ks_send(s);
}

int ks_proc_exit(struct ks_sys_exit *ctx)
{
	u64 id = ks_ids();
	u32 wanted = 0, roles = 0, op;
	struct ks_call *call = ks_returning(id, &wanted);
	struct ks_class *c = 0;
	struct ks_scratch *s;

	if (!wanted)
		return 0;
	op = ks_describe(ks_exit_nr(ctx), &roles);
	if (op == KS_OP_Exec) {
		failed_exec(ctx, id);
		return 0;
	}
	if (op == KS_OP_Fork && ctx->ret == 0)
		return 0; /* the child: its parent's return is the operation's */
	if (!call)
		return ks_next_exit(ctx, KS_GROUP_PROCESSES);
	if (!ks_in_own_call(call, KS_GROUP_PROCESSES))
		return ks_next_exit(ctx, KS_GROUP_PROCESSES);
	KS_OPAQUE(call);
	s = ks_exit(ctx, id, call, KS_GROUP_PROCESSES, &c);
	if (!s)
		return 0;
	call = &s->call;
	if (ks_rate_limited(c, s->op.cls, s->op.time)) {
		ks_count(s->op.cls, KS_C_RATE_LIMITED);
		return 0;
	}
	if (op == KS_OP_Fork && ctx->ret > 0 && call->inode)
		s->op.ret = call->inode;
	s->roles = roles;
	describe(s, s->roles, call->args[0], call->args[1], call->args[2], call->args[3], call->args[4]);
	ks_walk(ctx, s, c);
	return 0;
}
