# SPDX-License-Identifier: Apache-2.0
"""Kafka as an onlooker reads it: answers by their numbers, names of topics; what is long, missed, or no message."""

from __future__ import annotations

import itertools
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kernelspan_agent.model import Payload, WireProtocol
from kernelspan_agent.protocols import kafkawire
from kernelspan_agent.protocols.kafka import MAX_OPEN, KafkaTalks, Messaging, Topics
from kernelspan_agent.protocols.kafkaerrors import error_name
from kernelspan_agent.protocols.kafkawire import FETCH, METADATA, OFFSET_COMMIT, PRODUCE
from tests.support.wire import Wire

ID, OTHER = bytes(range(16)), bytes(range(16, 32))
HEARTBEAT, API_VERSIONS = 12, 18


def framed(body: bytes) -> bytes:
    return struct.pack(">i", len(body)) + body


def text(value: str | None) -> bytes:
    return struct.pack(">h", -1) if value is None else struct.pack(">h", len(value)) + value.encode()


def compact(value: str) -> bytes:
    return bytes([len(value) + 1]) + value.encode()


def request(key: int, version: int, number: int, body: bytes = b"", client: str | None = "me") -> bytes:
    return framed(struct.pack(">hhi", key, version, number) + text(client) + body)


def answer(number: int, body: bytes = b"") -> bytes:
    return framed(struct.pack(">i", number) + body)


def batch(count: int, size: int = 80) -> bytes:
    """Records of the second format, as many as are said."""
    head = struct.pack(">qiibIhiqqqhii", 0, size - 12, 0, 2, 0, 0, count - 1, 0, 0, 0, 0, 0, count)
    return head.ljust(size, b"s")


def array(parts: list[bytes]) -> bytes:
    return struct.pack(">i", len(parts)) + b"".join(parts)


def produce(number: int, topics: dict[str, dict[int, bytes]], acks: int = -1) -> bytes:
    """Version 8: the last one whose strings and arrays are long."""
    found = []
    for name, partitions in topics.items():
        parts = [struct.pack(">ii", each, len(records)) + records for each, records in partitions.items()]
        found.append(text(name) + array(parts))
    return request(PRODUCE, 8, number, text(None) + struct.pack(">hi", acks, 1000) + array(found))


def produced(number: int, name: str, parts: list[tuple[int, int, int]]) -> bytes:
    """What answers it: partition, error, offset."""
    found = [struct.pack(">ihqqqi", each, code, at, -1, 0, 0) + text(None) for each, code, at in parts]
    return answer(number, array([text(name) + array(found)]) + bytes(4))


def produce_by_id(number: int, topic: bytes, partition: int = 0, records: bytes = b"") -> bytes:
    """Version 13: compact, and topics by their ids."""
    part = struct.pack(">i", partition) + bytes([len(records) + 1]) + records + b"\0"
    body = b"\0\0" + struct.pack(">hi", -1, 1000) + b"\2" + topic + b"\2" + part + b"\0\0"
    return request(PRODUCE, 13, number, body)


def fetch(number: int, names: list[str]) -> bytes:
    """Version 11."""
    part = struct.pack(">iiqqi", 0, -1, 5, -1, 1000)
    topics = array([text(name) + array([part]) for name in names])
    return request(FETCH, 11, number, struct.pack(">iiiibii", -1, 500, 1, 1000, 0, 0, 0) + topics + bytes(4) + text(""))


def fetched(number: int, topics: dict[str, list[tuple[int, int, bytes]]], error: int = 0) -> bytes:
    """Partition, error, records."""
    found = []
    for name, partitions in topics.items():
        parts = []
        for each, code, records in partitions:
            aborted = array([struct.pack(">qq", 1, 2)])
            parts.append(
                struct.pack(">ihqqq", each, code, 9, 9, 0) + aborted + struct.pack(">ii", -1, len(records)) + records
            )
        found.append(text(name) + array(parts))
    return answer(number, struct.pack(">ihi", 0, error, 7) + array(found))


def commit(number: int, group: str, topics: dict[str, list[int]]) -> bytes:
    """Version 7."""
    parts = [
        text(name) + array([struct.pack(">iqi", each, 5, 0) + text("s3cret") for each in partitions])
        for name, partitions in topics.items()
    ]
    return request(
        OFFSET_COMMIT, 7, number, text(group) + struct.pack(">i", 3) + text("member") + text(None) + array(parts)
    )


