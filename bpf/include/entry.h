/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * The path of a directory entry alone. An entry knows its file system, not where that is mounted. A process surely sees the
 * mounts that its root and its working directory are in: where the entry lies in one of these, below its root, and nothing
 * is mounted over it on the way, its path is absolute, as a file's is. Else it is the path inside the file system, which does
 * not reach the process's root.
 */
#pragma once
#include "path.h"

/* Whether the entry is in that mount, and seen there. */
static __always_inline int ks_entry_seen(struct ks_walk *w, u64 dentry, u64 mnt)
{
	u64 top = KS_KREAD(u64, mnt + KS_VFSMOUNT_ROOT), parent;

	if (KS_KREAD(u64, mnt + KS_VFSMOUNT_SB) != KS_KREAD(u64, dentry + KS_DENTRY_SB))
		return 0;
	w->at = dentry;
#pragma clang loop unroll(disable)
	for (u32 i = 0; i < KS_MAX_COMPONENTS; i++) {
		u64 at = KS_LOAD(w->at);

		if (at == top)
			return 1;
		parent = KS_KREAD(u64, at + KS_DENTRY_PARENT);
		if (!parent || parent == at || KS_KREAD(u32, at + KS_DENTRY_FLAGS) & KS_DENTRY_MOUNTED)
			return 0;
		w->at = parent;
	}
	return 0;
}

/* Interns the path of an entry; gives its id. */
static __always_inline u64 ks_entry_id(struct ks_scratch *s, u64 dentry)
{
	u64 fs = KS_KREAD(u64, ks_current_task() + KS_TASK_FS);
	struct ks_location root, where = {.dentry = dentry};

	ks_location_of(fs + KS_FS_ROOT, &root);
	where.mnt = root.mnt;
	if (!ks_entry_seen(&s->walk, dentry, where.mnt)) {
		where.mnt = KS_KREAD(u64, fs + KS_FS_PWD);
		if (!ks_entry_seen(&s->walk, dentry, where.mnt))
			where.mnt = 0; /* none: the climb ends at the file system's root */
	}
	return ks_location_id(s, &where, &root);
}
