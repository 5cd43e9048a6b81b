# SPDX-License-Identifier: Apache-2.0
"""Memory read by plain loads, where the kernel lets a program do so: asked by loading and running small programs.

Kernel memory: `bpf_rdonly_cast(address, type)` (a kfunc, Linux 6.2) makes of any address a pointer to a struct that a program
may load from; a fault gives 0. Cast to pt_regs, whose first member is a plain word, any word of memory can be loaded, of
which a shorter value is the first bytes. It is no call in the end, since the verifier puts a move in its place: a word costs
1.5 ns, where bpf_probe_read_kernel costs 11 and bpf_probe_read_user 31 to 46 (measured on 6.18 with the return thunks that
mitigate retbleed).

User memory: the kernel has all of it mapped a second time, at one distance from its physical address (the direct map:
Documentation/arch/x86/x86_64/mm.rst), so the page tables of the running process lead to it. The distance is found by
trying and proved by reading a token of our own; see bpf/include/user.h.

Standard library only: the compiling child runs this with Debian's Python.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import platform
import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

try:
    from kernelspan_agent.probes import bpf
    from kernelspan_agent.probes.btf import Btf, BtfError
except ModuleNotFoundError:  # in the compiling child they are beside this file
    from btf import Btf, BtfError  # type: ignore[no-redef]

    import bpf  # type: ignore[no-redef]

FUNCTION, TYPE = "bpf_rdonly_cast", "pt_regs"
_TOKEN = 0x4B530002  # constants.CAST_TOKEN, which the child cannot import
_CALL, _PSEUDO_KFUNC_CALL, _EXIT = 0x85, 2, 0x95
_GET_CURRENT_TASK, _PROBE_READ_KERNEL = 35, 113
_PROG_RAW_TRACEPOINT, _PROG_TEST_RUN = 17, 10
_GIB = 1 << 30  # where the direct map begins is a multiple of it (arch/x86/mm/kaslr.c)
_PRESENT_USER, _HUGE, _FRAME = 5, 0x80, 0x000F_FFFF_FFFF_F000
_HUGE_LEVELS = {30: 1 << 30, 21: 1 << 21}


@dataclass(frozen=True, slots=True)
class Cast:
    """What a program calls, and what it says that it wants: numbers in the kernel's BTF."""

    function: int
    type: int


_SHIFTED = bpf.instruction(0x7F, 0, 6, 0, 0) + bpf.instruction(
    _EXIT, 0, 0, 0, 0
)  # r0 >>= r6, since a run gives 32 bits


def _reader(cast: Cast) -> bytes:
    """r0 = *(u64 *)cast(ctx[0]) >> ctx[1]: what every program that reads directly does."""
    return (
        bpf.instruction(0x79, 6, 1, 8, 0)
        + bpf.instruction(0x79, 1, 1, 0, 0)
        + bpf.instruction(0xB7, 2, 0, 0, cast.type)
        + bpf.instruction(_CALL, 0, _PSEUDO_KFUNC_CALL, 0, cast.function)
        + bpf.instruction(0x79, 0, 0, 0, 0)
        + _SHIFTED
    )


def _helped_reader() -> bytes:
    """The same by a helper, on any kernel: bpf_probe_read_kernel(r10 - 8, 8, ctx[0]). What cannot be read is 0."""
    return (
        bpf.instruction(0x79, 6, 1, 8, 0)
        + bpf.instruction(0x79, 3, 1, 0, 0)
        + bpf.instruction(0x7A, 10, 0, -8, 0)
        + bpf.instruction(0xBF, 1, 10, 0, 0)
        + bpf.instruction(0x07, 1, 0, 0, -8)
        + bpf.instruction(0xB7, 2, 0, 0, 8)
        + bpf.instruction(_CALL, 0, 0, 0, _PROBE_READ_KERNEL)
        + bpf.instruction(0x79, 0, 10, -8, 0)
        + _SHIFTED
    )


# r0 = current task >> ctx[1]
_TASK = bpf.instruction(0x79, 6, 1, 8, 0) + bpf.instruction(_CALL, 0, 0, 0, _GET_CURRENT_TASK) + _SHIFTED


