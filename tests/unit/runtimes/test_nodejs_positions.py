# SPDX-License-Identifier: Apache-2.0
"""V8's tables of positions, as it printed them, and lines of sources as V8 counts them; any bytes give an answer."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kernelspan_agent.runtimes.nodejs.lines import KnownLines, Lines, line_ends
from kernelspan_agent.runtimes.nodejs.positions import (
    bytecode_offset,
    inlining_id,
    position_of,
    raw_position_of,
    script_offset,
)

# Of one function, by V8 13.6 and 14.6; what --print-bytecode says of it: offset, position.
PLAIN = bytes.fromhex("019c010238091c11000c300b2823000a5c")
PACKED = bytes.fromhex("029c010738121c22001b3016284600175c")
SAID = [(0, 52), (4, 59), (12, 59), (18, 71), (23, 81), (40, 81), (45, 104)]


def vlq(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])


def signed(value: int) -> bytes:
    return vlq(value << 1 if value >= 0 else (-value << 1) - 1)


@pytest.mark.parametrize(("table", "packed"), [(PLAIN, False), (PACKED, True)])
def test_positions_of_v8(table: bytes, packed: bool) -> None:
    """From an entry on, up to the next; the first entry is of what comes before the first instruction."""
    assert position_of(table, -1, packed=packed) == 38
    for (offset, position), (following, _) in zip(SAID, [*SAID[1:], (50, 0)], strict=True):
        for at in range(offset, following):
            assert position_of(table, at, packed=packed) == position
    assert position_of(b"", 3, packed=packed) is None


@given(
    st.lists(st.tuples(st.integers(1, 300), st.integers(0, 1 << 29), st.booleans()), min_size=1, max_size=30), st.data()
)
def test_a_table_that_is_made(entries: list[tuple[int, int, bool]], data: st.DataObject) -> None:
    """What was written is read, in both formats."""
    plain, packed = bytearray(), bytearray()
    offset, before, rows = -1, 0, []
    for step, position, statement in entries:
        raw = (position + 1) << 1
        offset += step
        plain += signed(step if statement else -(step + 1)) + signed(raw - before)
        packed += vlq(step << 2 | statement) + signed(raw - before)
        before = raw
        rows.append((offset, position))
    at = data.draw(st.integers(0, offset + 10))
    wanted = next((position for start, position in reversed(rows) if start <= at), None)
    assert position_of(bytes(plain), at, packed=False) == wanted
    assert position_of(bytes(packed), at, packed=True) == wanted


def test_a_position_in_an_inlined_call() -> None:
    """30 bits of place, then the inlined call's number, both one higher."""
    raw = (7 + 1) << 31 | (1234 + 1) << 1
    table = signed(3) + signed(raw)
    found = raw_position_of(table, 5, packed=False)
    assert found is not None
    assert (script_offset(found), inlining_id(found)) == (1234, 7)
    assert (script_offset(0), inlining_id(0)) == (-1, -1)


# A function's baseline code and bytecode, by V8 11.3: `80 00 00 02 | c4 | 61 fa 00 | a9`, and a wide one.
SIZES = bytes([1] * 0x100) + bytes([1] * 0x100) + bytes([1] * 0x100)


def sizes(**of: int) -> bytes:
    found = bytearray(SIZES)
    for opcode, size in of.items():
        number = int(opcode[1:], 16)
        found[number], found[256 + number], found[512 + number] = size, 2 * size - 1, 4 * size - 3
    return bytes(found)


def test_bytecodes_of_baseline_code() -> None:
    """A call returns to the end of its bytecode's code, or to its middle; wide operands are twice as long."""
    known = sizes(o80=4, oc4=1, o61=3, oa9=1)
    table = b"".join(map(vlq, [28, 17, 4, 24, 10]))
    bytecode = bytes.fromhex("80000002c461fa00a9")
    found = [bytecode_offset(table, pc, bytecode, known) for pc in (28, 29, 45, 46, 49, 50, 73, 74, 83, 84)]
    assert found == [None, 0, 0, 4, 4, 5, 5, 8, 8, None]
    wide = bytes.fromhex("0080000000000000c4")
    assert bytecode_offset(table, 46, wide, known) == 8
    assert bytecode_offset(table, 46, bytecode, b"") is None


@given(st.binary(max_size=60), st.integers(-5, 1 << 20), st.binary(max_size=30), st.binary(max_size=800), st.booleans())
def test_any_table(table: bytes, offset: int, bytecode: bytes, known: bytes, packed: bool) -> None:
    """Whatever the bytes: a place, or none."""
    found = position_of(table, offset, packed=packed)
    assert found is None or 0 <= found < 1 << 30
    at = bytecode_offset(table, offset, bytecode, known)
    assert at is None or 0 <= at < len(bytecode)


@given(st.text(alphabet="ab\n\r\u2028\u2029é", max_size=60))
def test_lines(text: str) -> None:
    """As V8 counts them: feeds, returns that stand alone, and the two separators of Unicode."""
    wanted, line = [], 1
    for at, character in enumerate(text):
        wanted.append(line)
        if character in "\n\u2028\u2029" or (character == "\r" and text[at + 1 : at + 2] != "\n"):
            line += 1
    ends = line_ends(text.encode("utf-16-le"), 2)
    assert [Lines(ends).line_at(at) for at in range(len(text))] == wanted
    if not {"\u2028", "\u2029"} & set(text):
        one = line_ends(text.encode("latin-1"), 1)
        assert np.array_equal(one, ends)


def test_known_lines_are_bounded() -> None:
    """The script that nobody has asked for longest goes first; one too long for all of it is kept alone."""
    known = KnownLines(10)
    known.keep("a", np.zeros(4, np.uint32))
    known.keep("b", np.zeros(4, np.uint32))
    assert known.get("a") is not None
    known.keep("c", np.zeros(4, np.uint32))
    assert (known.get("a") is None, known.get("b") is None, known.get("c") is None) == (False, True, False)
    known.keep("d", np.zeros(40, np.uint32))
    assert known.get("a") is None
    assert known.get("d") is not None
