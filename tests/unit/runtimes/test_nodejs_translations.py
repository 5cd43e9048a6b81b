# SPDX-License-Identifier: Apache-2.0
"""What V8 keeps to leave optimised code by: written as it writes it, read back; any bytes give an answer or a reason."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kernelspan_agent.process.errors import MemoryReadError
from kernelspan_agent.runtimes.nodejs import operations
from kernelspan_agent.runtimes.nodejs.safepoints import Safepoint, safepoint_at
from kernelspan_agent.runtimes.nodejs.translations import (
    Inlined,
    Opcodes,
    TranslationError,
    frames_of,
    operations_of,
)

VERSIONS = {name: getattr(operations, name) for name in ("V10_2", "V11_3", "V12_4", "V13_6", "V14_6")}
Operation = tuple[int, tuple[int, ...]]


def vlq(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])


def signed(value: int) -> int:
    return value << 1 if value >= 0 else -value << 1 | 1


def written(translations: list[list[Operation]], known: Opcodes) -> tuple[bytes, list[int]]:
    """The table of translations, each BEGIN left out, and where each begins: every other one takes over what it can."""
    out, starts = bytearray(), []
    basis: list[Operation] = []
    basis_at = 0
    begin = min(known.begin)
    for number, each in enumerate(translations):
        starts.append(len(out))
        frames = sum(opcode in known.interpreted | known.builtin for opcode, _ in each)
        back = len(out) - basis_at if known.same >= 0 and number % 2 else 0
        out.append(begin << known.doubled)
        out += (vlq(back) if known.same >= 0 else b"") + vlq(signed(frames)) + vlq(signed(frames))
        out += b"" if known.same >= 0 else vlq(0)
        if not back:
            basis, basis_at = each, starts[-1]
        same = 0
        for place, operation in enumerate([*each, None]):
            if back and operation is not None and place < len(basis) and basis[place] == operation:
                same += 1
                continue
            if same and known.short and same <= 255 - len(known.operands):
                out.append(len(known.operands) + same)
            elif same:
                out += bytes([known.same]) + vlq(same)
            same = 0
            if operation is not None:
                out += bytes([operation[0] << known.doubled]) + b"".join(map(vlq, operation[1]))
    return bytes(out), starts


@st.composite
def tables(draw: st.DrawFn) -> tuple[Opcodes, list[list[Operation]]]:
    known = VERSIONS[draw(st.sampled_from(sorted(VERSIONS)))]
    usable = [at for at in range(len(known.operands)) if at not in known.begin | known.unknown and at != known.same]
    frames = sorted(known.interpreted | known.builtin)
    made: list[list[Operation]] = []
    for _ in range(draw(st.integers(1, 6))):
        chosen = [draw(st.sampled_from(frames)), *draw(st.lists(st.sampled_from([*usable, *frames]), max_size=12))]
        rows = []
        for place, opcode in enumerate(chosen):
            numbers = tuple(draw(st.integers(0, 1 << 30)) for _ in range(known.operands[opcode]))
            if made and place < len(made[0]) and draw(st.booleans()):
                rows.append(made[0][place])
            else:
                rows.append((opcode, numbers))
        rows = [each for row in rows for each in ([row, (known.literal, (4,))] if row[0] in known.builtin else [row])]
        if any(opcode in frames for opcode, _ in rows):
            made.append(rows)
    return known, made


@given(tables())
def test_what_was_written_is_read(made: tuple[Opcodes, list[list[Operation]]]) -> None:
    """Each translation's frames, the outermost first, whatever it takes over from the one before it."""
    known, translations = made
    table, starts = written(translations, known)
    for start, each in zip(starts, translations, strict=True):
        found = [(opcode, tuple(numbers)) for opcode, numbers in operations_of(table, start, known)]
        assert found[1:] == each
        wanted = []
        values = iter(enumerate(each))
        for place, (opcode, numbers) in values:
            if opcode in known.interpreted:
                wanted.append(Inlined(back(numbers[1]), back(numbers[0]), builtin=False))
            elif opcode in known.builtin:
                following, value = each[place + 1]
                function = back(value[0]) if following == known.literal else -1
                wanted.append(Inlined(back(numbers[1]), back(numbers[0]), True, function))
                next(values)
        assert frames_of(table, start, known) == wanted


