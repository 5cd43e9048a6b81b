# SPDX-License-Identifier: Apache-2.0
"""HTTP/2's requests and what answers them: streams of one connection, each known by its number, gRPC's among them.

A connection that we joined in its middle, or of which something was not seen, is read from where frames begin again. What its
headers say is told as far as it is certain (http2headers): a request whose method or path is not known, or of which it is not
known whether it is gRPC's, is not told at all, and counted.
"""

from __future__ import annotations

import re
from collections import OrderedDict
from dataclasses import dataclass, field
from typing import ClassVar, Self

from kernelspan_agent.model import Payload, WireProtocol
from kernelspan_agent.protocols.exchanges import Told, read
from kernelspan_agent.protocols.http1 import Head
from kernelspan_agent.protocols.http1talk import HttpExchange
from kernelspan_agent.protocols.http2frames import (
    END_HEADERS,
    END_STREAM,
    MAX_BLOCK_BYTES,
    PREFACE,
    Frame,
    Reader,
    Type,
    is_plausible,
    without_padding,
)
from kernelspan_agent.protocols.http2headers import Fieldreader, Fields

MAX_STREAMS = 4096  # of a connection that are open
MAX_EARLY = 256  # answers that came before what they answer
_GRPC = re.compile(r"application/grpc(?![a-z-])", re.IGNORECASE)  # not grpc-web, which is another protocol
_METHOD = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]{1,64}")
_U32 = 0xFFFFFFFF
_PROMISED = 4  # bytes before the headers of a push
_ERRORS = (
    "NO_ERROR",
    "PROTOCOL_ERROR",
    "INTERNAL_ERROR",
    "FLOW_CONTROL_ERROR",
    "SETTINGS_TIMEOUT",
    "STREAM_CLOSED",
    "FRAME_SIZE_ERROR",
    "REFUSED_STREAM",
    "CANCEL",
    "COMPRESSION_ERROR",
    "CONNECT_ERROR",
    "ENHANCE_YOUR_CALM",
    "INADEQUATE_SECURITY",
    "HTTP_1_1_REQUIRED",
)  # by their numbers, RFC 9113, section 7


@dataclass(slots=True)
class Line:
    """What a connection's exchanges have in common. `senders`: who has sent requests on it; two say as much as more."""

    senders: list[object] = field(default_factory=list)


@dataclass(slots=True, eq=False)
class Http2Exchange(HttpExchange):
    """A request on a stream. `trailers`: of the response. `is_sole`: nothing else went on when it was sent."""

    protocol: ClassVar[WireProtocol] = WireProtocol.HTTP2
    stream: int = 0
    trailers: Head | None = None
    is_answering: bool = False
    is_sole: bool = False
    is_over: bool = False
    line: Line = field(default_factory=Line)

    @property
    def said(self) -> tuple[str, ...]:
        """Its method, target, and the stream's number."""
        return self.request.method, self.request.target, str(self.stream)

    @property
    def subjects(self) -> tuple[str, ...]:
        """gRPC's are no plain requests of HTTP."""
        return ("GRPC" if self.is_grpc else "HTTP",)

    @property
    def is_grpc(self) -> bool:
        """Whether it says so."""
        return _GRPC.match(self.request.headers.get("content-type", "")) is not None

    def is_askers(self, sender: object) -> bool:
        """See Exchange. Whoever writes to a connection may send what others have asked; one that is alone cannot."""
        senders = self.line.senders
        if sender not in senders and len(senders) < 2:
            senders.append(sender)
        return self.is_sole and senders == [sender]


class _Side:
    """One direction."""

    def __init__(self, *, is_lost: bool) -> None:
        self.reader = Reader(is_lost=is_lost)
        self.fields = Fieldreader()
        self.block: bytearray | None = None  # that is on its way
        self.first: Frame | None = None  # whose frame it began with

    def forget(self) -> None:
        self.fields.forget()
        self.block = self.first = None


