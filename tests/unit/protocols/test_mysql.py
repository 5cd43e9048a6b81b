# SPDX-License-Identifier: Apache-2.0
"""MySQL's protocol as an onlooker reads it: however bytes are spread over calls, whatever is not seen, wherever we came in."""

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
from kernelspan_agent.protocols.mysql import MAX_OPEN, Asked
from kernelspan_agent.protocols.ordered import TURNS

SEEN = 2048  # of a call's beginning, and of its end
GREATEST = 0xFFFFFF
AUTOCOMMIT, MORE, CURSOR, NO_BACKSLASHES, CHANGED = 0x2, 0x8, 0x40, 0x200, 0x4000
CAPABILITIES = 0x1 | 0x8 | 0x200 | 0x8000 | 0x80000 | 0x200000  # of any client


def packet(number: int, body: bytes) -> bytes:
    """One message, in as many packets as it needs."""
    found = b""
    while True:
        part, body = body[:GREATEST], body[GREATEST:]
        found += len(part).to_bytes(3, "little") + bytes([number & 0xFF]) + part
        number += 1
        if len(part) < GREATEST:
            return found


def greeting(version: str = "5.5.5-10.11.6-MariaDB", capabilities: int = 0xFFFFFFFE, status: int = AUTOCOMMIT) -> bytes:
    low, high = capabilities & 0xFFFF, capabilities >> 16
    body = b"\x0a" + version.encode() + b"\0\1\0\0\0saltsalt\0" + low.to_bytes(2, "little") + b"\x2d"
    body += status.to_bytes(2, "little") + high.to_bytes(2, "little") + b"\x15" + bytes(10) + b"saltsaltsalt\0native\0"
    return packet(0, body)


def hello(capabilities: int, database: str = "shop") -> bytes:
    return (
        capabilities.to_bytes(4, "little")
        + bytes(5)
        + bytes(23)
        + b"me\0\x06s3cret"
        + database.encode()
        + b"\0native\0"
    )


def ok(status: int = AUTOCOMMIT, *, kind: int = 0, state: bytes = b"") -> bytes:
    body = bytes([kind, 0, 0]) + status.to_bytes(2, "little") + b"\0\0"
    return body + (b"\0" + bytes([len(state)]) + state if state else b"")


def end(status: int = AUTOCOMMIT) -> bytes:
    return b"\xfe\0\0" + status.to_bytes(2, "little")


def error(number: int = 1064) -> bytes:
    return b"\xff" + number.to_bytes(2, "little") + b"#42000s3cret is wrong"


def column(name: str = "a") -> bytes:
    return b"\x03def\0\0\0" + bytes([len(name)]) + name.encode() + b"\0\x0c\x2d\0\0\0\0\0\xfd\0\0\0\0\0"


def text_row(*values: bytes) -> bytes:
    return b"".join(length(len(each)) + each for each in values)


def length(size: int) -> bytes:
    if size < 251:
        return bytes([size])
    if size < 1 << 16:
        return b"\xfc" + size.to_bytes(2, "little")
    return b"\xfd" + size.to_bytes(3, "little") if size < 1 << 24 else b"\xfe" + size.to_bytes(8, "little")


