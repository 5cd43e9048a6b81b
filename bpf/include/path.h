/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Paths of open files, interned: the names from the leaf to the process's root are hashed into an id at every
 * operation, and travel only the first time an id is seen. The hash covers each name on the way (the dentry's own hash,
 * salted by its parent) and the leaf's inode, so a rename of the file or of any directory above it gives another id.
 */
#pragma once
#include "ks.h"

/* one read gives a dentry's parent, name and inode */
_Static_assert(KS_DENTRY_PARENT < KS_DENTRY_NAME && KS_DENTRY_NAME < KS_DENTRY_INODE, "order of struct dentry");
_Static_assert(KS_DENTRY_INODE + 8 - KS_DENTRY_PARENT <= 128, "span of struct dentry");
#define DENTRY_SPAN (KS_DENTRY_INODE + 8 - KS_DENTRY_PARENT)
#define DENTRY_HASH_WORD ((KS_DENTRY_NAME - KS_DENTRY_PARENT) / 8)
#define DENTRY_NAME_WORD (DENTRY_HASH_WORD + 1)
#define DENTRY_INODE_WORD ((KS_DENTRY_INODE - KS_DENTRY_PARENT) / 8)

struct ks_location {
	u64 mnt, dentry;
};

struct ks_dentry {
	u64 parent, hash, name, inode;
};

/* What names a directory entry; its parent is 0 where there is none that can be read. `words`: room for a bulk read. */
static __always_inline void ks_dentry_of(u64 dentry, struct ks_dentry *d, u64 *words)
{
#if KS_DIRECT
	d->parent = KS_KREAD(u64, dentry + KS_DENTRY_PARENT);
	d->hash = KS_KREAD(u64, dentry + KS_DENTRY_NAME);
	d->name = KS_KREAD(u64, dentry + KS_DENTRY_NAME + 8);
	d->inode = KS_KREAD(u64, dentry + KS_DENTRY_INODE);
#else
	ks_read_kernel(words, DENTRY_SPAN, (void *)(dentry + KS_DENTRY_PARENT));
	d->parent = words[0];
	d->hash = words[DENTRY_HASH_WORD];
	d->name = words[DENTRY_NAME_WORD];
	d->inode = words[DENTRY_INODE_WORD];
#endif
}

/* The struct file behind a descriptor of the current task; 0: none. */
static __always_inline u64 ks_file(s32 fd)
{
	u64 task = ks_current_task();
	u64 files = KS_KREAD(u64, task + KS_TASK_FILES);
	u64 table = KS_KREAD(u64, files + KS_FILES_FDT);
	u32 max_fds = KS_KREAD(u32, table + KS_FDT_MAX_FDS);

	if (fd < 0 || (u32)fd >= max_fds)
		return 0;
	return KS_KREAD(u64, KS_KREAD(u64, table + KS_FDT_FD) + 8 * (u64)(u32)fd);
}

static __always_inline u64 ks_inode(u64 file)
{
	return KS_KREAD(u64, file + KS_FILE_INODE);
}

static __always_inline u32 ks_mode(u64 inode)
{
	return KS_KREAD(u16, inode + KS_INODE_MODE);
}

static __always_inline void ks_location_of(u64 path_address, struct ks_location *at)
{
	at->mnt = KS_KREAD(u64, path_address);
	at->dentry = KS_KREAD(u64, path_address + 8);
}

/* Whether the agent was told what this id stands for, and has not forgotten it. Most are found without a look into the hash. */
static __always_inline int ks_path_told(u64 id)
{
	u32 place = id & (KS_TOLD - 1);
	u64 *told = ks_told_paths.lookup(&place);

	if (told && *told == id)
		return 1;
	if (!ks_paths.lookup(&id))
		return 0;
	if (told)
		*told = id;
	return 1;
}

static __always_inline u64 ks_slots(u64 payload)
{
	return ((payload + KS_RING_HEADER + KS_SLOT - 1) / KS_SLOT) * KS_SLOT - KS_RING_HEADER;
}

static __always_inline void ks_path_header(struct ks_scratch *s, u64 id, u64 length, u32 count, u32 flags)
{
	struct ks_path_rec *r = &s->path.header;

	r->kind = KS_KIND_PATH;
	r->version = KS_VERSION;
	r->time = bpf_ktime_get_ns();
	r->tgid = s->op.tgid;
	r->tid = s->op.tid;
	r->file = id;
	r->length = length;
	r->count = count;
	r->flags = flags;
	r->reserved = 0;
}

static __always_inline void ks_path_send(struct ks_scratch *s, u64 id, u64 length)
{
	u64 size = ks_slots(sizeof(struct ks_path_rec) + length);
	u8 one = 1;

	s->path.header.size = size;
	KS_OPAQUE(size);
	if (size > sizeof(s->path))
		return;
	if (ks_ring.ringbuf_output(&s->path, size, 1 /* NO_WAKEUP */))
		ks_count(s->op.cls, KS_C_PATH_LOST);
	else
		ks_paths.update(&id, &one);
}

