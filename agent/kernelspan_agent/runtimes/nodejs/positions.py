# SPDX-License-Identifier: Apache-2.0
"""From an instruction to the place in the source that it was made of: V8's tables of positions.

A table is a row of entries, each the difference to the one before: of the instruction's offset, and of the position in the
source. Numbers are of 7 bits a byte, the lowest first, the sign in the lowest bit. Whether an entry is a statement is told by
the offset's sign; since V8 14 by its lowest two bits (`packed`). Format: src/codegen/source-position-table.cc; a position:
src/codegen/source-position.h.
"""

from __future__ import annotations

MAX_SHIFT = 63
_PREFIXES = 4  # Wide, ExtraWide, and these two with a breakpoint
_ENTRY = -1  # offset of what comes before a function's first instruction


def position_of(table: bytes, offset: int, *, packed: bool) -> int | None:
    """Where in the script's source, in characters, the instruction is; None: the table does not say."""
    found = raw_position_of(table, offset, packed=packed)
    place = script_offset(found) if found is not None else -1
    return place if place >= 0 else None


def raw_position_of(table: bytes, offset: int, *, packed: bool) -> int | None:
    """The position that the last entry up to an instruction has."""
    at, code_offset, position, found = 0, _ENTRY, 0, None
    while at < len(table):
        step, at = _unsigned(table, at)
        if packed:
            code_offset += step >> 2
        else:
            step = _signed(step)
            code_offset += step if step >= 0 else -(step + 1)
        difference, at = _unsigned(table, at)
        position += _signed(difference)
        if at < 0 or code_offset > offset:
            break
        found = position
    return found


def script_offset(position: int) -> int:
    """Characters from the beginning of the script; -1: none."""
    return (position >> 1 & 0x3FFFFFFF) - 1


def inlining_id(position: int) -> int:
    """Which of the code's inlined calls it is in; -1: none."""
    return (position >> 31 & 0xFFFF) - 1


def bytecode_offset(table: bytes, pc_offset: int, bytecode: bytes, sizes: bytes) -> int | None:
    """Which bytecode, by its offset, baseline code that a call returns to was made of; None: the table does not say.

    The table has the size of the code of each bytecode, the first of what comes before them (src/baseline/bytecode-offset-
    iterator.h). `sizes`: of bytecodes by their numbers, with operands of 1, 2 and 4 bytes, one after the other.
    """
    count = len(sizes) // 3
    size, at = _unsigned(table, 0)
    end, offset, following = size, _ENTRY, 0
    while end < pc_offset:
        if at < 0 or at >= len(table) or following >= len(bytecode):
            return None
        size, at = _unsigned(table, at)
        end += size
        offset, scale = following, 0
        opcode = bytecode[following]
        if opcode < _PREFIXES and following + 1 < len(bytecode):
            scale = 1 + (opcode & 1)
            following, opcode = following + 1, bytecode[following + 1]
        if opcode >= count or not sizes[scale * count + opcode]:
            return None
        following += sizes[scale * count + opcode]
    return offset if offset >= 0 else None


def _unsigned(table: bytes, at: int) -> tuple[int, int]:
    """A number and where the next one is; -1: the table ends inside."""
    value = shift = 0
    while 0 <= at < len(table) and shift <= MAX_SHIFT:
        byte = table[at]
        value |= (byte & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if not byte & 0x80:
            return value, at
    return 0, -1


def _signed(value: int) -> int:
    return value >> 1 ^ -(value & 1)