@dataclass
class Wire:
    """One connection. `joined`: we came in its middle. `is_server`: it is the server that is traced. `deprecates`: END is OK."""

    joined: bool = False
    is_server: bool = False
    deprecates: bool = False
    capabilities: int = 0
    has_places: bool = True
    connections: Connections = field(default_factory=Connections)
    began: list[Asked] = field(default_factory=list)
    ended: list[Asked] = field(default_factory=list)
    clock: int = 0
    moved: dict[bool, int] = field(default_factory=lambda: {True: 0, False: 0})
    calls: int = 0
    lost: set[int] = field(default_factory=set)  # calls whose records do not come
    number: int = 0

    def __post_init__(self) -> None:
        if not self.joined:
            self.move(greeting(), sends=self.is_server)
            self.move(packet(1, hello(CAPABILITIES | self.capabilities)), sends=not self.is_server)
            self.move(packet(2, b"\xfeother\0salt\0"), sends=self.is_server)
            self.move(packet(3, b"s3cret"), sends=not self.is_server)
            self.move(packet(4, ok()), sends=self.is_server)
            self.calls = 0

    def move(self, data: bytes, *, sends: bool, protocol: WireProtocol = WireProtocol.MYSQL) -> None:
        self.clock += 10
        is_first = not any(self.moved.values()) and not self.joined
        self.moved[sends] += len(data)
        self.calls += 1
        if self.calls - 1 in self.lost:
            return
        places = [(2**32 - 99 + self.moved[each]) % 2**32 for each in (sends, not sends)]
        payload = Payload(1, sends, len(data), data[:SEEN], data[SEEN:][-SEEN:], protocol, is_first)
        if self.has_places:
            payload = Payload(1, sends, len(data), data[:SEEN], data[SEEN:][-SEEN:], protocol, is_first, *places)
        told = self.connections.feed(payload, self.clock - 5, self.clock)
        if told is not None:
            self.began += told.began  # type: ignore[arg-type]
            self.ended += told.ended  # type: ignore[arg-type]

    def ask(self, body: bytes, *, number: int = 0) -> None:
        self.move(packet(number, body), sends=not self.is_server)

    def answer(self, *bodies: bytes, number: int = 1) -> None:
        self.move(numbered(bodies, number), sends=self.is_server)

    def query(self, text: str, *answer: bytes) -> None:
        self.ask(b"\x03" + text.encode())
        self.answer(*answer or (ok(),))

    def said(self) -> list[tuple[str, str]]:
        return [(each.raw, each.error) for each in self.ended]

    def result(self, *rows: bytes, status: int = AUTOCOMMIT, columns: int = 1) -> list[bytes]:
        return result(*rows, status=status, columns=columns, deprecates=self.deprecates)


def numbered(bodies: Any, number: int = 1) -> bytes:
    found = b""
    for each in bodies:
        found += packet(number, each)
        number += 1 + len(each) // GREATEST
    return found


def result(*rows: bytes, status: int = AUTOCOMMIT, columns: int = 1, deprecates: bool = False) -> list[bytes]:
    middle = [] if deprecates else [end(status)]
    last = ok(status, kind=0xFE) if deprecates else end(status)
    return [length(columns), *[column()] * columns, *middle, *rows, last]


def prepared(number: int, columns: int, parameters: int, *, deprecates: bool) -> list[bytes]:
    found = [
        b"\0"
        + number.to_bytes(4, "little")
        + columns.to_bytes(2, "little")
        + parameters.to_bytes(2, "little")
        + b"\0\0\0"
    ]
    for count in (parameters, columns):
        if count:
            found += [column()] * count + ([] if deprecates else [end()])
    return found


def execute(number: int, values: bytes = b"") -> bytes:
    return b"\x17" + number.to_bytes(4, "little") + b"\0\1\0\0\0" + values


def pieces(draw: st.DrawFn, data: bytes) -> list[bytes]:
    """The same bytes in several calls."""
    cuts = sorted(draw(st.lists(st.integers(0, len(data)), max_size=6)))
    return [data[a:b] for a, b in itertools.pairwise([0, *cuts, len(data)]) if a < b]


@dataclass(frozen=True)
class Turn:
    """What is asked, what is answered, and what is to be told: text and error."""

    asked: bytes
    answered: list[bytes]
    told: list[tuple[str, str]]


LOOKALIKES = [
    packet(3, end()),
    packet(3, ok(kind=0xFE)),
    packet(3, error(1)),
    packet(0, b"\x03SELECT s3cret"),
    b"\xfe\xff\0\3def",
]
codes = st.sampled_from([1064, 1146, 1062])


