# SPDX-License-Identifier: Apache-2.0
"""Redis as an onlooker reads it: however bytes are spread over calls, whatever is not seen, wherever we came in."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kernelspan_agent.model import Payload, WireProtocol
from kernelspan_agent.protocols import resp
from kernelspan_agent.protocols.connections import Connections
from kernelspan_agent.protocols.ordered import TURNS
from kernelspan_agent.protocols.redis import MAX_OPEN, Command

SEEN = 2048  # of a call's beginning, and of its end


def command(*words: bytes | str) -> bytes:
    """As a client sends it."""
    parts = [word if isinstance(word, bytes) else word.encode() for word in words]
    return b"*%d\r\n" % len(parts) + b"".join(b"$%d\r\n%s\r\n" % (len(part), part) for part in parts)


def bulk(text: bytes) -> bytes:
    return b"$%d\r\n%s\r\n" % (len(text), text)


@dataclass
class Wire:
    """One connection. `joined`: we came in its middle. `is_server`: it is the server that is traced."""

    joined: bool = False
    is_server: bool = False
    connections: Connections = field(default_factory=Connections)
    began: list[Command] = field(default_factory=list)
    ended: list[Command] = field(default_factory=list)
    clock: int = 0
    moved: dict[bool, int] = field(default_factory=lambda: {True: 0, False: 0})
    calls: int = 0
    lost: set[int] = field(default_factory=set)  # calls whose records do not come

    def move(self, data: bytes, *, sends: bool, seen: bool = True, start: int | None = None) -> None:
        """One call. `seen`: its record has come."""
        self.clock += 10
        self.moved[sends] += len(data)
        self.calls += 1
        if not seen or self.calls - 1 in self.lost:
            return
        tail = data[SEEN:][-SEEN:]
        is_first = not self.joined and self.calls == 1
        places = [(2**32 - 9 + self.moved[each]) % 2**32 for each in (sends, not sends)]
        payload = Payload(1, sends, len(data), data[:SEEN], tail, WireProtocol.REDIS, is_first, *places)
        told = self.connections.feed(payload, self.clock - 5 if start is None else start, self.clock)
        if told is not None:
            self.began += told.began
            self.ended += told.ended

    def ask(self, *words: bytes | str, seen: bool = True) -> None:
        self.move(command(*words), sends=not self.is_server, seen=seen)

    def answer(self, data: bytes, *, seen: bool = True) -> None:
        self.move(data, sends=self.is_server, seen=seen)

    def said(self) -> list[tuple[str, str]]:
        return [(each.raw, each.error) for each in self.ended]


small = st.binary(max_size=40) | st.sampled_from([b"*1\r\n$4\r\nPING\r\n", b"+OK\r\n", b"", b"\r\n"])
large = st.integers(1000, 9000).map(lambda count: b"x" * count) | st.just(b"*1\r\n$4\r\nPING\r\n" * 300)
names = st.sampled_from(["GET", "set", "LRANGE", "JSON.GET", "EVAL"])


def answers(words: st.SearchStrategy[bytes]) -> st.SearchStrategy[tuple[bytes, str]]:
    """One answer and its error."""
    simple = st.sampled_from(
        [b"+OK\r\n", b":1\r\n", b"$-1\r\n", b"*-1\r\n", b"_\r\n", b"#t\r\n", b",1.5\r\n", b"*0\r\n", b"(9\r\n"]
    )
    strings = words.map(bulk) | words.map(lambda text: b"=%d\r\ntxt:%s\r\n" % (len(text) + 4, text))
    values = st.recursive(
        simple | strings,
        lambda inner: (
            st.builds(
                lambda kind, items: kind + b"%d\r\n" % len(items) + b"".join(items),
                st.sampled_from([b"*", b"~"]),
                st.lists(inner, max_size=4),
            )
            | st.lists(st.tuples(inner, inner), max_size=3).map(
                lambda pairs: b"%%%d\r\n" % len(pairs) + b"".join(itertools.chain.from_iterable(pairs))
            )
        ),
        max_leaves=8,
    )
    attributes = st.sampled_from([b"", b"|1\r\n+ttl\r\n:3\r\n"])
    right = st.builds(lambda before, value: (before + value, ""), attributes, values)
    wrong = st.sampled_from(
        [
            (b"-ERR no\r\n", "ERR"),
            (b"-WRONGTYPE Operation\r\n", "WRONGTYPE"),
            (b"!9\r\nMOVED 1 x\r\n", "MOVED"),
            (b"-no\r\n", "_OTHER"),
        ]
    )
    return right | wrong


def pieces(draw: st.DrawFn, data: bytes) -> list[bytes]:
    """The same bytes in several calls."""
    cuts = sorted(draw(st.lists(st.integers(0, len(data)), max_size=6)))
    return [data[a:b] for a, b in itertools.pairwise([0, *cuts, len(data)]) if a < b]


def talk(
    draw: st.DrawFn, wire: Wire, exchanges: list[tuple[str, list[bytes], tuple[bytes, str]]]
) -> list[tuple[str, str]]:
    """Says them all, several commands at a time or one, in any pieces; what is right."""
    expected = []
    while exchanges:
        count = draw(st.integers(1, len(exchanges)))
        together, exchanges = exchanges[:count], exchanges[count:]
        asked = b"".join(command(name, *arguments) for name, arguments, _ in together)
        said = b"".join(answer for _, _, (answer, _) in together)
        for piece in pieces(draw, asked) if wire.calls else [asked[:8], asked[8:]]:
            wire.move(piece, sends=not wire.is_server)
        for piece in pieces(draw, said):
            wire.move(piece, sends=wire.is_server)
        expected += [(name, error) for name, _, (_, error) in together]
    return expected


def exchanges(
    arguments: st.SearchStrategy[bytes],
) -> st.SearchStrategy[list[tuple[str, list[bytes], tuple[bytes, str]]]]:
    return st.lists(st.tuples(names, st.lists(arguments, max_size=4), answers(arguments)), min_size=1, max_size=6)


@given(data=st.data(), said=exchanges(small), is_server=st.booleans())
@settings(max_examples=300, deadline=None)
def test_answers_belong_to_their_commands(data: st.DataObject, said: list[Any], is_server: bool) -> None:
    """Pipelined or one by one, in any pieces, from either end: each command with its own error."""
    wire = Wire(is_server=is_server)
    expected = talk(data.draw, wire, said)  # type: ignore[arg-type]
    assert [(each.operation, each.error) for each in wire.ended] == expected
    assert wire.began == wire.ended
    assert {each.is_server for each in wire.ended} == {is_server}
    assert all(each.start_ns <= each.end_ns for each in wire.ended)


@given(data=st.data(), said=exchanges(small | large), lost=st.sets(st.integers(0, 30), max_size=3))
@settings(max_examples=150, deadline=None)
def test_what_is_not_seen_makes_nothing_wrong(data: st.DataObject, said: list[Any], lost: set[int]) -> None:
    """Middles of long calls, and whole calls: a command may be missing, or its error; none has another's."""
    wire = Wire(lost=lost)
    numbered = [(f"{name}.{number}", *rest) for number, (name, *rest) in enumerate(said)]
    expected = dict(talk(data.draw, wire, numbered))  # type: ignore[arg-type]
    for each in wire.ended:
        assert each.error in {expected[each.operation], ""}
    order = [int(each.operation.rpartition(".")[2]) for each in wire.ended]
    assert order == sorted(set(order))
    wire.lost.clear()
    for _ in range(TURNS + 3):
        wire.ask("PING")
        wire.answer(b"-ERR last\r\n")
    assert wire.said()[-1] == ("PING", "ERR")  # it is found again


