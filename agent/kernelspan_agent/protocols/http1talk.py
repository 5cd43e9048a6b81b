# SPDX-License-Identifier: Apache-2.0
"""HTTP/1's requests and the responses that answer them, in their order."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import ClassVar, Self

from kernelspan_agent.model import Payload, WireProtocol
from kernelspan_agent.protocols.exchanges import Exchange, Told, read
from kernelspan_agent.protocols.http1 import Head, Reader, may_ask

MAX_PIPELINED = 256


@dataclass(slots=True, eq=False)
class HttpExchange(Exchange):
    """A request of HTTP."""

    protocol: ClassVar[WireProtocol] = WireProtocol.HTTP
    request: Head
    response: Head | None = None
    request_body: int = -1  # bytes with their framing; -1: not complete
    response_body: int = -1
    reset: str = ""  # it was given up: why

    @property
    def said(self) -> tuple[str, ...]:
        """Its method and target."""
        return self.request.method, self.request.target

    @property
    def has_head(self) -> bool:
        """Whether its end was seen."""
        return not self.request.is_cut


class HttpTalk:
    """One connection. `requests_sent`: whether it is our end that asks."""

    @classmethod
    def begin(cls, payload: Payload) -> Self | None:
        """See TalkClass. Not in the middle of a response."""
        return cls(payload.sends) if may_ask(payload.data) else None

    def __init__(self, requests_sent: bool) -> None:
        self.requests_sent = requests_sent
        methods: deque[str] = deque()
        self._methods = methods
        self._requests, self._responses = Reader(), Reader(methods)
        self._open: deque[HttpExchange] = deque()  # in the order of their requests
        self._asked: HttpExchange | None = None  # whose request's body is on its way
        self._first_ns = self._first_id = 0  # when the head that is on its way began, and with what exchange_id

    def feed(self, payload: Payload, start_ns: int, end_ns: int, *, missed: bool) -> Told:
        """See Talk. A message that begins is known by itself, whatever was missed."""
        told = Told()
        if payload.sends == self.requests_sent:
            told.was_asked = not payload.sends
            # what is sent goes out from the call's begin, what is received is there at its end
            self._feed_request(payload, start_ns if payload.sends else end_ns, told, missed=missed)
        else:
            self._feed_response(payload, end_ns, told)
        return told

    def _feed_request(self, payload: Payload, when_ns: int, told: Told, *, missed: bool) -> None:
        told.is_whole = not missed and len(payload.data) + len(payload.tail) == payload.moved
        if not self._requests.is_in_head:
            self._first_ns, self._first_id = when_ns, payload.exchange_id
        elif missed:  # what goes on may be another's
            self._first_id = 0
        for part in read(self._requests.feed, payload):
            if isinstance(part, Head):
                self._asked = HttpExchange(not self.requests_sent, self._first_ns, part, exchange_id=self._first_id)
                self._first_ns, self._first_id = when_ns, 0
                self._open.append(self._asked)
                self._methods.append(part.method)
                told.began.append(self._asked)
                if len(self._open) > MAX_PIPELINED:
                    self._open.popleft()
                    self._methods.popleft()
            elif self._asked is not None:
                self._asked.request_body = part.body
                told.asked.append(self._asked)
                self._asked = None

    def _feed_response(self, payload: Payload, when_ns: int, told: Told) -> None:
        current = self._open[0] if self._open else None
        for part in read(self._responses.feed, payload):
            if current is None:
                return
            if isinstance(part, Head):
                if part.status >= 200 or part.status == 101:
                    current.response = part
                    told.answered.append(current)
                continue
            if current.response is None:
                continue
            current.response_body = part.body
            if not part.inferred:
                current.end_ns = when_ns
            self._end(current, told)
            current = self._open[0] if self._open else None
        if current is not None and current.response is not None:
            current.end_ns = when_ns
            current.is_open_ended = self._responses.is_open_ended
            if current.is_open_ended:
                told.open_ended.append(current)

    def _end(self, exchange: HttpExchange, told: Told) -> None:
        self._open.popleft()
        told.ended.append(exchange)