def turns(sizes: st.SearchStrategy[int], *, deprecates: bool) -> st.SearchStrategy[Turn]:
    """Of every kind; the texts are numbered by whoever uses them."""
    values = st.builds(lambda size, like: b"r" * size + like, sizes, st.sampled_from([b"", *LOOKALIKES]))

    def rows(value: bytes, status: int, columns: int) -> list[bytes]:
        return result(*[text_row(*[value] * columns)] * 3, status=status, columns=columns, deprecates=deprecates)

    def simple(value: bytes, columns: int) -> Turn:
        return Turn(b"\x03SELECT @", rows(value, AUTOCOMMIT, columns), [("SELECT @", "")])

    def wrong(code: int) -> Turn:
        return Turn(b"\x03SELECT @", [error(code)], [("SELECT @", str(code))])

    def late(code: int, value: bytes) -> Turn:
        return Turn(b"\x03SELECT @", [*rows(value, 2, 1)[:-1], error(code)], [("SELECT @", str(code))])

    def several(value: bytes, code: int) -> Turn:
        return Turn(b"\x03SELECT @", [*rows(value, MORE, 1), ok(MORE), error(code)], [("SELECT @", str(code))])

    def quiet(kind: bytes) -> Turn:
        return Turn(kind, [b"Uptime: 1"] if kind == b"\x09" else [ok()], [])

    def progress(code: int) -> Turn:
        return Turn(b"\x03SELECT @", [b"\xff\xff\xff\1\1\1\0\0\0\1a", error(code)], [("SELECT @", str(code))])

    return (
        st.builds(simple, values, st.integers(1, 3))
        | st.builds(wrong, codes)
        | st.builds(late, codes, values)
        | st.builds(several, values, codes)
        | st.builds(progress, codes)
        | st.builds(quiet, st.sampled_from([b"\x0e", b"\x09", b"\x1f", b"\x0d"]))
    )


def talk(draw: st.DrawFn, wire: Wire, said: list[Turn], *, whole: bool = False) -> list[tuple[str, str]]:
    """`whole`: what is asked comes in one call."""
    expected = []
    for number, turn in enumerate(said):
        asked = packet(0, turn.asked.replace(b"SELECT @", b"SELECT %03d" % number))
        for piece in [asked] if whole else pieces(draw, asked):
            wire.move(piece, sends=not wire.is_server)
        for piece in pieces(draw, numbered(turn.answered)):
            wire.move(piece, sends=wire.is_server)
        expected += [(text.replace("@", f"{number:03}"), code) for text, code in turn.told]
    return expected


@given(data=st.data(), deprecates=st.booleans(), is_server=st.booleans())
@settings(max_examples=250, deadline=None)
def test_answers_belong_to_their_statements(data: st.DataObject, deprecates: bool, is_server: bool) -> None:
    """In any pieces, from either end: each with its own error, whatever values look like."""
    wire = Wire(is_server=is_server)
    said = data.draw(st.lists(turns(st.integers(0, 60), deprecates=deprecates), min_size=1, max_size=6))
    expected = talk(data.draw, wire, said)  # type: ignore[arg-type]
    assert wire.said() == expected
    assert wire.began == wire.ended
    assert {each.is_server for each in wire.ended} <= {is_server}
    assert {(each.namespace, each.system) for each in wire.ended} <= {("shop", "mariadb")}
    assert all(each.start_ns <= each.end_ns for each in wire.ended)
    assert "s3cret" not in repr(wire.ended)


@given(data=st.data(), deprecates=st.booleans(), lost=st.sets(st.integers(0, 30), max_size=4))
@settings(max_examples=400, deadline=None)
def test_what_is_not_seen_makes_nothing_wrong(data: st.DataObject, deprecates: bool, lost: set[int]) -> None:
    """Middles of long calls, and whole calls: something may be missing, or its error; none has another's."""
    wire = Wire(lost=lost)
    said = data.draw(st.lists(turns(st.integers(0, 9000), deprecates=deprecates), min_size=1, max_size=6))
    expected = dict(talk(data.draw, wire, said))  # type: ignore[arg-type]
    for each in wire.ended:
        assert each.operation != "SELECT" or each.error in {expected[each.raw], ""}
    order = [each.raw for each in wire.ended if each.raw]
    assert order == sorted(set(order))
    wire.lost.clear()
    for _ in range(TURNS + 3):
        wire.query("LAST", error())
    assert wire.said()[-1] == ("LAST", "1064")  # it is found again


