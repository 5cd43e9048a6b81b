# SPDX-License-Identifier: Apache-2.0
"""Control frames in Ruby's memory, read from outside, as bpf/runtimes/ruby.bpf.h reads them from inside.

Memory may be anything: every list is bounded, what is no frame gives CorruptObjectError.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import TYPE_CHECKING

from kernelspan_agent.process.memory import read_u64

from .layout import (
    ABSENT,
    ARRAY_OBJECT,
    BODY_CODE,
    BODY_LABEL,
    BODY_PATHOBJ,
    BODY_TYPE,
    BY_CFUNC,
    BY_ISEQ,
    CFUNC,
    CLASS_BODY,
    CLASS_OBJECT,
    EC_STACK,
    ENVIRONMENT_LOCAL,
    EVAL,
    IMEMO_METHOD,
    IMEMO_OBJECT,
    IMEMO_SVAR,
    ISEQ_BODY,
    MAGIC,
    MAGIC_CFUNC,
    MAIN,
    MODULE_OBJECT,
    OBJECT_TYPE,
    RESCUE,
    SINGLETON,
    TOP,
    Offsets,
)
from .objects import CorruptObjectError, element

if TYPE_CHECKING:
    from kernelspan_agent.process.memory import Memory

    from .detect import RubyDetails

MAX_FRAMES, MAX_STEPS, MAX_ENVIRONMENTS, MAX_VARIABLES, MAX_WITHIN = 512, 4096, 8, 8, 8
LOOKED_UP_SINCE = (3, 4)  # the names of code of eval, and of what handles exceptions
_IMMEDIATE, _BLOCK, _BLOCK_BYTES = 54, 512, 80
_MASK = (1 << 64) - 1
Row = tuple[int, int, int, int, int]  # code (0: to be read), line and position, body or definition, class's name, owner


def frames_of(memory: Memory, context: int, details: RubyDetails) -> Iterator[Row]:
    """Of an execution context, innermost first, at most some more than MAX_FRAMES. Raises MemoryReadError, CorruptObjectError."""
    stack, words, frame = struct.unpack("<3Q", memory.read(context + EC_STACK, 24))
    last, count = stack + 8 * words - 2 * details.offsets.frame_bytes, 0
    if not stack or not frame:
        return
    if not stack <= frame <= stack + 8 * words or words >> 32:
        raise CorruptObjectError(f"no execution context at {context:#x}")
    for _ in range(MAX_STEPS):
        if frame > last or count > MAX_FRAMES:
            return
        row = _frame(memory, frame, details)
        if row is not None:
            yield row
            count += 1
        frame += details.offsets.frame_bytes


def label_of(memory: Memory, body: int, details: RubyDetails) -> int:
    """The string that is an iseq's label. Raises MemoryReadError."""
    if details.numbers >= LOOKED_UP_SINCE:
        for _ in range(MAX_WITHIN):
            if not RESCUE <= memory.read(body + BODY_TYPE, 1)[0] & 15 <= EVAL:
                break
            parent = read_u64(memory, body + details.offsets.parent_iseq)
            if not parent:
                break
            body = read_u64(memory, parent + ISEQ_BODY)
    return read_u64(memory, body + BODY_LABEL)


def path_of(memory: Memory, body: int, offsets: Offsets) -> int:
    """The string that is an iseq's path. Raises MemoryReadError, CorruptObjectError."""
    path = read_u64(memory, body + BODY_PATHOBJ)
    return element(memory, path, 0, offsets) if read_u64(memory, path) & OBJECT_TYPE == ARRAY_OBJECT else path


def line_of(memory: Memory, body: int, position: int, offsets: Offsets) -> int:
    """The line of the instruction before a position; 0: not known. Raises MemoryReadError."""
    lines, _, size, table = struct.unpack("<4Q", memory.read(body + offsets.lines, 32))
    size &= 0xFFFFFFFF
    if not size:
        return 0
    entry = _entry(memory, table, max(position - 1, 0)) if size > 1 else 1
    if not 0 < entry <= size:
        return 0
    line: int = struct.unpack("<I", memory.read(lines + (entry - 1) * offsets.line_bytes, 4))[0]
    return line


