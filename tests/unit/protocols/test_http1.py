# SPDX-License-Identifier: Apache-2.0
"""HTTP/1 as an onlooker reads it, however its bytes are spread over calls and however little of a body is seen."""

from __future__ import annotations

import itertools
from collections import deque
from dataclasses import dataclass

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kernelspan_agent.model import Payload
from kernelspan_agent.protocols import http1
from kernelspan_agent.protocols.connections import MAX_CONNECTIONS, Connections
from kernelspan_agent.protocols.exchanges import Exchange
from kernelspan_agent.protocols.http1 import End, Head, Reader
from kernelspan_agent.protocols.http1talk import MAX_PIPELINED

METHODS = ["GET", "POST", "PUT", "HEAD", "DELETE", "OPTIONS", "PATCH", "TRACE"]


@dataclass(frozen=True)
class Message:
    """A message, the part of it that must be seen at a call's beginning, and what is to be told of it."""

    head: bytes
    body: bytes
    key: str


def _framed(draw: st.DrawFn, *, bodiless: bool) -> tuple[bytes, bytes]:
    body = draw(st.binary(max_size=300) | st.just(b"GET / HTTP/1.1\r\n\r\n") | st.just(b"HTTP/1.1 200 OK\r\n\r\n"))
    if bodiless or draw(st.booleans()):
        return (b"", b"") if bodiless else (b"Content-Length: %d\r\n" % len(body), body)
    chunks = [body[at : at + 50] for at in range(0, len(body), 50)]
    framed = b"".join(b"%x;a=b\r\n%s\r\n" % (len(chunk), chunk) for chunk in chunks)
    trailer = draw(st.sampled_from([b"", b"X-Sum: 1\r\n"]))
    return b"Transfer-Encoding: gzip, chunked\r\n", framed + b"0\r\n" + trailer + b"\r\n"


@st.composite
def requests(draw: st.DrawFn) -> Message:
    method, number = draw(st.sampled_from(METHODS)), draw(st.integers(0, 10**6))
    header, body = _framed(draw, bodiless=draw(st.booleans()))
    head = b"%s /a/%d?q=1 HTTP/1.1\r\nHost: x\r\n%s\r\n" % (method.encode(), number, header)
    return Message(head, body, f"{method} /a/{number}?q=1")