@pytest.mark.parametrize("is_server", [False, True])
def test_who_comes_in_the_middle_waits(is_server: bool) -> None:
    """Until as many were answered as were asked several times in turn: before, an answer may be another command's."""
    wire = Wire(joined=True, is_server=is_server)
    wire.answer(b"$3\r\nold\r\n")
    for number in range(TURNS + 2):
        wire.ask("GET", str(number))
        wire.answer(b"-ERR %d\r\n" % number)
    assert wire.said() == [(f"GET {number}", "ERR") for number in range(TURNS, TURNS + 2)]


def test_who_comes_in_the_middle_is_not_out_of_step() -> None:
    """An answer too many, or two commands at once all along, is never taken for the next one's."""
    wire = Wire(joined=True)
    for number in range(20):  # one command that we did not see asked is always unanswered
        wire.ask("GET", str(number))
        wire.ask("GET", str(number))
        wire.answer(b"+OK\r\n-ERR\r\n-ERR\r\n" if number == 0 else b"+OK\r\n")
    assert not wire.ended


def test_an_answer_that_looks_like_a_command_is_one() -> None:
    """Of a connection that we joined: who asks is seen by who is not only answered lists that begin with such a word."""
    wire = Wire(joined=True, is_server=False)
    for number in range(TURNS + 6):
        wire.answer(command("GET", "x"))
        wire.ask("LRANGE", "list", str(number))
    assert {each.is_server for each in wire.ended} <= {False}
    assert all(each.operation == "LRANGE" for each in wire.ended)


