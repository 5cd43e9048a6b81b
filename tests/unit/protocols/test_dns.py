# SPDX-License-Identifier: Apache-2.0
"""DNS as an onlooker reads it: in whatever order answers come, however often, from whomever, cut wherever."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kernelspan_agent.model import Payload, Peer, WireProtocol
from kernelspan_agent.protocols.connections import Connections
from kernelspan_agent.protocols.dns import MAX_OPEN, PATIENCE_NS, Lookup
from tests.support.dnsmessages import answer, framed, opt, question

SEEN = 2048  # of a call's beginning, and of its end
SERVER: Peer = (53, b"\x7f\0\0\1")
OTHER: Peer = (53, b"\x7f\0\0\2")
NXDOMAIN, SERVFAIL, TRUNCATED = 3, 2, 0x0200


@dataclass
class Wire:
    """One socket."""

    is_stream: bool = False
    connections: Connections = field(default_factory=lambda: Connections({WireProtocol.DNS}))
    began: list[Lookup] = field(default_factory=list)
    ended: list[Lookup] = field(default_factory=list)
    unreadable: int = 0
    clock: int = 0
    moved: dict[bool, int] = field(default_factory=lambda: {True: 0, False: 0})

    def move(
        self,
        data: bytes,
        *,
        sends: bool,
        peer: Peer | None = SERVER,
        start: int | None = None,
        seen: bool = True,
        protocol: WireProtocol = WireProtocol.DNS,
    ) -> None:
        """One call. `seen`: its record has come."""
        self.clock += 10
        self.moved[sends] += len(data)
        if not seen:
            return
        head, tail = data[:SEEN], data[SEEN:][-SEEN:]
        if self.is_stream:
            payload = Payload(
                1, sends, len(data), head, tail, protocol, False, self.moved[sends], self.moved[not sends]
            )
        else:
            payload = Payload(1, sends, len(data), head, tail, protocol, is_datagram=True, peer=peer)
        self.feed(payload, self.clock - 5 if start is None else start)

    def many(self, messages: Sequence[bytes], *, sends: bool, left_out: int = 0) -> None:
        """One call for several, of which some did not fit."""
        data = b"".join(struct.pack("<HH", len(each), min(len(each), 1024)) + each[:1024] for each in messages)
        self.clock += 10
        moved = sum(map(len, messages)) + left_out
        payload = Payload(1, sends, moved, data, protocol=WireProtocol.DNS, is_datagram=True, is_many=True, peer=SERVER)
        self.feed(payload, self.clock - 5)

    def feed(self, payload: Payload, start: int) -> None:
        told = self.connections.feed(payload, start, self.clock)
        if told is not None:
            self.began += told.began
            self.ended += told.ended
            self.unreadable += told.unreadable

    def ask(self, message: bytes, peer: Peer | None = SERVER) -> None:
        self.move(message, sends=True, peer=peer)

    def hear(self, message: bytes, peer: Peer | None = SERVER) -> None:
        self.move(message, sends=False, peer=peer)

    def said(self) -> list[tuple[str, int, int | None]]:
        return [(each.name, each.type, each.rcode) for each in self.ended]


def test_question_and_answer() -> None:
    """What is asked, from whom, what came of it, from the call that asked to the one that heard."""
    wire = Wire()
    wire.ask(question(7, more=opt()))
    wire.hear(answer(7, addresses=["10.0.0.1", "10.0.0.2"], more=opt()))
    (found,) = wire.ended
    assert (found.name, found.type, found.rcode, found.is_server) == ("www.example.com", 1, 0, False)
    assert (found.start_ns, found.end_ns, found.addresses) == (5, 20, ("10.0.0.1", "10.0.0.2"))


def test_both_families_by_one_call() -> None:
    """As glibc asks, with the answers in the other order."""
    wire = Wire()
    wire.many([question(1), question(2, kind=28)], sends=True)
    wire.hear(answer(2, kind=28, addresses=["fd00::1"]))
    wire.hear(answer(1, flags=NXDOMAIN))
    assert wire.said() == [("www.example.com", 28, 0), ("www.example.com", 1, 3)]
    assert {each.start_ns for each in wire.ended} == {5}


def test_what_did_not_fit() -> None:
    """Datagrams of a call that were not copied are counted."""
    wire = Wire()
    wire.many([question(1)], sends=True, left_out=40)
    assert (len(wire.began), wire.unreadable) == (1, 1)


@pytest.mark.parametrize(
    "wrong",
    [
        answer(8),
        answer(7, name="www.example.org"),
        answer(7, kind=28),
        question(7),
        answer(7)[:20],
        b"",
    ],
)
def test_what_is_no_answer(wrong: bytes) -> None:
    """Another number, name or type, a question, bytes that are none: the answer is still waited for."""
    wire = Wire()
    wire.ask(question(7))
    wire.hear(wrong)
    assert not wire.ended
    wire.hear(answer(7))
    assert wire.said() == [("www.example.com", 1, 0)]


def test_an_answer_of_another_server() -> None:
    """Whoever it is: it was not asked. Of a call that does not say who it was it is not known."""
    wire = Wire()
    wire.ask(question(7))
    wire.hear(answer(7, flags=NXDOMAIN), peer=OTHER)
    assert not wire.ended
    wire.hear(answer(7), peer=None)
    assert wire.said() == [("www.example.com", 1, 0)]


def test_an_answer_that_comes_twice() -> None:
    """The first is the one."""
    wire = Wire()
    wire.ask(question(7))
    wire.hear(answer(7))
    wire.hear(answer(7, flags=NXDOMAIN))
    assert wire.said() == [("www.example.com", 1, 0)]


def test_asked_again() -> None:
    """The same server: the same question. Another: another. After a minute: another."""
    wire = Wire()
    wire.ask(question(7))
    wire.ask(question(7))
    wire.ask(question(7), peer=OTHER)
    wire.hear(answer(7, flags=SERVFAIL), peer=OTHER)
    wire.hear(answer(7))
    assert [(each.peer, each.sent, each.rcode) for each in wire.ended] == [(OTHER, 1, 2), (SERVER, 2, 0)]
    wire.ask(question(9))
    wire.clock += PATIENCE_NS
    wire.ask(question(9))
    assert [each.rcode for each in wire.ended[2:]] == [None]
    wire.hear(answer(9))
    assert wire.ended[-1].start_ns > PATIENCE_NS


def test_names_in_other_letters() -> None:
    """A name is told as it was sent; an answer may write it otherwise."""
    wire = Wire()
    wire.ask(question(7, "WwW.ExAmple.com"))
    wire.hear(answer(7))
    assert wire.said() == [("WwW.ExAmple.com", 1, 0)]


def test_an_answer_that_repeats_nothing() -> None:
    """A refusal may be a head alone: the one question with its number is meant, of several none."""
    bare = struct.pack(">HHHHHH", 7, 0x8185, 0, 0, 0, 0)
    wire = Wire()
    wire.ask(question(7))
    wire.hear(bare)
    assert wire.said() == [("www.example.com", 1, 5)]
    wire.ask(question(7))
    wire.ask(question(7, kind=28))
    wire.hear(bare)
    assert len(wire.ended) == 1


def test_heard_before_the_call_that_asks_returns() -> None:
    """Another thread was faster; what was heard before the call began answers something else."""
    for start, ended in ((2, 1), (15, 0)):
        wire = Wire()
        wire.hear(answer(7))
        wire.move(question(7), sends=True, start=start)
        assert len(wire.ended) == ended


def test_of_a_server() -> None:
    """Questions received, from whom, and answers sent to them."""
    wire = Wire()
    one, two = (4000, b"\x7f\0\0\3"), (4001, b"\x7f\0\0\3")
    wire.hear(question(7), peer=one)
    wire.hear(question(7), peer=two)
    wire.move(answer(7, flags=NXDOMAIN), sends=True, peer=two)
    wire.move(answer(7), sends=True, peer=one)
    assert [(each.is_server, each.peer, each.rcode) for each in wire.ended] == [(True, two, 3), (True, one, 0)]


def test_too_many() -> None:
    """The oldest is told without an answer."""
    wire = Wire()
    for number in range(MAX_OPEN + 2):
        wire.ask(question(number))
    assert wire.said() == [("www.example.com", 1, None)] * 2


def test_truncated() -> None:
    """What fits is not all there is."""
    wire = Wire()
    wire.ask(question(7))
    wire.hear(answer(7, flags=TRUNCATED, addresses=["10.0.0.1"]))
    assert (wire.ended[0].is_truncated, wire.ended[0].addresses) == (True, None)


@given(st.data())
def test_a_stream_in_pieces(data: st.DataObject) -> None:
    """However questions and answers are spread over calls, and in whatever order they are answered."""
    numbers = data.draw(st.lists(st.integers(0, 65535), min_size=1, max_size=6, unique=True))
    sizes = {number: data.draw(st.integers(0, 300)) for number in numbers}
    wire = Wire(is_stream=True)
    asked = b"".join(framed(question(number, f"h{number}.test")) for number in numbers)
    wire.move(asked, sends=True)
    answered = b"".join(
        framed(answer(number, f"h{number}.test", addresses=["10.0.0.1"] * sizes[number]))
        for number in data.draw(st.permutations(numbers))
    )
    cuts = sorted(data.draw(st.lists(st.integers(0, len(answered)), max_size=8)))
    for begin, end in zip([0, *cuts], [*cuts, len(answered)], strict=True):
        if end - begin > 2 * SEEN:  # what is not copied in one call comes by two
            middle = (begin + end) // 2
            for piece in (answered[begin:middle], answered[middle:end]):
                wire.move(piece, sends=False)
        elif end > begin:
            wire.move(answered[begin:end], sends=False)
    told = {each.name: each for each in wire.ended}
    assert len(wire.began) == len(numbers)
    assert all(each.rcode == 0 for each in wire.ended)
    if len(answered) <= 2 * SEEN:
        assert told.keys() == {f"h{number}.test" for number in numbers}
        assert all(len(told[f"h{number}.test"].addresses or ()) in {sizes[number], 0} for number in numbers)


def test_a_length_that_is_read_alone() -> None:
    """As servers read, before it is known what it is; and on a connection that was open before."""
    for begins in (WireProtocol.UNKNOWN, None):
        wire = Wire(is_stream=True)
        message = question(7)
        if begins is not None:
            wire.move(framed(message)[:2], sends=False, protocol=begins)
        wire.move(message, sends=False)
        wire.move(framed(answer(7)), sends=True)
        assert [(each.is_server, each.rcode) for each in wire.ended] == [(True, 0)]


def test_a_stream_with_a_gap() -> None:
    """After what was missed a call that is one message is the next beginning."""
    wire = Wire(is_stream=True)
    wire.move(framed(question(1)), sends=True)
    wire.move(framed(answer(1))[:20], sends=False, seen=False)
    wire.move(framed(answer(1))[20:], sends=False)
    assert not wire.ended
    wire.move(framed(question(2)), sends=True)
    wire.move(framed(answer(2)), sends=False)
    assert [each.rcode for each in wire.ended] == [0]


calls = st.lists(
    st.tuples(
        st.booleans(),
        st.binary(max_size=40)
        | st.builds(question, st.integers(0, 3))
        | st.builds(answer, st.integers(0, 3))
        | st.builds(lambda n: framed(question(n)), st.integers(0, 3))
        | st.builds(lambda n: framed(answer(n)), st.integers(0, 3)),
        st.sampled_from([SERVER, OTHER, None]),
        st.booleans(),
    ),
    max_size=20,
)


@given(st.booleans(), calls)
@settings(max_examples=300)
def test_any_calls(is_stream: bool, moved: list[tuple[bool, bytes, Peer | None, bool]]) -> None:
    """Each question ends once at most, after it has begun, by an answer that its socket has moved."""
    wire = Wire(is_stream=is_stream)
    for sends, data, peer, seen in moved:
        wire.move(data, sends=sends, peer=peer, seen=seen)
        assert len(set(wire.ended)) == len(wire.ended)
    assert set(wire.ended) <= set(wire.began)
    heard = sum(b"\x81\x80" in data for _, data, _, _ in moved)
    assert is_stream or sum(each.rcode is not None for each in wire.ended) <= heard
