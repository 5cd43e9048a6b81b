# SPDX-License-Identifier: Apache-2.0
"""Kafka's messages, as far as they say which topics they are about and what came of it.

Of records nothing is read but how long they are and, of a producer's, how many. What is not known of a newer version is not
read. After "Kafka protocol guide" of Kafka's documentation and the schemas of its messages.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

PRODUCE, FETCH, METADATA, OFFSET_COMMIT = 0, 1, 3, 8  # keys of requests
LENGTH, REQUEST_BYTES, ANSWER_BYTES = (
    4,
    14,
    8,
)  # of a length; of what all requests and all answers begin with, it included
_MOST_BYTES = 1 << 30  # of a message
_MOST_KEY, _MOST_VERSION, _MOST_CLIENT_ID = 127, 31, 255
_LATEST = {PRODUCE: 13, FETCH: 18, METADATA: 13, OFFSET_COMMIT: 10}  # versions whose fields are known
_FLEXIBLE = {PRODUCE: 9, FETCH: 12, METADATA: 9, OFFSET_COMMIT: 8}  # from these on strings and arrays are compact
_TOPIC = re.compile(r"[\w.-]{1,249}", re.ASCII)
_BATCH_HEAD, _BATCH_LENGTH, _MAGIC, _RECORDS_AT, _BATCH_BYTES = 12, 8, 16, 57, 61  # of a batch of records; magic 2
_ID_BYTES, _NO_ID = 16, bytes(16)

Topic = str | bytes
"""A topic's name, or where only that is told its id."""


class _MissingError(Exception):
    """What would be next was not seen, or cannot be."""


class Header(NamedTuple):
    """What a request begins with. `body`: where what it asks begins."""

    key: int
    version: int
    number: int
    client_id: str
    body: int


@dataclass(frozen=True, slots=True)
class Part:
    """A partition of a topic. `error`: a code. `size`: bytes of its records. `count`: how many; None: not known."""

    topic: Topic
    number: int
    error: int = 0
    size: int = 0
    count: int | None = None
    offset: int = -1


@dataclass(slots=True)
class Parts:
    """Those that a message names. `topics`: how many topics it has; -1: not seen. `sizes`: partitions of each that was seen.

    `is_whole`: all of them were. `group`: of consumers. `acks`: what a producer waits for. `error`: a code that is about all of it.
    """

    topics: int = -1
    sizes: list[int] = field(default_factory=list)
    found: list[Part] = field(default_factory=list)
    is_whole: bool = False
    group: str = ""
    acks: int = 1
    error: int = 0

    def only_topic(self) -> Topic | None:
        """The one that it is about; None: there are several, or it is not known."""
        return self.found[0].topic if self.topics == 1 and self.found else None

    def only_part(self) -> Part | None:
        """The one partition that it is about; None: there are several, or it is not known."""
        return self.found[0] if self.topics == 1 and self.sizes == [1] and self.found else None


def length_of_request(head: bytes | bytearray) -> int:
    """All bytes of one that begins with these; 0: none does."""
    return _length(head) if header(head) is not None else 0


def length_of_answer(head: bytes | bytearray) -> int:
    """All bytes of one that begins with these; 0: none does."""
    return _length(head) if len(head) >= ANSWER_BYTES and not head[LENGTH] & 0x80 else 0


def may_be_length(data: bytes) -> bool:
    """Whether these may be the length of a message, read alone."""
    return len(data) == LENGTH and _length(data) > 0


def _length(head: bytes | bytearray) -> int:
    size = int.from_bytes(head[:LENGTH], "big", signed=True)
    return LENGTH + size if LENGTH <= size <= _MOST_BYTES else 0


def header(data: bytes | bytearray, at: int = LENGTH) -> Header | None:
    """That of a request whose length has been read up to here; None: these bytes are none."""
    if len(data) < at + REQUEST_BYTES - LENGTH:
        return None
    key, version = int.from_bytes(data[at : at + 2], "big"), int.from_bytes(data[at + 2 : at + 4], "big")
    number = int.from_bytes(data[at + 4 : at + 8], "big", signed=True)
    size = int.from_bytes(data[at + 8 : at + 10], "big", signed=True)
    if key > _MOST_KEY or version > _MOST_VERSION or number < 0 or not (size == -1 or 0 < size <= _MOST_CLIENT_ID):
        return None
    end = at + 10 + max(size, 0)
    return Header(key, version, number, bytes(data[at + 10 : end]).decode("utf-8", "replace"), end)


