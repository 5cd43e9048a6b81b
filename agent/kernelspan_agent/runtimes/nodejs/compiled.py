# SPDX-License-Identifier: Apache-2.0
"""Frames of compiled code: from an address that a call returns to, to the functions that are there and where in them.

Baseline code is one function's, and has a table of its bytecodes' offsets; of optimised code see `optimised`. The Code is found from
the address backwards: instructions stand behind a header that leads to their Code, which leads back. All is read twice: what
V8 moves it points to anew in the same pause, so what the same pointers lead to before and after a reading stood there meanwhile.
Layouts: src/objects/code.tq, src/codegen/source-position.h of V8.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from kernelspan_agent.process.errors import MemoryReadError
from kernelspan_agent.process.memory import MAX_READ_BYTES, read_u64
from kernelspan_agent.runtimes.mixing import mix_lanes

from .functions import Function
from .heap import CorruptHeapError, bytes_of, type_of
from .optimised import frames_in
from .positions import bytecode_offset, position_of

if TYPE_CHECKING:
    from kernelspan_agent.process.memory import Memory

    from .layout import Layout

MAX_BACK_BYTES = 256 << 10
MAX_MAPS = 256  # that are looked at
HASHED_BYTES, HASHED_BEFORE = 64, 56  # around the address: as in bpf/runtimes/nodejs.bpf.h
_PAGE_BYTES, _ALIGNMENT = 4096, 32
_KIND = 15  # of a Code's flags
_BYTECODE_LENGTH = 8
_MAGLEV, _TURBOFAN = 1, 2  # kinds of code, after the baseline's


@dataclass(frozen=True, slots=True)
class Place:
    """A function at work, and where in its script, in characters (-1: not known)."""

    function: Function
    position: int


@dataclass(frozen=True, slots=True)
class _Code:
    address: int
    start: int
    size: int
    kind: int
    data: int  # bytecode of baseline code, what optimised code is left by
    positions: int


def places_of(memory: Memory, pc: int, check: int, own: Function, shared: int, layout: Layout) -> list[Place]:
    """The functions at work in a frame of the function `own`, the innermost first. `shared`: where that function was.

    It is true where a second reading, after all that was taken from what it leads to, says the same.
    Raises MemoryReadError; CorruptHeapError: it is not known.
    """
    if mix_lanes(memory.read(pc - HASHED_BEFORE, HASHED_BYTES)) & 0xFFFFFFFF != check:
        raise CorruptHeapError(f"the code at {pc:#x} is another by now")
    code = _of_function(memory, pc, shared, layout) or _backwards(memory, pc, layout)
    kind = code.kind - layout["code_kind_baseline"]
    if kind == 0:
        return [Place(own, _in_baseline(memory, code, pc, layout))]
    if kind not in (_MAGLEV, _TURBOFAN):
        raise CorruptHeapError(f"code of the kind {code.kind} at {pc:#x}")
    frames = frames_in(memory, code.data, code.start + code.size, pc - code.start, layout, maglev=kind == _MAGLEV)
    if not frames or not frames[-1][0].is_of(own):
        raise CorruptHeapError(f"the code at {pc:#x} is of another function than its frame")
    frames[-1] = replace(own, script=frames[-1][0].script), frames[-1][1]  # its name is the kernel's
    return [Place(*each) for each in frames]


def _code(memory: Memory, value: int, pc: int, layout: Layout) -> _Code | None:
    """The Code that a tagged value is, where a call in it returns to `pc`."""
    if type_of(memory, value) != layout["type_code"]:
        return None
    at, base = layout.version.code, value - 1
    start = read_u64(memory, base + at.start) if at.stream else base + at.start
    size, flags = (struct.unpack("<I", memory.read(base + each, 4))[0] for each in (at.size, at.flags))
    if not start < pc <= start + size:
        return None
    data, positions = (read_u64(memory, base + each) for each in (at.data, at.positions))
    return _Code(value, start, size, flags & _KIND, data, positions)


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
            index = (_PAGE_BYTES - _ALIGNMENT - at + layout.version.code.shift) // 8
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


def _in_baseline(memory: Memory, code: _Code, pc: int, layout: Layout) -> int:
    bytecode = code.data
    if type_of(memory, bytecode) == layout["type_interpreter_data"]:
        bytecode = read_u64(memory, bytecode - 1 + 8)
    if type_of(memory, bytecode) != layout["type_bytecode"]:
        raise CorruptHeapError(f"baseline code without bytecode at {pc:#x}")
    size = read_u64(memory, bytecode - 1 + _BYTECODE_LENGTH) >> 32
    if size > MAX_READ_BYTES:
        raise CorruptHeapError(f"a bytecode of {size} bytes")
    instructions = memory.read(bytecode - 1 + layout["bytecode_data"], size)
    offsets = bytes_of(memory, code.positions)
    offset = bytecode_offset(offsets, pc - code.start, instructions, layout.bytecode_sizes)
    table = read_u64(memory, bytecode - 1 + layout.version.bytecode_positions)
    if offset is None or type_of(memory, table) != layout["type_positions"]:
        return -1
    found = position_of(bytes_of(memory, table), offset, packed=layout.version.packed_positions)
    return -1 if found is None else found
