# SPDX-License-Identifier: Apache-2.0
"""The main thread's stack as it is now, read from outside: for people who look, never for tracing.

Nothing stops the process meanwhile: see `readings`. Memory may be hostile: every list is bounded.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

import numpy as np

from kernelspan_agent.process.memory import read_u64
from kernelspan_agent.runtimes.readings import MAX_FRAMES, agreed
from kernelspan_agent.runtimes.registry import LiveStack

from .functions import CorruptFunctionError, read_function
from .layout import (
    ABSENT,
    CALL_TOP,
    EXECUTE_DATA_BYTES,
    EXTENDED,
    FRAMELESS_OPCODES,
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

MAX_STEPS, MAX_DELEGATES = 2048, 64
_ROW = np.dtype([("code", "<u8"), ("pc", "<u8"), ("globals", "<u8"), ("owner", "u1")])
_Row = tuple[int, int, int, int]


def read_stacks(found: DetectedRuntime, memory: Memory) -> list[LiveStack]:
    """One stack: only the main thread runs PHP. Raises MemoryReadError where PHP's own globals cannot be read."""
    read_u64(memory, found.address)
    rows, state = agreed(lambda: _frames(memory, found.address, found.details), (CorruptFunctionError,))
    return [LiveStack(0, 0, np.array(rows, _ROW), state, main=True)]


def _frames(memory: Memory, head: int, details: PhpDetails) -> Iterator[_Row]:
    """Innermost first, at most some more than MAX_FRAMES. Raises MemoryReadError, CorruptFunctionError."""
    data, count = read_u64(memory, head), 0
    for _ in range(MAX_STEPS):
        if not data or count > MAX_FRAMES:
            return
        header = memory.read(data, EXECUTE_DATA_BYTES)
        function, this, kind, previous = (struct.unpack_from("<Q", header, at)[0] for at in (24, 32, 40, 48))
        headers = [header] if function else []
        if not function and kind & 0xFF == OBJECT_TYPE and this:
            headers = [_generator_frame(memory, each, details) for each in _delegating(memory, this, details)]
        for each in headers:
            for row in _rows(memory, each, head, details):
                yield row
                count += 1
        data = previous


def _delegating(memory: Memory, generator: int, details: PhpDetails) -> list[int]:
    """The generators that delegate (yield from) from this one on, but for the one that runs, that one's caller first."""
    offsets, symbols = details.offsets, details.symbols
    if not symbols.generator or read_u64(memory, generator + OBJECT_CLASS) != read_u64(memory, symbols.generator):
        return []
    if offsets.generator_parent == ABSENT:
        raise CorruptFunctionError("generators of this version cannot be followed")
    found: list[int] = []
    while len(found) < MAX_DELEGATES and (parent := read_u64(memory, generator + offsets.generator_parent)):
        found.append(generator)
        generator = parent
    return found[::-1]


def _generator_frame(memory: Memory, generator: int, details: PhpDetails) -> bytes:
    return memory.read(read_u64(memory, generator + details.offsets.generator_frame), EXECUTE_DATA_BYTES)


def _rows(memory: Memory, header: bytes, head: int, details: PhpDetails) -> Iterator[_Row]:
    """A call's frame, before it that of its frameless call; none where it has no name: a Fiber's stack begins there."""
    opline, address, kind = (struct.unpack_from("<Q", header, at)[0] for at in (0, 24, 40))
    function = read_function(memory, address, details.offsets)
    if function.kind == INTERNAL:
        if function.name.address:
            yield function.identity(INTERNAL), 0, address, INTERNAL
        return
    at = (opline - function.opcodes) & 0xFFFFFFFF
    extended, line, opcode = struct.unpack("<IIB", memory.read(opline + EXTENDED, OPCODE + 1 - EXTENDED))
    if details.symbols.frameless and 0 <= opcode - details.offsets.frameless < FRAMELESS_OPCODES:
        called = read_u64(memory, read_u64(memory, details.symbols.frameless) + 8 * extended)
        yield read_function(memory, called, details.offsets).identity(INTERNAL), 0, called, INTERNAL
    if opcode == HANDLE_EXCEPTION:
        line = at = 0
        if details.offsets.before_exception != ABSENT:
            thrown = read_u64(memory, head + details.offsets.before_exception - details.offsets.current_execute_data)
            line = int.from_bytes(memory.read(thrown + LINE, 4), "little") if thrown else function.lines >> 32
    owner = MAIN if function.kind == USER and not function.name.address and kind & CALL_TOP else function.kind
    yield function.identity(owner), line | at << 32, address, owner
