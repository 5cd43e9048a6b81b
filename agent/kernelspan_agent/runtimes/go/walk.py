# SPDX-License-Identifier: Apache-2.0
"""The goroutines' stacks as they are now, read from outside: for people who look, never for tracing.

A goroutine that does not run has left where it stands in runtime.g. Nothing stops the process meanwhile: a stack counts where
that is the same before and after. One that runs is named and not walked; so is, before Go 1.23, one in a system call, of
which the runtime keeps no frame pointer. Programs without symbols do not say where their goroutines are listed.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

import numpy as np

from kernelspan_agent.process.errors import ElfError, MemoryReadError
from kernelspan_agent.runtimes.registry import COMPLETE, RUNNING, TRUNCATED, UNREADABLE, LiveStack

from .layout import OWN

if TYPE_CHECKING:
    from kernelspan_agent.process.memory import Memory
    from kernelspan_agent.runtimes.registry import DetectedRuntime

    from .build import GoBuild
    from .layout import Offsets

MAX_GOROUTINES = 256  # that are shown; of more the first
MAX_LISTED = 1 << 16
MAX_FRAMES = 512
_ROW = np.dtype([("code", "<u8"), ("pc", "<u8"), ("globals", "<u8"), ("owner", "u1"), ("check", "<u4")])
_G_BYTES = 176
_STATUS = 8  # before goid
_NAMES = {1: "runnable", 2: "running", 3: "in a system call", 4: "waiting", 8: "being moved", 9: "preempted"}
_SYSTEM_CALL, _STANDING = 3, (1, 4, 9)
_SCANNED = 0x1000


def read_stacks(found: DetectedRuntime, memory: Memory) -> list[LiveStack]:
    """One for each goroutine. Raises MemoryReadError where their list cannot be read."""
    file, bias = found.details.file, found.details.bias
    build = file.build
    try:
        listing = file.goroutines()
    except ElfError:
        listing = 0
    if not listing:
        return []
    address, count = struct.unpack("<QQ", memory.read(listing + bias, 16))
    listed = np.frombuffer(memory.read(address, 8 * min(count, MAX_LISTED)), "<u8").tolist()
    stacks: list[LiveStack] = []
    for goroutine in listed:
        try:
            stack = _stack(memory, goroutine, build, build.code + bias)
        except MemoryReadError:
            continue
        if stack is not None:
            stacks.append(stack)
        if len(stacks) >= MAX_GOROUTINES:
            break
    return stacks[::-1]  # the first is the main one's: it comes last, as with threads


def _stack(memory: Memory, goroutine: int, build: GoBuild, code: int) -> LiveStack | None:
    offsets = build.offsets
    before = memory.read(goroutine, _G_BYTES)
    status, number = struct.unpack_from("<I4xQ", before, offsets.goid - _STATUS)
    status &= ~_SCANNED
    if status not in _NAMES:
        return None
    place = _place(before, status, offsets)
    rows, state = ([], RUNNING) if place is None else _walk(memory, before, *place)
    if rows and memory.read(goroutine, _G_BYTES) != before:
        rows, state = [], RUNNING
    made = np.array([((pc - 1 - code) % (1 << 64), 0, build.identity, OWN, 0) for pc in rows], _ROW)
    if len(made):
        made["code"][1:] += np.uint64(1)  # where the innermost stands is where a call returns to, too
    return LiveStack(0, 0, made, state, name=f"goroutine {number} ({_NAMES[status]})")


def _place(words: bytes, status: int, offsets: Offsets) -> tuple[int, int] | None:
    """(instruction, frame pointer); None: it runs, or does not keep them."""
    pc, bp = (struct.unpack_from("<Q", words, at)[0] for at in (offsets.sched_sp + 8, offsets.sched_bp))
    if status == _SYSTEM_CALL and offsets.syscall_bp:
        pc, bp = (struct.unpack_from("<Q", words, at)[0] for at in (offsets.syscall_bp - 8, offsets.syscall_bp))
    elif status not in _STANDING:
        return None
    return (pc, bp) if bp else None  # without: it has not begun yet


def _walk(memory: Memory, words: bytes, pc: int, bp: int) -> tuple[list[int], str]:
    low, high = struct.unpack_from("<QQ", words)
    rows = [pc]
    while bp:
        if len(rows) >= MAX_FRAMES:
            return rows, TRUNCATED
        if not low < bp <= high - 16:
            return rows, UNREADABLE
        low = bp
        bp, pc = struct.unpack("<QQ", memory.read(bp, 16))
        rows.append(pc)
    return rows, COMPLETE