def asked(head: bytes, known: Header) -> Parts:
    """What a request of producing, fetching or committing is about, as far as its first bytes say."""
    found = Parts()
    if known.version > _LATEST[known.key]:
        return found
    try:
        fields = _Fields(head, known.body, known.key, known.version)
        if known.key == PRODUCE:
            _produced(fields, known.version, found)
        elif known.key == FETCH:
            _fetched(fields, known.version, found)
        else:
            _committed(fields, known.version, found)
    except _MissingError:
        pass
    return found


def answered(head: bytes, key: int, version: int) -> Parts:
    """What the answer to one of these says."""
    found = Parts()
    if version > _LATEST[key]:
        return found
    try:
        fields = _Fields(head, ANSWER_BYTES, key, version)
        if key == FETCH:
            _read(fields, version, found)
            return found
        if key == OFFSET_COMMIT and version >= 3:
            fields.skip(4)
        for topic in _topics(fields, found, by_id=version >= (13 if key == PRODUCE else 10)):
            for _ in _partitions(fields, found):
                number, error, offset = fields.number(4), fields.number(2), -1
                if key == PRODUCE:
                    offset = fields.number(8)
                found.found.append(Part(topic, number, error, offset=offset))
                if key == PRODUCE:
                    _skip_produced(fields, version)
                fields.tags()
            fields.tags()
        found.is_whole = True
    except _MissingError:
        pass
    return found


def topic_names(head: bytes, version: int) -> Iterator[tuple[bytes, str]]:
    """Ids and names of topics in an answer about what there is, as far as they were seen; older versions tell no ids."""
    if not 10 <= version <= _LATEST[METADATA]:
        return
    try:
        fields = _Fields(head, ANSWER_BYTES, METADATA, version)
        fields.skip(4)
        for _ in range(fields.count()):
            fields.skip(4)
            fields.text()
            fields.skip(4)
            fields.text()
            fields.tags()
        fields.text()
        fields.skip(4)
        for _ in range(fields.count()):
            fields.skip(2)
            name, topic = fields.text(), fields.take(_ID_BYTES)
            if topic != _NO_ID and _TOPIC.fullmatch(name):
                yield topic, name
            fields.skip(1)
            for _ in range(fields.count()):
                fields.skip(14)
                for _ in range(3):
                    fields.skip(4 * fields.count())
                fields.tags()
            fields.skip(4)
            fields.tags()
    except _MissingError:
        return


class _Fields:
    """Those of a request or an answer, the tagged ones of its header first. Raises _MissingError where there are no more."""

    def __init__(self, data: bytes, at: int, key: int, version: int) -> None:
        self._data, self._at, self._is_flexible = data, at, version >= _FLEXIBLE[key]
        self.tags()

    def take(self, count: int) -> bytes:
        found = self._data[self._at : self._at + count]
        if len(found) < count:
            raise _MissingError
        self._at += count
        return found

    def skip(self, count: int) -> None:
        self._at += count
        if self._at > len(self._data):
            raise _MissingError

    def number(self, size: int) -> int:
        return int.from_bytes(self.take(size), "big", signed=True)

    def varint(self) -> int:
        found = 0
        for shift in range(0, 35, 7):
            (byte,) = self.take(1)
            found |= (byte & 0x7F) << shift
            if byte < 0x80:
                return found
        raise _MissingError

    def length(self, size: int) -> int:
        """That of what follows, which older versions tell in so many bytes; none is 0."""
        found = self.varint() - 1 if self._is_flexible else self.number(size)
        return max(found, 0)

    def count(self) -> int:
        """Of an array."""
        return self.length(4)

    def text(self) -> str:
        return self.take(self.length(2)).decode("utf-8", "replace")

    def tags(self) -> None:
        if self._is_flexible:
            for _ in range(self.varint()):
                self.varint()
                self.skip(self.varint())

    def peek(self, count: int) -> bytes:
        return self._data[self._at : self._at + count]


