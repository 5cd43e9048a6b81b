# SPDX-License-Identifier: Apache-2.0
"""The stacks of all threads as they are now, read from outside: for people who look, never for tracing.

Nothing stops the process meanwhile, so a stack is read until two readings agree; where it goes on changing, the outer
frames that two readings have in common are given. Memory may be hostile: every list is bounded.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from kernelspan_agent.process.errors import MemoryReadError
from kernelspan_agent.process.memory import read_u64
from kernelspan_agent.runtimes.registry import COMPLETE, RUNNING, TRUNCATED, UNREADABLE, LiveStack

from .frames import MAX_FRAMES, Row, frames_of
from .layout import ABSENT, THREADS, VM_RACTORS
from .objects import CorruptObjectError

if TYPE_CHECKING:
    from kernelspan_agent.process.memory import Memory
    from kernelspan_agent.runtimes.registry import DetectedRuntime

    from .detect import RubyDetails

MAX_THREADS, MAX_RACTORS = 4096, 256
READINGS = 8
_ROW = np.dtype([("code", "<u8"), ("pc", "<u8"), ("globals", "<u8"), ("class", "<u8"), ("owner", "u1")])


def read_stacks(found: DetectedRuntime, memory: Memory) -> list[LiveStack]:
    """One stack a thread. Raises MemoryReadError where Ruby's own variables cannot be read."""
    details: RubyDetails = found.details
    if not details.vm:
        return []
    vm = read_u64(memory, details.vm)
    stacks: list[LiveStack] = []
    try:
        for thread in _threads(memory, vm, details):
            stacks.append(_read(memory, thread, details, main=not stacks))
            if len(stacks) >= MAX_THREADS:
                break
    except (MemoryReadError, CorruptObjectError):
        pass  # a list that changes, or is none: what came before is there
    return stacks


def _threads(memory: Memory, vm: int, details: RubyDetails) -> Iterator[int]:
    """Every rb_thread_t, the main one first: lists are in the order of their making."""
    where, offsets = THREADS[details.numbers], details.offsets
    if where.ractor_node == ABSENT:
        yield from _list(memory, vm + offsets.vm_threads, MAX_THREADS)
        return
    for node in _list(memory, vm + VM_RACTORS, MAX_RACTORS):
        for thread in _list(memory, node - where.ractor_node + where.ractor_threads, MAX_THREADS):
            if read_u64(memory, thread + offsets.thread_ec - 8) and read_u64(memory, thread + 32) != vm:
                raise CorruptObjectError(f"no thread at {thread:#x}")
            yield thread


def _list(memory: Memory, head: int, most: int) -> Iterator[int]:
    node = read_u64(memory, head)
    for _ in range(most):
        if node in (0, head):
            return
        yield node
        node = read_u64(memory, node)


def _read(memory: Memory, thread: int, details: RubyDetails, *, main: bool) -> LiveStack:
    where = THREADS[details.numbers]
    key = native_id = 0
    try:
        native = thread if where.thread_native == ABSENT else read_u64(memory, thread + where.thread_native)
        key = read_u64(memory, native + where.key)
        if where.tid != ABSENT:
            native_id = read_u64(memory, native + where.tid) & 0x7FFFFFFF
    except MemoryReadError:
        pass
    before: list[Row] | None = None
    common: list[Row] = []
    for _ in range(READINGS):
        try:
            context = read_u64(memory, thread + details.offsets.thread_ec)
            now = list(frames_of(memory, context, details)) if context else []
        except (MemoryReadError, CorruptObjectError):
            before = None
            continue
        if now == before:
            state = TRUNCATED if len(now) > MAX_FRAMES else COMPLETE
            return LiveStack(key, native_id, np.array(now[:MAX_FRAMES], _ROW), state, main=main)
        if before is not None and len(now) <= MAX_FRAMES:
            common = max(common, _outer(before, now), key=len)
        before = now
    return LiveStack(key, native_id, np.array(common, _ROW), RUNNING if common else UNREADABLE, main=main)


def _outer(one: list[Row], other: list[Row]) -> list[Row]:
    count = 0
    for first, second in zip(reversed(one), reversed(other), strict=False):
        if first != second:
            break
        count += 1
    return other[len(other) - count :]