def test_who_asks_before_the_answer_is_found_out_anew() -> None:
    """A client that does not wait: what was not seen of an answer may still be on its way when it asks the next."""
    wire = Wire()
    wire.ask("GET", "1")
    wire.ask("GET", "2")
    wire.answer(b"+OK\r\n")
    wire.ask("GET", "3")
    wire.answer(b"*200\r\n" + bulk(b"x" * 90) * 100)
    wire.ask("GET", "4")
    wire.answer(bulk(b"y") * 100)
    wire.answer(b"-ERR 3\r\n-ERR 4\r\n")
    assert "ERR" not in [code for _, code in wire.said()]


def test_a_thread_that_answers_first() -> None:
    """The call that sends may return when another thread has received the answer."""
    wire = Wire()
    wire.ask("SET", "a", "1")
    wire.answer(b"+OK\r\n")
    wire.answer(b"-ERR late\r\n")
    wire.move(command("GET", "a"), sends=True, start=wire.clock - 3)
    wire.ask("GET", "b")
    wire.answer(b"$1\r\n1\r\n")
    assert wire.said() == [("SET a 1", ""), ("GET a", "ERR"), ("GET b", "")]


def test_pushes_answer_nothing() -> None:
    """Of RESP 3 by their type, of RESP 2 while the connection subscribes; a subscription is answered by its first."""
    for push in (b">", b"*"):
        wire = Wire()
        wire.ask("SUBSCRIBE", "a", "b")
        for channel in (b"a", b"b"):
            wire.answer(push + b"3\r\n" + bulk(b"subscribe") + bulk(channel) + b":1\r\n")
        message = push + b"3\r\n" + bulk(b"message") + bulk(b"a") + bulk(b"-ERR")
        wire.answer(message)
        wire.ask("PING")
        wire.answer(message + (b"*2\r\n" + bulk(b"pong") + bulk(b"") if push == b"*" else b"+PONG\r\n"))
        wire.answer(message)
        wire.ask("nosuch")
        wire.answer(b"-ERR no\r\n")
        assert wire.said() == [("SUBSCRIBE a b", ""), ("PING", ""), ("nosuch", "ERR")]


@pytest.mark.parametrize("last", [("MONITOR",), ("PSYNC", "?", "-1"), ("CLIENT", "REPLY", "SKIP")])
def test_what_is_no_conversation_any_more(last: tuple[str, ...]) -> None:
    """A stream of what others do, a replica's, one that is not answered: nothing is told of what follows."""
    wire = Wire()
    wire.ask(*last)
    wire.answer(b"+OK\r\n")
    wire.ask("GET", "a")
    wire.answer(b"-ERR\r\n" * 3)
    assert [each.operation for each in wire.ended] == [last[0]]


