# SPDX-License-Identifier: Apache-2.0
"""TLS: of a connection whose plain text is not seen, its handshake: from the client's hello to the server's first answer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Self

from kernelspan_agent.model import Payload, WireProtocol
from kernelspan_agent.protocols.exchanges import Exchange, Told
from kernelspan_agent.protocols.tlswire import (
    HEADER_BYTES,
    ClientHello,
    Hellos,
    ServerHello,
    begins,
    client_hello,
    server_hello,
)

_HTTP1, _HTTP2 = {"http/1.0", "http/1.1"}, {"h2"}


@dataclass(slots=True, eq=False, kw_only=True)
class Handshake(Exchange):
    """A client's hello, and what answered it. `answer` None: nothing that was seen. `alert`: why the server refused."""

    protocol: ClassVar[WireProtocol] = WireProtocol.TLS
    ends_when_closed: ClassVar[bool] = True
    hello: ClientHello
    answer: ServerHello | None = None
    alert: str = ""

    @property
    def said(self) -> tuple[str, ...]:
        """What the client has drawn at random."""
        return (self.hello.random.hex(),)

    @property
    def subjects(self) -> tuple[str, ...]:
        """What it may carry: anything, where the client does not say."""
        offered = set(self.hello.protocols)
        if offered and not offered & (_HTTP1 | _HTTP2):
            return ()
        return ("HTTP", "GRPC") if not offered or offered & _HTTP2 else ("HTTP",)


class TlsTalk:
    """One connection."""

    @classmethod
    def begin(cls, payload: Payload) -> Self | None:
        """See TalkClass."""
        return cls(payload.sends) if begins(payload.data, payload.moved) else None

    def __init__(self, requests_sent: bool) -> None:
        self._requests_sent = requests_sent
        self._asks, self._answers = Hellos(), Hellos()
        self._handshake: Handshake | None = None
        self._first_ns = self._first_id = 0
        self._is_over = False

    def feed(self, payload: Payload, start_ns: int, end_ns: int, *, missed: bool) -> Told:
        """See Talk."""
        told = Told()
        if self._is_over:
            return told
        if payload.sends == self._requests_sent:
            # what is sent goes out from the call's begin, what is received is there at its end
            self._ask(payload, start_ns if payload.sends else end_ns, told, missed=missed)
        else:
            self._answer(payload, end_ns, told, missed=missed)
        return told

    def _ask(self, payload: Payload, when_ns: int, told: Told, *, missed: bool) -> None:
        if self._handshake is not None:
            return
        if not len(self._asks):
            self._first_ns, self._first_id = when_ns, payload.exchange_id
        elif missed:
            self._is_over = True
            return
        self._asks.feed(payload.data)
        is_whole = len(payload.data) + len(payload.tail) == payload.moved
        if is_whole:
            self._asks.feed(payload.tail)
        message, is_all = self._asks.message()
        if is_whole and not is_all:
            return
        hello = client_hello(message)
        if hello is None:
            self._is_over = True
            return
        self._handshake = Handshake(not self._requests_sent, self._first_ns, hello=hello, exchange_id=self._first_id)
        told.began.append(self._handshake)

    def _answer(self, payload: Payload, when_ns: int, told: Told, *, missed: bool) -> None:
        handshake = self._handshake
        if handshake is None:
            self._is_over = True
            return
        if not missed:
            self._answers.feed(payload.data)
        handshake.end_ns = max(when_ns, handshake.start_ns)
        if len(self._answers) <= HEADER_BYTES and not missed:
            return  # a record's header, read alone
        handshake.alert = self._answers.alert
        handshake.answer = server_hello(self._answers.message()[0])
        self._is_over = True
        told.ended.append(handshake)
