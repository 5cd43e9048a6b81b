# SPDX-License-Identifier: Apache-2.0
"""PostgreSQL as an onlooker reads it: however bytes are spread over calls, whatever is not seen, wherever we came in."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kernelspan_agent.model import Payload, WireProtocol
from kernelspan_agent.protocols import statements
from kernelspan_agent.protocols.connections import Connections
from kernelspan_agent.protocols.ordered import TURNS
from kernelspan_agent.protocols.postgresql import MAX_GROUPS, MAX_QUERIES, Asked

SEEN = 2048  # of a call's beginning, and of its end
READY = b"Z\0\0\0\5I"


def message(kind: bytes, body: bytes = b"") -> bytes:
    return kind + (len(body) + 4).to_bytes(4, "big") + body


def startup(**said: str) -> bytes:
    words = b"".join(f"{key}\0{value}\0".encode() for key, value in said.items()) + b"\0"
    return (len(words) + 8).to_bytes(4, "big") + (196608).to_bytes(4, "big") + words


def query(text: str) -> bytes:
    return message(b"Q", text.encode() + b"\0")


def parse(text: str, name: str = "") -> bytes:
    return message(b"P", f"{name}\0{text}\0".encode() + b"\0\0")


def bind(name: str = "", portal: str = "", value: bytes = b"") -> bytes:
    return message(b"B", f"{portal}\0{name}\0".encode() + b"\0\0\0\1" + len(value).to_bytes(4, "big") + value + b"\0\0")


def execute(portal: str = "") -> bytes:
    return message(b"E", portal.encode() + b"\0\0\0\0\0")


SYNC, FLUSH, PARSED, BOUND = message(b"S"), message(b"H"), message(b"1"), message(b"2")


def done(tag: str = "SELECT 1") -> bytes:
    return message(b"C", tag.encode() + b"\0")


def error(code: str = "42601") -> bytes:
    return message(b"E", f"SERROR\0VERROR\0C{code}\0Ms3cret\0Fa.c\0L1\0Rx\0\0".encode())


def rows(*sizes: int) -> bytes:
    return b"".join(message(b"D", b"\0\1" + size.to_bytes(4, "big") + b"r" * size) for size in sizes)


@dataclass
class Wire:
    """One connection. `joined`: we came in its middle. `is_server`: it is the server that is traced."""

    joined: bool = False
    is_server: bool = False
    connections: Connections = field(default_factory=Connections)
    began: list[Asked] = field(default_factory=list)
    ended: list[Asked] = field(default_factory=list)
    clock: int = 0
    moved: dict[bool, int] = field(default_factory=lambda: {True: 0, False: 0})
    calls: int = 0
    lost: set[int] = field(default_factory=set)  # calls whose records do not come

    def __post_init__(self) -> None:
        if not self.joined:
            self.ask(startup(user="me", database="shop"))
            self.answer(message(b"R", b"\0\0\0\5salt"))
            self.ask(message(b"p", b"s3cret\0"))
            self.answer(message(b"R", b"\0\0\0\0") + message(b"S", b"a\0b\0") + message(b"K", b"12345678") + READY)
            self.calls = 0

    def move(self, data: bytes, *, sends: bool) -> None:
        self.clock += 10
        self.moved[sends] += len(data)
        self.calls += 1
        if self.calls - 1 in self.lost:
            return
        places = [(2**32 - 99 + self.moved[each]) % 2**32 for each in (sends, not sends)]
        tail = data[SEEN:][-SEEN:]
        told = self.connections.feed(
            Payload(1, sends, len(data), data[:SEEN], tail, WireProtocol.POSTGRESQL, False, *places),
            self.clock - 5,
            self.clock,
        )
        if told is not None:
            self.began += told.began
            self.ended += told.ended

    def ask(self, *messages: bytes) -> None:
        self.move(b"".join(messages), sends=not self.is_server)

    def answer(self, *messages: bytes) -> None:
        self.move(b"".join(messages), sends=self.is_server)

    def said(self) -> list[tuple[str, str]]:
        return [(each.raw, each.error) for each in self.ended]


def pieces(draw: st.DrawFn, data: bytes) -> list[bytes]:
    """The same bytes in several calls."""
    cuts = sorted(draw(st.lists(st.integers(0, len(data)), max_size=6)))
    return [data[a:b] for a, b in itertools.pairwise([0, *cuts, len(data)]) if a < b]


@dataclass(frozen=True)
class Turn:
    """What is asked at once, what is answered, and what is to be told: text and error."""

    asked: bytes
    answered: bytes
    told: list[tuple[str, str]]


codes = st.sampled_from(["42601", "22012", "23505"])


def turns(sizes: st.SearchStrategy[int]) -> st.SearchStrategy[Turn]:
    """Of every kind; the texts are numbered by whoever uses them."""
    notices = st.sampled_from(
        [b"", message(b"N", b"SNOTICE\0C00000\0\0"), message(b"A", b"\0\0\0\1a\0b\0"), message(b"S", b"a\0b\0")]
    )

    def simple(size: int, notice: bytes) -> Turn:
        return Turn(
            query("SELECT @"), notice + message(b"T", b"\0\1") + rows(size, size) + done() + READY, [("SELECT @", "")]
        )

    def wrong(code: str, notice: bytes, size: int) -> Turn:
        return Turn(query("SELECT @"), rows(size) + notice + error(code) + READY, [("SELECT @", code)])

    def extended(size: int, count: int) -> Turn:
        one = parse("SELECT @") + bind(value=b"v" * size) + message(b"D", b"P\0") + execute()
        answer = PARSED + BOUND + message(b"n") + rows(size) + done("INSERT 0 1")
        return Turn(one * count + SYNC, answer * count + READY, [("SELECT @", "")] * count)

    def failing(code: str, count: int) -> Turn:
        one = parse("SELECT @") + bind() + execute()
        answer = (PARSED + BOUND + done()) * (count - 1) + error(code) + READY
        told = [("SELECT @", "")] * (count - 1) + [("SELECT @", code), ("SELECT @", "_OTHER")]
        return Turn(one * (count + 1) + SYNC, answer, told)

    return (
        st.builds(simple, sizes, notices)
        | st.builds(wrong, codes, notices, sizes)
        | st.builds(extended, sizes, st.integers(1, 3))
        | st.builds(failing, codes, st.integers(1, 3))
    )


def talk(draw: st.DrawFn, wire: Wire, said: list[Turn]) -> list[tuple[str, str]]:
    expected = []
    for number, turn in enumerate(said):
        mark = b"%03d" % number
        asked = turn.asked.replace(b"SELECT @", b"SEL %s@" % mark)  # as long as it was
        for piece in pieces(draw, asked):
            wire.move(piece, sends=not wire.is_server)
        for piece in pieces(draw, turn.answered):
            wire.move(piece, sends=wire.is_server)
        expected += [(text.replace("SELECT @", f"SEL {number:03}@"), code) for text, code in turn.told]
    return expected


@given(data=st.data(), said=st.lists(turns(st.integers(0, 60)), min_size=1, max_size=6), is_server=st.booleans())
@settings(max_examples=250, deadline=None)
def test_answers_belong_to_their_statements(data: st.DataObject, said: list[Turn], is_server: bool) -> None:
    """In any pieces, from either end: each with its own error; what follows an error in its group is not done."""
    wire = Wire(is_server=is_server)
    expected = talk(data.draw, wire, said)  # type: ignore[arg-type]
    assert wire.said() == expected
    assert wire.began == wire.ended
    assert {each.is_server for each in wire.ended} == {is_server}
    assert {each.namespace for each in wire.ended} == {"shop"}
    assert all(each.start_ns <= each.end_ns for each in wire.ended)
    assert "s3cret" not in repr(wire.ended)


def test_an_answer_to_what_was_not_seen_is_nobodys_else() -> None:
    """The end of an answer is lost, and the whole next statement: the error that follows is that one's."""
    wire, answer = Wire(lost={10, 11}), message(b"T", b"\0\1") + rows(1) + done() + READY
    for number, said in enumerate([[answer]] * 4 + [[answer[:7], answer[7:]], [error("42601"), READY]]):
        wire.ask(query(f"SELECT {number}"))
        for each in said:
            wire.answer(each)
    wire.ask(query("LAST"))
    assert wire.said() == [(f"SELECT {number}", "") for number in range(5)]


