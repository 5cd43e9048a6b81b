# SPDX-License-Identifier: Apache-2.0
"""When programs that have been taken off run no more, on whatever CPU they were."""

from __future__ import annotations

import ctypes
import platform
import time

_SYS_MEMBARRIER = {"x86_64": 324, "aarch64": 283}[platform.machine()]
_GLOBAL = 1  # membarrier(2): every thread has passed a point in which no program of a tracepoint or a kprobe runs
_SECONDS = 0.02  # what is left to user probes' programs, which may be preempted, and where the call is not to be had


def wait() -> None:
    """Returns once what the programs count and send stands still.

    A program runs with preemption off, so it has ended when each CPU has been elsewhere: the kernel waits for that in
    membarrier's global command (kernel/sched/membarrier.c: synchronize_rcu), however long a CPU is away.
    """
    ctypes.CDLL(None).syscall(ctypes.c_long(_SYS_MEMBARRIER), _GLOBAL, 0, 0)
    time.sleep(_SECONDS)
