# SPDX-License-Identifier: Apache-2.0
"""Bounded reads of memory, from this very process."""

from __future__ import annotations

import ctypes
import mmap
import os
import subprocess

import pytest

from kernelspan_agent.process.errors import MemoryReadError, ProcessEndedError
from kernelspan_agent.process.memory import MAX_READ_BYTES, ProcessMemory, read_cstring, read_u64
from kernelspan_agent.process.procfs import Process, open_process


def test_reads_all_or_nothing() -> None:
    """What is there is read; what is only partly there gives nothing."""
    with mmap.mmap(-1, 3 * mmap.PAGESIZE) as pages:
        start = ctypes.addressof(ctypes.c_char.from_buffer(pages))
        pages[:16] = b"0123456789abcde\0"
        pages[2 * mmap.PAGESIZE - 3 : 2 * mmap.PAGESIZE] = b"end"
        ctypes.CDLL(None).mprotect(ctypes.c_void_p(start + 2 * mmap.PAGESIZE), mmap.PAGESIZE, 0)
        ctypes.CDLL(None).munmap(ctypes.c_void_p(start + 2 * mmap.PAGESIZE), mmap.PAGESIZE)
        with ProcessMemory(open_process(os.getpid())) as memory:
            end = start + 2 * mmap.PAGESIZE
            assert memory.read(start, 4) == b"0123"
            assert memory.read(start, 0) == b""
            assert read_u64(memory, start) == int.from_bytes(b"01234567", "little")
            assert read_cstring(memory, start) == b"0123456789abcde"
            assert memory.read(end - 3, 3) == b"end"
            with pytest.raises(MemoryReadError):
                memory.read(end - 3, 4)
            with pytest.raises(MemoryReadError):
                read_cstring(memory, end - 3)
            with pytest.raises(MemoryReadError, match="no end"):
                read_cstring(memory, start, limit=8)


@pytest.mark.parametrize(
    ("address", "size"),
    [(0, 8), (1 << 63, 8), ((1 << 64) - 1, 8), (-1, 8), (0, MAX_READ_BYTES + 1), (4096, -1), (1 << 47, 8)],
)
def test_reads_out_of_bounds(address: int, size: int) -> None:
    """No address and no size found in hostile memory does more than raise."""
    with ProcessMemory(open_process(os.getpid())) as memory, pytest.raises(MemoryReadError):
        memory.read(address, size)


def test_the_memory_of_a_reused_pid_is_not_opened() -> None:
    """The start time must be the process's."""
    process = open_process(os.getpid())
    with pytest.raises(ProcessEndedError):
        ProcessMemory(Process(process.pid, process.start_ticks + 1))


def test_an_ended_process_reads_nothing() -> None:
    """Open memory of a process that ends gives errors, not zeros."""
    with subprocess.Popen(["sleep", "60"]) as child:
        process = open_process(child.pid)
        memory = ProcessMemory(process)
        child.kill()
    with memory, pytest.raises(MemoryReadError):
        memory.read(0x400000, 8)
    with pytest.raises(ProcessEndedError):
        ProcessMemory(process)
