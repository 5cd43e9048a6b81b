# SPDX-License-Identifier: Apache-2.0
"""MySQL's protocol as an onlooker reads it: however bytes are spread over calls, whatever is not seen, wherever we came in."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kernelspan_agent.protocols import statements
from kernelspan_agent.protocols.mysql import MAX_OPEN
from kernelspan_agent.protocols.ordered import TURNS
from tests.support.mysqlwire import (
    AUTOCOMMIT,
    CHANGED,
    MORE,
    Wire,
    end,
    error,
    execute,
    greeting,
    hello,
    numbered,
    ok,
    packet,
    prepared,
    result,
    text_row,
)


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


@given(
    data=st.data(),
    deprecates=st.booleans(),
    lost=st.sets(st.integers(0, 30), max_size=4),
    lost_before=st.sets(st.integers(0, 4), max_size=1),
)
@settings(max_examples=400, deadline=None)
def test_what_is_not_seen_makes_nothing_wrong(
    data: st.DataObject, deprecates: bool, lost: set[int], lost_before: set[int]
) -> None:
    """Middles of long calls, and whole calls: something may be missing, or its error; none has another's."""
    wire = Wire(lost=lost, lost_before=lost_before)
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