def _entry(memory: Memory, table: int, at: int) -> int:
    """The entry, from 1 on, of a succinct table (iseq.c: succ_index_lookup)."""
    if at < _IMMEDIATE:
        return read_u64(memory, table + at // 9 * 8) >> at % 9 * 7 & 127
    number, bit = divmod(at - _IMMEDIATE, _BLOCK)
    rank, small, *bits = struct.unpack("<10Q", memory.read(table + 48 + number * _BLOCK_BYTES, _BLOCK_BYTES))
    word, rest = divmod(bit, 64)
    within = small >> (word - 1) * 9 & 511 if word else 0
    return int((rank & 0xFFFFFFFF) + within + (bits[word] << (63 - rest) & _MASK).bit_count())


def _frame(memory: Memory, frame: int, details: RubyDetails) -> Row | None:
    pc, _, iseq, _, environment = struct.unpack("<5Q", memory.read(frame, 40))
    offsets = details.offsets
    if not iseq:
        if read_u64(memory, environment) & MAGIC != MAGIC_CFUNC:
            return None
        owner, definition, _ = _method(memory, environment)
        if not definition:
            raise CorruptObjectError(f"a C function of no method at {frame:#x}")
        name, single = class_name(memory, owner, details)
        return 0, 0, definition, name, CFUNC | single
    if not pc:
        return None
    body = read_u64(memory, iseq + ISEQ_BODY)
    kind = memory.read(body + BODY_TYPE, 1)[0] & 15
    name = single = 0
    if kind not in (TOP, CLASS_BODY, MAIN):
        owner, _, of = _method(memory, environment)
        if of and of == read_u64(memory, body + offsets.parent_iseq + 8):
            name, single = class_name(memory, owner, details)
    position = (pc - read_u64(memory, body + BODY_CODE)) // 8 & 0xFFFFFFFF
    return 0, line_of(memory, body, position, offsets) | position << 32, body, name, kind | single


def _method(memory: Memory, environment: int) -> tuple[int, int, int]:
    """Of the method that an environment belongs to: the class that has it, its definition, its iseq; zeros: there is none."""
    for _ in range(MAX_ENVIRONMENTS):
        entry, around, flags = struct.unpack("<3Q", memory.read(environment - 16, 24))
        local = flags & ENVIRONMENT_LOCAL
        if entry:
            if local and _imemo(memory, entry) == IMEMO_SVAR:
                entry = read_u64(memory, entry + 8)
            if _imemo(memory, entry) == IMEMO_METHOD:
                definition, _, owner = struct.unpack("<3Q", memory.read(entry + 16, 24))
                kind, iseq = struct.unpack("<2Q", memory.read(definition, 16))
                return owner, definition, iseq if kind & 15 == BY_ISEQ else 0
        if local:
            break
        environment = around & ~3
    return 0, 0, 0


def _imemo(memory: Memory, entry: int) -> int:
    flags = read_u64(memory, entry) if entry else 0
    return flags >> 12 & 15 if flags & OBJECT_TYPE == IMEMO_OBJECT else -1


def function_of(memory: Memory, definition: int) -> tuple[int, int]:
    """Of a C function's definition: the id of its name, its address. Raises MemoryReadError."""
    kind, function = struct.unpack("<2Q", memory.read(definition, 16))
    return read_u64(memory, definition + 32), function if kind & 15 == BY_CFUNC else 0


def class_name(memory: Memory, address: int, details: RubyDetails) -> tuple[int, int]:
    """The string that names a class for good, and SINGLETON where that is the one whose own class it is; zeros: none."""
    offsets, single = details.offsets, 0
    if not address:
        return 0, 0
    flags = read_u64(memory, address)
    if flags & OBJECT_TYPE == CLASS_OBJECT and flags & offsets.singleton:
        single = SINGLETON
        if offsets.class_path == ABSENT:
            address = _variable(memory, address, offsets.attached_id)
        else:
            address = read_u64(memory, address + offsets.class_attached)
        if not address or address & 7:
            return 0, 0
        flags = read_u64(memory, address)
    if flags & OBJECT_TYPE not in (CLASS_OBJECT, MODULE_OBJECT):
        return 0, 0
    if offsets.class_path == ABSENT:
        name = _variable(memory, address, details.classpath_id)
    else:
        bits, name = struct.unpack("<2Q", memory.read(address + offsets.class_path - 8, 16))
        name = name if bits >> offsets.class_permanent & 1 else 0
    return (name, single) if name else (0, 0)


def _variable(memory: Memory, address: int, number: int) -> int:
    table = read_u64(memory, read_u64(memory, address + 24) + 8)
    if not table:
        return 0
    first, end, entries = struct.unpack("<3Q", memory.read(table + 32, 24))
    for at in range(first, min(end, first + MAX_VARIABLES)):
        mixed, key, value = struct.unpack("<3Q", memory.read(entries + 24 * at, 24))
        if key == number and mixed != _MASK:
            return int(value)
    return 0