def back(value: int) -> int:
    return -(value >> 1) if value & 1 else value >> 1


@settings(max_examples=300)
@given(st.binary(max_size=120), st.integers(-2, 130), st.sampled_from(sorted(VERSIONS)))
def test_any_bytes(table: bytes, index: int, version: str) -> None:
    """Frames, or that there are none; never without end."""
    known = VERSIONS[version]
    first = table[:index] + bytes([min(known.begin)]) + table[index:] if index >= 0 else table
    for each in (table, first):
        try:
            found = frames_of(each, index, known)
        except TranslationError:
            continue
        assert found


def test_what_is_not_known_is_not_told() -> None:
    """A frame of WebAssembly, fewer frames than were promised, one that takes over from nothing."""
    known = operations.V12_4
    begin, frame = min(known.begin), min(known.interpreted)
    wasm = min(known.unknown)
    one = bytes([frame]) + bytes(known.operands[frame])
    assert len(frames_of(bytes([begin, 0, 2, 2]) + one, 0, known)) == 1
    for broken in (
        bytes([begin, 0, 4, 4, wasm]) + bytes(known.operands[wasm]) + one * 2,
        bytes([begin, 0, 4, 4]) + one,
        bytes([begin, 0, 2, 0]) + one,
        bytes([begin, 0, 2, 2, len(known.operands) + 1]),
        bytes([begin, 3, 2, 2]) + one,
        one,
        b"",
    ):
        with pytest.raises(TranslationError):
            frames_of(broken, 0, known)


class Bytes:
    """Memory that begins at 0x1000."""

    def __init__(self, data: bytes) -> None:
        self._data = data

    def read(self, address: int, size: int) -> bytes:
        at = address - 0x1000
        if not 0 <= at <= len(self._data) - size:
            raise MemoryReadError(address, size, "nothing there")
        return self._data[at : at + size]


@given(
    st.lists(st.tuples(st.integers(0, 900), st.integers(-1, 200), st.integers(-1, 900)), min_size=1, max_size=20),
    st.sampled_from([0, 4]),
    st.booleans(),
    st.integers(0, 3),
    st.integers(2, 4),
)
def test_safepoints(rows: list[tuple[int, int, int]], lead: int, maglev: bool, registers: int, width: int) -> None:
    """The first entry of a place, or of the jump that V8 puts in its stead."""
    sizes = 1 | registers << 1 | width << 4 | 2 << 7
    header = bytes(lead) + struct.pack("<II", len(rows), sizes)
    data = header.ljust(16, b"\0") if maglev else header
    for place, number, jump in rows:
        data += place.to_bytes(width, "little") + (number + 1).to_bytes(2, "little")
        data += (jump + 1).to_bytes(width, "little") + bytes(maglev) + bytes(registers)
    for place in {*(row[0] for row in rows), *(row[2] for row in rows), 901} - {-1}:
        wanted = next((Safepoint(*row) for row in rows if place in (row[0], row[2])), None)
        assert safepoint_at(Bytes(data), 0x1000, place, lead, maglev=maglev) == wanted


@given(st.binary(min_size=16, max_size=200), st.integers(0, 1 << 31), st.booleans())
def test_any_safepoints(data: bytes, place: int, maglev: bool) -> None:
    """Whatever the bytes."""
    for lead in (0, 4):
        try:
            found = safepoint_at(Bytes(data), 0x1000, place, lead, maglev=maglev)
        except MemoryReadError:
            continue
        assert found is None or place in (found.place, found.jump)