def test_the_database_is_known_or_not_told() -> None:
    """A connection's first is 0; SELECT's once it is answered; none where we came later, nor what a transaction selects."""
    wire = Wire()
    for asked, said in (
        (("GET", "a"), b"$-1\r\n"), (("SELECT", "3"), b"+OK\r\n"), (("GET", "a"), b"$-1\r\n"), (("SELECT", "x"), b"-ERR\r\n"),
        (("GET", "a"), b"$-1\r\n"), (("MULTI",), b"+OK\r\n"), (("SELECT", "5"), b"+QUEUED\r\n"), (("EXEC",), b"*1\r\n+OK\r\n"),
        (("GET", "a"), b"$-1\r\n"), (("RESET",), b"+RESET\r\n"), (("GET", "a"), b"$-1\r\n"),
    ):  # fmt: skip
        wire.ask(*asked)
        wire.answer(said)
    assert [each.namespace for each in wire.ended] == ["0", "0", "3", "3", "3", "3", "3", "", "", "", "0"]
    joined = Wire(joined=True)
    for _ in range(TURNS + 1):
        joined.ask("GET", "a")
        joined.answer(b"+OK\r\n")
    assert [each.namespace for each in joined.ended] == [""]


SECRETS = [
    ("AUTH", "s3cret"), ("AUTH", "user", "s3cret"), ("HELLO", "3", "AUTH", "user", "s3cret"), ("CONFIG", "SET", "requirepass", "s3cret"),
    ("ACL", "SETUSER", "a", ">s3cret"), ("MIGRATE", "h", "1", "", "0", "9", "AUTH", "s3cret"), ("auth", "s3cret"), ("AUTH", "s3cret" * 90),
]  # fmt: skip


@pytest.mark.parametrize("asked", SECRETS, ids=lambda asked: asked[0])
def test_what_serves_to_log_in_is_never_shown(asked: tuple[str, ...]) -> None:
    """Not with `statement: Raw` either."""
    wire = Wire()
    wire.ask(*asked)
    wire.answer(b"-ERR s3cret\r\n")
    assert wire.ended
    assert "s3cret" not in repr(wire.ended)


@given(arguments=st.lists(st.text(min_size=1), max_size=30), name=names)
def test_a_command_without_its_arguments(arguments: list[str], name: str) -> None:
    """Nothing but how many there are."""
    wire = Wire()
    wire.ask(name, *arguments)
    wire.answer(b"+OK\r\n")
    (found,) = wire.ended
    assert set(found.text.removeprefix(name).split()) <= {"?", "..."}
    assert found.text.count("?") == min(len(arguments), resp.MAX_ITEMS)


def test_a_subcommand_is_shown() -> None:
    """One of those that are known: another is an argument."""
    wire = Wire()
    for asked in (("CLIENT", "SETINFO", "LIB-NAME", "x"), ("OBJECT", "s3cret"), ("client", "id")):
        wire.ask(*asked)
        wire.answer(b"+OK\r\n")
    assert [each.text for each in wire.ended] == ["CLIENT SETINFO ? ?", "OBJECT ?", "client id"]


@given(
    data=st.lists(
        st.tuples(
            st.binary(max_size=60)
            | st.sampled_from([b"*1\r\n$4\r\nPING\r\n", b"+OK\r\n", b"*2\r\n", b"$-2\r\n", b"*999999999\r\n"]),
            st.booleans(),
        )
    )
)
def test_garbage(data: list[tuple[bytes, bool]]) -> None:
    """Whatever it is: no error, and no more than is bounded."""
    wire = Wire()
    wire.ask("PING")
    for each, sends in data:
        wire.move(each, sends=sends)


def test_how_much_is_kept_is_bounded() -> None:
    """Commands that nobody answers: the first ones have their own answers all the same."""
    wire = Wire()
    for number in range(MAX_OPEN + 50):
        wire.ask("GET", str(number))
    wire.answer(b"-ERR\r\n" * (MAX_OPEN + 50))
    wire.ask("GET", "last")
    wire.answer(b"+OK\r\n")
    assert len(wire.began) == MAX_OPEN + 1
    assert wire.said()[-1] == ("GET last", "")
    deep = Wire()
    deep.ask("GET", "a")
    deep.answer(b"*1\r\n" * 5000)
    deep.ask("GET", "b")
    deep.answer(b"+OK\r\n")
    assert deep.said()[-1] == ("GET b", "")