def metadata(number: int, topics: dict[bytes, str]) -> bytes:
    """What answers version 12, which has ids."""
    broker = struct.pack(">i", 1) + compact("127.0.0.1") + struct.pack(">i", 9092) + b"\0\0"
    part = struct.pack(">hiii", 0, 0, 1, 0) + b"\2" + bytes(4) + b"\2" + bytes(4) + b"\1\0"
    found = [b"\0\0" + compact(name) + topic + b"\0\2" + part + bytes(4) + b"\0" for topic, name in topics.items()]
    body = bytes(4) + b"\2" + broker + compact("cluster") + bytes(4) + bytes([len(found) + 1]) + b"".join(found) + b"\0"
    return answer(number, b"\0" + body)


def wire(*, is_server: bool = False) -> Wire[Messaging]:
    return Wire(WireProtocol.KAFKA, is_server)


def said(found: Wire[Messaging]) -> list[tuple[str, str, int | None, str]]:
    return [(each.operation, each.topic, each.partition, each.error) for each in found.ended if each.is_told]


@pytest.mark.parametrize("is_server", [False, True])
def test_what_is_sent_and_answered(*, is_server: bool) -> None:
    """To where, how many, where they are then; times of the first byte and of the last."""
    line = wire(is_server=is_server)
    line.move(produce(7, {"orders": {3: batch(2)}}), asks=True)
    line.move(produced(7, "orders", [(3, 0, 50)]), asks=False)
    line.move(produce(8, {"orders": {3: batch(1)}}), asks=True)
    line.move(produced(8, "orders", [(3, 0, 52)]), asks=False)
    assert said(line) == [("send", "orders", 3, "")] * 2
    assert [(each.count, each.offset, each.client_id) for each in line.ended] == [(2, None, "me"), (1, 52, "me")]
    first = line.began[0]
    assert (first.is_server, first.start_ns, first.end_ns) == (is_server, 10 if is_server else 5, 20)


def test_several() -> None:
    """Partitions, topics: what they have in common; the first error; how many where all of it was seen."""
    line = wire()
    line.move(produce(1, {"a": {0: batch(2), 1: batch(3)}}), asks=True)
    line.move(produced(1, "a", [(0, 0, 5), (1, 6, -1)]), asks=False)
    line.move(produce(2, {"a": {0: batch(1)}, "b": {0: batch(1)}}), asks=True)
    line.move(produced(2, "a", [(0, 0, 5)]), asks=False)
    line.move(produce(3, {"a": {0: batch(1, 4000), 1: batch(1)}}), asks=True)
    line.move(produce(4, {"a": {0: batch(9, 9000)}}), asks=True)
    line.move(produced(4, "a", [(0, 10, -1)]), asks=False)
    assert said(line) == [
        ("send", "a", None, "NOT_LEADER_OR_FOLLOWER"),
        ("send", "", None, ""),
        ("send", "a", None, ""),
        ("send", "a", 0, "MESSAGE_TOO_LARGE"),
    ]
    assert [each.count for each in line.ended] == [5, 2, None, 9]
    assert line.ended[2].end_ns == 0  # answered unseen: brokers answer in order


def test_what_is_fetched() -> None:
    """Of what brings nothing there is no span; a request may leave out what an answer has."""
    line = wire()
    line.move(fetch(1, ["a", "b"]), asks=True)
    line.move(fetched(1, {"a": [(0, 0, b"")], "b": [(2, 0, b"records")]}), asks=False)
    line.move(fetch(2, []), asks=True)
    line.move(fetched(2, {}), asks=False)
    line.move(fetch(3, []), asks=True)
    line.move(fetched(3, {"a": [(0, 0, b"r"), (1, 0, b"r")]}), asks=False)
    line.move(fetch(4, ["a"]), asks=True)
    line.move(fetched(4, {"a": [(0, 1, b"")]}), asks=False)
    line.move(fetch(5, []), asks=True)
    line.move(fetched(5, {}, error=70), asks=False)
    line.move(fetch(6, ["a", "b"]), asks=True)
    line.move(fetched(6, {"a": [(0, 0, b"r" * 9000)], "b": [(0, 0, b"r")]}), asks=False)
    line.move(fetch(7, ["a"]), asks=True)
    assert said(line) == [
        ("poll", "b", 2, ""),
        ("poll", "a", None, ""),
        ("poll", "a", 0, "OFFSET_OUT_OF_RANGE"),
        ("poll", "", None, error_name(70)),
        ("poll", "", None, ""),
    ]
    assert not line.began[-1].is_told