class Http2Talk:
    """One connection. `requests_sent`: whether it is our end that asks; None: not known yet."""

    @classmethod
    def begin(cls, payload: Payload) -> Self | None:
        """See TalkClass."""
        if payload.data.startswith(PREFACE[:4]):
            return cls(payload.sends)
        is_certain = payload.protocol is WireProtocol.HTTP2 and (payload.at_frame or _begins(payload))
        return cls(None) if is_certain else None

    def __init__(self, requests_sent: bool | None) -> None:
        self.requests_sent = requests_sent
        self._sides = {sends: _Side(is_lost=requests_sent is None) for sends in (True, False)}
        self._begins: int | None = None  # where the connection's requests begin, as TCP numbers them
        self._is_new = requests_sent is not None
        self._last = 0  # the newest stream of a request
        self._open: OrderedDict[int, Http2Exchange] = OrderedDict()
        self._early: OrderedDict[int, Http2Exchange] = OrderedDict()
        self._line = Line()

    def feed(self, payload: Payload, start_ns: int, end_ns: int, *, missed: bool) -> Told:
        """See Talk."""
        told, side = Told(), self._sides[payload.sends]
        if missed:
            self._lose(payload.sends, told)
        start: int | None = None
        if payload.position is not None:
            start = payload.position - payload.moved & _U32
        if self._is_new:
            self._is_new = False
            side.reader.skip(len(PREFACE))
            self._begins = start
        before, was_lost = side.reader.taken, side.reader.is_lost
        asks = payload.sends == self.requests_sent
        when_ns = start_ns if payload.sends and (asks or self.requests_sent is None) else end_ns
        for frame in self._frames(payload, when_ns, told):
            number = None if start is None else start + frame.at - before & _U32
            self._take(frame, payload.sends, number, end_ns, told)
        if side.reader.is_lost and not was_lost:
            self._lose(payload.sends, told)
        told.was_asked = self.requests_sent is False and not payload.sends
        self._mark_sole(told)
        return told

    def _frames(self, payload: Payload, when_ns: int, told: Told) -> list[Frame]:
        reader = self._sides[payload.sends].reader
        if payload.at_frame and not reader.is_lost and not reader.is_between and not payload.data.startswith(PREFACE):
            self._lose(payload.sends, told)
        if reader.is_lost and (payload.at_frame or (not payload.is_framed and _begins(payload))):
            reader.find()
        if payload.is_framed:
            return reader.feed(payload.data, payload.moved, when_ns, without_bodies=True)
        return read(lambda data, moved: reader.feed(data, moved, when_ns), payload)

    def _mark_sole(self, told: Told) -> None:
        if len(told.began) == 1:
            (each,) = told.began
            if isinstance(each, Http2Exchange):
                each.is_sole = not any(other is not each for other in self._open.values())

    def _take(self, frame: Frame, sends: bool, number: int | None, when_ns: int, told: Told) -> None:
        side = self._sides[sends]
        if side.first is not None and frame.type != Type.CONTINUATION:  # nothing may come between
            side.forget()
        if frame.type in (Type.HEADERS, Type.PUSH_PROMISE):
            side.first = frame
            self._add(side, without_padding(frame, _PROMISED if frame.type == Type.PUSH_PROMISE else 0))
            self._headers_end(frame, sends, number, when_ns, told)
        elif frame.type == Type.CONTINUATION:
            if side.first is None or side.first.stream != frame.stream:
                side.forget()
                return
            self._add(side, frame.payload)
            self._headers_end(frame, sends, number, when_ns, told)
        elif frame.type == Type.DATA:
            self._went_on(frame.stream, sends, when_ns)
            if frame.flags & END_STREAM:
                self._end_of_stream(frame.stream, sends, when_ns, told)
        elif frame.type == Type.RST_STREAM:
            self._reset(frame, when_ns, told)

    @staticmethod
    def _add(side: _Side, part: bytes | None) -> None:
        """`side.block` None from here: some of it was not seen."""
        is_first = side.block is None and side.first is not None and side.first.type != Type.CONTINUATION
        if part is None:
            side.block = None
        elif is_first:
            side.block = bytearray(part)
        elif side.block is not None:
            side.block += part
            if len(side.block) > MAX_BLOCK_BYTES:
                side.block = None

    def _headers_end(self, frame: Frame, sends: bool, number: int | None, when_ns: int, told: Told) -> None:
        if not frame.flags & END_HEADERS:
            return
        side = self._sides[sends]
        first, block = side.first, side.block
        assert first is not None
        side.first = side.block = None
        fields = side.fields.read(bytes(block)) if block is not None else None
        if fields is None:
            side.fields.forget()
        if first.type == Type.HEADERS and first.stream & 1:
            self._headers(first, fields, sends, number, when_ns, told)

    def _headers(
        self, first: Frame, fields: Fields | None, sends: bool, number: int | None, when_ns: int, told: Told
    ) -> None:
        if self.requests_sent is None and fields is not None:
            if ":method" in fields.pseudo:
                self.requests_sent = sends
            elif ":status" in fields.pseudo:
                self.requests_sent = not sends
        if self.requests_sent is None:
            return
        stream, has_ended = first.stream, first.flags & END_STREAM
        if sends != self.requests_sent:
            self._answered(stream, fields, when_ns)
            if has_ended:
                self._end_of_stream(stream, sends, when_ns, told)
        elif stream > self._last:
            self._last = stream
            self._asked(first, fields, number, told)

    def _asked(self, first: Frame, fields: Fields | None, number: int | None, told: Told) -> None:
        head = _request(fields)
        early = self._early.pop(first.stream, None)
        for stream in [each for each in self._early if each < first.stream]:
            del self._early[stream]
        if head is None:
            told.untold += 1
            return
        exchange = early or Http2Exchange(not self.requests_sent, 0, head, stream=first.stream)
        exchange.request, exchange.start_ns, exchange.line = head, first.began_ns, self._line
        if number is not None and self._begins is not None:
            exchange.exchange_id = number << 32 | self._begins
        told.began.append(exchange)
        if exchange.is_over:
            told.ended.append(exchange)
            return
        self._open[first.stream] = exchange
        if len(self._open) > MAX_STREAMS:
            told.ended.append(self._open.popitem(last=False)[1])

    def _find(self, stream: int) -> Http2Exchange | None:
        """What an answer on this stream is for: the call that asked may not have returned yet."""
        found = self._open.get(stream) or self._early.get(stream)
        if found is None and stream > self._last and self._is_certain:
            found = self._early[stream] = Http2Exchange(not self.requests_sent, 0, Head("2"), stream=stream)
            if len(self._early) > MAX_EARLY:
                self._early.popitem(last=False)
        return found

    @property
    def _is_certain(self) -> bool:
        return self.requests_sent is not None and not any(each.reader.is_lost for each in self._sides.values())

    def _answered(self, stream: int, fields: Fields | None, when_ns: int) -> None:
        exchange = self._find(stream)
        if exchange is None:
            return
        exchange.end_ns = when_ns
        status = fields.pseudo.get(":status", "") if fields is not None else ""
        if exchange.is_answering:
            if fields is not None:
                exchange.trailers = Head("2", headers=fields.headers, is_cut=fields.has_unknown)
        elif not re.fullmatch("1[0-9][0-9]", status, re.ASCII):
            exchange.is_answering = True
            if fields is not None and re.fullmatch("[2-9][0-9][0-9]", status, re.ASCII):
                exchange.response = Head("2", "", "", int(status), fields.headers, fields.has_unknown)

    def _went_on(self, stream: int, sends: bool, when_ns: int) -> None:
        exchange = self._open.get(stream)
        if exchange is not None and sends != self.requests_sent:
            exchange.end_ns = when_ns

    def _end_of_stream(self, stream: int, sends: bool, when_ns: int, told: Told) -> None:
        if sends == self.requests_sent:
            return
        exchange = self._find(stream)
        if exchange is not None:
            exchange.end_ns = when_ns
            self._end(exchange, told)

    def _reset(self, frame: Frame, when_ns: int, told: Told) -> None:
        exchange = self._find(frame.stream) if frame.stream & 1 else None
        if exchange is None:
            return
        code = int.from_bytes(frame.payload) if frame.payload is not None else len(_ERRORS)
        exchange.reset = _ERRORS[code] if code < len(_ERRORS) else "_OTHER"
        exchange.end_ns = when_ns
        self._end(exchange, told)

    def _end(self, exchange: Http2Exchange, told: Told) -> None:
        exchange.is_over = True
        if self._open.pop(exchange.stream, None) is not None:
            told.ended.append(exchange)

    def _lose(self, sends: bool, told: Told) -> None:
        """Some of a direction was not seen. Of answers: what they are for is told as it is."""
        self._sides[sends].reader.lose()
        self._sides[sends].forget()
        self._early.clear()
        if sends != self.requests_sent:
            told.ended += self._open.values()
            self._open.clear()


def _begins(payload: Payload) -> bool:
    """Whether a call begins with frames, by what they look like."""
    is_whole = len(payload.data) + len(payload.tail) == payload.moved
    return is_plausible(payload.data + payload.tail if is_whole else payload.data, payload.moved)


def _request(fields: Fields | None) -> Head | None:
    """None: what is asked is not known."""
    if fields is None:
        return None
    pseudo, headers = fields.pseudo, fields.headers
    method, authority = pseudo.get(":method", ""), pseudo.get(":authority", "")
    target = pseudo.get(":path", "") or (authority if method == "CONNECT" else "")
    if not _METHOD.fullmatch(method) or not target:
        return None
    if fields.has_unknown and method == "POST" and "content-type" not in headers:
        return None  # it may be gRPC's
    if authority and "host" not in headers:
        headers["host"] = authority
    scheme = pseudo.get(":scheme", "")
    return Head("2", method, target, 0, headers, fields.has_unknown, scheme if scheme == "https" else "http")