@st.composite
def exchanges(draw: st.DrawFn) -> tuple[Message, Message]:
    asked = draw(requests())
    status = draw(st.sampled_from([200, 201, 204, 304, 404, 500]))
    none = status in {204, 304} or asked.key.startswith("HEAD")
    header, body = _framed(draw, bodiless=False)
    begun = draw(
        st.sampled_from([b"", b"HTTP/1.1 100 Continue\r\n\r\n", b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n"])
    )
    head = begun + b"HTTP/1.1 %d Whatever\r\n%s\r\n" % (status, header)
    return asked, Message(head, b"" if none else body, str(status))


def pieces(draw: st.DrawFn, data: bytes) -> list[bytes]:
    """The same bytes in several calls."""
    cuts = sorted(draw(st.lists(st.integers(0, len(data)), max_size=8)))
    return [data[a:b] for a, b in zip([0, *cuts], [*cuts, len(data)], strict=True) if a < b]


@given(data=st.data(), messages=st.lists(requests(), min_size=1, max_size=6))
@settings(max_examples=400)
def test_requests_in_any_pieces(data: st.DataObject, messages: list[Message]) -> None:
    """Every request and its end, wherever calls begin and end."""
    stream = b"".join(each.head + each.body for each in messages)
    reader, found = Reader(), []
    for piece in pieces(data.draw, stream):  # type: ignore[arg-type]
        found += reader.feed(piece, len(piece))
    assert [f"{each.method} {each.target}" for each in found if isinstance(each, Head)] == [m.key for m in messages]
    assert [each.body for each in found if isinstance(each, End)] == [len(m.body) for m in messages]
    assert not any(isinstance(each, End) and each.inferred for each in found)


@given(data=st.data(), pairs=st.lists(exchanges(), min_size=1, max_size=6))
@settings(max_examples=400)
def test_responses_answer_their_requests(data: st.DataObject, pairs: list[tuple[Message, Message]]) -> None:
    """One after another on a connection; of bodies no more is seen than their framing needs."""
    connections, ended = Connections(), list[Exchange]()
    clock = 0
    for asked, answer in pairs:
        for message, sends in ((asked, False), (answer, True)):
            for piece in pieces(data.draw, message.head + message.body):  # type: ignore[arg-type]
                clock += 10
                told = connections.feed(Payload(1, sends, len(piece), piece), clock - 5, clock)
                ended += told.ended if told else []
    assert [f"{each.request.method} {each.request.target}" for each in ended] == [asked.key for asked, _ in pairs]
    assert [str(each.response.status if each.response else 0) for each in ended] == [said.key for _, said in pairs]
    assert [each.response_body for each in ended] == [len(said.body) for _, said in pairs]
    assert all(each.is_server and each.start_ns <= each.end_ns for each in ended)
    assert all(one.end_ns <= other.start_ns for one, other in itertools.pairwise(ended))


@given(lengths=st.lists(st.integers(0, 10**7), min_size=1, max_size=5), seen=st.integers(60, 4096))
def test_of_a_body_only_its_length_is_needed(lengths: list[int], seen: int) -> None:
    """The bytes of a body that were not copied are passed over."""
    reader, found = Reader(), []
    for number, length in enumerate(lengths):
        head = b"PUT /%d HTTP/1.1\r\nContent-Length: %d\r\n\r\n" % (number, length)
        found += reader.feed((head + b"x" * min(length, seen))[:seen], len(head) + length)
    assert [each.target for each in found if isinstance(each, Head)] == [f"/{n}" for n in range(len(lengths))]
    assert [each.body for each in found if isinstance(each, End)] == lengths


@given(chunks=st.lists(st.binary(), max_size=20), moved=st.lists(st.integers(0, 10**6), min_size=20, max_size=20))
@settings(max_examples=300)
def test_anything_else_is_passed_over(chunks: list[bytes], moved: list[int]) -> None:
    """No bytes make it fail, keep more than a head, or claim a message that they do not spell."""
    for reader in (Reader(), Reader(deque(["GET"] * 5))):
        for data, more in zip(chunks, moved, strict=False):
            for part in reader.feed(data, len(data) + more):
                assert isinstance(part, Head | End)
        assert len(reader._line) <= http1.MAX_HEAD_BYTES + max(map(len, chunks), default=0)


@pytest.mark.parametrize(
    "head",
    [
        b"GET  / HTTP/1.1", b"GET / HTTP/2.0", b"get / HTTP/1.1", b"GET / HTTP/1.1 x", b"GETS / HTTP/1.1", b"GET /\x00 HTTP/1.1",
    ],
)  # fmt: skip
def test_what_is_no_request_is_none(head: bytes) -> None:
    """A parser that guesses would show requests that nobody made."""
    assert Reader().feed(head + b"\r\nHost: x\r\n\r\n", len(head) + 13) == []


@pytest.mark.parametrize("length", ["-1", "1, 2", "0x10", "1e3", "9" * 30, "²"])
def test_a_length_that_is_none_is_not_believed(length: str) -> None:
    """Smuggled requests live by it: where it ends is not known, the next message is found by its own beginning."""
    head = f"POST / HTTP/1.1\r\nContent-Length: {length}\r\n\r\n".encode()
    reader = Reader()
    (first,) = reader.feed(head + b"abc", len(head) + 3)
    assert isinstance(first, Head)
    assert reader.is_open_ended
    following = b"GET /next HTTP/1.1\r\n\r\n"
    assert [type(each) for each in reader.feed(following, len(following))] == [End, Head, End]


def test_a_head_that_is_cut_is_told_as_far_as_it_goes() -> None:
    """Its first line is; where the message ends is not known."""
    head = b"GET /long HTTP/1.1\r\nHost: x\r\nCookie: " + b"c" * 5000
    reader = Reader()
    (found,) = reader.feed(head[:2048], len(head))
    assert isinstance(found, Head)
    assert (found.target, found.headers, found.is_cut) == ("/long", {"host": "x"}, True)


def test_an_upgrade_ends_it() -> None:
    """What follows is another protocol, even where its bytes look like this one's."""
    connections = Connections()
    asked, said = b"GET /chat HTTP/1.1\r\nUpgrade: websocket\r\n\r\n", b"HTTP/1.1 101 Switching Protocols\r\n\r\n"
    connections.feed(Payload(1, False, len(asked), asked), 1, 2)
    told = connections.feed(Payload(1, True, len(said), said), 3, 4)
    assert told is not None
    assert [each.response.status if each.response else 0 for each in told.ended] == [101]
    late = connections.feed(Payload(1, True, len(said), b"HTTP/1.1 200 OK\r\n\r\n"), 5, 6)
    assert late is not None
    assert not late.ended


def test_a_response_nobody_asked_for_answers_nothing() -> None:
    """We came in the middle: the first response is another request's."""
    connections = Connections()
    said, asked = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", b"GET / HTTP/1.1\r\n\r\n"
    assert connections.feed(Payload(1, True, len(said), said), 1, 2) is None
    connections.feed(Payload(1, False, len(asked), asked), 3, 4)
    told = connections.feed(Payload(1, True, len(said), said), 5, 6)
    assert told is not None
    assert [(each.start_ns, each.end_ns) for each in told.ended] == [(4, 6)]


def test_how_much_is_kept_is_bounded() -> None:
    """Connections that nobody uses any more, requests that nobody answers."""
    connections = Connections()
    asked = b"GET / HTTP/1.1\r\n\r\n"
    for number in range(MAX_CONNECTIONS + 10):
        connections.feed(Payload(number, False, len(asked), asked), 1, 2)
    assert len(connections._by_id) == MAX_CONNECTIONS
    for _ in range(MAX_PIPELINED + 10):
        connections.feed(Payload(7, False, len(asked), asked), 1, 2)
    assert len(connections._by_id[7].talk._open) <= MAX_PIPELINED
