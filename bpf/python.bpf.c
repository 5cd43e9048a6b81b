// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/* The Python walker: reached by a tail call from the return of an operation; sends the operation. */
#include "op.h"
#include "path.h"
#include "runtimes/python.bpf.h"

int ks_py(void *ctx)
{
	struct ks_scratch *s = ks_scratch();
	struct ks_py_layout *l;
	struct ks_runtime *rt;
	u32 tgid = ks_tgid();

	if (!s)
		return 0;
	rt = ks_runtimes.lookup(&tgid);
	if (rt && rt->start == s->proc_start) {
		l = ks_py_layouts.lookup(&rt->layout);
		if (l)
			ks_py_walk(s, rt, l);
	}
	ks_finish(s);
	return 0;
}
