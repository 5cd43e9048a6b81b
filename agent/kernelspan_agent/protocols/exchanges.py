# SPDX-License-Identifier: Apache-2.0
"""Requests and the responses that answer them, told from what the calls on a connection moved."""

from __future__ import annotations

from collections import OrderedDict, deque
from dataclasses import dataclass, field

from kernelspan_agent.model import Payload
from kernelspan_agent.protocols.http1 import Head, Part, Reader, may_ask

MAX_CONNECTIONS = 16384
MAX_PIPELINED = 256


@dataclass(slots=True, eq=False)
class Exchange:
    """One request and what answered it. Times: Unix epoch, ns. `is_server`: the request came in here.

    `start_ns`: its first byte. `end_ns`: the last byte of the response, as far as it was seen; 0: none of it.
    `exchange_id`: Payload's of the call that its first byte came with, if it began nothing else.
    """

    is_server: bool
    request: Head
    start_ns: int
    response: Head | None = None
    request_body: int = -1  # bytes with their framing; -1: not complete
    response_body: int = -1
    end_ns: int = 0
    is_open_ended: bool = False  # the response's length was not told
    exchange_id: int = 0

    @property
    def said(self) -> tuple[str, str]:
        """What is read the same at both ends."""
        return self.request.method, self.request.target


@dataclass(slots=True)
class Told:
    """What one call brought: requests that began in it, those whose response ended in it."""

    began: list[Exchange] = field(default_factory=list)
    ended: list[Exchange] = field(default_factory=list)


class _Connection:
    """`requests_sent`: whether it is our end that asks."""

    def __init__(self, requests_sent: bool) -> None:
        self.requests_sent = requests_sent
        methods: deque[str] = deque()
        self._methods = methods
        self._requests, self._responses = Reader(), Reader(methods)
        self._open: deque[Exchange] = deque()  # in the order of their requests
        self._asked: Exchange | None = None  # whose request's body is on its way
        self._first_ns = self._first_id = 0  # when the head that is on its way began, and with what exchange_id
        self._next = 0  # where it goes on

    def feed(self, payload: Payload, start_ns: int, end_ns: int) -> Told:
        told = Told()
        if payload.sends == self.requests_sent:
            # what is sent goes out from the call's begin, what is received is there at its end
            self._feed_request(payload, start_ns if payload.sends else end_ns, told)
        else:
            self._feed_response(payload, end_ns, told)
        return told

    def _feed_request(self, payload: Payload, when_ns: int, told: Told) -> None:
        if not self._requests.is_in_head:
            self._first_ns, self._first_id = when_ns, payload.exchange_id
        elif payload.exchange_id >> 32 != self._next:  # something between was not seen: this may be another's
            self._first_id = 0
        self._next = (payload.exchange_id >> 32) + payload.moved & 0xFFFFFFFF
        for part in _read(self._requests, payload):
            if isinstance(part, Head):
                self._asked = Exchange(not self.requests_sent, part, self._first_ns, exchange_id=self._first_id)
                self._first_ns, self._first_id = when_ns, 0
                self._open.append(self._asked)
                self._methods.append(part.method)
                told.began.append(self._asked)
                if len(self._open) > MAX_PIPELINED:
                    self._open.popleft()
                    self._methods.popleft()
            elif self._asked is not None:
                self._asked.request_body = part.body
                self._asked = None

    def _feed_response(self, payload: Payload, when_ns: int, told: Told) -> None:
        current = self._open[0] if self._open else None
        for part in _read(self._responses, payload):
            if current is None:
                return
            if isinstance(part, Head):
                if part.status >= 200 or part.status == 101:
                    current.response = part
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

    def _end(self, exchange: Exchange, told: Told) -> None:
        self._open.popleft()
        told.ended.append(exchange)


class Connections:
    """All connections, by their ids; those longest without a byte are given up when there are too many."""

    def __init__(self) -> None:
        self._by_id: OrderedDict[int, _Connection] = OrderedDict()

    def feed(self, payload: Payload, start_ns: int, end_ns: int) -> Told | None:
        """What a call on a connection brings. `start_ns`, `end_ns`: of the call, Unix epoch."""
        connection = self._by_id.get(payload.connection)
        if connection is None:
            if not may_ask(payload.data):  # we came in the middle of a response
                return None
            connection = self._by_id[payload.connection] = _Connection(payload.sends)
            if len(self._by_id) > MAX_CONNECTIONS:
                self._by_id.popitem(last=False)
        self._by_id.move_to_end(payload.connection)
        return connection.feed(payload, start_ns, end_ns)


def _read(reader: Reader, payload: Payload) -> list[Part]:
    data, tail, moved = payload.data, payload.tail, payload.moved
    if len(data) + len(tail) == moved:
        return reader.feed(data + tail, moved)
    return reader.feed(data, moved - len(tail)) + (reader.feed(tail, len(tail)) if tail else [])
