# SPDX-License-Identifier: Apache-2.0
"""HTTP/2 read by an onlooker: frames cut anywhere, bodies that are not copied, and nothing told that is not certain."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kernelspan_agent.model import Payload, WireProtocol
from kernelspan_agent.protocols.connections import Connections
from kernelspan_agent.protocols.http2frames import PREFACE, Reader
from kernelspan_agent.protocols.http2headers import MAX_TABLE_BYTES, Fieldreader
from kernelspan_agent.protocols.http2talk import MAX_STREAMS
from tests.support.http2wire import FIRST, PING, SETTINGS, Wire, frame

GRPC = ("content-type", "application/grpc+proto")


def opened(**wire: Any) -> Wire:
    """A connection from its beginning."""
    found = Wire(**wire)
    found.move(PREFACE + SETTINGS, asks=True)
    found.move(SETTINGS, asks=False)
    return found


@pytest.mark.parametrize("sends", [True, False])
def test_streams_side_by_side(sends: bool) -> None:
    """Answered in another order than they were asked, from either end."""
    wire = opened(sends=sends)
    wire.move(wire.ask(1, "/a") + wire.ask(3, "/b", method="PUT"), asks=True)
    wire.move(wire.answer(3, (":status", "404"), end=True), asks=False)
    wire.move(wire.answer(1) + frame(0, 1, 1, b"body"), asks=False)
    assert wire.said() == [(3, "PUT", "/b", 404), (1, "GET", "/a", 200)]
    assert [each.is_server for each in wire.ended] == [not sends] * 2
    assert wire.ended[0].request.headers == {"host": "shop:80"}


def test_padding_priority_and_continuation() -> None:
    """Headers in three frames, behind padding and a priority; what may lie around them is passed over."""
    wire = opened()
    block = wire.ask(1, "/long", ("x-more", "m" * 50))[9:]
    first = frame(1, 0x29, 1, b"\x03" + b"\0\0\0\0\x10" + block[:10] + b"\0\0\0")
    wire.move(first + frame(9, 0, 1, block[10:20]), asks=True)
    wire.move(frame(9, 4, 1, block[20:]) + PING, asks=True)
    wire.move(PING + frame(8, 0, 0, b"\0\0\1\0") + frame(200, 7, 9, b"unknown") + wire.answer(1, end=True), asks=False)
    assert wire.said() == [(1, "GET", "/long", 200)]


def test_information_trailers_and_pushes() -> None:
    """100 is no answer; what is pushed answers nothing, but is read: what follows refers to it."""
    wire = opened()
    wire.move(wire.ask(1, "/a", GRPC, end=False, method="POST") + frame(0, 1, 1, b"x"), asks=True)
    information = wire.answer(1, (":status", "100"))
    promised = wire.encoders[False].encode([(":method", "GET"), (":path", "/pushed"), ("x-id", "77")])
    wire.move(information + frame(5, 4, 1, b"\0\0\0\x02" + promised), asks=False)
    wire.move(wire.answer(2, end=True) + wire.answer(1, (":status", "200"), ("x-id", "77")), asks=False)
    wire.move(wire.answer(1, ("grpc-status", "5"), end=True), asks=False)
    (found,) = wire.ended
    assert found.response is not None
    assert found.trailers is not None
    assert (found.response.status, found.response.headers) == (200, {"x-id": "77"})
    assert found.trailers.headers == {"grpc-status": "5"}
    assert (found.is_grpc, found.subjects) == (True, ("GRPC",))


@pytest.mark.parametrize(
    ("kind", "is_grpc"), [("application/grpc", True), ("application/grpc-web", False), ("text/html", False)]
)
def test_what_is_grpc(kind: str, is_grpc: bool) -> None:
    """By what it says it is: grpc-web is another protocol."""
    wire = opened()
    wire.move(wire.ask(1, "/s/m", ("content-type", kind), method="POST"), asks=True)
    assert wire.began[0].is_grpc is is_grpc


def test_resets() -> None:
    """By either end: why, by its name."""
    wire = opened()
    wire.move(wire.ask(1, "/a") + wire.ask(3, "/b") + wire.ask(5, "/c"), asks=True)
    wire.move(frame(3, 0, 1, b"\0\0\0\x08"), asks=True)
    wire.move(wire.answer(3) + frame(3, 0, 3, b"\0\0\0\x07") + frame(3, 0, 5, b"\0\0\xff\xff"), asks=False)
    assert [(each.stream, each.reset) for each in wire.ended] == [(1, "CANCEL"), (3, "REFUSED_STREAM"), (5, "_OTHER")]


def test_goaway() -> None:
    """What is on its way goes on."""
    wire = opened()
    wire.move(wire.ask(1, "/a"), asks=True)
    wire.move(frame(7, 0, 0, b"\0\0\0\1\0\0\0\0bye") + wire.answer(1, end=True), asks=False)
    assert wire.said() == [(1, "GET", "/a", 200)]


def test_an_answer_that_is_seen_first() -> None:
    """The thread that receives it may be done before the call that asked has returned."""
    wire = opened()
    asked = wire.ask(1, "/a")
    wire.move(wire.answer(1), asks=False)
    wire.move(frame(0, 1, 1, b"body"), asks=False)
    wire.move(asked, asks=True)
    assert wire.said() == [(1, "GET", "/a", 200)]


@given(
    st.lists(st.integers(1, 4000), max_size=40), st.lists(st.integers(0, 5000), min_size=1, max_size=8), st.booleans()
)
def test_cut_anywhere(cuts: list[int], bodies: list[int], sends: bool) -> None:
    """However calls cut the frames: each request once, with its own answer and number."""
    wire = Wire(sends=sends)
    asked, answered = PREFACE + SETTINGS, SETTINGS
    begins = {}
    for number, body in enumerate(bodies):
        begins[2 * number + 1] = FIRST + len(asked) & 0xFFFFFFFF
        asked += wire.ask(2 * number + 1, f"/{number}", end=not body, method="POST")
        asked += frame(0, 1, 2 * number + 1, b"b" * body) if body else b""
        answered += wire.answer(2 * number + 1, (":status", str(200 + number))) + frame(
            0, 1, 2 * number + 1, b"r" * body
        )
    for data, asks in ((asked, True), (answered, False)):
        at = 0
        first = max(4, cuts[0]) if cuts else len(data)
        for cut in [first, *cuts[1:], len(data)]:
            wire.move(data[at : at + cut], asks=asks)
            at += cut
        wire.move(data[at:], asks=asks)
    assert wire.said() == [(2 * number + 1, "POST", f"/{number}", 200 + number) for number in range(len(bodies))]
    assert {each.stream: each.exchange_id for each in wire.began} == {
        stream: place << 32 | FIRST for stream, place in begins.items()
    }


@pytest.mark.parametrize("framed", [True, False])
def test_bodies_that_are_not_copied(framed: bool) -> None:
    """Their frames are stepped over by their length, headers between them are read."""
    wire = opened()
    asked = b""
    for stream in (1, 3, 5):
        asked += wire.ask(stream, f"/{stream}", end=False, method="POST") + frame(0, 1, stream, b"b" * 9000)
        if not framed:  # only the first and the last bytes of a call are there
            wire.move(asked, asks=True, most=2048)
            asked = b""
    wire.move(asked, asks=True, framed=framed)
    wire.move(b"".join(wire.answer(stream, end=True) for stream in (1, 3, 5)), asks=False, framed=framed)
    assert wire.said() == [(stream, "POST", f"/{stream}", 200) for stream in (1, 3, 5)]


def test_headers_that_were_not_copied() -> None:
    """What refers to them is not known: it is not told, and counted; what says all by itself is."""
    wire = opened()
    wire.move(wire.ask(1, "/again"), asks=True)
    wire.move(
        wire.ask(3, "/unseen" + "u" * 200, end=False) + frame(0, 1, 3, b"b" * 100) + wire.ask(5, "/in-between"),
        asks=True,
        most=40,
    )
    wire.move(wire.ask(7, "/again"), asks=True)  # an index into what was said before the gap
    wire.move(wire.ask(9, "/new"), asks=True)
    for stream in (1, 3, 5, 7, 9):
        wire.move(wire.answer(stream, end=True), asks=False)
    said = {each[0]: each[2] for each in wire.said()}
    assert said == {1: "/again", 9: "/new"}
    assert wire.untold >= 1


@given(st.sets(st.integers(0, 40)), st.integers(0, 2**32), st.booleans())
def test_calls_that_were_not_seen(lost: set[int], seed: int, framed: bool) -> None:
    """Whichever are: nothing is told wrongly, and what comes after has its own answers."""
    wire, count = Wire(), 0
    paths = {stream: f"/{(stream * 7 + seed) % 5}" for stream in range(1, 40, 2)}
    for asks in (True, False):
        wire.move((PREFACE if asks else b"") + SETTINGS, asks=asks, framed=framed)
    for stream, path in paths.items():
        for asks in (True, False):
            data = wire.ask(stream, path) if asks else wire.answer(stream, (":status", str(200 + stream)), end=True)
            wire.move(data, asks=asks, seen=count not in lost, framed=framed)
            count += 1
    for stream, _, path, status in wire.said():
        assert path == paths[stream]
        assert status in (0, 200 + stream)
    if not lost:
        assert len(wire.said()) == len(paths)


@given(st.integers(1, 12), st.booleans())
def test_a_connection_that_is_joined(before: int, framed: bool) -> None:
    """What is told is right; a path that was said before is an index into what we do not have."""
    wire = Wire()
    for stream in range(1, 2 * before, 2):
        wire.move(wire.ask(stream, "/old"), asks=True, seen=False)
        wire.move(wire.answer(stream, (":status", "299"), end=True), asks=False, seen=False)
    for stream, path in ((101, "/new"), (103, "/old"), (105, "/new")):
        wire.move(wire.ask(stream, path), asks=True, framed=framed)
        wire.move(wire.answer(stream, (":status", "299"), end=True), asks=False, framed=framed)
    told = [(stream, path) for stream, _, path, _ in wire.said()]
    assert told == [(101, "/new"), (105, "/new")]
    assert {status for *_, status in wire.said()} <= {0, 299}
    assert wire.untold == 1
    assert not any(each.exchange_id for each in wire.began)


def test_what_may_be_grpc() -> None:
    """Where the kind of a request's body was said before we came, a POST may be either: it is not told."""
    wire = Wire()
    wire.move(wire.ask(1, "/old", GRPC, method="POST"), asks=True, seen=False)
    wire.move(wire.ask(3, "/s/new", GRPC, method="POST"), asks=True)
    wire.move(wire.ask(5, "/new"), asks=True)
    wire.move(wire.ask(7, "/s/new", ("content-type", "text/plain"), method="POST"), asks=True)
    assert [(each.stream, *each.subjects) for each in wire.began] == [(5, "HTTP"), (7, "HTTP")]
    assert wire.untold == 1


