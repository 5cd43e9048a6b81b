// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * Files: what a process does to regular files, directories and devices.
 *
 *   enter:  wanted? the descriptor a socket, a pipe or anonymous? -> not ours : remember
 *   exit:   filters -> rate limit -> path of the file -> path verdict -> walk -> record
 */
#include "calls.h"
#include "path.h"

/* roles of arguments */
#define FD(n) (1 + (n)) /* descriptor in argument n */
#define PATH(n) ((1 + (n)) << 4)
#define DIRFD(n) ((1 + (n)) << 8) /* descriptor that PATH is relative to; none: the working directory */
#define SIZE(n) ((1 + (n)) << 12) /* bytes asked for */
#define PATH2(n) ((1 + (n)) << 16)
#define DIRFD2(n) ((1 + (n)) << 20)
#define OPENS (1 << 24) /* the result is a descriptor */
#define HAS_FD 0xf
#define HAS_PATH 0xf0
#define HAS_DIRFD 0xf00
#define HAS_SIZE 0xf000
#define HAS_PATH2 0xf0000
#define HAS_DIRFD2 0xf00000

/* One line a system call: name, operation, roles. probes/syscalls.py reads the first two columns. */
#define KS_SYSCALLS(X)                                                                                                 \
	X(open, Open, PATH(0) | OPENS)                                                                                 \
	X(openat, Open, DIRFD(0) | PATH(1) | OPENS)                                                                    \
	X(openat2, Open, DIRFD(0) | PATH(1) | OPENS)                                                                   \
	X(creat, Open, PATH(0) | OPENS)                                                                                \
	X(read, Read, FD(0) | SIZE(2))                                                                                 \
	X(pread64, Read, FD(0) | SIZE(2))                                                                              \
	X(readv, Read, FD(0))                                                                                          \
	X(preadv, Read, FD(0))                                                                                         \
	X(preadv2, Read, FD(0))                                                                                        \
	X(sendfile, Read, FD(1) | SIZE(3))                                                                             \
	X(write, Write, FD(0) | SIZE(2))                                                                               \
	X(pwrite64, Write, FD(0) | SIZE(2))                                                                            \
	X(writev, Write, FD(0))                                                                                        \
	X(pwritev, Write, FD(0))                                                                                       \
	X(pwritev2, Write, FD(0))                                                                                      \
	X(copy_file_range, Write, FD(2))                                                                               \
	X(fsync, Sync, FD(0))                                                                                          \
	X(fdatasync, Sync, FD(0))                                                                                      \
	X(sync_file_range, Sync, FD(0))                                                                                \
	X(rename, Rename, PATH(0) | PATH2(1))                                                                          \
	X(renameat, Rename, DIRFD(0) | PATH(1) | DIRFD2(2) | PATH2(3))                                                 \
	X(renameat2, Rename, DIRFD(0) | PATH(1) | DIRFD2(2) | PATH2(3))                                                \
	X(unlink, Remove, PATH(0))                                                                                     \
	X(unlinkat, Remove, DIRFD(0) | PATH(1))                                                                        \
	X(rmdir, Remove, PATH(0))                                                                                      \
	X(stat, Stat, PATH(0))                                                                                         \
	X(lstat, Stat, PATH(0))                                                                                        \
	X(newfstatat, Stat, DIRFD(0) | PATH(1))                                                                        \
	X(statx, Stat, DIRFD(0) | PATH(1))                                                                             \
	X(fstat, Stat, FD(0))                                                                                          \
	X(access, Stat, PATH(0))                                                                                       \
	X(faccessat, Stat, DIRFD(0) | PATH(1))                                                                         \
	X(faccessat2, Stat, DIRFD(0) | PATH(1))                                                                        \
	X(getdents, List, FD(0) | SIZE(2))                                                                             \
	X(getdents64, List, FD(0) | SIZE(2))

#include "syscalls.h"

#define ARG(roles, shift) ((((roles) >> (shift)) & 15) - 1)

static __always_inline u64 arg_of(struct ks_call *call, u32 roles, u32 shift)
{
	u32 n = ARG(roles, shift);

	return n == 0 ? call->args[0] : n == 1 ? call->args[1] : n == 2 ? call->args[2] : call->args[3];
}

/* Regular files, directories, devices; pipes and the kernel's anonymous files are no files here, sockets are network */
static __always_inline int is_file(u64 inode)
{
	u32 type = ks_mode(inode) & 0170000;

	return type == 0100000 || type == 0040000 || type == 0060000 || type == 0020000;
}

