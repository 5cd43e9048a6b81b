# SPDX-License-Identifier: Apache-2.0
"""What a user probe costs before its program runs: a trap into the kernel and back, measured on this machine.

The kernel's statistics of programs do not have it, and it is most of such a probe's cost: a pair of them, at entry and
return, took 3.4 us on one virtual machine and 10.4 on another. Measured on a function of our own that nobody else maps, by a call of it 200 times with a probe and
without.
"""

from __future__ import annotations

import contextlib
import ctypes
import mmap
import os
import struct
import time
from collections.abc import Iterator
from functools import cache

from kernelspan_agent.errors import MachineError
from kernelspan_agent.guard.measured import ASSUMED, Traps
from kernelspan_agent.probes import bpf, specimen
from kernelspan_agent.probes.proofs import counting
from kernelspan_agent.probes.uprobe import uprobe

CALLS, ROUNDS = 200, 3
_PAGE = 4096
_LOOP = 0x100


def _code() -> bytes:
    function = b"\xf3\x0f\x1e\xfa\x55\x48\x89\xe5\x5d\xc3"  # endbr64; push rbp; mov rbp, rsp; pop rbp; ret
    loop = b"\x53\x89\xfb"  # push rbx; mov ebx, edi
    again = len(loop)
    loop += b"\xe8" + struct.pack("<i", -(_LOOP + len(loop) + 5))  # call the function
    loop += b"\xff\xcb"  # dec ebx
    loop += b"\x75" + struct.pack("<b", again - (len(loop) + 2))  # jnz again
    loop += b"\x5b\xc3"  # pop rbx; ret
    return (function.ljust(_LOOP, b"\xcc") + loop).ljust(_PAGE, b"\xcc")


@contextlib.contextmanager
def _mapped(fd: int) -> Iterator[int]:
    libc = ctypes.CDLL(None, use_errno=True)
    libc.mmap.restype = ctypes.c_void_p
    libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long]
    libc.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
    at = libc.mmap(None, _PAGE, mmap.PROT_READ | mmap.PROT_EXEC, mmap.MAP_PRIVATE, fd, 0)
    if at in (None, ctypes.c_void_p(-1).value):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    try:
        yield at
    finally:
        libc.munmap(at, _PAGE)


def _call_ns(at: int) -> float:
    """The quickest of some rounds: what else ran meanwhile is not in it."""
    loop = ctypes.CFUNCTYPE(None, ctypes.c_int)(at + _LOOP)
    best = float("inf")
    for _ in range(ROUNDS):
        began = time.perf_counter_ns()
        loop(CALLS)
        best = min(best, time.perf_counter_ns() - began)
    return best / CALLS


@cache
def measure() -> Traps:
    """Takes some milliseconds of CPU, and the kernel a while to detach. Where it cannot be tried: ASSUMED."""
    if not specimen.AVAILABLE:
        return ASSUMED
    with contextlib.suppress(OSError, MachineError), contextlib.ExitStack() as stack:
        fd = os.memfd_create("ks_traps", os.MFD_CLOEXEC)
        stack.callback(os.close, fd)
        os.write(fd, _code())
        at = stack.enter_context(_mapped(fd))
        counter = stack.enter_context(counting())
        program = stack.enter_context(counter.loaded(bpf.PROG_KPROBE))
        alone = _call_ns(at)
        with contextlib.closing(uprobe(fd, 0, program)):
            enter = _call_ns(at)
        with contextlib.closing(uprobe(fd, 0, program, returns=True)):
            both = _call_ns(at)
        if counter.value() < 2 * CALLS * ROUNDS:
            return ASSUMED
        # to be told of a return, the kernel stops at the entry too; with both probes there it does so once
        return Traps(max(enter - alone, 0.0), max(both - enter, 0.0), measured=True)
    return ASSUMED
