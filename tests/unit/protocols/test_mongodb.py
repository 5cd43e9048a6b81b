# SPDX-License-Identifier: Apache-2.0
"""MongoDB as an onlooker reads it: answers by their numbers, in whatever order; what is long, missed, or no message."""

from __future__ import annotations

import itertools
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kernelspan_agent.model import WireProtocol
from kernelspan_agent.protocols.mongodb import MAX_OPEN, Command
from kernelspan_agent.protocols.mongowire import HEADER_BYTES, asked, elements, error
from tests.support.wire import Wire

MORE_TO_COME = 2
Value = str | int | float | bool | None | bytes | dict | list  # type: ignore[type-arg]


def bson(document: dict[str, Value]) -> bytes:
    """A document, by bsonspec.org."""
    body = b""
    for name, value in document.items():
        key = name.encode() + b"\0"
        if isinstance(value, bool):
            body += b"\x08" + key + bytes([value])
        elif isinstance(value, int):
            body += b"\x10" + key + struct.pack("<i", value)
        elif isinstance(value, float):
            body += b"\x01" + key + struct.pack("<d", value)
        elif isinstance(value, str):
            body += b"\x02" + key + struct.pack("<i", len(value.encode()) + 1) + value.encode() + b"\0"
        elif isinstance(value, bytes):
            body += b"\x05" + key + struct.pack("<iB", len(value), 0) + value
        elif isinstance(value, dict):
            body += b"\x03" + key + bson(value)
        elif isinstance(value, list):
            body += b"\x04" + key + bson({str(at): each for at, each in enumerate(value)})
        else:
            body += b"\x0a" + key
    return struct.pack("<i", len(body) + 5) + body + b"\0"


def message(
    number: int, document: dict[str, Value], answers: int = 0, *, flags: int = 0, before: bytes = b"", kind: int = 2013
) -> bytes:
    """OP_MSG."""
    body = struct.pack("<I", flags) + before + b"\0" + bson(document)
    return struct.pack("<iiii", HEADER_BYTES + len(body), number, answers, kind) + body


def find(number: int, table: str = "orders") -> bytes:
    return message(number, {"find": table, "filter": {"$db": "x", "code": 3}, "$db": "shop"})


def well(number: int, answers: int) -> bytes:
    return message(number, {"cursor": {"firstBatch": [{"ok": 0.0, "code": 5}], "id": 0}, "ok": 1.0}, answers)


def wire(*, is_server: bool = False) -> Wire[Command]:
    return Wire(WireProtocol.MONGODB, is_server)


def said(found: Wire[Command]) -> list[tuple[str, str, str, str]]:
    return [(each.operation, each.collection, each.namespace, each.error) for each in found.ended]


@pytest.mark.parametrize("is_server", [False, True])
def test_a_command_and_its_answer(*, is_server: bool) -> None:
    """What is asked of what; times of the first byte and of the last."""
    line = wire(is_server=is_server)
    line.move(find(7), asks=True)
    line.move(well(70, 7), asks=False)
    assert said(line) == [("find", "orders", "shop", "")]
    (found,) = line.began
    assert (found.is_server, found.start_ns, found.end_ns) == (is_server, 10 if is_server else 5, 20)


def test_whatever_the_order() -> None:
    """Answers of several commands come as they are ready; one of nothing is nobody's."""
    line = wire()
    for number in range(5):
        line.move(find(number, f"t{number}"), asks=True)
    line.move(well(50, 77), asks=False)
    for number in (3, 0, 4, 1, 2):
        answer: dict[str, Value] = {"ok": 0.0, "errmsg": "no", "code": 100 + number} if number % 2 else {"ok": 1.0}
        line.move(message(60 + number, answer, number), asks=False)
    assert [each[1] for each in said(line)] == ["t3", "t0", "t4", "t1", "t2"]
    assert [each[3] for each in said(line)] == ["103", "", "", "101", ""]


def test_an_answer_before_its_command() -> None:
    """Another thread receives it while the call that sends returns; one that came before the call began is another's."""
    line = wire()
    line.move(find(1), asks=True)
    line.move(well(20, 2), asks=False)
    line.move(find(2, "early"), asks=True, start=15)
    assert said(line) == [("find", "early", "shop", "")]
    line.move(well(30, 3), asks=False)
    line.move(find(3), asks=True, start=45)
    line.move(well(31, 3), asks=False)
    assert [each.end_ns for each in line.ended] == [20, 60]


@given(st.sets(st.integers(1, 400)), st.booleans())
def test_in_pieces(cuts: set[int], is_server: bool) -> None:
    """However many calls move them: headers alone, several at once."""
    asking = find(1, "a") + find(2, "b") + message(3, {"ping": 1, "$db": "admin"})
    answering = well(10, 2) + message(11, {"ok": 0.0, "code": 59}, 3) + well(12, 1)
    line = wire(is_server=is_server)
    for whole, asks in ((asking, True), (answering, False)):
        places = [0, HEADER_BYTES, *sorted(each for each in cuts if HEADER_BYTES < each < len(whole)), len(whole)]
        for begin, end in itertools.pairwise(places):
            line.move(whole[begin:end], asks=asks)
    assert sorted(said(line)) == [("find", "a", "shop", ""), ("find", "b", "shop", ""), ("ping", "", "admin", "59")]


