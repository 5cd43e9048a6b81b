# SPDX-License-Identifier: Apache-2.0
"""The main thread's stack as it is now, read from outside: for people who look, never for tracing.

Nothing stops the process meanwhile, so the stack is read until two readings agree; where it goes on changing, the outer
frames that two readings have in common are given. Memory may be hostile: every list is bounded.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

import numpy as np

from kernelspan_agent.process.errors import MemoryReadError
from kernelspan_agent.process.memory import read_u64
from kernelspan_agent.runtimes.registry import COMPLETE, RUNNING, TRUNCATED, UNREADABLE, LiveStack

from .functions import CorruptFunctionError, read_function
from .layout import (
    ABSENT,
    CALL_TOP,
    EXECUTE_DATA_BYTES,
    HANDLE_EXCEPTION,
    INTERNAL,
    LINE,
    MAIN,
    OBJECT_CLASS,
    OBJECT_TYPE,
    OPCODE,
    USER,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from kernelspan_agent.process.memory import Memory
    from kernelspan_agent.runtimes.registry import DetectedRuntime

    from .detect import PhpDetails

MAX_FRAMES, MAX_STEPS, MAX_DELEGATES = 512, 2048, 64
READINGS = 8
_ROW = np.dtype([("code", "<u8"), ("pc", "<u8"), ("globals", "<u8"), ("owner", "u1")])
_Row = tuple[int, int, int, int]


def read_stacks(found: DetectedRuntime, memory: Memory) -> list[LiveStack]:
    """One stack: only the main thread runs PHP. Raises MemoryReadError where PHP's own globals cannot be read."""
    read_u64(memory, found.address)
    before: list[_Row] | None = None
    common: list[_Row] = []
    for _ in range(READINGS):
        try:
            now = list(_frames(memory, found.address, found.details))
        except (MemoryReadError, CorruptFunctionError):
            before = None
            continue
        if now == before:
            return [_stack(now[:MAX_FRAMES], TRUNCATED if len(now) > MAX_FRAMES else COMPLETE)]
        if before is not None and len(now) <= MAX_FRAMES:
            common = max(common, _outer(before, now), key=len)
        before = now
    return [_stack(common, RUNNING if common else UNREADABLE)]


def _stack(rows: list[_Row], state: str) -> LiveStack:
    return LiveStack(0, 0, np.array(rows, _ROW), state, main=True)


def _outer(one: list[_Row], other: list[_Row]) -> list[_Row]:
    count = 0
    for first, second in zip(reversed(one), reversed(other), strict=False):
        if first != second:
            break
        count += 1
    return other[len(other) - count :]


def _frames(memory: Memory, head: int, details: PhpDetails) -> Iterator[_Row]:
    """Innermost first, at most one more than MAX_FRAMES. Raises MemoryReadError, CorruptFunctionError."""
    data, count = read_u64(memory, head), 0
    for _ in range(MAX_STEPS):
        if not data or count > MAX_FRAMES:
            return
        header = memory.read(data, EXECUTE_DATA_BYTES)
        function, this, kind, previous = (struct.unpack_from("<Q", header, at)[0] for at in (24, 32, 40, 48))
        if function:
            row = _row(memory, header, head, details)
            if row is not None:
                yield row
                count += 1
        elif kind & 0xFF == OBJECT_TYPE and this:
            for generator in reversed(_delegating(memory, this, details)):
                frame = read_u64(memory, generator + details.offsets.generator_frame)
                row = _row(memory, memory.read(frame, EXECUTE_DATA_BYTES), head, details)
                if row is not None:
                    yield row
                    count += 1
        data = previous


def _delegating(memory: Memory, generator: int, details: PhpDetails) -> list[int]:
    """The generators that delegate (yield from) from this one on, but for the one that runs; none where it is none."""
    offsets = details.offsets
    if not details.generator or read_u64(memory, generator + OBJECT_CLASS) != read_u64(memory, details.generator):
        return []
    if offsets.generator_parent == ABSENT:
        raise CorruptFunctionError("generators of this version cannot be followed")
    found: list[int] = []
    while len(found) < MAX_DELEGATES and (parent := read_u64(memory, generator + offsets.generator_parent)):
        found.append(generator)
        generator = parent
    return found


def _row(memory: Memory, header: bytes, head: int, details: PhpDetails) -> _Row | None:
    """A frame with a function; None where that has no name: the beginning of a Fiber's stack."""
    opline, address, kind = (struct.unpack_from("<Q", header, at)[0] for at in (0, 24, 40))
    function = read_function(memory, address, details.offsets)
    if function.kind == INTERNAL:
        return (function.identity(INTERNAL), 0, address, INTERNAL) if function.name.address else None
    at = (opline - function.opcodes) & 0xFFFFFFFF
    line, opcode = struct.unpack("<IB", memory.read(opline + LINE, OPCODE + 1 - LINE))
    if opcode == HANDLE_EXCEPTION:
        line = at = 0
        if details.offsets.before_exception != ABSENT:
            thrown = read_u64(memory, head + details.offsets.before_exception - details.offsets.current_execute_data)
            line = int.from_bytes(memory.read(thrown + LINE, 4), "little") if thrown else function.lines >> 32
    owner = MAIN if function.kind == USER and not function.name.address and kind & CALL_TOP else function.kind
    return (function.identity(owner), line | at << 32, address, owner)