@given(
    data=st.data(),
    said=st.lists(turns(st.integers(0, 9000)), min_size=1, max_size=6),
    lost=st.sets(st.integers(0, 30), max_size=3),
)
@settings(max_examples=250, deadline=None)
def test_what_is_not_seen_makes_nothing_wrong(data: st.DataObject, said: list[Turn], lost: set[int]) -> None:
    """Middles of long calls, and whole calls: something may be missing, or its error; none has another's."""
    wire = Wire(lost=lost)
    expected: dict[str, set[str]] = {}
    for text, code in talk(data.draw, wire, said):  # type: ignore[arg-type]
        expected.setdefault(text, set()).add(code)
    for each in wire.ended:
        assert not each.raw or each.error in expected[each.raw] | {""}
    order = [each.raw for each in wire.ended if each.raw]
    assert order == sorted(order)
    wire.lost.clear()
    for _ in range(TURNS + 3):
        wire.ask(query("LAST"))
        wire.answer(error() + READY)
    assert wire.said()[-1] == ("LAST", "42601")  # it is found again


def test_a_prepared_statement_is_known_by_its_name() -> None:
    """As long as the server has it; one that it did not take is not what the name stands for; unknown ones have no text."""
    wire = Wire()
    wire.ask(parse("SELECT one", "a"), SYNC)
    wire.answer(PARSED, READY)
    wire.ask(parse("SELECT two", "a"), SYNC)
    wire.answer(error("42P05"), READY)
    for name in ("a", "other"):
        wire.ask(bind(name), execute(), SYNC)
        wire.answer(BOUND, done(), READY)
    wire.ask(message(b"C", b"Sa\0"), SYNC)
    wire.answer(message(b"3"), READY)
    wire.ask(bind("a"), execute(), SYNC)
    wire.answer(error("26000"), READY)
    assert wire.said() == [("SELECT two", "42P05"), ("SELECT one", ""), ("", ""), ("", "26000")]


