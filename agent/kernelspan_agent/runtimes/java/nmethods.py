# SPDX-License-Identifier: Apache-2.0
"""Which methods a place in compiled code stands for: the method itself and those inlined into it, each with its bytecode.

The compilers note that for every place at which the code may be left (PcDesc, code/debugInfoRec.hpp): a chain of scopes,
from the innermost outwards, each (the sender's scope, the method, the bytecode) in UNSIGNED5. A frame that is on a stack stands
behind a call, which is such a place; what is not found exactly is not known. Memory may be anything: what is read is bounded.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

import numpy as np

from kernelspan_agent.process.memory import read_u64

from .layout import ABSENT
from .methods import CorruptMethodError, read_numbers

if TYPE_CHECKING:
    from kernelspan_agent.process.memory import Memory

    from .layout import JavaOffsets, ScopeOffsets

MAX_PCS_BYTES = 1 << 20
MAX_INLINED = 128
_SCOPE_BYTES = 15  # three numbers of five bytes
_FORMATS = {2: "<H", 4: "<i", 8: "<Q"}


def read_scopes(memory: Memory, blob: int, pc: int, offsets: JavaOffsets) -> list[tuple[int, int]]:
    """(address of the Method, bytecode) from the innermost outwards; none: the place is not noted.

    Raises MemoryReadError, CorruptMethodError.
    """
    at = offsets.scopes
    base = blob if at.immutable_data == ABSENT else read_u64(memory, blob + at.immutable_data)
    first = base + _number(memory, blob + at.scopes_pcs, at.scopes_pcs_bytes)
    size = base + _number(memory, blob + at.pcs_end, at.pcs_end_bytes) - first
    if not 0 <= size <= MAX_PCS_BYTES or at.pc_desc_bytes < 8:
        raise CorruptMethodError("the places of compiled code")
    count = size // at.pc_desc_bytes
    data = memory.read(first, count * at.pc_desc_bytes)
    rows = np.frombuffer(data, "<i4").reshape(count, at.pc_desc_bytes // 4)
    (found,) = np.nonzero(rows[:, 0] == pc - code_begin(memory, blob, at))
    if not len(found):
        return []
    return list(_chain(memory, blob, int(rows[found[0], 1]), offsets))


def number_of(memory: Memory, blob: int, offsets: JavaOffsets) -> int | None:
    """The number of a compilation, where its code is still there and has its method; None: it has been given up.

    The JVM gives up code before the classes that it names: whoever finds it there after reading has read what it named. Raises
    MemoryReadError.
    """
    used = memory.read(blob - offsets.at["block_bytes"] + offsets.scopes.used, 1)[0]
    if used != 1 or not read_u64(memory, blob + offsets.scopes.method):
        return None
    number: int = struct.unpack("<I", memory.read(blob + offsets.at["nmethod_number"], 4))[0]
    return number


def code_begin(memory: Memory, blob: int, at: ScopeOffsets) -> int:
    """Where the instructions of a blob begin. Raises MemoryReadError."""
    if at.code_begin != ABSENT:
        return read_u64(memory, blob + at.code_begin)
    return blob + _number(memory, blob + at.code_offset, at.code_offset_bytes)


def _chain(memory: Memory, blob: int, scope: int, offsets: JavaOffsets) -> list[tuple[int, int]]:
    at = offsets.scopes
    found: list[tuple[int, int]] = []
    if at.scopes_data_begin != ABSENT:
        data = read_u64(memory, blob + at.scopes_data_begin)
    else:
        base = blob if at.immutable_data == ABSENT else read_u64(memory, blob + at.immutable_data)
        data = base + _number(memory, blob + at.scopes_data, at.scopes_data_bytes)
    metadata = _metadata(memory, blob, at)
    while scope > 0:
        if len(found) >= MAX_INLINED:
            raise CorruptMethodError("a chain of scopes without an end")
        text, place = memory.read(data + scope, _SCOPE_BYTES), 0
        numbers = []
        for _ in range(3):
            number, place = read_numbers(text, place, offsets.excludes_zero)
            numbers.append(number)
        sender, method, bci = numbers
        if method == 0 or (sender >= scope and sender):  # a sender's scope was written before
            raise CorruptMethodError("a scope")
        found.append((read_u64(memory, metadata + 8 * (method - 1)), bci - 1))
        scope = sender
    return found


def _metadata(memory: Memory, blob: int, at: ScopeOffsets) -> int:
    if at.metadata != ABSENT:
        return blob + _number(memory, blob + at.metadata, at.metadata_bytes)
    if ABSENT in (at.mutable_data, at.relocation_size):
        raise CorruptMethodError("the metadata of compiled code")
    relocations = _number(memory, blob + at.relocation_size, 4)
    return read_u64(memory, blob + at.mutable_data) + (relocations + 7 & ~7)


def _number(memory: Memory, address: int, size: int) -> int:
    if size not in _FORMATS:
        raise CorruptMethodError("a field of compiled code")
    found: int = struct.unpack(_FORMATS[size], memory.read(address, size))[0]
    if not 0 <= found < 1 << 30:
        raise CorruptMethodError(f"{found} bytes of compiled code")
    return found
