# SPDX-License-Identifier: Apache-2.0
"""What V8 keeps to leave optimised code by: of a call's place, the functions that are at work there, inlined ones too.

A translation is a row of operations, each a byte and so many numbers (7 bits a byte, the lowest first; of signed ones the lowest
bit is the sign). It begins with how many frames there are, how many of these are of JavaScript; the outermost frame comes first.
Since V8 11 one may take operations over from one before it, place by place. Operations: src/deoptimizer/translation-opcode.h, each
version's own; how they are read: src/deoptimizer/translation-array.cc, frame-translation-builder.cc.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice

MAX_OPERATIONS = 1 << 16
MAX_FRAMES = 128
_MAX_SHIFT = 28


class TranslationError(ValueError):
    """The bytes are no translation, or one of frames that are not known."""


@dataclass(frozen=True, slots=True)
class Opcodes:
    """Of a version of V8. A byte above the last operation takes so many over from before, where there is `same`."""

    operands: tuple[int, ...]  # how many numbers each has
    begin: frozenset[int]
    interpreted: frozenset[int]  # frames of JavaScript
    builtin: frozenset[int]  # of V8's own functions, written in JavaScript's terms
    unknown: frozenset[int]  # frames that are not told: WebAssembly's
    literal: int
    same: int = -1
    short: bool = False
    doubled: bool = False  # written as a signed number


@dataclass(frozen=True, slots=True)
class Inlined:
    """A frame that a translation names: its function by its place among the literals."""

    literal: int
    offset: int  # in the bytecode
    builtin: bool
    function: int = -1  # of V8's own: its JSFunction, by its place among the literals; -1: elsewhere


def opcodes(names: str, *, doubled: bool = False) -> Opcodes:
    """From what the operations are called, each with how many numbers it has."""
    words = names.split()
    at = {name: number for number, name in enumerate(words[::2])}
    return Opcodes(
        tuple(int(count) for count in words[1::2]),
        frozenset(number for name, number in at.items() if name.startswith("BEGIN")),
        frozenset(number for name, number in at.items() if name.startswith("INTERPRETED_FRAME")),
        frozenset(number for name, number in at.items() if name.startswith("JAVASCRIPT_")),
        frozenset(number for name, number in at.items() if "WASM" in name or "LIFTOFF" in name),
        at["LITERAL"],
        at.get("MATCH_PREVIOUS_TRANSLATION", -1),
        "BEGIN_WITHOUT_FEEDBACK" in at,
        doubled,
    )


def frames_of(table: bytes, index: int, known: Opcodes) -> list[Inlined]:
    """The frames of JavaScript that the translation at `index` names, the outermost first. Raises TranslationError."""
    operations = operations_of(table, index, known)
    _, begin = next(operations)
    count = _signed(begin[2 if known.same >= 0 else 1])
    if not 0 < count <= MAX_FRAMES:
        raise TranslationError(f"{count} frames of JavaScript")
    found: list[Inlined] = []
    for opcode, numbers in operations:
        if opcode in known.unknown:
            raise TranslationError("a frame of WebAssembly")
        if opcode in known.interpreted or opcode in known.builtin:
            function = -1
            if opcode in known.builtin:  # the first of its values is the function
                following, value = next(operations, (-1, []))
                function = _signed(value[0]) if following == known.literal else -1
            found.append(Inlined(_signed(numbers[1]), _signed(numbers[0]), opcode in known.builtin, function))
            if len(found) == count:
                return found
    raise TranslationError(f"{len(found)} frames, not {count}")


def operations_of(table: bytes, index: int, known: Opcodes) -> Iterator[tuple[int, list[int]]]:
    """The operations from a BEGIN up to the next: what each is, and its numbers. Raises TranslationError."""
    opcode, numbers, at = _operation(table, index, known)
    if opcode not in known.begin:
        raise TranslationError(f"no translation at {index}")
    yield opcode, numbers
    back = numbers[0] if known.same >= 0 else 0
    if back > index:
        raise TranslationError(f"one before the beginning: {back}")
    before = _plain(table, index - back, known) if back else iter(())
    number = used = 1
    next(before, None)
    while at < len(table) and number < MAX_OPERATIONS:
        opcode, numbers, following = _operation(table, at, known)
        if opcode in known.begin:
            return
        at = following
        if opcode != known.same:
            number += 1
            yield opcode, numbers
            continue
        taken = list(islice(before, number - used, number - used + min(numbers[0], MAX_OPERATIONS)))
        if len(taken) != numbers[0] or not taken:
            raise TranslationError(f"{numbers[0]} operations of one that has no more")
        number += len(taken)
        used = number
        yield from taken


def _plain(table: bytes, at: int, known: Opcodes) -> Iterator[tuple[int, list[int]]]:
    """The operations of a translation that takes none over."""
    first = True
    while at < len(table):
        opcode, numbers, at = _operation(table, at, known)
        if (opcode in known.begin) != first or opcode == known.same or (first and numbers[0]):
            return
        first = False
        yield opcode, numbers


def _operation(table: bytes, at: int, known: Opcodes) -> tuple[int, list[int], int]:
    """The operation at a place, its numbers, and where the next is."""
    if not 0 <= at < len(table):
        raise TranslationError(f"no operation at {at}")
    opcode, odd = divmod(table[at], 1 + known.doubled)
    at += 1
    if odd:
        raise TranslationError(f"an operation {-opcode}")
    if opcode >= len(known.operands):
        if not known.short:
            raise TranslationError(f"an operation {opcode}")
        return known.same, [opcode - len(known.operands)], at
    numbers = []
    for _ in range(known.operands[opcode]):
        value = shift = 0
        while True:
            if at >= len(table) or shift > _MAX_SHIFT:
                raise TranslationError(f"a number without an end at {at}")
            byte = table[at]
            value |= (byte & 0x7F) << shift
            at, shift = at + 1, shift + 7
            if not byte & 0x80:
                break
        numbers.append(value)
    return opcode, numbers, at


def _signed(value: int) -> int:
    return -(value >> 1) if value & 1 else value >> 1
