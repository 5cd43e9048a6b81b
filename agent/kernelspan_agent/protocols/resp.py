# SPDX-License-Identifier: Apache-2.0
"""RESP 2 and 3, what Redis and its clients say, as an onlooker reads it: of each call the first bytes and the last.

A value is a type's byte, a line, and for some types a number of bytes or of values that the line tells (the protocol
specification in Redis' documentation). Strings are passed over by their length, so that most of a large one need not be
seen; where a line lies in what was not seen, or is none, the reader is lost until it is told where a value begins.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field

MAX_ITEMS = 16  # of a value that are kept
MAX_ITEM_BYTES = 128  # of each
MAX_LINE_BYTES = 4096
MAX_DEPTH = 32
_SIMPLE, _STRINGS, _MANY = b"+-:_#,(", b"$=!", b"*~>%|"
_NUMBER = re.compile(rb"[0-9]{1,9}")
_PAIRS = b"%|"  # whose number is of pairs
_ATTRIBUTE = 0x7C  # `|`: what is said about the value that follows


@dataclass(slots=True)
class Value:
    """One value. `kind`: its type's byte. `line`: what follows that. `count`: of an aggregate's own values.

    `items`: the beginnings of the first strings and simple values in it, not of those in aggregates inside; of a string
    itself. `is_command`: an array of strings, of at least one.
    """

    kind: bytes
    line: bytes
    count: int = 0
    items: list[bytes] = field(default_factory=list)
    is_command: bool = False


class Reader:
    """One direction of a connection. Not for several threads."""

    def __init__(self) -> None:
        self.is_lost = False
        self.reset()

    def reset(self) -> None:
        """What follows begins a value."""
        self.is_lost = False
        self._line = bytearray()
        self._stack: list[list[int]] = []  # of the aggregates it is in: type, values to come
        self._left = 0  # bytes to come of a string with its CRLF
        self._item = bytearray()  # what is kept of that string
        self._room = 0  # how much more of it is
        self._value: Value | None = None

    @property
    def is_inside(self) -> bool:
        """Whether a value has begun and not ended."""
        return bool(self._line or self._stack or self._left)

    def feed(self, data: bytes, moved: int) -> list[Value]:
        """The values that end in these bytes. `data`: the first of `moved` bytes."""
        found: list[Value] = []
        at = 0
        while at < moved and not self.is_lost:
            if self._left:
                taken = min(self._left, moved - at)
                if self._room:
                    self._keep(data[at : at + taken], taken)
                self._left -= taken
                at += taken
                if not self._left:
                    self._string_ended(found)
                continue
            end = data.find(b"\n", at)
            if end < 0:
                self._line += data[at:]
                self.is_lost = len(data) < moved or len(self._line) > MAX_LINE_BYTES
                return found
            self._line += data[at : end + 1]
            at = end + 1
            line = bytes(self._line)
            self._line.clear()
            if len(line) < 3 or line[-2:] != b"\r\n":
                self.is_lost = True
                return found
            self._take(line[:1], line[1:-2], found)
        return found

    def _keep(self, data: bytes, taken: int) -> None:
        self._item += data[: self._room]
        # not what follows bytes that were not seen
        self._room = max(self._room - taken, 0) if len(data) >= min(taken, self._room) else 0

    def _take(self, kind: bytes, line: bytes, found: list[Value]) -> None:
        """A line."""
        if not self._stack:
            self._value = Value(kind, line[:MAX_ITEM_BYTES])
        if kind in _SIMPLE:
            self._not_a_string()
            if self._stack:
                self._add(line[:MAX_ITEM_BYTES])
            self._ended(found)
            return
        count = int(line) if _NUMBER.fullmatch(line) else -1
        if count < 0:
            if line == b"-1" and kind in b"$*":  # a null of RESP 2
                self._not_a_string()
                self._ended(found)
            else:
                self.is_lost = True
        elif kind in _STRINGS:
            if kind != b"$":
                self._not_a_string()
            self._left, self._room = count + 2, min(count, MAX_ITEM_BYTES)
        elif kind in _MANY:
            self._take_many(kind, count, found)
        else:
            self.is_lost = True

    def _take_many(self, kind: bytes, count: int, found: list[Value]) -> None:
        self._not_a_string()
        if kind in _PAIRS:
            count *= 2
        if not self._stack and self._value is not None:
            self._value.count = count
            self._value.is_command = kind == b"*" and count > 0
        if len(self._stack) >= MAX_DEPTH:
            self.is_lost = True
        elif count:
            self._stack.append([kind[0], count])
        else:
            self._aggregate_ended(kind[0], found)

    def _not_a_string(self) -> None:
        if self._stack and self._value is not None:
            self._value.is_command = False

    def _add(self, item: bytes) -> None:
        value = self._value
        if value is not None and len(self._stack) <= 1 and len(value.items) < MAX_ITEMS:
            value.items.append(item)

    def _string_ended(self, found: list[Value]) -> None:
        self._add(bytes(self._item))
        self._item.clear()
        self._ended(found)

    def _aggregate_ended(self, kind: int, found: list[Value]) -> None:
        if kind == _ATTRIBUTE:
            return  # it is no value: the one that it is about follows
        self._ended(found)

    def _ended(self, found: list[Value]) -> None:
        """A value has ended, and with it those that it is the last of."""
        while self._stack:
            innermost = self._stack[-1]
            innermost[1] -= 1
            if innermost[1]:
                return
            self._stack.pop()
            if innermost[0] == _ATTRIBUTE:
                return
        if self._value is not None:
            found.append(self._value)
            self._value = None
