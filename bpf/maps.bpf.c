// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * Mappings: a process whose runtime is not known maps a file that is known to hold one (a libpython). Last in the chain
 * of the raw pair; with a tracepoint for each call the agent finds such a runtime itself, some milliseconds later.
 */
#include "op.h"
#include <asm/unistd.h>
#include "image.h"

int ks_map_exit(struct ks_sys_exit *ctx)
{
	u32 tgid = bpf_get_current_pid_tgid() >> 32;
	struct ks_proc *p = ks_procs.lookup(&tgid);
	struct ks_runtime *rt;
	struct ks_image *image;
	u64 file;

	if (!p)
		return 0;
	if (ks_exit_nr(ctx) != __NR_mmap)
		return 0;
	rt = ks_runtimes.lookup(&tgid);
	if (rt && rt->start == p->start && rt->runtime)
		return 0;
	if (ctx->ret < 0 && ctx->ret > -4096)
		return 0;
#if KS_RAW
	file = ks_file(KS_KREAD(u32, ctx->regs + KS_REGS_R8));
	if (!file)
		return 0;
	image = ks_image_of(ks_inode(file));
	if (image && image->offset == KS_KREAD(u64, ctx->regs + KS_REGS_R9))
		ks_image_use(tgid, p->start, image, ctx->ret + image->delta);
#endif
	return 0;
}
