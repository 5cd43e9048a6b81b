# SPDX-License-Identifier: Apache-2.0
"""Frames of optimised code in memory that is made: what its own tables say, or nothing at all."""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass

import pytest

from kernelspan_agent.process.errors import MemoryReadError
from kernelspan_agent.runtimes.mixing import mix_lanes
from kernelspan_agent.runtimes.nodejs.compiled import HASHED_BEFORE, HASHED_BYTES, places_of
from kernelspan_agent.runtimes.nodejs.functions import Function
from kernelspan_agent.runtimes.nodejs.heap import CorruptHeapError

from .test_nodejs_symbolise import CONSTANTS, LAYOUT, TABLE, Heap

OUTER, INNER, MAP = 1, 2, 3
BEGIN, FRAME = min(LAYOUT.version.opcodes.begin), min(LAYOUT.version.opcodes.interpreted)
BUILTIN = min(LAYOUT.version.opcodes.builtin)
LITERAL = LAYOUT.version.opcodes.literal
PAGE, SIZE, RETURN, JUMP = 0x200000, 0x100, 0x40, 0x90
STREAM = PAGE + 0x20
START = STREAM + 0x20


@dataclass
class Made:
    """A process with one piece of optimised code, in which one function and one of V8's own were made a part of another."""

    heap: Heap
    own: Function
    shared: int
    code: int
    literals: int
    data: int
    safepoints: int

    def places(self, place: int = RETURN) -> list[tuple[str, str, int]]:
        found = places_of(self.heap, START + place, self.check(place), self.own, self.shared, LAYOUT)
        return [(each.function.name, each.function.file, each.position) for each in found]

    def check(self, place: int) -> int:
        return mix_lanes(self.heap.read(START + place - HASHED_BEFORE, HASHED_BYTES)) & 0xFFFFFFFF


def array(heap: Heap, *words: int) -> int:
    return heap.make(1, struct.pack(f"<{len(words) + 1}Q", len(words) << 32, *words))


def numbers(heap: Heap, data: bytes, kind: int = CONSTANTS["type_positions"]) -> int:
    return heap.make(kind, struct.pack("<Q", len(data) << 32) + data)


def function(heap: Heap, name: str, number: int, script: int, flags: int = 0, builtin: int = 1) -> int:
    bytecode = heap.make(CONSTANTS["type_bytecode"], struct.pack("<7Q", 0, 0, numbers(heap, TABLE), 0, 0, 0, 0))
    words = [bytecode if builtin & 1 else 0, builtin, heap.string(name), 0, script, 0]
    return heap.make(CONSTANTS["type_shared"], struct.pack("<6QII", *words, flags, number))


def made() -> Made:
    heap = Heap()
    heap.write(PAGE, bytes(0x1000))
    script, undefined = heap.script("\n" * 50), heap.make(CONSTANTS["type_oddball"], bytes(8))
    shared = function(heap, "outer", OUTER, script)
    inner, own = function(heap, "inner", INNER, script), function(heap, "map", MAP, undefined, 0x20, 7 << 32)
    hidden = function(heap, "hidden", 4, undefined, 0, 8 << 32)
    frames = bytes([FRAME, 4 << 1, 0, 0, 0, 0, 0][: 1 + LAYOUT.version.opcodes.operands[FRAME]])
    callback = bytes([FRAME, 18 << 1, 1 << 1, 0, 0, 0, 0][: len(frames)])
    translation = (
        bytes([BEGIN, 0, 4 << 1, 4 << 1])
        + frames
        + bytes([BUILTIN, 99, 2 << 1, 0, LITERAL, 4 << 1, BUILTIN, 99, 3 << 1, 0, LITERAL, 5 << 1])
        + callback
    )
    callees = [heap.make(2065, struct.pack("<4Q", 0, 0, 0, each)) for each in (own, hidden)]
    literals = array(heap, shared, inner | 2, heap.make(99, struct.pack("<Q", own)), hidden, *callees)
    exits = [0, 0, -1 & (1 << 64) - 1, 0, 0, RETURN << 32]
    data = array(heap, numbers(heap, translation), 0, 0, literals, *[0] * 8, *exits)
    code = heap.make(
        CONSTANTS["type_code"],
        struct.pack("<5QIII", data, 0, 0, STREAM + 1, START, 0, CONSTANTS["code_kind_baseline"] + 2, SIZE),
    )
    shape = heap.make(CONSTANTS["type_stream"], bytes(8))
    (stream_map,) = struct.unpack("<Q", heap.read(shape - 1, 8))
    heap.write(STREAM, struct.pack("<QQ", stream_map, code))
    heap.write(START, bytes(range(1, 129)) + bytes(SIZE - 128))
    safepoints = START + SIZE
    entry = lambda place, number, jump: bytes([place, number + 1, jump + 1])  # noqa: E731
    sizes = 1 | 1 << 4 | 1 << 7
    heap.write(
        safepoints,
        struct.pack("<III", 0, 3, sizes) + entry(0x20, -1, -1) + entry(0x30, 0, JUMP + 8) + entry(RETURN, 1, JUMP),
    )
    return Made(heap, Function("outer", "/app/a.js", OUTER, script, 5, 50, 0), shared, code, literals, data, safepoints)