/* From a location to the process's root: names, their hash, their number, how it ended. */
static __always_inline void ks_path_climb(struct ks_scratch *s, struct ks_location *from, struct ks_location *root)
{
	u64 at = from->dentry, mnt = from->mnt, top = KS_KREAD(u64, mnt + KS_VFSMOUNT_ROOT), hash = 0;
	struct ks_walk *w = &s->walk;
	struct ks_dentry d;

	w->count = 0;
	w->state = KS_PATH_TRUNCATED;
	for (u32 i = 0; i < KS_MAX_COMPONENTS; i++) {
		if (at == root->dentry && mnt == root->mnt) {
			w->state = 0;
			break;
		}
		ks_dentry_of(at, &d, s->words);
		if (!d.parent) {
			w->state = KS_PATH_UNREACHABLE;
			break;
		}
		w->count = i + 1;
		if (at == top) {
			u64 mount = mnt - KS_MOUNT_MNT, parent = KS_KREAD(u64, mount + KS_MOUNT_PARENT);

			s->path.names[i] = 0;
			if (parent == mount || !parent) {
				w->state = KS_PATH_UNREACHABLE;
				break;
			}
			at = KS_KREAD(u64, mount + KS_MOUNT_MOUNTPOINT);
			mnt = parent + KS_MOUNT_MNT;
			top = KS_KREAD(u64, mnt + KS_VFSMOUNT_ROOT);
			hash = ks_mix(hash, mount);
			continue;
		}
		if (i == 0) /* the leaf: an unlinked name is used again by another file */
			hash = ks_mix(hash, d.inode);
		hash = ks_mix(hash, d.hash);
		s->path.names[i] = d.name;
		if (d.parent == at) {
			w->state = KS_PATH_UNREACHABLE;
			break;
		}
		at = d.parent;
	}
	if (at == root->dentry && mnt == root->mnt)
		w->state = 0; /* with the last turn */
	w->hash = hash;
}

/* Interns a location, seen from that root; gives its id. */
static __always_inline u64 ks_location_id(struct ks_scratch *s, struct ks_location *where, struct ks_location *root)
{
	struct ks_walk *w = &s->walk;
	u64 hash, length;

	ks_path_climb(s, where, root);
	if (!KS_KREAD(u64, where->dentry + KS_DENTRY_HASH + 8 /* pprev: no longer found by name */))
		w->state |= KS_PATH_DELETED;
	hash = ks_mix(KS_LOAD(w->hash), KS_LOAD(w->state) + 1);
	if (ks_path_told(hash))
		return hash;

	w->length = 0;
	for (u32 i = 0; i < KS_MAX_COMPONENTS; i++) {
		u64 at = KS_LOAD(w->length), name;

		if (i >= KS_LOAD(w->count) || at > KS_MAX_PATH - 256)
			break;
		name = s->path.names[i];
		if (name)
			w->length = at + ks_read_kernel_str(&s->path.bytes[at & (KS_MAX_PATH - 1)], 256, (void *)name);
	}
	length = KS_LOAD(w->length);
	if (length > KS_MAX_PATH) /* a name could not be read */
		return hash;
	if (length > KS_MAX_PATH - 256)
		w->state |= KS_PATH_TRUNCATED;
	ks_path_header(s, hash, length, w->count, w->state);
	ks_path_send(s, hash, length);
	return hash;
}

/* Interns the location that a struct path holds, of the current task's name space; gives its id. */
static __always_inline u64 ks_path_id(struct ks_scratch *s, u64 path)
{
	u64 fs = KS_KREAD(u64, ks_current_task() + KS_TASK_FS);
	struct ks_location root, where;

	ks_location_of(fs + KS_FS_ROOT, &root);
	ks_location_of(path, &where);
	return ks_location_id(s, &where, &root);
}

/* Interns `length` bytes (`most` at most, a constant) that lie in s->path.bytes. */
static __always_inline u64 ks_bytes_id(struct ks_scratch *s, u64 length, u32 most, u32 flags)
{
	struct ks_walk *w = &s->walk;
	u64 hash;

	KS_OPAQUE(length);
	if (length > most)
		return 0;
	*(u64 *)&s->path.bytes[length] = 0; /* whole words are hashed */
	w->length = length;
	w->hash = 0x6b73 + length;
#pragma clang loop unroll(disable)
	for (u32 i = 0; i < most / 8; i++) {
		if (i * 8 >= KS_LOAD(w->length))
			break;
		w->hash = ks_mix(KS_LOAD(w->hash), *(u64 *)&s->path.bytes[i * 8]);
	}
	hash = KS_LOAD(w->hash);
	length = KS_LOAD(w->length);
	if (ks_path_told(hash))
		return hash;
	ks_path_header(s, hash, length, 0, flags | KS_PATH_RAW);
	ks_path_send(s, hash, length);
	return hash;
}

/* Interns a path as the program passed it; 0: not readable (the page is not resident, or no address at all). */
static __always_inline u64 ks_user_path_id(struct ks_scratch *s, u64 address)
{
	s64 n = ks_read_user_str(s->path.bytes, KS_MAX_PATH, (void *)address);

	if (n < 0) {
		ks_count(s->op.cls, KS_C_PATH_UNREADABLE);
		return 0;
	}
	if (n == 0) { /* old kernels (seen on 5.10) count no NUL in an empty string */
		s->path.bytes[0] = 0;
		n = 1;
	}
	return ks_bytes_id(s, n, KS_MAX_PATH, n == KS_MAX_PATH ? KS_PATH_TRUNCATED : 0);
}

/*
 * Where the struct path of the directory is that a path argument is relative to: a descriptor's, or the working
 * directory's; 0: none.
 */
static __always_inline u64 ks_base(s32 dirfd)
{
	u64 file;

	if (dirfd == -100 /* AT_FDCWD */)
		return KS_KREAD(u64, ks_current_task() + KS_TASK_FS) + KS_FS_PWD;
	file = ks_file(dirfd);
	return file ? file + KS_FILE_PATH : 0;
}