def test_portals_and_flushes() -> None:
    """A portal is fetched from several times; a client may look at what it has parsed before it goes on."""
    wire = Wire()
    wire.ask(parse("SELECT a"), message(b"D", b"S\0"), FLUSH)
    wire.answer(PARSED, message(b"t", b"\0\0"), message(b"n"))
    wire.ask(bind(portal="p"), execute("p"), FLUSH)
    wire.answer(BOUND, rows(5), message(b"s"))
    wire.ask(execute("p"), SYNC)
    wire.answer(rows(5), done(), READY)
    wire.ask(query("SELECT b"))
    wire.answer(done(), READY)
    assert wire.said() == [("SELECT a", ""), ("SELECT a", ""), ("SELECT b", "")]
    joined = Wire(joined=True)
    for _ in range(TURNS + 1):
        joined.ask(parse("SELECT a"), FLUSH)
        joined.answer(PARSED)
        joined.ask(bind(), execute(), SYNC)
        joined.answer(BOUND, done(), READY)
    assert joined.said() == [("SELECT a", "")]


@pytest.mark.parametrize("kind", [b"S", b"G"])
def test_what_goes_on_encrypted_says_nothing(kind: bytes) -> None:
    """TLS or GSS; one that is refused goes on as it is."""
    for answer in (kind, b"N"):
        wire = Wire(joined=True)
        wire.ask(b"\0\0\0\x08" + (80877103 if kind == b"S" else 80877104).to_bytes(4, "big"))
        wire.answer(answer)
        wire.ask(startup(user="me"))
        wire.answer(message(b"R", b"\0\0\0\0") + READY)
        wire.ask(query("SELECT 1"))
        wire.answer(done() + READY)
        assert [(each.raw, each.namespace) for each in wire.ended] == ([("SELECT 1", "me")] if answer == b"N" else [])


def test_copies() -> None:
    """What is copied is no statement, whatever it looks like; a replica's connection is none either."""
    wire = Wire()
    for begin in ([query("COPY t FROM STDIN")], [parse("COPY t FROM STDIN"), bind(), execute(), SYNC]):
        wire.ask(*begin)
        wire.answer(message(b"G", b"\0\0\1\0\0"))
        for _ in range(20):
            wire.ask(message(b"d", query("SELECT s3cret") * 300))
        wire.ask(message(b"c"), SYNC)
        wire.answer(done("COPY 9"), READY)
    wire.ask(query("COPY t TO STDOUT"))
    wire.answer(message(b"H", b"\0\0\1\0\0"), message(b"d", b"x" * 9000))
    wire.answer(message(b"d", b"x" * 9000), message(b"c"), done("COPY 9"), READY)
    wire.ask(query("SELECT 1"))
    wire.answer(error(), READY)
    assert wire.said() == [("COPY t FROM STDIN", "")] * 2 + [("COPY t TO STDOUT", ""), ("SELECT 1", "42601")]
    replica = Wire(joined=True)
    replica.ask(startup(user="me", replication="true"))
    replica.answer(READY)
    replica.ask(query("IDENTIFY_SYSTEM"))
    replica.answer(done(), READY)
    assert not replica.ended