WHOLE = [("inner", "/app/a.js", 71), ("map", "[native code]", -1), ("outer", "/app/a.js", 59)]


@pytest.mark.parametrize("place", [RETURN, JUMP])
def test_every_function_at_work(place: int) -> None:
    """Those inside, V8's own that traces show and no others; also where V8 wrote a jump over the return address."""
    assert made().places(place) == WHOLE


def test_a_function_without_bytecode_has_no_place() -> None:
    """V8 drops bytecode that was long not used: the name is right, the line absent."""
    process = made()
    inner = struct.unpack("<Q", process.heap.read(process.literals - 1 + 16 + 8, 8))[0] & ~2
    process.heap.write(inner - 1 + 8, struct.pack("<Q", 0))
    assert [position for *_, position in process.places()] == [-1, -1, 59]


def _another_function(process: Made) -> None:
    process.own = Function("outer", "/app/a.js", OUTER + 4, process.own.script, 5, 50, 0)


def _no_exit(process: Made) -> None:
    process.heap.write(process.safepoints + 12 + 2 * 3 + 1, b"\0")


def _another_exit(process: Made) -> None:
    process.heap.write(process.safepoints + 12 + 2 * 3 + 1, bytes([1]))


def _an_exit_too_far(process: Made) -> None:
    process.heap.write(process.safepoints + 12 + 2 * 3 + 1, bytes([9]))


def _no_safepoint(process: Made) -> None:
    process.heap.write(process.safepoints + 12 + 2 * 3, bytes([RETURN + 1]))


def _cleared(process: Made) -> None:
    process.heap.write(process.literals - 1 + 16 + 8, struct.pack("<Q", 3))


def _no_function(process: Made) -> None:
    process.heap.write(process.literals - 1 + 16 + 8, struct.pack("<Q", process.data))


def _fewer_literals(process: Made) -> None:
    process.heap.write(process.literals - 1 + 8, struct.pack("<Q", 1 << 32))


def _a_regular_expression(process: Made) -> None:
    process.heap.write(process.code - 1 + 52, struct.pack("<I", 3))


def _another_stream(process: Made) -> None:
    process.heap.write(process.code - 1 + 32, struct.pack("<Q", STREAM + 0x101))


@pytest.mark.parametrize(
    "broken",
    [
        _another_function,
        _no_exit,
        _another_exit,
        _an_exit_too_far,
        _no_safepoint,
        _cleared,
        _no_function,
        _fewer_literals,
        _a_regular_expression,
        _another_stream,
    ],
)
def test_whole_or_nothing(broken: Callable[[Made], None]) -> None:
    """What contradicts itself gives no frame at all, and never some of them."""
    process = made()
    broken(process)
    with pytest.raises((CorruptHeapError, MemoryReadError)):
        process.places()


class _Moving:
    """Memory in which a word changes after so many reads."""

    def __init__(self, heap: Heap, after: int, address: int, data: bytes) -> None:
        self._heap, self._left, self._address, self._data = heap, after, address, data

    def read(self, address: int, size: int) -> bytes:
        self._left -= 1
        if self._left == 0:
            self._heap.write(self._address, self._data)
        return self._heap.read(address, size)


def test_what_changes_while_it_is_read() -> None:
    """A function is another from any moment on: what is told stood there before and after."""
    results = set()
    for after in range(1, 400):
        process = made()
        check = process.check(RETURN)
        other = function(process.heap, "other", 9, process.own.script)
        moving = _Moving(process.heap, after, process.literals - 1 + 16 + 8, struct.pack("<Q", other))
        try:
            wanted = (moving, START + RETURN, check, process.own, process.shared, LAYOUT)
            found = places_of(*wanted)
            if places_of(*wanted) == found:
                results.add(tuple(each.function.name for each in found))
        except CorruptHeapError:
            results.add(())
    assert results == {("inner", "map", "outer"), ("other", "map", "outer")}


def test_other_code_at_the_place() -> None:
    """The bytes around the address are not those that the kernel saw."""
    process = made()
    check = process.check(RETURN)
    process.heap.write(START + RETURN + 7, b"\xff")
    with pytest.raises(CorruptHeapError):
        places_of(process.heap, START + RETURN, check, process.own, process.shared, LAYOUT)
