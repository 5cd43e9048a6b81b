# SPDX-License-Identifier: Apache-2.0
"""Spans of questions to name servers: what they say, and when they end."""

from __future__ import annotations

import msgspec
import numpy as np
import pytest

from kernelspan_agent.model import Kind, Payload, Peer, WireProtocol
from kernelspan_agent.protocols.dns import Lookup
from kernelspan_agent.trace.dnsspans import is_ignored, segment
from kernelspan_agent.trace.requests import CLOSE
from kernelspan_api.subjects import Request
from tests.support.dnsmessages import answer, question
from tests.unit.trace.builders import Op, Span, at, batch, process, spans, stack, tracer

WANTED = msgspec.convert({"protocol": "DNS"}, Request)
ENDS = ("10.0.0.1", 40000, "10.0.0.53", 53)
PLACE = stack("main@1 ask@2")


def lookup(*, is_server: bool = False, peer: Peer | None = None, rcode: int | None = None) -> Lookup:
    return Lookup(is_server, 1, name="a.test", type=28, cls=1, is_stream=False, peer=peer, rcode=rcode, addresses=())


@pytest.mark.parametrize(
    ("rcode", "client", "server"),
    [(None, "", ""), (0, "", ""), (3, "NXDOMAIN", ""), (5, "REFUSED", ""), (2, "SERVFAIL", "SERVFAIL")],
)
def test_whose_error_a_code_is(rcode: int | None, client: str, server: str) -> None:
    """All but NOERROR the client's; the server's is what it could not do. No answer is no error that is known."""
    for is_server, error in ((False, client), (True, server)):
        found = segment(lookup(is_server=is_server, rcode=rcode), WANTED, ENDS, "None")
        assert (found.error, found.attributes.get("error.type", "")) == (error, error)
        assert (found.name, found.kind) == ("DNS AAAA", Kind.SERVER if is_server else Kind.CLIENT)
        assert ("kernelspan.dns.response.code" in found.attributes) == (rcode is not None)


@pytest.mark.parametrize(
    ("peer", "ignored"),
    [
        (None, False),
        ((53, b"\x0a\0\0\x35"), False),
        ((5353, b"\x0a\0\0\x35"), True),
        ((9953, b"\xe0\0\0\xfb"), True),
        ((53, b"\xff\x02" + b"\0" * 13 + b"\xfb"), True),
    ],
)
def test_neighbours(peer: Peer | None, ignored: bool) -> None:
    """Who asks all of them asks no name server; a profile that names the port wants it."""
    assert is_ignored(lookup(peer=peer), WANTED) is ignored
    assert not is_ignored(lookup(peer=peer), msgspec.convert({"protocol": "DNS", "ports": [5353]}, Request))


class Program:
    """Asks by sockets that all have the same descriptor."""

    def __init__(self) -> None:
        self.app, self.tracer, self.found = process(), tracer(requests=(WANTED,)), list[Span]()

    def move(self, data: bytes, start: float, end: float, *, sends: bool, on: int) -> None:
        made = batch(Op(start, end, PLACE, self.app))
        made.payloads[0] = Payload(on, sends, len(data), data, protocol=WireProtocol.DNS, is_datagram=True)
        self.take(made, 18)

    def close(self, start: float, end: float) -> None:
        self.take(batch(Op(start, end, PLACE, self.app)), CLOSE)

    def take(self, made: object, operation: int) -> None:
        made.hidden = np.ones(1, bool)
        made.ops["fd"], made.ops["op"] = 5, operation
        self.found += spans(self.tracer.process(made))

    def lookups(self) -> list[tuple[int, int, object]]:
        found = [span for span in self.found if span.name.startswith("DNS")]
        return [(each.start_ns, each.end_ns, each.attributes.get("kernelspan.dns.response.code")) for each in found]


def test_what_is_not_answered_ends_with_its_socket() -> None:
    """And says no code."""
    program = Program()
    program.move(question(7), 1, 2, sends=True, on=1)
    program.close(50, 51)
    assert program.lookups() == [(at(1), at(50), None)]


def test_a_descriptor_that_another_socket_has_at_once() -> None:
    """Its question goes out before the call that closed the one before returns, in another thread."""
    program = Program()
    program.move(question(7), 1, 2, sends=True, on=1)
    program.move(question(8), 21, 22, sends=True, on=2)
    program.close(20, 23)
    program.move(answer(8), 30, 31, sends=False, on=2)
    assert program.lookups() == [(at(1), at(20), None), (at(21), at(31), "NOERROR")]
