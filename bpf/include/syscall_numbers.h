/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* System calls that an architecture lacks (no number: below zero) or that older headers do not name (asm-generic). */
#pragma once

#ifndef __NR_open
#define __NR_open -1
#endif
#ifndef __NR_creat
#define __NR_creat -2
#endif
#ifndef __NR_rename
#define __NR_rename -3
#endif
#ifndef __NR_renameat
#define __NR_renameat -4
#endif
#ifndef __NR_unlink
#define __NR_unlink -5
#endif
#ifndef __NR_rmdir
#define __NR_rmdir -6
#endif
#ifndef __NR_stat
#define __NR_stat -7
#endif
#ifndef __NR_lstat
#define __NR_lstat -8
#endif
#ifndef __NR_access
#define __NR_access -9
#endif
#ifndef __NR_getdents
#define __NR_getdents -10
#endif
#ifndef __NR_poll
#define __NR_poll -11
#endif
#ifndef __NR_select
#define __NR_select -12
#endif
#ifndef __NR_epoll_wait
#define __NR_epoll_wait -13
#endif
#ifndef __NR_fork
#define __NR_fork -14
#endif
#ifndef __NR_vfork
#define __NR_vfork -15
#endif
#ifndef __NR_newfstatat
#define __NR_newfstatat -16
#endif
#ifndef __NR_pause
#define __NR_pause -17
#endif
#ifndef __NR_faccessat2
#define __NR_faccessat2 439
#endif
#ifndef __NR_openat2
#define __NR_openat2 437
#endif
#ifndef __NR_clone3
#define __NR_clone3 435
#endif
#ifndef __NR_epoll_pwait2
#define __NR_epoll_pwait2 441
#endif
#ifndef __NR_futex_waitv
#define __NR_futex_waitv 449
#endif
#ifndef __NR_futex_wait
#define __NR_futex_wait 455
#endif
#ifndef __NR_pidfd_send_signal
#define __NR_pidfd_send_signal 424
#endif
#ifndef __NR_move_mount
#define __NR_move_mount 429
#endif