@given(data=st.data(), deprecates=st.booleans())
@settings(max_examples=150, deadline=None)
def test_who_comes_in_the_middle_tells_nothing_wrong(data: st.DataObject, deprecates: bool) -> None:
    """Whatever was on its way: values that look like packets too."""
    wire = Wire(joined=True)
    rest = data.draw(st.sampled_from([b"", *LOOKALIKES, *[each * 3 for each in LOOKALIKES]]))
    if rest:
        wire.move(rest, sends=data.draw(st.booleans()))
    said = data.draw(st.lists(turns(st.integers(0, 60), deprecates=deprecates), min_size=1, max_size=9))
    expected = dict(talk(data.draw, wire, said, whole=True))  # type: ignore[arg-type]
    for each in wire.ended:
        assert each.operation != "SELECT" or each.error == expected[each.raw]
        assert (each.system, each.namespace) == ("", "")


@pytest.mark.parametrize("deprecates", [True, False])
@pytest.mark.parametrize("joined", [True, False])
def test_prepared_statements(deprecates: bool, joined: bool) -> None:
    """Their text is known by their number, as long as the server has them; what fails to be prepared is told."""
    wire = Wire(joined=joined, deprecates=deprecates)
    for _ in range(TURNS + 1 if joined else 0):
        wire.query("SELECT 0")
    wire.ended.clear()
    wire.ask(b"\x16SELECT a, ? FROM t")
    wire.answer(*prepared(7, 2, 1, deprecates=deprecates))
    wire.ask(b"\x16SELEC")
    wire.answer(error())
    for values, answer in ((b"s3cret", wire.result(b"\0\0value")), (b"", [error(1062)]), (b"", [ok()])):
        wire.ask(b"\x18\7\0\0\0\0\0long data")  # which is not answered
        wire.ask(execute(7, values))
        wire.answer(*answer)
    wire.ask(execute(9))
    wire.answer(error(1243))
    wire.ask(b"\x19\7\0\0\0")
    wire.ask(execute(7))
    wire.answer(error(1243))
    text = "SELECT a, ? FROM t"
    assert wire.said() == [("SELEC", "1064"), (text, ""), (text, "1062"), (text, ""), ("", "1243"), ("", "1243")]
    assert wire.ended[1].collection == "t"


def test_rows_that_are_fetched_later() -> None:
    """A cursor ends the execution; what is fetched is told only if it fails."""
    for deprecates in (True, False):
        wire = Wire()
        wire.ask(b"\x16SELECT a")
        wire.answer(*prepared(1, 1, 0, deprecates=deprecates))
        wire.ask(execute(1))
        status = AUTOCOMMIT | CURSOR
        wire.answer(length(1), column(), ok(status, kind=0xFE) if deprecates else end(status))
        wire.ask(b"\x1c\1\0\0\0\5\0\0\0")
        wire.answer(b"\0\0row", b"\0\0row", ok(kind=0xFE) if deprecates else end())
        wire.ask(b"\x1c\1\0\0\0\5\0\0\0")
        wire.answer(error(1421))
        assert [(each.operation, each.error) for each in wire.ended] == [("SELECT", ""), ("STMT_FETCH", "1421")]


def test_columns_that_are_left_out() -> None:
    """MariaDB says so behind their number, MySQL before it."""
    wire = Wire()
    for head, columns, middle in (
        (b"\2\1", 2, [end()]), (b"\2\0", 0, [end()]), (b"\1\2", 2, []), (b"\0\2", 0, []), (b"\xfc\x2c\1\0", 0, [end()]),
    ):  # fmt: skip
        wire.query(
            "SELECT 1",
            head,
            *[column()] * columns,
            *middle,
            text_row(b"x", b"y"),
            ok(kind=0xFE) if not middle else end(),
        )
    assert wire.said() == [("SELECT 1", "")] * 5


def test_pipelines() -> None:
    """Several are asked before the first is answered; `-1` is the one that was prepared last."""
    wire = Wire(deprecates=True)
    wire.move(packet(0, b"\x16SELECT ?") + packet(0, execute(0xFFFFFFFF)) + packet(0, b"\x03SELECT 2"), sends=True)
    wire.move(numbered(prepared(3, 1, 1, deprecates=True)) + numbered(wire.result(b"\0\0x")), sends=False)
    wire.answer(error())
    wire.ask(b"\x03USE other")
    wire.ask(b"\x03SELECT 3")
    wire.answer(ok())
    wire.answer(ok())
    assert wire.said() == [("SELECT ?", ""), ("SELECT 2", "1064"), ("USE other", ""), ("SELECT 3", "")]
    assert [each.namespace for each in wire.ended] == ["shop", "shop", "shop", "other"]


