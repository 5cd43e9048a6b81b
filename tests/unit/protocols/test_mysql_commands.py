# SPDX-License-Identifier: Apache-2.0
"""Commands of MySQL's protocol and what answers them, one kind after another."""

from __future__ import annotations

import pytest

from kernelspan_agent.model import WireProtocol
from kernelspan_agent.protocols.ordered import TURNS
from tests.support.mysqlwire import (
    AUTOCOMMIT,
    CAPABILITIES,
    CHANGED,
    CURSOR,
    GREATEST,
    MORE,
    NO_BACKSLASHES,
    Wire,
    column,
    end,
    error,
    execute,
    greeting,
    hello,
    length,
    numbered,
    ok,
    packet,
    prepared,
    result,
    text_row,
)


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
        wire.answer(error(1153), number=1 + (size + 1) // GREATEST)
        assert [(each.raw[:20], each.error) for each in wire.ended] == [(text[:20], "1153")]
        wire.query("SELECT long", *wire.result(text_row(b"y" * size)))
        wire.query("SELECT 1", error())
        assert wire.said()[1:] == [("SELECT long", ""), ("SELECT 1", "1064")]


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


def test_a_value_at_the_end_of_a_call_is_no_end() -> None:
    """Whatever it looks like: more comes. An end without an error is believed after a while."""
    for like, is_error in ((packet(9, error(1)), True), (packet(9, end()), False)):
        wire = Wire()
        wire.ask(b"\x03SELECT long")
        (asked,) = wire.began
        rows = [text_row(b"r" * 100)] * 90
        wire.move(numbered([*result()[:3], *rows, text_row(b"r" + like)]), sends=False)
        assert (asked.error, asked.is_open_ended) == ("1" if is_error else "", not is_error)
        wire.move(numbered([text_row(b"x")], 95), sends=False)
        assert (asked.error, asked.is_open_ended) == ("", False)
        wire.move(numbered([end()], 96), sends=False)
        wire.query("SELECT next", error())
        assert wire.said() == [("SELECT long", ""), ("SELECT next", "1064")]


def test_the_answer_to_what_was_not_seen_is_not_anothers() -> None:
    """Neither the first one's answer nor the next that was asked was seen: its error is not the first one's."""
    wire = Wire(lost={1, 2})
    wire.ask(b"\x03SELECT 1")
    wire.answer(ok())
    wire.ask(b"\x03SELECT 2")
    wire.answer(error())
    wire.query("SELECT 3", error())
    assert wire.said() == [("SELECT 1", ""), ("SELECT 3", "1064")]


def test_what_was_prepared_before_something_was_lost() -> None:
    """Has no text: it may have been closed meanwhile."""
    wire = Wire(lost={2})
    wire.ask(b"\x16SELECT ?")
    wire.answer(*prepared(7, 0, 1, deprecates=True))
    wire.ask(b"\x1f")
    wire.answer(ok())
    wire.ask(execute(7))
    wire.answer(error(1243))
    assert wire.said() == [("", "1243")]


def test_a_login_that_was_not_seen() -> None:
    """How the connection goes on is not known: it is found out."""
    wire = Wire(joined=True)
    wire.joined = False
    wire.move(greeting(), sends=False)
    wire.lost = {1}
    wire.ask(hello(CAPABILITIES), number=1)
    wire.answer(ok(), number=2)
    for number in range(TURNS + 2):
        wire.query(f"SELECT {number}")
    assert wire.said() == [(f"SELECT {number}", "") for number in range(TURNS, TURNS + 2)]


def test_who_asks_is_found_out_anew() -> None:
    """What is taken for a header that was read alone may be something else: then it is the other end that asks."""
    wire = Wire(joined=True)
    wire.move(b"\1\0\0\0", sends=False, protocol=WireProtocol.UNKNOWN)
    for number in range(TURNS + 2):
        wire.query(f"SELECT {number}")
    assert wire.said() == [(f"SELECT {number}", "") for number in range(TURNS, TURNS + 2)]
    assert not wire.ended[0].is_server


def test_what_is_prepared_while_we_are_not_certain() -> None:
    """Has no text: the number that is answered may be another's, that was asked before we came."""
    wire = Wire(joined=True)
    wire.ask(b"\x16SELECT 2")
    wire.answer(*prepared(1, 0, 0, deprecates=True))  # of SELECT 1
    wire.answer(*prepared(2, 0, 0, deprecates=True))
    for _ in range(TURNS + 2):
        wire.query("SELECT 3")
    wire.ask(execute(1))
    wire.answer(ok())
    assert wire.said()[-1] == ("", "")


def test_an_end_that_answers_the_next_command() -> None:
    """And does not end the list of columns before it."""
    wire = Wire()
    wire.ask(b"\x16SELECT ?")
    wire.answer(*prepared(7, 0, 1, deprecates=True))
    wire.ask(b"\x1b\1\0")
    wire.answer(end())
    wire.query("SELECT 1", error())
    assert wire.said() == [("SELECT 1", "1064")]


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
