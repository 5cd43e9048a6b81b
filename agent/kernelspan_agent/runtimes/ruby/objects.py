# SPDX-License-Identifier: Apache-2.0
"""Strings and names in Ruby's memory, read from outside. Memory may be anything: every length is bounded.

Layouts: include/ruby/internal/core/{rstring,rarray}.h, symbol.c.
"""

from __future__ import annotations

import struct
from collections import OrderedDict
from typing import TYPE_CHECKING

from kernelspan_agent.process.memory import read_u64

from .layout import (
    ARRAY_ADDRESS,
    ARRAY_INSIDE,
    ARRAY_LENGTH,
    ARRAY_OBJECT,
    INSIDE,
    OBJECT_TYPE,
    OUTSIDE,
    STRING_OBJECT,
    Offsets,
)

if TYPE_CHECKING:
    from kernelspan_agent.process.memory import Memory

MAX_NAMES = 4096
MAX_SEARCHED = 8192  # symbols, for the one that is asked for by its name
UNIT = 512  # symbols an array of the table has
_OPERATORS = 1024  # an id below is its own number; others bear four bits of what kind of name it is
_STATIC = 0xC  # RUBY_SYMBOL_FLAG
_SYMBOL_OBJECT, _SYMBOL_ID = 20, 32
_OLD_TEXT = 16


class CorruptObjectError(ValueError):
    """The memory does not hold the object that it should."""


def string_place(memory: Memory, address: int, offsets: Offsets) -> tuple[int, int]:
    """Address and length of a string's text. Raises MemoryReadError, CorruptObjectError."""
    flags, _, length, text = struct.unpack("<4Q", memory.read(address, 32))
    if flags & OBJECT_TYPE != STRING_OBJECT:
        raise CorruptObjectError(f"no string at {address:#x}")
    if flags & OUTSIDE:
        return text, length
    if offsets.string_text == _OLD_TEXT:
        length = flags >> 14 & 31
    return address + offsets.string_text, length


def read_string(memory: Memory, address: int, offsets: Offsets, limit: int) -> tuple[bytes, bool]:
    """A string's text, and whether it was longer than `limit`. Raises MemoryReadError, CorruptObjectError."""
    at, length = string_place(memory, address, offsets)
    return memory.read(at, min(length, limit)), length > limit


def element(memory: Memory, address: int, index: int, offsets: Offsets) -> int:
    """An array's element. Raises MemoryReadError, CorruptObjectError."""
    flags = read_u64(memory, address)
    if flags & OBJECT_TYPE != ARRAY_OBJECT:
        raise CorruptObjectError(f"no array at {address:#x}")
    if flags & INSIDE:
        length, elements = flags >> 15 & (3 if offsets.string_text == _OLD_TEXT else 127), address + ARRAY_INSIDE
    else:
        length, elements = read_u64(memory, address + ARRAY_LENGTH), read_u64(memory, address + ARRAY_ADDRESS)
    if index >= length:
        raise CorruptObjectError(f"the array at {address:#x} has {length} elements")
    return read_u64(memory, elements + 8 * index)


class Names:
    """The table of symbols of one process: names by ids. An id that names a method is never another's."""

    def __init__(self, memory: Memory, table: int, offsets: Offsets) -> None:
        """`table`: of rb_symbols_t, in the process."""
        self._memory, self._table, self._offsets = memory, table, offsets
        self._known: OrderedDict[int, bytes] = OrderedDict()

    def name(self, number: int) -> bytes:
        """The name of an id. Raises MemoryReadError, CorruptObjectError where the table has none, or another's."""
        found = self._known.get(number)
        if found is None:
            if not self._table:
                raise CorruptObjectError("the table of symbols is not known")
            found = self._known[number] = self._entry(number >> 4 if number >= _OPERATORS else number, number)
            if len(self._known) > MAX_NAMES:
                self._known.popitem(last=False)
        return found

    def find(self, name: bytes) -> int:
        """The id of a name among the first; 0: it is not there. Raises MemoryReadError, CorruptObjectError."""
        last = struct.unpack("<I", self._memory.read(self._table, 4))[0]
        for serial in range(1, min(last, MAX_SEARCHED) + 1):
            text, symbol = self._pair(serial)
            if text and read_string(self._memory, text, self._offsets, 64) == (name, False):
                return symbol >> 8 if symbol & 0xFF == _STATIC else 0
        return 0

    def _pair(self, serial: int) -> tuple[int, int]:
        """A symbol's string (0: there is none) and the symbol itself."""
        ids = read_u64(self._memory, self._table + 16)
        unit = element(self._memory, ids, serial // UNIT, self._offsets)
        if unit & 7 or unit <= 8:  # nil: no symbol of these is there
            return 0, 0
        try:
            text, symbol = (element(self._memory, unit, serial % UNIT * 2 + part, self._offsets) for part in (0, 1))
        except CorruptObjectError:
            return 0, 0
        return (0, 0) if text & 7 or text <= 8 else (text, symbol)

    def _entry(self, serial: int, number: int) -> bytes:
        text, symbol = self._pair(serial)
        if not text:
            raise CorruptObjectError(f"no symbol {number}")
        if symbol & 0xFF == _STATIC:
            own = symbol >> 8
        elif symbol & 7 or read_u64(self._memory, symbol) & OBJECT_TYPE != _SYMBOL_OBJECT:
            raise CorruptObjectError(f"no symbol {number}")
        else:
            own = read_u64(self._memory, symbol + _SYMBOL_ID)
        if own != number:
            raise CorruptObjectError(f"the symbol of {number} is that of {own}")
        return read_string(self._memory, text, self._offsets, 1024)[0]