@pytest.mark.parametrize("joined", [True, False])
def test_files(joined: bool) -> None:
    """What a client sends of a file is no statement, whatever it looks like, and however often the numbers begin anew."""
    wire = Wire(joined=joined)
    for _ in range(TURNS + 1 if joined else 1):
        wire.ask(b"\x03LOAD DATA LOCAL INFILE 'x' INTO TABLE t")
        wire.answer(b"\xfbx")
        for number in range(2, 600):
            wire.ask(b"\x03SELECT s3cret", number=number & 0xFF)
        wire.ask(b"", number=600 & 0xFF)
        wire.answer(ok(), number=601 & 0xFF)
    wire.query("SELECT 1", error())
    assert wire.said() == [("LOAD DATA LOCAL INFILE 'x' INTO TABLE t", ""), ("SELECT 1", "1064")]


@pytest.mark.parametrize("lost", [{600}, {2, 3}, {1}, {0}])
def test_files_of_which_something_is_lost(lost: set[int]) -> None:
    """Nothing of them is told as a statement."""
    wire = Wire(lost=lost)
    wire.ask(b"\x03LOAD DATA LOCAL INFILE 'x' INTO TABLE t")
    wire.answer(b"\xfbx")
    for number in range(2, 600):
        wire.ask(b"\x03SELECT s3cret", number=number & 0xFF)
    wire.ask(b"", number=600 & 0xFF)
    wire.answer(ok(), number=601 & 0xFF)
    for _ in range(TURNS + 2):
        wire.query("SELECT 1", error())
    assert "s3cret" not in repr(wire.ended)
    assert wire.said()[-1] == ("SELECT 1", "1064")