def test_a_long_answers_end_is_its_last_bytes() -> None:
    """With its error or without, in one call or in two."""
    for end, code in ((done(), ""), (error("22012"), "22012")):
        for last in (
            [rows(*[100] * 90) + end + READY],
            [rows(*[100] * 90) + end, READY],
            [rows(*[100] * 90), rows(7) + end + READY],
        ):
            wire = Wire()
            wire.ask(query("SELECT long"))
            for each in last:
                wire.answer(each)
            assert wire.said() == [("SELECT long", code)]
            wire.ask(query("SELECT next"))
            wire.answer(error(), READY)
            assert wire.said()[1:] == [("SELECT next", "42601")]


def test_who_comes_in_the_middle_waits() -> None:
    """Until as many were answered as were asked several times in turn."""
    wire = Wire(joined=True)
    wire.answer(rows(4), done(), READY)
    for number in range(TURNS + 2):
        wire.ask(query(f"SELECT {number}"))
        wire.answer(error(), READY)
    assert wire.said() == [(f"SELECT {number}", "42601") for number in range(TURNS, TURNS + 2)]
    assert [each.namespace for each in wire.ended] == ["", ""]
    behind = Wire(joined=True)
    for number in range(20):  # one that we did not see asked is always unanswered
        behind.ask(query(f"SELECT {number}"), query("SELECT x"))
        behind.answer(done(), READY)
    assert not behind.ended


def test_who_asks_before_the_answer_is_found_out_anew() -> None:
    """A client that does not wait: what was not seen of an answer may still be on its way when it asks the next."""
    wire = Wire()
    wire.ask(query("SELECT 1"))
    wire.ask(query("SELECT 2"))
    wire.answer(done(), READY)
    wire.ask(query("SELECT 3"))
    wire.answer(rows(*[90] * 90))
    wire.ask(query("SELECT 4"))
    wire.answer(rows(9), done(), READY)
    wire.answer(error(), READY, done(), READY)
    assert "42601" not in [code for _, code in wire.said()]


def test_passwords_are_not_shown_with_other_values() -> None:
    """Not with `statement: Raw` either."""
    wire = Wire()
    for text in ("ALTER ROLE a PASSWORD 's3cret'", "create user b with encrypted password 's3cret'"):
        wire.ask(query(text))
        wire.answer(done(), READY)
    assert len(wire.ended) == 2
    assert "s3cret" not in repr(wire.ended)


messages = st.sampled_from(
    [
        query("SELECT 1"),
        SYNC,
        READY,
        done(),
        error(),
        execute(),
        bind(),
        parse("x"),
        b"Q\xff\xff\xff\xff",
        b"Q\0\0\0\0",
        b"E\0\0\0\4",
    ]
)


@given(st.lists(st.tuples(messages | st.binary(max_size=60), st.booleans())), st.booleans())
def test_garbage(data: list[tuple[bytes, bool]], joined: bool) -> None:
    """Whatever it is: no error."""
    wire = Wire(joined=joined)
    for each, sends in data:
        wire.move(each, sends=sends)


def test_how_much_is_kept_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """What nobody answers, and what is prepared and never used."""
    monkeypatch.setattr(statements, "MAX_TEXT_BYTES", 400)
    wire: Any = Wire()
    talk = wire.connections._by_id[1].talk
    for number in range(20):
        wire.ask(parse("x" * 50, str(number)), SYNC)
        wire.answer(PARSED, READY)
    assert (len(talk._texts._by_name), talk._texts._bytes) == (8, 400)
    for _ in range(MAX_QUERIES + 50):
        wire.ask(bind(), execute())
    assert len(talk._groups[0].queries) <= MAX_QUERIES
    wire.ask(SYNC)
    wire.answer((BOUND + done()) * (MAX_QUERIES + 50), READY)
    for _ in range(MAX_GROUPS + 50):
        wire.ask(query("x"))
    assert len(talk._groups) <= MAX_GROUPS + 1