def test_a_table_that_is_smaller_than_theirs() -> None:
    """What we do not keep is unknown, what we keep is in its place."""
    wire = opened()
    wire.encoders[True].header_table_size = 1 << 20
    wire.move(wire.ask(1, "/old"), asks=True)
    for stream in range(3, 60, 2):
        wire.move(wire.ask(stream, f"/{stream}" + "p" * 1000), asks=True)
    wire.move(wire.ask(61, "/old") + wire.ask(63, "/59" + "p" * 1000), asks=True)
    assert wire.began[-1].request.target == "/59" + "p" * 1000
    assert all(each.stream != 61 or each.request.target == "/old" for each in wire.began)
    assert wire.untold == 1


def test_a_table_has_a_bound() -> None:
    """However large its owner says it is."""
    reader = Fieldreader()
    block = b"\x3f\xe1\xff\xff\x1f"  # sixty-seven million bytes
    for number in range(100):
        name = b"n%03d" % number
        reader.read(block + b"\x40" + bytes([len(name)]) + name + b"\x7f\x81\x06" + b"v" * 896)
        block = b""
    kept = reader._decoder.header_table.dynamic_entries
    assert 0 < sum(len(name) + len(value) + 32 for name, value in kept) <= MAX_TABLE_BYTES


def test_streams_have_a_bound() -> None:
    """Those that are never answered are given up, the oldest first."""
    wire = opened()
    for number in range(MAX_STREAMS + 10):
        wire.move(wire.ask(2 * number + 1, "/a"), asks=True)
    assert [each.stream for each in wire.ended] == list(range(1, 21, 2))


