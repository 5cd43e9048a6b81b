# SPDX-License-Identifier: Apache-2.0
"""Packets of MySQL's protocol as an onlooker reads them: of each call the first bytes and the last.

A packet is a length of three bytes, a number, and as many bytes; one of the greatest length goes on in the next (MariaDB's
manual, "0 - Packet"). Numbers count up within a command and what answers it, and begin at 0. What was not seen is passed
over by the length; where a length lies in it the reader is lost until it is told where a packet begins.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

MAX_BODY_BYTES = 4096  # of a message that are kept
GREATEST = 0xFFFFFF
_HEADER = 4
_MAX_ERROR, _MAX_END = 640, 64  # bytes of such packets
_ERROR = re.compile(rb"\x00.\xff(?P<code>..)#[0-9A-Z]{5}", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Message:
    """`number`: its first packet's. `last`: its last one's. `length`: of its whole body. `body`: the beginning of that."""

    number: int
    last: int
    length: int
    body: bytes

    @property
    def is_cut(self) -> bool:
        """Whether there was more of it than is kept."""
        return len(self.body) < self.length

    @property
    def kind(self) -> int:
        """Its first byte; -1: it has none, or that was not seen."""
        return self.body[0] if self.body else -1


class Reader:
    """One direction of a connection. Not for several threads."""

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """What follows begins a message."""
        self.is_lost = False
        self._header = bytearray()
        self._body = bytearray()
        self._left = 0  # bytes to come of a packet
        self._room = 0  # bytes to come of those that are kept
        self._length = 0  # of the message so far
        self._number = -1  # of its first packet; -1: that has not begun
        self._is_in_body = False

    @property
    def is_inside(self) -> bool:
        """Whether a message has begun and not ended."""
        return self._number >= 0 or bool(self._header)

    def feed(self, data: bytes, moved: int) -> list[Message]:
        """The messages that end in these bytes. `data`: the first of `moved` bytes."""
        found: list[Message] = []
        at = 0
        while at < moved and not self.is_lost:
            if not self._is_in_body:
                part = data[at : at + _HEADER - len(self._header)]
                self._header += part
                at += len(part)
                if len(self._header) < _HEADER:
                    self.is_lost = at < moved
                    return found
                self._begin()
            else:
                taken = min(self._left, moved - at)
                if self._room:
                    seen = data[at : at + taken]
                    self._body += seen[: self._room]
                    # not what follows bytes that were not seen
                    self._room = max(self._room - taken, 0) if len(seen) >= min(taken, self._room) else 0
                self._left -= taken
                at += taken
            if not self._left:
                self._end(found)
        return found

    def _begin(self) -> None:
        """A packet's header is there."""
        self._left = int.from_bytes(self._header[:3], "little")
        if self._number < 0:
            self._number, self._room = self._header[3], MAX_BODY_BYTES
        self._length += self._left
        self._is_in_body = True

    def _end(self, found: list[Message]) -> None:
        """A packet has ended."""
        is_last, last = self._header[:3] != b"\xff\xff\xff", self._header[3]
        self._is_in_body = False
        self._header.clear()
        if is_last:
            found.append(Message(self._number, last, self._length, bytes(self._body)))
            self._body.clear()
            self._number, self._length, self._room = -1, 0, 0


def number_of(data: bytes, at: int) -> tuple[int, int]:
    """A number in as many bytes as it needs, and where it ends; -1: it is none, or was not seen."""
    first = data[at] if at < len(data) else 0xFF
    if first < 0xFB:
        return first, at + 1
    size = {0xFC: 2, 0xFD: 3, 0xFE: 8}.get(first, 0)
    if not size or at + 1 + size > len(data):
        return -1, len(data)
    return int.from_bytes(data[at + 1 : at + 1 + size], "little"), at + 1 + size


def string_of(data: bytes, at: int) -> tuple[bytes, int]:
    """A string behind its length, as far as it was seen, and where it ends."""
    size, at = number_of(data, at)
    return (data[at : at + size], at + size) if size >= 0 else (b"", len(data))


def packet_of(data: bytes, moved: int) -> tuple[int, bytes]:
    """The number and the beginning of the body of a packet that is all there is in a call; -1: it is not so."""
    if len(data) <= _HEADER or int.from_bytes(data[:3], "little") + _HEADER != moved:
        return -1, b""
    return data[3], data[_HEADER:]


def result_at_end(data: bytes) -> str | None:
    """The error's number of the answer that may end where these bytes end; empty: no error. None: none ends there.

    A value may look the same: that it is the end is known once the next is asked.
    """
    for error in _ERROR.finditer(data, max(len(data) - _MAX_ERROR, 0)):
        begin = error.start() - 2
        if begin >= 0 and begin + _HEADER + int.from_bytes(data[begin : begin + 3], "little") == len(data):
            return str(int.from_bytes(error["code"], "little"))
    for size in range(5, _MAX_END):
        end = data[-size - _HEADER :]
        if len(end) == size + _HEADER and end[:3] == bytes((size, 0, 0)) and end[4] == 0xFE:
            return ""
    return None
