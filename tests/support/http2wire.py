# SPDX-License-Identifier: Apache-2.0
"""HTTP/2 as its ends write it, and as calls on a connection move it: whole, cut anywhere, with bytes that were not copied."""

from __future__ import annotations

from dataclasses import dataclass, field

from hpack import Encoder

from kernelspan_agent.model import Payload, WireProtocol
from kernelspan_agent.protocols.connections import Connections
from kernelspan_agent.protocols.exchanges import Told
from kernelspan_agent.protocols.http2frames import PREFACE
from kernelspan_agent.protocols.http2talk import Http2Exchange

FIRST = 2**32 - 300  # where the connection's bytes begin: the numbers begin anew in the middle of them
U32 = 0xFFFFFFFF
SETTINGS = b"\0\0\0\x04\0\0\0\0\0"
PING = b"\0\0\x08\x06\0\0\0\0\0kernelsp"


def frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    """Its bytes."""
    return len(payload).to_bytes(3) + bytes([kind, flags]) + stream.to_bytes(4) + payload


def without_bodies(data: bytes) -> bytes:
    """Whole frames, as the kernel copies them."""
    found, at = bytearray(), 0
    if data.startswith(PREFACE):
        found, at = bytearray(PREFACE), len(PREFACE)
    while at < len(data):
        length, kind = int.from_bytes(data[at : at + 3]), data[at + 3]
        found += data[at : at + 9 + (0 if kind == 0 else length)]
        at += 9 + length
    return bytes(found)


@dataclass
class Wire:
    """One connection, seen from one of its ends. `sends`: that is the one which asks."""

    sends: bool = True
    connections: Connections = field(default_factory=Connections)
    ended: list[Http2Exchange] = field(default_factory=list)
    began: list[Http2Exchange] = field(default_factory=list)
    untold: int = 0
    clock: int = 0
    at: dict[bool, int] = field(default_factory=lambda: {True: FIRST, False: 77})
    encoders: dict[bool, Encoder] = field(default_factory=lambda: {True: Encoder(), False: Encoder()})

    def ask(self, stream: int, path: str, *more: tuple[str, str], end: bool = True, method: str = "GET") -> bytes:
        """Headers of a request."""
        fields = [(":method", method), (":scheme", "http"), (":path", path), (":authority", "shop:80"), *more]
        return frame(1, 4 | end, stream, self.encoders[True].encode(fields))

    def answer(self, stream: int, *fields: tuple[str, str], end: bool = False) -> bytes:
        """Headers of a response, or trailers."""
        return frame(1, 4 | end, stream, self.encoders[False].encode(fields or [(":status", "200")]))

    def move(
        self, data: bytes, *, asks: bool, seen: bool = True, framed: bool = False, most: int = 1 << 30
    ) -> Told | None:
        """A call. `asks`: the asker's bytes; `framed`: as the kernel copies whole frames; `most`: bytes copied of each end."""
        self.at[asks] = self.at[asks] + len(data) & U32
        self.clock += 10
        if not seen or not data:
            return None
        head, tail = data[:most], data[max(most, len(data) - most) :]
        if framed:
            head, tail = without_bodies(data), b""
        payload = Payload(
            1,
            asks == self.sends,
            len(data),
            head,
            tail,
            WireProtocol.HTTP2,
            position=self.at[asks],
            other=self.at[not asks],
            is_framed=framed,
            at_frame=framed,
        )
        told = self.connections.feed(payload, self.clock, self.clock + 5)
        if told is not None:
            self.untold += told.untold
            self.began += [each for each in told.began if isinstance(each, Http2Exchange)]
            self.ended += [each for each in told.ended if isinstance(each, Http2Exchange)]
        return told

    def said(self) -> list[tuple[int, str, str, int]]:
        """Of what has ended: stream, method, target, status."""
        return [
            (each.stream, each.request.method, each.request.target, each.response.status if each.response else 0)
            for each in self.ended
        ]