def test_who_asks_alone() -> None:
    """Only of who is the only one that ever sent on a connection, one at a time, it is known that it asked for itself."""
    wire = opened()
    wire.move(wire.ask(1, "/a"), asks=True)
    wire.move(wire.answer(1, end=True), asks=False)
    wire.move(wire.ask(3, "/b"), asks=True)
    wire.move(wire.ask(5, "/c"), asks=True)
    wire.move(wire.answer(3, end=True) + wire.answer(5, end=True), asks=False)
    wire.move(wire.ask(7, "/d"), asks=True)
    wire.move(wire.answer(7, end=True), asks=False)
    wire.move(wire.ask(9, "/e"), asks=True)
    assert [each.is_askers("one") for each in wire.began[:4]] == [True, True, False, True]
    assert not wire.began[4].is_askers("other")
    assert not wire.began[3].is_askers("one")


def test_an_upgrade_is_not_read() -> None:
    """A connection that was HTTP/1 before: nothing is told of what follows `101`."""
    connections = Connections()
    head = b"GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAA\r\n\r\n"
    answer = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: h2c\r\n\r\n"
    told = []
    for data, sends in ((head, True), (answer, False), (PREFACE + SETTINGS, True), (SETTINGS, False)):
        told.append(connections.feed(Payload(1, sends, len(data), data, protocol=WireProtocol.HTTP), 1, 2))
    assert [len(each.began) if each else 0 for each in told] == [1, 0, 0, 0]