int ks_files_enter(struct ks_sys_enter *ctx)
{
	s32 nr;
	u64 id = ks_ids();
	u32 tgid = id >> 32, op, roles = 0;
	struct ks_proc is, *p = ks_wanted(tgid, &is);
	struct ks_class *c;
	u64 file = 0, inode = 0;
	struct ks_args args = {};

	if (!p)
		return 0;
	nr = ks_nr(ctx);
	if (nr == __NR_restart_syscall) {
		ks_resume();
		return 0;
	}
	op = ks_describe(nr, &roles);
	c = op ? ks_wants(p, op) : 0;
	if (!c)
		return ks_next_enter(ctx, KS_GROUP_FILES);
	ks_args(ctx, &args);
	if (roles & HAS_FD) {
		u32 n = ARG(roles, 0);

		file = ks_file(n == 0 ? args.v[0] : n == 1 ? args.v[1] : args.v[2]);
		inode = file ? ks_inode(file) : 0;
		if (file && !is_file(inode))
			return ks_next_enter(ctx, KS_GROUP_FILES);
	}
	ks_enter(KS_THREAD(id), nr, &args, p, c, KS_GROUP_FILES, op, file, inode, 0);
	return 0;
}

int ks_files_exit(struct ks_sys_exit *ctx)
{
	u64 id = ks_ids();
	u32 wanted = 0, roles;
	struct ks_call *call = ks_returning(id, &wanted);
	struct ks_class *c = 0;
	struct ks_scratch *s;
	u64 verdict, file = 0;
	u8 *seen;

	if (!wanted)
		return 0;
	if (!call)
		return ks_next_exit(ctx, KS_GROUP_FILES);
	if (!ks_in_own_call(call, KS_GROUP_FILES))
		return ks_next_exit(ctx, KS_GROUP_FILES);
	KS_OPAQUE(call);
	s = ks_exit(ctx, id, call, KS_GROUP_FILES, &c);
	if (!s)
		return 0;
	call = &s->call;
	ks_describe(call->nr, &s->roles);
	roles = s->roles;
	if (c->flags & KS_CLASS_PATHS) {
		/* the file first: whether it is wanted is decided before the limit is charged */
	} else if (ks_rate_limited(c, s->op.cls, s->op.time)) {
		ks_count(s->op.cls, KS_C_RATE_LIMITED);
		return 0;
	}
	if (roles & HAS_SIZE)
		ks_argument(s, arg_of(call, roles, 12));
	if (roles & HAS_FD) {
		s->op.fd = arg_of(call, roles, 0);
		if (ks_same_file(call, s->op.fd))
			file = call->file;
	} else if (roles & OPENS && ctx->ret >= 0) {
		s->op.fd = ctx->ret;
		file = ks_file(ctx->ret);
	}
	s->path_at = file ? file + KS_FILE_PATH : 0;
	if (!file && roles & HAS_PATH) {
		char first = 0;
		u64 path = arg_of(call, roles, 4);

		ks_read_user(&first, 1, (void *)path);
		if (first != '/' && (first || ctx->ret >= 0)) /* an empty path is the descriptor's file, or none */
			s->path_at = ks_base(roles & HAS_DIRFD ? (s32)arg_of(call, roles, 8) : -100);
		s->op.path = ks_user_path_id(s, path);
		if (!s->op.path && path)
			s->path_at = 0; /* the directory alone would be another file's name */
	}
	if (KS_LOAD(s->path_at))
		s->op.file = ks_path_id(s, KS_LOAD(s->path_at));
	if (roles & HAS_PATH2) {
		u64 base = 0, path = arg_of(call, roles, 16);
		char first = 0;

		ks_read_user(&first, 1, (void *)path);
		s->path_at = 0;
		if (first && first != '/')
			s->path_at = ks_base(roles & HAS_DIRFD2 ? (s32)arg_of(call, roles, 20) : -100);
		if (KS_LOAD(s->path_at))
			base = ks_path_id(s, KS_LOAD(s->path_at));
		__builtin_memcpy(s->op.local_address, &base, 8);
		s->op.path2 = ks_user_path_id(s, path);
	}
	if (c->flags & KS_CLASS_PATHS) {
		verdict = ks_mix(ks_mix(s->op.file, s->op.path), s->op.cls);
		seen = ks_verdicts.lookup(&verdict);
		if (seen && *seen) {
			ks_count(s->op.cls, KS_C_FILTERED);
			return 0;
		}
		if (ks_rate_limited(c, s->op.cls, s->op.time)) {
			ks_count(s->op.cls, KS_C_RATE_LIMITED);
			return 0;
		}
	}
	ks_walk(ctx, s, c);
	return 0;
}
