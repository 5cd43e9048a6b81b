# SPDX-License-Identifier: Apache-2.0
"""Messages of PostgreSQL's protocol 3 as an onlooker reads them: of each call the first bytes and the last.

A message is a type's byte, a length, and as many bytes (PostgreSQL's manual, "Message Formats"); a client's first one has no
type. What was not seen is passed over by the length; where a length lies in it the reader is lost until it is told where a
message begins.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

MAX_BODY_BYTES = 4096  # of a message that are kept
MAX_LENGTH = 0x40000000  # of the server's own buffers
_HEADER = 5
VERSION, TLS, GSS = 3, 80877103, 80877104
# An answer's end: the last row's, or an error's, message and ReadyForQuery behind it. Its own message before it: COMPLETE.
_READY = re.compile(rb"Z\x00\x00\x00\x05[ITE]\Z")
_COMPLETE = re.compile(rb"C\x00\x00\x00(?P<length>[\x05-\x60])(?P<tag>[A-Z][A-Z ]{1,40}(?: \d{1,20}){0,2})\x00\Z")
_ERROR = re.compile(
    rb"E(?P<length>\x00\x00[\x00-\x08].)S[A-Z]{3,10}\x00V[A-Z]{3,10}\x00C(?P<code>[0-9A-Z]{5})\x00M", re.DOTALL
)


@dataclass(frozen=True, slots=True)
class Message:
    """`kind`: its type's byte; empty: a client's first. `body`: its beginning. `is_cut`: there was more of it."""

    kind: bytes
    body: bytes
    is_cut: bool


class Reader:
    """One direction of a connection. `kept`: kinds whose bodies are looked at. Not for several threads."""

    def __init__(self, kinds: bytes, kept: bytes) -> None:
        self._kinds, self._kept = kinds, kept
        self.reset()

    def reset(self) -> None:
        """What follows begins a message."""
        self.is_lost = False
        self.is_first = False  # a message without a type comes next
        self._header = bytearray()
        self._body = bytearray()
        self._left = self._room = 0  # bytes to come of a body; of those that are kept
        self._is_in_body = False
        self._length = 0  # of the whole body

    @property
    def is_inside(self) -> bool:
        """Whether a message has begun and not ended."""
        return bool(self._header)

    def feed(self, data: bytes, moved: int) -> list[Message]:
        """The messages that end in these bytes. `data`: the first of `moved` bytes."""
        found: list[Message] = []
        at = 0
        while at < moved and not self.is_lost:
            if not self._is_in_body:
                wanted = (_HEADER - self.is_first) - len(self._header)
                part = data[at : at + wanted]
                self._header += part
                at += len(part)
                if len(part) < wanted:
                    self.is_lost = at < moved
                    return found
                self._begin(found)
                continue
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

    def _begin(self, found: list[Message]) -> None:
        kind = b"" if self.is_first else bytes(self._header[:1])
        length = int.from_bytes(self._header[-4:], "big")
        if not 4 <= length <= MAX_LENGTH or kind not in self._kinds:
            self.is_lost = True
            return
        self._is_in_body = True
        self._left = length - 4
        self._room = min(self._left, MAX_BODY_BYTES) if kind in self._kept else 0
        self._length = self._left
        if not self._left:
            self._end(found)

    def _end(self, found: list[Message]) -> None:
        kind = b"" if self.is_first else bytes(self._header[:1])
        body = bytes(self._body)
        self.is_first = self._is_in_body = False
        self._header.clear()
        self._body.clear()
        found.append(Message(kind, body, len(body) < self._length))


def first_code(data: bytes, moved: int) -> int:
    """Of a connection's first message: the version's major number, or what it asks for; 0: it is none."""
    if len(data) < 8 or int.from_bytes(data[:4], "big") != moved:
        return 0
    code = int.from_bytes(data[4:8], "big")
    return code if code in {TLS, GSS} else VERSION if code >> 16 == VERSION else 0


def is_request(data: bytes, moved: int, tail: bytes) -> bool:
    """Whether a call's bytes are a query, or parse or bind a statement and end in Sync or Flush: only a client says that."""
    size = int.from_bytes(data[1:5], "big")
    if len(data) < 5 or size + 1 > moved:
        return False
    if data[:1] == b"Q":
        return size + 1 == moved
    end = (data + tail)[-5:]
    return data[:1] in {b"P", b"B"} and size >= 8 and end in {b"S\x00\x00\x00\x04", b"H\x00\x00\x00\x04"}


def without_ready(data: bytes) -> bytes | None:
    """These bytes without the ReadyForQuery that they end in; None: they do not."""
    ready = _READY.search(data)
    return data[: ready.start()] if ready is not None else None


def result_at_end(data: bytes) -> str | None:
    """The SQLSTATE of the result that these bytes end in; empty: no error. None: none ends there."""
    complete = _COMPLETE.search(data[-0x80:])
    if complete is not None and complete["length"][0] == len(complete["tag"]) + 5:
        return ""
    for error in _ERROR.finditer(data):
        if error.start() + 1 + int.from_bytes(error["length"], "big") == len(data):
            return error["code"].decode()
    return None
