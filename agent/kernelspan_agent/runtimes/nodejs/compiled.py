# SPDX-License-Identifier: Apache-2.0
"""Frames of compiled code: from an address that a call returns to, to the functions that are there and where in them.

Baseline code is one function's, and has a table of its bytecodes' offsets. Optimised code (Maglev, TurboFan) has others' made
a part of it; where it has, a frame of it is not told: without the functions inside, the nearest one would be a wrong one.
The Code is found from the address backwards: instructions stand behind a header that leads to their Code, which leads
back. Layouts: src/objects/code.tq, deoptimization-data.h, src/codegen/source-position.h of V8.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING

from kernelspan_agent.process.errors import MemoryReadError
from kernelspan_agent.process.memory import MAX_READ_BYTES, read_u64
from kernelspan_agent.runtimes.mixing import mix_lanes

from .heap import CorruptHeapError, type_of
from .positions import bytecode_offset, position_of

if TYPE_CHECKING:
    from kernelspan_agent.process.memory import Memory

    from .layout import Layout

MAX_BACK_BYTES = 256 << 10
MAX_MAPS = 256  # that are looked at
MAX_LITERALS = 1 << 16
HASHED_BYTES = 64  # around the address: as in bpf/runtimes/nodejs.bpf.h
_PAGE_BYTES, _ALIGNMENT = 4096, 32
_KIND = 15  # of a Code's flags
_ARRAY_LENGTH, _ARRAY_DATA = 8, 16


@dataclass(frozen=True, slots=True)
class Place:
    """A function at work, by its SharedFunctionInfo (0: the frame's own), and where in its script, in characters."""

    shared: int
    position: int  # -1: not known


@dataclass(frozen=True, slots=True)
class _Code:
    address: int
    start: int
    kind: int


def places_of(memory: Memory, pc: int, check: int, shared: int, layout: Layout) -> list[Place]:
    """The functions at work in a frame of the function `shared`, the innermost first.

    Raises MemoryReadError; CorruptHeapError: it is not known.
    """
    if mix_lanes(memory.read(pc - HASHED_BYTES // 2, HASHED_BYTES)) & 0xFFFFFFFF != check:
        raise CorruptHeapError(f"the code at {pc:#x} is another by now")
    code = _of_function(memory, pc, shared, layout) or _backwards(memory, pc, layout)
    if code.kind == layout["code_kind_baseline"]:
        return [Place(0, _in_baseline(memory, code, pc, layout))]
    if code.kind > layout["code_kind_baseline"]:
        return _in_optimised(memory, code, pc, layout)
    raise CorruptHeapError(f"code of the kind {code.kind} at {pc:#x}")


def _code(memory: Memory, value: int, pc: int, layout: Layout) -> _Code | None:
    """The Code that a tagged value is, where a call in it returns to `pc`."""
    if type_of(memory, value) != layout["type_code"]:
        return None
    at, base = layout.version.code, value - 1
    start = read_u64(memory, base + at.start) if at.stream else base + at.start
    size, flags = (struct.unpack("<I", memory.read(base + each, 4))[0] for each in (at.size, at.flags))
    return _Code(value, start, flags & _KIND) if start < pc <= start + size else None


def _of_function(memory: Memory, pc: int, shared: int, layout: Layout) -> _Code | None:
    if type_of(memory, shared) != layout["type_shared"]:
        return None
    return _code(memory, read_u64(memory, shared - 1 + 8), pc, layout)


def _backwards(memory: Memory, pc: int, layout: Layout) -> _Code:
    known: dict[int, bool] = {}
    page = pc & -_PAGE_BYTES
    for low in range(page, page - MAX_BACK_BYTES, -_PAGE_BYTES):
        words = struct.unpack(f"<{_PAGE_BYTES // 8}Q", memory.read(low, _PAGE_BYTES))
        for at in range(0, _PAGE_BYTES, _ALIGNMENT):
            index = (_PAGE_BYTES - _ALIGNMENT - at) // 8
            address, word = low + index * 8, words[index]
            if address >= pc or word & 3 != 1:
                continue
            if word not in known:
                if len(known) == MAX_MAPS:
                    raise CorruptHeapError(f"no code around {pc:#x}")
                known[word] = _is_map(memory, word, layout)
            if known[word] and (found := _of_stream(memory, address, pc, layout)) is not None:
                return found
    raise CorruptHeapError(f"no code around {pc:#x}")


def _is_map(memory: Memory, word: int, layout: Layout) -> bool:
    try:
        return bool(struct.unpack("<H", memory.read(word - 1 + 12, 2))[0] == layout["type_stream"])
    except MemoryReadError:
        return False


def _of_stream(memory: Memory, address: int, pc: int, layout: Layout) -> _Code | None:
    at = layout.version.code
    try:
        if not at.stream:
            return _code(memory, address + 1, pc, layout)
        for (each,) in struct.iter_unpack("<Q", memory.read(address + 8, 24)):
            found = _code(memory, each, pc, layout) if each & 3 == 1 else None
            if found is not None and read_u64(memory, each - 1 + at.stream) == address + 1:
                return found
    except MemoryReadError:
        pass
    return None


def _bytes_of(memory: Memory, array: int, most: int = MAX_READ_BYTES) -> bytes:
    size = read_u64(memory, array - 1 + _ARRAY_LENGTH) >> 32
    if array & 3 != 1 or size > most:
        raise CorruptHeapError(f"an array of {size} bytes at {array:#x}")
    return memory.read(array - 1 + _ARRAY_DATA, size)


def _in_baseline(memory: Memory, code: _Code, pc: int, layout: Layout) -> int:
    at = layout.version.code
    bytecode = read_u64(memory, code.address - 1 + at.data)
    if type_of(memory, bytecode) == layout["type_interpreter_data"]:
        bytecode = read_u64(memory, bytecode - 1 + 8)
    if type_of(memory, bytecode) != layout["type_bytecode"]:
        raise CorruptHeapError(f"baseline code without bytecode at {pc:#x}")
    size = read_u64(memory, bytecode - 1 + _ARRAY_LENGTH) >> 32
    if size > MAX_READ_BYTES:
        raise CorruptHeapError(f"a bytecode of {size} bytes")
    instructions = memory.read(bytecode - 1 + layout["bytecode_data"], size)
    offsets = _bytes_of(memory, read_u64(memory, code.address - 1 + at.positions))
    offset = bytecode_offset(offsets, pc - code.start, instructions, layout.bytecode_sizes)
    table = read_u64(memory, bytecode - 1 + layout.version.bytecode_positions)
    if offset is None or type_of(memory, table) != layout["type_positions"]:
        return -1
    found = position_of(_bytes_of(memory, table), offset, packed=layout.version.packed_positions)
    return -1 if found is None else found


def _in_optimised(memory: Memory, code: _Code, pc: int, layout: Layout) -> list[Place]:
    """The frame's own function, where no other was made a part of the code: which of them a call is in is not known yet.

    The table of positions does not tell: its last entry before a call may be an earlier call's (seen in 26, in loops).
    """
    at = layout.version.code
    data = read_u64(memory, code.address - 1 + at.data)
    inlinings = _entry(memory, data, at.inlinings)
    if inlinings & 3 != 1 or read_u64(memory, inlinings - 1 + _ARRAY_LENGTH) >> 32:
        raise CorruptHeapError(f"inlined calls at {pc:#x}")
    return [Place(0, -1)]


def _entry(memory: Memory, array: int, index: int) -> int:
    if array & 3 != 1 or not 0 <= index < min(read_u64(memory, array - 1 + _ARRAY_LENGTH) >> 32, MAX_LITERALS):
        raise CorruptHeapError(f"no entry {index} of the array at {array:#x}")
    return read_u64(memory, array - 1 + _ARRAY_DATA + 8 * index)
