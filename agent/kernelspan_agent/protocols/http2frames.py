# SPDX-License-Identifier: Apache-2.0
"""Frames of HTTP/2 as an onlooker reads them: of each call some of the bytes, and how many there were (RFC 9113).

What a frame carries is stepped over by its length, so the bytes of a body need not be seen. A header of nine bytes that was
not seen loses the place: from there frames are read again where a call begins with what can be nothing else.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
HEADER_BYTES = 9
MAX_BLOCK_BYTES = 64 << 10  # of headers, with all their continuations


class Type(enum.IntEnum):
    """Those of RFC 9113, section 6. Others may be sent, and mean nothing here."""

    DATA = 0
    HEADERS = 1
    PRIORITY = 2
    RST_STREAM = 3
    SETTINGS = 4
    PUSH_PROMISE = 5
    PING = 6
    GOAWAY = 7
    WINDOW_UPDATE = 8
    CONTINUATION = 9


END_STREAM, END_HEADERS, PADDED, PRIORITY = 0x1, 0x4, 0x8, 0x20
_ACK = 0x1
_KEPT = {Type.HEADERS, Type.RST_STREAM, Type.PUSH_PROMISE, Type.CONTINUATION}
_OF_A_STREAM = {
    Type.DATA: range(1 << 24),
    Type.HEADERS: range(1, 1 << 24),
    Type.PRIORITY: range(5, 6),
    Type.RST_STREAM: range(4, 5),
    Type.PUSH_PROMISE: range(4, 1 << 24),
    Type.CONTINUATION: range(1 << 24),
    Type.WINDOW_UPDATE: range(4, 5),
}  # how long they are
_OF_THE_CONNECTION = {
    Type.SETTINGS: range(0, 1 << 24, 6),
    Type.PING: range(8, 9),
    Type.GOAWAY: range(8, 1 << 24),
    Type.WINDOW_UPDATE: range(4, 5),
}
_FLAGS = {
    Type.DATA: END_STREAM | PADDED,
    Type.HEADERS: END_STREAM | END_HEADERS | PADDED | PRIORITY,
    Type.SETTINGS: _ACK,
    Type.PING: _ACK,
    Type.PUSH_PROMISE: END_HEADERS | PADDED,
    Type.CONTINUATION: END_HEADERS,
}  # that have a meaning
_USUAL_BYTES = 16 << 10  # of a frame, unless both ends have said otherwise


@dataclass(frozen=True, slots=True)
class Frame:
    """One that is complete. `payload`: None: not wanted, or not all of it was seen.

    `at`: of its first byte, as Reader.taken counts. `began_ns`: when that came.
    """

    type: int
    flags: int
    stream: int
    length: int
    payload: bytes | None
    at: int
    began_ns: int


class Reader:
    """One direction of a connection. Not for several threads. `taken`: bytes so far; `is_lost`: the place is not known."""

    def __init__(self, *, is_lost: bool) -> None:
        self.is_lost = is_lost
        self.taken = 0
        self._skip = 0
        self._head = bytearray()
        self._at = self._began_ns = 0
        self._left = 0
        self._kept: bytearray | None = None

    def lose(self) -> None:
        """Bytes went by unseen."""
        self.is_lost = True
        self._head.clear()
        self._left = self._skip = 0
        self._kept = None

    def find(self) -> None:
        """What follows is a frame."""
        self.is_lost = False

    def skip(self, count: int) -> None:
        """What follows is no frame for so many bytes."""
        self._skip = count

    @property
    def is_between(self) -> bool:
        """Whether a frame begins next, as far as is known."""
        return not (self._head or self._skip)

    def feed(self, data: bytes, moved: int, when_ns: int, *, without_bodies: bool = False) -> list[Frame]:
        """The frames that these bytes complete. `data`: the first of `moved`; `without_bodies`: those of DATA are not in it."""
        found: list[Frame] = []
        end = self.taken + moved
        seen = 0  # of the data
        while self.taken < end and not self.is_lost:
            left = end - self.taken
            if self._skip:
                taken = min(self._skip, left)
                self._skip -= taken
                seen += taken
            elif len(self._head) < HEADER_BYTES:
                taken = min(HEADER_BYTES - len(self._head), left)
                self._take_header(data[seen : seen + taken], taken, when_ns)
                seen += taken
            else:
                taken = min(self._left, left)
                is_elided = without_bodies and self._head[3] == Type.DATA
                if not is_elided:
                    self._take_payload(data[seen : seen + taken], taken)
                    seen += taken
                self._left -= taken
            self.taken += taken
            if len(self._head) == HEADER_BYTES and not self._left:
                found.append(self._frame())
        self.taken = end
        return found

    def _take_header(self, part: bytes, wanted: int, when_ns: int) -> None:
        if len(part) < wanted:
            self.lose()
            return
        if not self._head:
            self._at, self._began_ns = self.taken, when_ns
        self._head += part
        if len(self._head) == HEADER_BYTES:
            length, kind, flags, stream = _parsed(self._head)
            if not _is_valid(length, kind, flags, stream):
                self.lose()
                return
            self._left = length
            self._kept = bytearray() if kind in _KEPT and length <= MAX_BLOCK_BYTES else None

    def _take_payload(self, part: bytes, taken: int) -> None:
        if self._kept is not None and len(part) == taken:
            self._kept += part
        else:
            self._kept = None

    def _frame(self) -> Frame:
        length, kind, flags, stream = _parsed(self._head)
        payload = bytes(self._kept) if self._kept is not None else None
        self._head.clear()
        self._kept = None
        return Frame(kind, flags, stream, length, payload, self._at, self._began_ns)


def is_plausible(data: bytes, moved: int) -> bool:
    """Whether a call of so many bytes, which begins with these, begins with frames: all that are seen, up to its end or two."""
    at = count = 0
    while at < moved and count < 2:
        head = data[at : at + HEADER_BYTES]
        if len(head) < HEADER_BYTES:
            return False
        length, kind, flags, stream = _parsed(head)
        known = _FLAGS.get(Type(kind), 0) if kind in _TYPES else None
        if known is None or flags & ~known or head[5] & 0x80 or length > _USUAL_BYTES:
            return False
        if not _is_valid(length, kind, flags, stream):
            return False
        at += HEADER_BYTES + length
        count += 1
    return count > 1 or at == moved


_TYPES = frozenset(Type)


def _parsed(head: bytes | bytearray) -> tuple[int, int, int, int]:
    """Length, type, flags, stream."""
    return int.from_bytes(head[:3]), head[3], head[4], int.from_bytes(head[5:9]) & 0x7FFFFFFF


def _is_valid(length: int, kind: int, flags: int, stream: int) -> bool:
    """Whether this is no error that ends the connection: then it was no frame's header."""
    if kind not in _TYPES:
        return True
    if kind == Type.SETTINGS and flags & _ACK and length:
        return False
    return length in (_OF_A_STREAM if stream else _OF_THE_CONNECTION).get(Type(kind), ())


def without_padding(frame: Frame, extra: int = 0) -> bytes | None:
    """What a frame with headers carries of them; None: it is wrong. `extra`: bytes before, as of a promised stream."""
    payload = frame.payload
    if payload is None:
        return None
    padding = 0
    if frame.flags & PADDED:
        if not payload:
            return None
        padding, payload = payload[0], payload[1:]
    if frame.type == Type.HEADERS and frame.flags & PRIORITY:
        extra += 5
    return payload[extra : len(payload) - padding] if len(payload) >= padding + extra else None