def test_what_is_committed() -> None:
    """Group, topic; no value."""
    line = wire()
    line.move(commit(1, "g", {"a": [0]}), asks=True)
    answered = array([text("a") + array([struct.pack(">ih", 0, 25)])])
    line.move(answer(1, bytes(4) + answered), asks=False)
    line.move(commit(2, "g", {"a": [0], "b": [1]}), asks=True)
    line.move(answer(2, bytes(4) + array([])), asks=False)
    assert said(line) == [("commit", "a", 0, "UNKNOWN_MEMBER_ID"), ("commit", "", None, "")]
    assert {each.group for each in line.ended} == {"g"}
    assert "s3cret" not in str(line.ended)


def test_names_of_topics() -> None:
    """They are told by who asked what there is; before that there are none."""
    line = wire()
    line.move(produce_by_id(1, ID), asks=True)
    line.move(answer(1, b"\0\1" + bytes(4) + b"\0"), asks=False)
    line.move(request(METADATA, 12, 2), asks=True)
    line.move(metadata(2, {ID: "orders"}), asks=False)
    line.move(produce_by_id(3, ID), asks=True)
    line.move(produce_by_id(4, OTHER), asks=True)
    line.move(request(METADATA, 12, 5), asks=True)
    line.move(metadata(5, {OTHER: "s3cret\n", bytes(16): "none"}), asks=False)
    assert [each.topic for each in line.ended] == ["", "orders", ""]
    names = Topics()
    names.learn(ID, "a")
    names.learn(ID, "b")
    assert (names.name(ID), names.name(OTHER), names.name("c"), names.name(None)) == ("", "", "c", "")


def test_what_nobody_acknowledges() -> None:
    """It ends where it was sent; what is asked besides is not told, and keeps its number."""
    line = wire()
    line.move(request(API_VERSIONS, 3, 1), asks=True)
    line.move(produce(2, {"a": {0: batch(1)}}, acks=0), asks=True)
    line.move(request(HEARTBEAT, 4, 3), asks=True)
    line.move(answer(1), asks=False)
    line.move(answer(3), asks=False)
    assert said(line) == [("send", "a", 0, "")]
    assert line.ended[0].end_ns == line.ended[0].start_ns > 0


def test_an_answer_before_its_request() -> None:
    """Another thread receives it while the call that sends returns; one that came before the call began is another's."""
    line = wire()
    line.move(request(API_VERSIONS, 3, 1), asks=True)
    line.move(produced(2, "a", [(0, 3, -1)]), asks=False)
    line.move(produce(2, {"a": {0: batch(1)}}), asks=True, start=15)
    assert said(line) == [("send", "a", 0, "UNKNOWN_TOPIC_OR_PARTITION")]
    line.move(produced(3, "a", [(0, 3, -1)]), asks=False)
    line.move(produce(3, {"a": {0: batch(1)}}), asks=True, start=45)
    line.move(produced(3, "a", [(0, 0, 7)]), asks=False)
    assert said(line)[1:] == [("send", "a", 0, "")]


@given(st.sets(st.integers(1, 700)), st.booleans())
def test_in_pieces(cuts: set[int], is_server: bool) -> None:
    """However many calls move them: lengths alone, several at once."""
    asking = produce(1, {"a": {0: batch(1)}}) + fetch(2, ["b"]) + commit(3, "g", {"c": [1]})
    answering = (
        produced(1, "a", [(0, 0, 9)])
        + fetched(2, {"b": [(0, 0, b"r" * 70)]})
        + answer(3, bytes(4) + array([text("c") + array([struct.pack(">ih", 1, 22)])]))
    )
    line = wire(is_server=is_server)
    for whole, asks in ((asking, True), (answering, False)):
        places = [0, 14 if asks else 4, *sorted(each for each in cuts if 14 < each < len(whole)), len(whole)]
        for begin, end in itertools.pairwise(places):
            line.move(whole[begin:end], asks=asks)
    assert said(line) == [("send", "a", 0, ""), ("poll", "b", 0, ""), ("commit", "c", 1, "ILLEGAL_GENERATION")]


def test_a_length_that_was_read_alone() -> None:
    """Before it was known what it is: what follows is all of the message."""
    line = wire(is_server=True)
    whole = produce(1, {"a": {0: batch(1)}})
    line.move(whole[:4], asks=True, seen=False)
    line.move(whole[4:], asks=True)
    line.move(produced(1, "a", [(0, 0, 5)]), asks=False)
    for begin, end in ((0, 4), (4, None)):
        line.move(commit(2, "g", {"b": [0]})[begin:end], asks=True)
    line.move(answer(2), asks=False)
    assert said(line) == [("send", "a", 0, ""), ("commit", "b", 0, "")]
    assert line.ended[0].start_ns > 0