def test_messages_of_many_packets() -> None:
    """More than 16 MB, asked and answered: exactly so much, too."""
    for size in (GREATEST - 8, GREATEST - 1, GREATEST, GREATEST + 5, 2 * GREATEST - 1):
        wire = Wire()
        text = "SELECT '" + "x" * (size - 8)
        asked = packet(0, b"\x03" + text.encode())
        for at in range(0, len(asked), GREATEST + 4):
            wire.move(asked[at : at + GREATEST + 4], sends=True)
        wire.answer(*wire.result(text_row(b"y" * size)), number=1 + (size + 1) // GREATEST)
        wire.query("SELECT 1", error())
        assert [(each.raw[:20], each.error) for each in wire.ended] == [(text[:20], ""), ("SELECT 1", "1064")]


@pytest.mark.parametrize(
    ("version", "capabilities", "system"),
    [
        ("5.5.5-10.11.6-MariaDB", 0xFFFFFFFF, "mariadb"),
        ("8.0.36", 0xFFFFFFFF, "mysql"),
        ("11.4.2", 0xFFFFFFFE, "mariadb"),
    ],
)
def test_what_the_server_is(version: str, capabilities: int, system: str) -> None:
    """As it says; read in one call, or the header by itself."""
    data = greeting(version, capabilities)
    for parts in ([data], [data[:4], data[4:]]):
        wire = Wire(joined=True)
        wire.joined = False  # its first bytes are seen
        for number, each in enumerate(parts):
            protocol = WireProtocol.UNKNOWN if len(parts) > 1 and not number else WireProtocol.MYSQL
            wire.move(each, sends=False, protocol=protocol)
        wire.ask(hello(CAPABILITIES), number=1)
        wire.answer(ok(), number=2)
        wire.query("SELECT 1")
        assert [(each.raw, each.system, each.namespace) for each in wire.ended] == [("SELECT 1", system, "shop")]


def test_a_unix_socket_says_no_places() -> None:
    """The greeting is what tells that it begins there."""
    wire = Wire(has_places=False)
    wire.query("SELECT 1")
    assert wire.said() == [("SELECT 1", "")]


@pytest.mark.parametrize("capability", [0x20, 0x800, 0x4000000])
def test_what_goes_on_encrypted_or_compressed_says_nothing(capability: int) -> None:
    """Even where it looks like packets."""
    wire = Wire(joined=True)
    wire.joined = False
    wire.move(greeting(), sends=False)
    said = hello(CAPABILITIES | capability)
    wire.ask(said[:32] if capability == 0x800 else said, number=1)
    wire.answer(ok(), number=2)
    wire.query("SELECT 1")
    assert not wire.began


@pytest.mark.parametrize("kind", [0x12, 0x13, 0x15, 0x1E, 0x20])
def test_replicas_are_passed_over(kind: int) -> None:
    """And whatever follows."""
    wire = Wire()
    wire.query("SELECT 1")
    wire.ask(bytes([kind]) + b"binlog")
    wire.answer(ok())
    wire.query("SELECT 2")
    assert wire.said() == [("SELECT 1", "")]


def test_the_database_that_is_selected() -> None:
    """By command and by statement, if the server takes it; where that is not certain none is told."""
    wire = Wire()
    asked: list[tuple[bytes, list[bytes], str]] = [
        (b"\x03SELECT 1", [ok()], "shop"),
        (b"\x02a", [ok()], ""),
        (b"\x03SELECT 1", [ok()], "a"),
        (b"\x02b", [error(1049)], "a"),
        (b"\x03 use `x``y` ; ", [ok()], "a"),
        (b"\x03SELECT 1", [ok()], "x`y"),
        (b"\x03USE z", [error(1049)], "x`y"),
        (b"\x03SELECT use, execute FROM t /* use z */", [ok()], "x`y"),
        (b"\x03SELECT 1; USE z", [ok(MORE), ok()], "x`y"),
        (b"\x03SELECT 1", [ok()], ""),
        (b"\x03/*!50000 USE z */", [ok()], ""),
        (b"\x03USE z", [ok()], ""),
        (b"\x03EXECUTE s", [ok()], "z"),
        (b"\x03USE z", [ok()], ""),
        (b"\x03DROP DATABASE z", [ok()], "z"),
        (b"\x03USE z", [ok()], ""),
        (b"\x11me\0\x06s3cretc\0native\0", [ok()], ""),
        (b"\x03SELECT 1", [ok()], "c"),
        (b"\x03SET @a = 1", [ok(AUTOCOMMIT | CHANGED, state=b"\1\2\1d")], "c"),
        (b"\x03SELECT 1", [ok()], "d"),
    ]  # fmt: skip
    expected = [namespace for body, answer, namespace in asked if body[0] == 3 or answer[0][0] == 0xFF]
    for body, answer, _ in asked:
        wire.ask(body)
        wire.answer(*answer)
    assert [each.namespace for each in wire.ended] == expected


def test_how_strings_are_read_is_what_the_server_said() -> None:
    """Whether a backslash escapes: not before it has answered a command, and not behind another statement."""
    wire = Wire()
    text = r"SELECT 'a\'b', c"
    wire.query(text, ok(AUTOCOMMIT))
    wire.query(text, ok(AUTOCOMMIT))
    wire.query("SET x; " + text, ok(AUTOCOMMIT | NO_BACKSLASHES))
    wire.query(r"SELECT 'a\', 's3cret'", ok(AUTOCOMMIT | NO_BACKSLASHES))
    wire.query("SET y", error())
    wire.query(text, ok(AUTOCOMMIT))
    shown = [each.text for each in wire.ended]
    assert shown == ["SELECT ?...", "SELECT ?, c", "SET x; SELECT ?...", "SELECT ?, ?", "SET y", "SELECT ?..."]


def test_attributes_of_a_query() -> None:
    """Are values: they are not its text, and come before it."""
    wire = Wire(capabilities=0x8000000)
    one = b"\1\1\0\1\xfe\0\1a\6s3cret"
    several = b"\3\1\2\1\x08\0\1a\x0a\0\1b\x0c\0\1c" + b"\1" * 8 + b"\4date"
    for attributes in (b"\0\1", one, several):
        wire.ask(b"\x03" + attributes + b"SELECT 1")
        wire.answer(ok())
    assert wire.said() == [("SELECT 1", "")] * 3
    joined = Wire(joined=True)
    for number in range(TURNS + 2):
        joined.ask(b"\x03" + (one if number % 2 else b"\0\1") + b"SELECT 1")
        joined.answer(ok())
    assert joined.said() == [("SELECT 1", "")] * 2


def test_a_long_answers_end_waits_for_the_next_command() -> None:
    """What looks like it may be a value; its error is the one that came last."""
    for last, code in ((end(), ""), (error(1317), "1317")):
        wire = Wire()
        wire.ask(b"\x03SELECT long")
        whole = numbered([*result(*[text_row(b"r" * 100 + packet(9, error(1)))] * 90)[:-1], last])
        for cut in range(0, len(whole), 5000):
            wire.move(whole[cut : cut + 5000], sends=False)
        assert not wire.ended
        wire.query("SELECT next", error())
        assert wire.said() == [("SELECT long", code), ("SELECT next", "1064")]
        assert [each.namespace for each in wire.ended] == ["shop"] * 2


def test_who_asks_before_the_answer_is_found_out_anew() -> None:
    """A client that does not wait: what was not seen of an answer may still be on its way when it asks the next."""
    wire = Wire()
    wire.ask(b"\x03SELECT 1")
    wire.ask(b"\x03SELECT 2")
    wire.answer(ok())
    wire.ask(b"\x03SELECT 3")
    wire.move(numbered(result(*[text_row(b"r" * 90)] * 90))[:-60], sends=False)
    wire.ask(b"\x03SELECT 4")
    wire.answer(ok())
    wire.answer(error())
    wire.answer(error())
    assert "1064" not in [code for _, code in wire.said()]


def test_numbers_that_do_not_follow_are_no_answer() -> None:
    """Of another command, or of nothing."""
    wire = Wire()
    wire.ask(b"\x03SELECT 1")
    wire.answer(error(), number=5)
    assert not wire.ended
    wire.query("SELECT 2", error())
    assert wire.said() == [("SELECT 1", ""), ("SELECT 2", "1064")]


def test_passwords_are_not_shown_with_other_values() -> None:
    """Not with `statement: Raw` either."""
    wire = Wire()
    for text in (
        "ALTER USER a IDENTIFIED BY 's3cret'", "SET PASSWORD = PASSWORD('s3cret')", r"CREATE USER 'a\'' IDENTIFIED BY 's3cret'",
        "CHANGE MASTER TO MASTER_PASSWORD='s3cret'",
    ):  # fmt: skip
        wire.query(text)
    assert len(wire.ended) == 4
    assert "s3cret" not in repr(wire.ended)


messages = st.sampled_from(
    [packet(0, b"\x03SELECT 1"), packet(1, ok()), packet(1, error()), numbered(result(b"\1x")), packet(0, execute(1)), greeting(),
     packet(1, b"\xfbx"), packet(0, b"\x16x"), packet(1, prepared(1, 3, 3, deprecates=False)[0]), packet(1, hello(0x200)), b"\xff\xff\xff\0\3",
     packet(0, b"\x11a"), packet(1, ok(CHANGED)), packet(1, ok(CHANGED, state=b"\1\xff\xff")), packet(0, b"\x03\3\1\1\1\xff")]
)  # fmt: skip


@given(st.lists(st.tuples(messages | st.binary(max_size=60), st.booleans())), st.booleans(), st.booleans())
@settings(max_examples=400)
def test_garbage(data: list[tuple[bytes, bool]], joined: bool, has_places: bool) -> None:
    """Whatever it is: no error."""
    wire = Wire(joined=joined, has_places=has_places, capabilities=0x8000000)
    for each, sends in data:
        wire.move(each, sends=sends)


def test_how_much_is_kept_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """What nobody answers, and what is prepared and never used."""
    monkeypatch.setattr(statements, "MAX_TEXT_BYTES", 400)
    wire: Any = Wire(deprecates=True)
    talk = wire.connections._by_id[1].talk
    for number in range(20):
        wire.ask(b"\x16" + b"x" * 50)
        wire.answer(*prepared(number, 0, 0, deprecates=True))
    assert (len(talk._texts._by_name), talk._texts._bytes) == (8, 400)
    for _ in range(MAX_OPEN + 50):
        wire.ask(b"\x03SELECT 1")
    assert len(talk._open) <= MAX_OPEN
