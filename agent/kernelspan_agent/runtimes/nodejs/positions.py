# SPDX-License-Identifier: Apache-2.0
"""From an instruction to the place in the source that it was made of: V8's tables of positions.

A table is a row of entries, each the difference to the one before: of the instruction's offset, and of the position in the
source. Numbers are of 7 bits a byte, the lowest first, the sign in the lowest bit. Whether an entry is a statement is told by
the offset's sign; since V8 14 by its lowest two bits (`packed`). Format: src/codegen/source-position-table.cc; a position:
src/codegen/source-position.h.
"""

from __future__ import annotations

MAX_SHIFT = 63


def position_of(table: bytes, offset: int, *, packed: bool) -> int | None:
    """Where in the script's source, in characters, the instruction is; None: the table does not say."""
    at, code_offset, position, found = 0, 0, 0, None
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
    if found is None:
        return None
    place = (found >> 1 & 0x3FFFFFFF) - 1
    return place if place >= 0 else None


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