def test_what_was_missed() -> None:
    """It goes on with the next call that a message begins, or whose length is read alone."""
    line = wire()
    line.move(request(API_VERSIONS, 3, 1), asks=True)
    line.move(produce(2, {"a": {0: batch(1)}}), asks=True)
    line.move(produced(2, "a", [(0, 0, 5)]), asks=False, seen=False)
    line.move(produce(3, {"b": {0: batch(1, 3000)}}), asks=True, seen=False)
    long = produce(4, {"c": {0: batch(1, 9000)}})
    line.move(long[:3000], asks=True)
    line.move(long[3000:], asks=True, seen=False)
    line.move(produce(5, {"d": {0: batch(1)}}), asks=True)
    late = produced(5, "d", [(0, 6, -1)])
    line.move(late[:4], asks=False)
    line.move(late[4:], asks=False)
    assert said(line) == [("send", "a", 0, ""), ("send", "d", 0, "NOT_LEADER_OR_FOLLOWER")]


def test_too_many() -> None:
    """The oldest is told without an answer."""
    line = wire()
    for number in range(1, MAX_OPEN + 2):
        line.move(produce(number, {"a": {0: batch(1)}}), asks=True)
    assert [each.end_ns for each in line.ended] == [0]


def test_what_is_not_known_of_newer_versions() -> None:
    """That it was asked, and no more."""
    line = wire()
    line.move(request(FETCH, 31, 1, bytes(40)), asks=True)
    line.move(request(PRODUCE, 14, 2, bytes(40)), asks=True)
    line.move(produced(2, "a", [(0, 6, -1)]), asks=False)
    assert said(line) == [("send", "", None, "")]
    assert error_name(5000) == "5000"
    assert error_name(-1) == "UNKNOWN_SERVER_ERROR"


@pytest.mark.parametrize(
    "first",
    [
        b"",
        b"GET / HTTP/1.1\r\n\r\n",
        bytes(40),
        struct.pack(">ihhih", 1 << 20, 200, 1, 1, 2) + b"me",
        struct.pack(">ihhih", 40, 0, 1, -5, 2) + b"me",
    ],
)
def test_what_begins_none(first: bytes) -> None:
    """Neither a length nor a header that can be; nor what the kernel could not say."""
    line = wire()
    line.move(first, asks=True)
    line.move(produce(1, {"a": {0: batch(1)}}), asks=True)
    assert len(line.began) == 1
    assert KafkaTalks().begin(Payload(1, True, 3, b"\0\0\0")) is None


MESSAGES = [
    produce(1, {"a": {0: batch(1)}}), produced(1, "a", [(0, 0, 5)]), fetch(1, ["a", "b"]), produce_by_id(1, ID, 2, batch(3)),
    fetched(1, {"a": [(0, 0, b"rr")], "b": []}), commit(1, "g", {"a": [0]}), metadata(1, {ID: "orders", OTHER: "x"}),
]  # fmt: skip


@given(st.data())
def test_hostile(data: st.DataObject) -> None:
    """Whatever the bytes are, nothing is raised, and all ends."""
    changed = bytearray(data.draw(st.sampled_from(MESSAGES)))
    for at, value in data.draw(st.lists(st.tuples(st.integers(0, len(changed) - 1), st.integers(0, 255)), max_size=12)):
        changed[at] = value
    cut = bytes(changed[: data.draw(st.integers(0, len(changed)))])
    version = data.draw(st.integers(0, 31))
    for key in (PRODUCE, FETCH, OFFSET_COMMIT):
        kafkawire.answered(cut, key, version)
        kafkawire.asked(cut, kafkawire.Header(key, version, 1, "", 14))
    list(kafkawire.topic_names(cut, version))
    line = wire()
    line.move(request(data.draw(st.sampled_from([PRODUCE, FETCH, METADATA, OFFSET_COMMIT])), version, 1), asks=True)
    line.move(cut, asks=True)
    line.move(cut, asks=False)
    line.move(produce(5, {"a": {0: batch(1)}}), asks=True)


def test_what_both_ends_call_a_request() -> None:
    """By where its first byte is, however it is read."""
    client, server = wire(), wire(is_server=True)
    for number, size in ((1, 100), (2, 200), (3, 3000)):
        whole = produce(number, {"a": {0: batch(1, size)}})
        client.move(whole, asks=True)
        for begin, end in ((0, 4), (4, None)) if number > 1 else ((0, None),):
            server.move(whole[begin:end], asks=True)
    assert [each.exchange_id for each in client.began] == [each.exchange_id for each in server.began]
    assert len({each.exchange_id for each in client.began}) == 3
    assert [each.said for each in client.began] == [each.said for each in server.began]
