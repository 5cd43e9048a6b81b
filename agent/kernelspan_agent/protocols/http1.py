# SPDX-License-Identifier: Apache-2.0
"""HTTP/1.x as an onlooker reads it: of each call the first bytes and how many there were (RFC 9112).

A parser made for an endpoint has all bytes and refuses what is wrong; here bodies are seen by their length alone, and what
cannot be understood is passed over until a message begins again. So heads are read here, a few microseconds each, and of
bodies the framing.
"""

from __future__ import annotations

import enum
import re
from collections import deque
from dataclasses import dataclass, field

MAX_HEAD_BYTES = 16 << 10
MAX_HEADERS = 128
_METHODS = rb"GET|POST|PUT|HEAD|DELETE|OPTIONS|PATCH|CONNECT|TRACE"
_REQUEST = re.compile(rb"(" + _METHODS + rb") ([!-~\x80-\xff]+) HTTP/(1\.[01])\Z")
_RESPONSE = re.compile(rb"HTTP/(1\.[01]) ([1-5][0-9][0-9])(?: [^\r\n]*)?\Z")
_BEGINS = re.compile(rb"(?:" + _METHODS + rb") |HTTP/1\.")
_FIELD = re.compile(rb"([!#$%&'*+.^_`|~0-9A-Za-z-]+):[ \t]*(.*?)[ \t]*\Z", re.DOTALL)
_CHUNK = re.compile(rb"([0-9A-Fa-f]{1,15})[ \t]*(?:;[^\r\n]*)?\r?\n")
_NUMBER = re.compile(r"[0-9]{1,18}")
MAX_CHUNK_LINE = 256
_WORDS = (*(method + b" " for method in _METHODS.split(b"|")), b"HTTP/1.")
LONGEST_WORD = max(map(len, _WORDS))


@dataclass(frozen=True, slots=True)
class Head:
    """A request's or a response's. `headers`: by their names in small letters, values of one name joined by commas."""

    version: str
    method: str = ""
    target: str = ""
    status: int = 0  # 0: a request
    headers: dict[str, str] = field(default_factory=dict)
    is_cut: bool = False  # its end was not seen: more headers may have been there
    scheme: str = "http"  # of what is asked for


@dataclass(frozen=True, slots=True)
class End:
    """A message is complete. `body`: its bytes as they went by, with their framing.

    `inferred`: its length was not told, and another message has begun. `final`: what follows is another protocol.
    """

    body: int
    inferred: bool = False
    final: bool = False


Part = Head | End


def begins(data: bytes) -> bool:
    """Whether these are the first bytes of a message."""
    return _BEGINS.match(data) is not None


def may_ask(data: bytes) -> bool:
    """Whether these can be the first bytes of a request; there may be few of them."""
    return any(data.startswith(word) or word.startswith(data) for word in _WORDS[:-1]) if data else False


class _At(enum.Enum):
    """What comes next."""

    HEAD = enum.auto()
    BODY = enum.auto()
    CHUNK_SIZE = enum.auto()
    CHUNK = enum.auto()
    TRAILER = enum.auto()
    REST = enum.auto()  # a body up to the connection's end, or one whose length cannot be told
    OPAQUE = enum.auto()  # another protocol