@given(st.lists(st.tuples(st.booleans(), st.binary(max_size=400), st.integers(0, 4000), st.booleans()), max_size=20))
def test_hostile_bytes(calls: list[tuple[bool, bytes, int, bool]]) -> None:
    """Whatever comes, nothing breaks and nothing grows."""
    connections = Connections()
    connections.feed(Payload(1, True, 24, PREFACE, protocol=WireProtocol.HTTP2), 1, 2)
    for sends, data, missing, framed in calls:
        payload = Payload(
            1, sends, len(data) + missing, data, protocol=WireProtocol.HTTP2, is_framed=framed, at_frame=framed
        )
        connections.feed(payload, 1, 2)


@given(
    st.lists(st.tuples(st.integers(0, 10), st.integers(0, 255), st.integers(0, 9), st.binary(max_size=60)), max_size=20)
)
def test_hostile_frames(frames: list[tuple[int, int, int, bytes]]) -> None:
    """Frames that nobody would send, in any order."""
    wire = opened()
    for kind, flags, stream, payload in frames:
        for asks in (True, False):
            wire.move(frame(kind, flags, stream, payload), asks=asks)


def test_headers_that_never_end() -> None:
    """Continuations without end cost no more than what is kept."""
    wire = opened()
    wire.move(frame(1, 0, 1, b"\0" * 10), asks=True)
    for _ in range(100):
        wire.move(frame(9, 0, 1, b"\0" * 16000), asks=True)
    wire.move(frame(9, 4, 1) + wire.ask(3, "/after"), asks=True)
    assert [each.request.target for each in wire.began] == ["/after"]


@pytest.mark.parametrize("kind", [3, 6, 8])
def test_the_place_is_lost_where_no_frame_can_be(kind: int) -> None:
    """A frame of a fixed length that has another is none."""
    reader = Reader(is_lost=False)
    assert reader.feed(frame(kind, 0, 1, b"x" * 11), 20, 1) == []
    assert reader.is_lost
