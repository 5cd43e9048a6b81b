# SPDX-License-Identifier: Apache-2.0
"""Objects in V8's heap, read from outside. V8 moves them at any time: whoever reads one proves that it is the one he wants.

Memory may be anything: lengths are bounded, no chain is followed far. Layouts: src/objects/*.tq of V8.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING

from kernelspan_agent.process.memory import MAX_READ_BYTES, read_u64

from .layout import SCRIPT_ID, SCRIPT_LINE_OFFSET

if TYPE_CHECKING:
    from kernelspan_agent.process.memory import Memory

    from .layout import Layout

MAX_SOURCE_CHARS = 64 << 20
MAX_ENTRIES = 1 << 17  # of an array
FIRST_NON_STRING = 128
STRING_LENGTH, STRING_TEXT = 12, 16
_ARRAY_LENGTH, _ARRAY_DATA = 8, 16
_HOPS, _PIECES = 4, 64
_SEQUENTIAL, _CONS, _EXTERNAL, _SLICED, _THIN = 0, 1, 2, 3, 5
_REPRESENTATION, _ONE_BYTE, _UNCACHED = 7, 8, 16


class CorruptHeapError(ValueError):
    """The memory does not hold the object that it should."""


def type_of(memory: Memory, value: int) -> int:
    """The instance type of the object that a tagged value is; -1: it is none. Raises MemoryReadError.

    An object has a shape, a shape the shape of shapes, which is its own: an object that V8 is moving has an address there.
    """
    if value & 3 != 1:
        return -1
    shape = read_u64(memory, value - 1)
    if shape & 3 != 1:
        return -1
    head = memory.read(shape - 1, 16)
    of_shapes = int.from_bytes(head[:8], "little")
    if of_shapes & 3 != 1 or read_u64(memory, of_shapes - 1) != of_shapes:
        return -1
    return int.from_bytes(head[12:14], "little")


def bytes_of(memory: Memory, array: int) -> bytes:
    """What an array of bytes holds. Raises MemoryReadError, CorruptHeapError."""
    size = read_u64(memory, array - 1 + _ARRAY_LENGTH) >> 32
    if array & 3 != 1 or size > MAX_READ_BYTES:
        raise CorruptHeapError(f"an array of {size} bytes at {array:#x}")
    return memory.read(array - 1 + _ARRAY_DATA, size)


def entry_of(memory: Memory, array: int, index: int) -> int:
    """The tagged value at a place of an array. Raises MemoryReadError, CorruptHeapError."""
    if array & 3 != 1 or not 0 <= index < min(read_u64(memory, array - 1 + _ARRAY_LENGTH) >> 32, MAX_ENTRIES):
        raise CorruptHeapError(f"no entry {index} of the array at {array:#x}")
    return read_u64(memory, array - 1 + _ARRAY_DATA + 8 * index)


@dataclass(frozen=True, slots=True)
class Characters:
    """Where a string's characters lie: `width` bytes each."""

    address: int
    count: int
    width: int
    outside: bool = False  # not in the heap: they stay where they are


def characters_of(memory: Memory, string: int) -> Characters:
    """Of the string that a tagged value is. Raises MemoryReadError; CorruptHeapError: none, or not all in one place."""
    if type_of(memory, string) not in range(FIRST_NON_STRING):
        raise CorruptHeapError(f"no string at {string:#x}")
    (count,) = struct.unpack("<I", memory.read(string - 1 + STRING_LENGTH, 4))
    skipped = 0
    for _ in range(_HOPS):
        kind = type_of(memory, string)
        representation, width = kind & _REPRESENTATION, 1 if kind & _ONE_BYTE else 2
        if kind not in range(FIRST_NON_STRING):
            break
        if representation == _SEQUENTIAL:
            return Characters(string - 1 + STRING_TEXT + skipped * width, count, width)
        if representation == _EXTERNAL and not kind & _UNCACHED:
            return Characters(read_u64(memory, string - 1 + 24) + skipped * width, count, width, outside=True)
        if representation == _CONS:
            rest = read_u64(memory, string - 1 + 24)
            if struct.unpack("<I", memory.read(rest - 1 + STRING_LENGTH, 4))[0]:
                break
        elif representation == _SLICED:
            skipped += read_u64(memory, string - 1 + 24) >> 32
        elif representation != _THIN:
            break
        string = read_u64(memory, string - 1 + 16)
    raise CorruptHeapError(f"the string at {string:#x} is not in one place")


def read_text(memory: Memory, string: int, limit_chars: int) -> str:
    """A string's text, or its beginning. Raises MemoryReadError, CorruptHeapError."""
    parts: list[str] = []
    left, waiting = limit_chars, [string]
    for _ in range(_PIECES):
        if not waiting or left <= 0:
            return "".join(parts)
        string = waiting.pop()
        kind = type_of(memory, string)
        if 0 <= kind < FIRST_NON_STRING and kind & _REPRESENTATION == _CONS:
            first, second = struct.unpack("<QQ", memory.read(string - 1 + 16, 16))
            waiting += [second, first]
            continue
        parts.append(_flat_text(memory, string, left))
        left -= len(parts[-1])
    raise CorruptHeapError(f"the string at {string:#x} is of too many pieces")


def _flat_text(memory: Memory, string: int, limit_chars: int) -> str:
    found = characters_of(memory, string)
    count = min(found.count, limit_chars)
    return decode(memory.read(found.address, count * found.width), found.width)


def decode(data: bytes, width: int) -> str:
    """Characters as V8 keeps them."""
    return data.decode("latin-1") if width == 1 else data[: len(data) & ~1].decode("utf-16-le", "surrogatepass")


@dataclass(frozen=True, slots=True)
class ScriptWords:
    """What of a Script tells it from others, and where its source is."""

    number: int
    source: int
    line_offset: int


def read_script(memory: Memory, script: int, layout: Layout) -> ScriptWords:
    """The Script that a tagged value is. Raises MemoryReadError, CorruptHeapError."""
    if type_of(memory, script) != layout["type_script"]:
        raise CorruptHeapError(f"no script at {script:#x}")
    words = memory.read(script - 1, SCRIPT_ID + 8)
    source, line_offset, number = (
        struct.unpack_from("<Q", words, at)[0] for at in (layout["script_source"], SCRIPT_LINE_OFFSET, SCRIPT_ID)
    )
    return ScriptWords(number >> 32, source, line_offset >> 32)


def read_source(memory: Memory, script: int, words: ScriptWords, layout: Layout) -> tuple[bytes, Characters]:
    """A script's whole source, and where it is. It lay in place from before the reading until after it.

    Raises MemoryReadError, CorruptHeapError.
    """
    found = characters_of(memory, words.source)
    if found.count > MAX_SOURCE_CHARS:
        raise CorruptHeapError(f"a source of {found.count} characters")
    size = found.count * found.width
    parts = [memory.read(found.address + at, min(MAX_READ_BYTES, size - at)) for at in range(0, size, MAX_READ_BYTES)]
    if read_script(memory, script, layout) != words or characters_of(memory, words.source) != found:
        raise CorruptHeapError(f"the source of the script at {script:#x} has moved")
    return b"".join(parts), found
