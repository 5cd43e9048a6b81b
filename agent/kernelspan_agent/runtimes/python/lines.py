# SPDX-License-Identifier: Apache-2.0
"""The line of an instruction from a code object's line table, in CPython's three formats.

`offset` is in bytes from the start of the code; negative: the frame has not begun, it stands at its first line. 0 is
returned where the table gives the instruction no line or ends before it; so a crafted table gives a wrong number at
worst, within one pass over its bytes. Sources: Objects/lnotab_notes.txt (3.8-3.10), InternalDocs/code_objects.md (3.11+).
"""

from __future__ import annotations

MAX_LINE = 0x7FFFFFFF
_NO_LINE_310 = -128
_UNIT_BYTES = 2  # one code unit
_NO_LOCATION, _LONG, _NO_COLUMNS = 15, 14, 13
_ONE_LINE_FIRST, _ONE_LINE_LAST = 10, 12


def line_of(table: bytes, first_line: int, offset: int, minor: int) -> int:
    """The line of the instruction at byte `offset`; 0: it has none."""
    if offset < 0:
        line = first_line
    elif minor >= 11:
        line = _line_311(table, first_line, offset)
    elif minor == 10:
        line = _line_310(table, first_line, offset)
    else:
        line = _line_38(table, first_line, offset)
    return line if 0 < line <= MAX_LINE else 0


def _line_38(table: bytes, line: int, offset: int) -> int:
    """co_lnotab: pairs of address step (u8) and line step (s8); the last pair at or before `offset` counts."""
    address = 0
    for position in range(0, len(table) - 1, 2):
        address += table[position]
        if address > offset:
            break
        line += _signed(table[position + 1])
    return line


def _line_310(table: bytes, line: int, offset: int) -> int:
    """co_linetable of 3.10: pairs of length (u8) and line step (s8, -128: no line) of consecutive ranges."""
    end = 0
    for position in range(0, len(table) - 1, 2):
        end += table[position]
        step = _signed(table[position + 1])
        if step != _NO_LINE_310:
            line += step
        if offset < end:
            return 0 if step == _NO_LINE_310 else line
    return 0


def _line_311(table: bytes, line: int, offset: int) -> int:
    """Location table of 3.11+: an entry's first byte is 1, kind (4 bits), length - 1 in code units (3 bits)."""
    end = position = 0
    while position < len(table):
        head = table[position]
        position += 1
        kind = head >> 3 & 15
        end += ((head & 7) + 1) * _UNIT_BYTES
        if kind in (_LONG, _NO_COLUMNS):
            step, position = _varint(table, position)
            line += -(step >> 1) if step & 1 else step >> 1
        elif _ONE_LINE_FIRST <= kind <= _ONE_LINE_LAST:
            line += kind - _ONE_LINE_FIRST
        if offset < end:
            return 0 if kind == _NO_LOCATION else line
        # What is left of the entry are columns: bytes without the top bit, which only a first byte has.
        while position < len(table) and table[position] < 0x80:
            position += 1
    return 0


def _varint(table: bytes, position: int) -> tuple[int, int]:
    """(unsigned value, position after it): groups of 6 bits, lowest first, 0x40 marks that another one follows."""
    value = shift = 0
    while position < len(table) and shift <= 30:
        byte = table[position]
        position += 1
        value |= (byte & 63) << shift
        shift += 6
        if not byte & 64:
            break
    return value, position


def _signed(byte: int) -> int:
    return byte - 256 if byte > 127 else byte