class Reader:
    """One direction of a connection. Not for several threads.

    `methods`: of the requests that are not answered yet, for the reader of responses, which takes them out; None: it reads
    requests.
    """

    def __init__(self, methods: deque[str] | None = None) -> None:
        self._methods = methods
        self._at = _At.HEAD
        self._line = bytearray()  # of a head, of a chunk's size
        self._left = 0  # of a body, of a chunk with what ends it
        self._body = 0

    @property
    def is_in_head(self) -> bool:
        """Whether a head has begun whose end has not been seen."""
        return bool(self._line) and self._at is _At.HEAD

    @property
    def is_open_ended(self) -> bool:
        """Whether the end of the message it is in cannot be told from its bytes."""
        return self._at is _At.REST

    def feed(self, data: bytes, moved: int) -> list[Part]:
        """What these bytes bring. `data`: the first of `moved` bytes."""
        found: list[Part] = []
        at = 0
        while at < moved:
            parts, taken = self.take(data[at:], moved - at)
            found += parts
            at += taken
        return found

    def take(self, data: bytes, moved: int) -> tuple[list[Part], int]:
        """What these bytes bring up to a message's end, and how many of them that are."""
        found: list[Part] = []
        if self._at is _At.REST and begins(data):
            self._at = _At.HEAD
            return [End(self._body, inferred=True)], 0
        at = 0
        while at < moved:
            at += self._step(data[at:], moved - at, found)
            if found and isinstance(found[-1], End):
                break
        return found, at

    def passed(self, count: int) -> list[Part] | None:
        """What as many bytes bring that were not seen, if they are all of the body that it is in; None: they are not."""
        if self._at not in {_At.BODY, _At.CHUNK} or count > self._left:
            return None
        return self.feed(b"", count)

    def begin_anew(self) -> None:
        """What follows may begin a message, and belongs to none that has begun; not if it is of another protocol."""
        self._line.clear()
        if self._at is not _At.OPAQUE:
            self._at = _At.HEAD

    def _step(self, data: bytes, moved: int, found: list[Part]) -> int:
        """Takes some of the bytes; gives how many, at least one."""
        if self._at is _At.HEAD:
            return self._take_head(data, moved, found)
        if self._at in (_At.BODY, _At.CHUNK):
            taken = min(self._left, moved)
            self._left -= taken
            self._body += taken
            if not self._left:
                if self._at is _At.CHUNK:
                    self._at = _At.CHUNK_SIZE
                else:
                    self._end(found)
            return taken
        if self._at in (_At.CHUNK_SIZE, _At.TRAILER):
            return self._take_line(data, moved, found)
        self._body += moved
        return moved

    def _take_head(self, data: bytes, moved: int, found: list[Part]) -> int:
        before = len(self._line)
        if not before:
            stripped = data.lstrip(b"\r\n")  # between messages there may be empty lines
            if len(stripped) < len(data):
                return len(data) - len(stripped)
            if not _may_begin(data):
                return moved  # the middle of something that began before we came
        self._line += data
        end = self._line.find(b"\r\n\r\n", max(before - 3, 0))
        if end < 0 and len(data) == moved and len(self._line) <= MAX_HEAD_BYTES:
            return moved
        head = self._parsed(bytes(self._line[:end] if end >= 0 else self._line), is_cut=end < 0)
        self._line.clear()
        if head is None:
            return moved
        found.append(head)
        self._begin_body(head, found)
        if end < 0:
            self._at = _At.REST
            return moved
        return end + 4 - before

    def _parsed(self, text: bytes, *, is_cut: bool) -> Head | None:
        lines = text.split(b"\r\n")
        if is_cut and len(lines) > 1:
            lines.pop()
        headers: dict[str, str] = {}
        for line in lines[1 : MAX_HEADERS + 1]:
            matched = _FIELD.match(line)
            if matched is not None:
                name, value = matched[1].decode("ascii").lower(), matched[2].decode("latin-1")
                headers[name] = f"{headers[name]}, {value}" if name in headers else value
        if self._methods is None:
            first = _REQUEST.match(lines[0])
            if first is None:
                return None
            return Head(first[3].decode(), first[1].decode(), first[2].decode("latin-1"), 0, headers, is_cut)
        first = _RESPONSE.match(lines[0])
        return Head(first[1].decode(), "", "", int(first[2]), headers, is_cut) if first is not None else None

    def _begin_body(self, head: Head, found: list[Part]) -> None:
        self._body = 0
        method = ""
        if head.status >= 200 and self._methods:
            method = self._methods.popleft()
        if head.status == 101 or (method == "CONNECT" and 200 <= head.status < 300):
            found.append(End(0, final=True))
            self._at = _At.OPAQUE
        elif 100 <= head.status < 200:
            self._at = _At.HEAD
        elif head.status in (204, 304) or method == "HEAD":
            self._end(found)
        else:
            self._frame(head, found)

    def _frame(self, head: Head, found: list[Part]) -> None:
        coding, length = head.headers.get("transfer-encoding", ""), head.headers.get("content-length")
        if coding:
            is_chunked = coding.rsplit(",", 1)[-1].strip().lower() == "chunked"
            self._at = _At.CHUNK_SIZE if is_chunked else _At.REST
        elif length is not None:
            values = {each.strip() for each in length.split(",")}
            value = values.pop()
            if values or not _NUMBER.fullmatch(value):
                self._at = _At.REST
            elif self._left_is(int(value)):
                self._at = _At.BODY
            else:
                self._end(found)
        elif head.status or head.is_cut:
            self._at = _At.REST
        else:
            self._end(found)

    def _left_is(self, count: int) -> bool:
        self._left = count
        return count > 0

    def _take_line(self, data: bytes, moved: int, found: list[Part]) -> int:
        end = data.find(b"\n")
        self._line += data[: end + 1] if end >= 0 else data
        taken = end + 1 if end >= 0 else moved
        self._body += taken
        if (end < 0 and len(data) < moved) or len(self._line) > MAX_CHUNK_LINE:
            self._line.clear()
            self._at = _At.REST
            return taken
        if end < 0:
            return taken
        line = bytes(self._line)
        self._line.clear()
        if self._at is _At.TRAILER:
            if not line.strip():
                self._end(found)
            return taken
        size = _CHUNK.fullmatch(line)
        if size is None:
            self._at = _At.REST
        elif int(size[1], 16):
            self._left, self._at = int(size[1], 16) + 2, _At.CHUNK
        else:
            self._at = _At.TRAILER
        return taken

    def _end(self, found: list[Part]) -> None:
        found.append(End(self._body))
        self._at = _At.HEAD


def _may_begin(data: bytes) -> bool:
    if len(data) >= LONGEST_WORD:
        return begins(data)
    return any(word.startswith(data) or data.startswith(word) for word in _WORDS)