def _topics(fields: _Fields, found: Parts, *, by_id: bool) -> Iterator[Topic]:
    found.topics = fields.count()
    for _ in range(found.topics):
        topic: Topic = fields.take(_ID_BYTES) if by_id else fields.text()
        if isinstance(topic, str) and not _TOPIC.fullmatch(topic):
            raise _MissingError
        yield topic


def _partitions(fields: _Fields, found: Parts) -> Iterator[int]:
    found.sizes.append(fields.count())
    yield from range(found.sizes[-1])


def _produced(fields: _Fields, version: int, found: Parts) -> None:
    if version >= 3:
        fields.text()
    found.acks = fields.number(2)
    fields.skip(4)
    for topic in _topics(fields, found, by_id=version >= 13):
        for _ in _partitions(fields, found):
            number, size = fields.number(4), fields.length(4)
            found.found.append(Part(topic, number, size=size, count=_count(fields.peek(_BATCH_BYTES), size)))
            fields.skip(size)
            fields.tags()
        fields.tags()
    found.is_whole = True


def _count(batch: bytes, size: int) -> int | None:
    """How many records there are in a batch, if it is all there is."""
    if len(batch) < _BATCH_BYTES or batch[_MAGIC] != 2:
        return None
    length = int.from_bytes(batch[_BATCH_LENGTH:_BATCH_HEAD], "big")
    return int.from_bytes(batch[_RECORDS_AT:], "big") if _BATCH_HEAD + length == size else None


def _fetched(fields: _Fields, version: int, found: Parts) -> None:
    fields.skip((0 if version >= 15 else 4) + 8 + (4 if version >= 3 else 0))
    fields.skip((1 if version >= 4 else 0) + (8 if version >= 7 else 0))
    for topic in _topics(fields, found, by_id=version >= 13):
        for _ in _partitions(fields, found):
            found.found.append(Part(topic, fields.number(4)))
            fields.skip((4 if version >= 9 else 0) + 8 + (4 if version >= 12 else 0) + (8 if version >= 5 else 0) + 4)
            fields.tags()
        fields.tags()
    found.is_whole = True


def _committed(fields: _Fields, version: int, found: Parts) -> None:
    found.group = fields.text()
    if version >= 1:
        fields.skip(4)
        fields.text()
    if version >= 7:
        fields.text()
    if 2 <= version <= 4:
        fields.skip(8)
    for topic in _topics(fields, found, by_id=version >= 10):
        for _ in _partitions(fields, found):
            found.found.append(Part(topic, fields.number(4)))
            fields.skip(8 + (8 if version == 1 else 0) + (4 if version >= 6 else 0))
            fields.text()
            fields.tags()
        fields.tags()
    found.is_whole = True


def _skip_produced(fields: _Fields, version: int) -> None:
    """What follows the offset of a partition that was produced to."""
    fields.skip((8 if version >= 2 else 0) + (8 if version >= 5 else 0))
    if version >= 8:
        for _ in range(fields.count()):
            fields.skip(4)
            fields.text()
            fields.tags()
        fields.text()


def _read(fields: _Fields, version: int, found: Parts) -> None:
    """What was fetched."""
    if version >= 1:
        fields.skip(4)
    if version >= 7:
        found.error = fields.number(2)
        fields.skip(4)
    for topic in _topics(fields, found, by_id=version >= 13):
        for _ in _partitions(fields, found):
            number, error = fields.number(4), fields.number(2)
            fields.skip(8 + (8 if version >= 4 else 0) + (8 if version >= 5 else 0))
            if version >= 4:
                for _ in range(fields.count()):
                    fields.skip(16)
                    fields.tags()
            if version >= 11:
                fields.skip(4)
            size = fields.length(4)
            found.found.append(Part(topic, number, error, size))
            fields.skip(size)
            fields.tags()
        fields.tags()
    found.is_whole = True
