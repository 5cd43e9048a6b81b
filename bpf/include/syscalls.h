/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Makes of a group's KS_SYSCALLS table a look-up by number. A call this architecture does not have never matches. */
#pragma once
#include <asm/unistd.h>
#include "syscall_numbers.h"

#define KS_CASE(name, operation, roles)                                                                                \
	case __NR_##name:                                                                                              \
		*found = (roles);                                                                                      \
		return KS_OP_##operation;

/* The operation of a system call, 0 for one that is not in the table; `found` becomes its roles. */
static __always_inline u32 ks_describe(s64 nr, u32 *found)
{
	switch (nr) {
		KS_SYSCALLS(KS_CASE)
	}
	return 0;
}
