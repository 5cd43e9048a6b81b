/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Files that are known to hold a runtime: the second process of a program is walked from its first system call, without
 * waiting for the agent to look at it. A file is known by device, inode, size and time of change: inodes are used again.
 */
#pragma once
#include "ks.h"

#define KS_IMAGE_EXECUTABLE (~0ULL)

struct ks_image_key {
	u64 inode, size, mtime, dev;
};

struct ks_image {
	s64 delta; /* from the executable's first code, or a library's mapping, to where the walk begins */
	u64 offset; /* in the file, of that mapping; KS_IMAGE_EXECUTABLE: the file is the program itself */
	u32 layout;
	u32 runtime;
};

BPF_TABLE("lru_hash", struct ks_image_key, struct ks_image, ks_images, KS_MAX_IMAGES);

static __always_inline struct ks_image *ks_image_of(u64 inode)
{
	struct ks_image_key key = {};

	key.inode = KS_KREAD(u64, inode + KS_INODE_INO);
	key.size = KS_KREAD(u64, inode + KS_INODE_SIZE);
	key.mtime = KS_KREAD(u64, inode + KS_INODE_MTIME);
	key.dev = KS_KREAD(u32, KS_KREAD(u64, inode + KS_INODE_SB) + KS_SB_DEV);
	return ks_images.lookup(&key);
}

/* The image `start` of process `tgid` has its runtime where `base` says. */
static __always_inline void ks_image_use(u32 tgid, u64 start, struct ks_image *image, u64 base)
{
	struct ks_runtime rt = {};

	rt.start = start;
	rt.base = base;
	rt.layout = image->layout;
	rt.runtime = image->runtime;
	ks_runtimes.update(&tgid, &rt);
}