@contextmanager
def _loaded(instructions: bytes) -> Iterator[int]:
    fd = bpf.prog_load(_PROG_RAW_TRACEPOINT, instructions, "ks_direct")
    try:
        yield fd
    finally:
        os.close(fd)


def _run(program: int, argument: int) -> int:
    """What a program gives for one argument, by two runs that give half of it each."""
    low, high = (bpf.test_run(program, (argument & 0xFFFF_FFFF_FFFF_FFFF, shift)) for shift in (0, 32))
    return low | high << 32


@contextmanager
def memory() -> Iterator[tuple[Callable[[int], int], int]]:
    """What reads a word of the kernel's memory, and this process's task_struct. Raises OSError where it is refused."""
    with _loaded(_helped_reader()) as reader, _loaded(_TASK) as task:
        yield lambda address: _run(reader, address), _run(task, 0)


def find_cast(btf: Btf) -> Cast | None:
    """None where this kernel has no such function, or does not let a program load from what it gives."""
    try:
        cast = Cast(btf.function(FUNCTION), btf.struct(TYPE))
        with _loaded(_reader(cast)):
            return cast
    except (BtfError, OSError):
        return None


def calls_of_casts(instructions: bytes, cast: Cast | None) -> bytes:
    """The instructions with calls of the token made calls of the kernel's function."""
    if cast is None:
        return instructions
    code = bytearray(instructions)
    for at in range(0, len(code), 8):
        op, registers, _, immediate = struct.unpack_from("<BBhi", code, at)
        if op == _CALL and not registers >> 4 and immediate == _TOKEN:
            struct.pack_into("<BBhi", code, at, _CALL, _PSEUDO_KFUNC_CALL << 4, 0, cast.function)
    return bytes(code)


def direct_map(cast: Cast, task_mm: int, mm_pgd: int) -> int:
    """Where the kernel has physical memory mapped; 0 where page tables do not lead to a token of our own by it."""
    if platform.machine() != "x86_64" or " la57 " in _cpu_flags():  # five levels: nobody has tried
        return 0
    token = os.urandom(64)
    ours = mmap.mmap(-1, mmap.PAGESIZE)
    try:
        with _loaded(_reader(cast)) as reader, _loaded(_TASK) as task:

            def word(address: int) -> int:
                return _run(reader, address)

            ours[: len(token)] = token
            address = ctypes.addressof(ctypes.c_char.from_buffer(ours))
            mm = word(_run(task, 0) + task_mm)
            pgd = word(mm + mm_pgd)
            begin = pgd - pgd % _GIB
            for base in range(begin, begin - _physical_bytes() - _GIB, -_GIB):
                at = _translated(word, pgd, base, address)
                if at and b"".join(struct.pack("<Q", word(at + i)) for i in range(0, len(token), 8)) == token:
                    return base
    except OSError:
        return 0
    return 0


def _translated(word: Callable[[int], int], pgd: int, base: int, address: int) -> int:
    """Where the kernel has a user's address, if the direct map begins at `base`; 0: the tables do not say."""
    table = pgd
    for shift in (39, 30, 21, 12):
        entry = word(table + (address >> shift & 511) * 8)
        if entry & _PRESENT_USER != _PRESENT_USER:
            return 0
        if entry & _HUGE and shift in _HUGE_LEVELS:
            size = _HUGE_LEVELS[shift]
            return base + (entry & _FRAME & -size) + address % size
        table = base + (entry & _FRAME)
    return table + address % 4096


def _physical_bytes() -> int:
    """A bound of physical addresses: the end of the last range of memory."""
    try:
        with Path("/proc/iomem").open() as file:
            ends = [line.split("-")[1].split(" ")[0] for line in file if "System RAM" in line]
        return max(int(end, 16) for end in ends) or 1 << 42
    except (OSError, ValueError):
        return 1 << 42


def _cpu_flags() -> str:
    with Path("/proc/cpuinfo").open() as file:
        return next((line + " " for line in file if line.startswith("flags")), "")