def test_what_drivers_ask_for_themselves() -> None:
    """Is not told; what is not acknowledged ends where it was sent."""
    line = wire()
    line.move(message(1, {"isMaster": 1, "$db": "admin"}, kind=2004), asks=True)
    line.move(message(2, {"hello": 1, "$db": "admin"}), asks=True)
    line.move(message(9, {"ok": 1.0}, 2), asks=False)
    line.move(message(3, {"insert": "t", "$db": "shop"}, flags=MORE_TO_COME), asks=True)
    assert said(line) == [("insert", "t", "shop", "")]
    assert line.ended[0].end_ns == line.ended[0].start_ns


def test_names_that_are_no_collections() -> None:
    """A user's name is a value like others; getMore names its collection besides."""
    line = wire()
    documents: list[dict[str, Value]] = [
        {"dropUser": "s3cret"},
        {"getMore": 5, "collection": "t"},
        {"aggregate": 1},
        {"saslStart": 1, "payload": b"s3cret"},
    ]
    for number, document in enumerate(documents):
        line.move(message(number, {**document, "$db": "d"}), asks=True)
        line.move(message(99, {"ok": 1.0}, number), asks=False)
    assert said(line) == [
        ("dropUser", "", "d", ""),
        ("getMore", "t", "d", ""),
        ("aggregate", "", "d", ""),
        ("saslStart", "", "d", ""),
    ]
    assert "s3cret" not in str(line.began)


def test_documents_beside_a_command() -> None:
    """A sequence of them may come before or behind it; the database behind a long one is not seen."""
    documents = bson({"$db": "wrong", "text": "x" * 100})
    sequence = b"\1" + struct.pack("<i", 4 + len(b"documents\0") + len(documents)) + b"documents\0" + documents
    line = wire()
    line.move(message(1, {"insert": "t", "$db": "shop"}, before=sequence), asks=True)
    line.move(message(2, {"insert": "t", "documents": [{"text": "x" * 5000}], "$db": "shop"}), asks=True)
    for number in (1, 2):
        line.move(message(9, {"n": 1, "ok": 1.0}, number), asks=False)
    assert said(line) == [("insert", "t", "shop", ""), ("insert", "t", "", "")]


@pytest.mark.parametrize(
    ("document", "code"),
    [
        ({"ok": 1.0}, ""),
        ({"ok": 1}, ""),
        ({"ok": 0.0, "code": 13}, "13"),
        ({"ok": 0}, "_OTHER"),
        ({"n": 0, "writeErrors": [{"index": 0, "code": 11000, "errmsg": "E"}], "ok": 1.0}, "11000"),
        ({"n": 1, "ok": 1.0, "writeConcernError": {"code": 64}}, "64"),
        ({"cursor": {"firstBatch": [{"ok": 0.0, "code": 9}]}, "ok": 1.0}, ""),
        ({"cursor": {"firstBatch": [{"text": "x" * 5000}]}, "ok": 1.0}, ""),
    ],
)
def test_errors(document: dict[str, Value], code: str) -> None:
    """Of the answer itself, of a write in it; not of a document in it."""
    assert error(message(1, document, 2)[:4096]) == code


def test_what_was_missed() -> None:
    """It goes on with the next call that is a message's beginning; what lies between is not told."""
    line = wire()
    long = message(1, {"insert": "a", "$db": "shop", "documents": [{"text": "x" * 9000}]})
    line.move(long[:3000], asks=True)
    line.move(long[3000:6000], asks=True, seen=False)
    line.move(long[6000:], asks=True)
    line.move(find(2), asks=True)
    line.move(well(9, 1), asks=False)
    line.move(well(9, 2), asks=False)
    assert said(line) == [("find", "orders", "shop", "")]


def test_too_many() -> None:
    """The oldest is told without an answer."""
    line = wire()
    for number in range(1, MAX_OPEN + 2):
        line.move(find(number), asks=True)
    assert [each.end_ns for each in line.ended] == [0]


@pytest.mark.parametrize(
    "first", [b"", b"GET / HTTP/1.1\r\n\r\n", bytes(40), struct.pack("<iiii", 1 << 30, 1, 0, 2013)]
)
def test_what_begins_none(first: bytes) -> None:
    """Neither a length nor a kind that can be."""
    line = wire()
    line.move(first, asks=True)
    line.move(find(1), asks=True)
    assert len(line.began) == 1


@given(st.data())
def test_hostile(data: st.DataObject) -> None:
    """Whatever the bytes are, nothing is raised, and all ends."""
    changed = bytearray(
        data.draw(st.sampled_from([find(1), well(1, 2), message(1, {"ok": 0.0, "writeErrors": [{"code": 3}]})]))
    )
    for at, value in data.draw(st.lists(st.tuples(st.integers(0, len(changed) - 1), st.integers(0, 255)), max_size=12)):
        changed[at] = value
    cut = bytes(changed[: data.draw(st.integers(0, len(changed)))])
    asked(cut)
    error(cut)
    list(elements(cut[21:]))
    line = wire()
    line.move(cut, asks=True)
    line.move(cut, asks=False)
    line.move(find(5), asks=True)


def test_what_both_ends_call_a_command() -> None:
    """By where its first byte is, however it is read; of several that one call moves none is known."""
    client, server = wire(), wire(is_server=True)
    long = message(3, {"insert": "t", "$db": "shop", "documents": [{"text": "x" * 3000}]})
    for data in (find(1), find(2), long):
        client.move(data, asks=True)
        for begin in range(0, len(data), 700):
            server.move(data[begin : begin + 700], asks=True)
    assert [each.exchange_id for each in client.began] == [each.exchange_id for each in server.began]
    assert len({each.exchange_id for each in client.began}) == 3
    client.move(find(4) + find(5) + find(6)[:20], asks=True)
    client.move(find(6)[20:], asks=True)
    assert [each.exchange_id for each in client.began[3:]] == [0, 0, 0]
