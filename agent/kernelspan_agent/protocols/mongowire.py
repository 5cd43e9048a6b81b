# SPDX-License-Identifier: Apache-2.0
"""MongoDB's messages and the documents in them, as far as they say what is asked of what and whether that failed.

Of values nothing is kept but the names of databases and collections and the codes of errors. After "MongoDB Wire Protocol" of MongoDB's
manual and bsonspec.org.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

HEADER_BYTES = 16  # length, number, the number that is answered, what it is; each 32 bits, little-endian
MAX_MESSAGE_BYTES = 48_000_000  # that servers take
_MSG, _QUERY, _REPLY, _COMPRESSED = 2013, 2004, 1, 2012
_CHECKSUM, _MORE_TO_COME = 1, 2
_MAX_ELEMENTS, _MAX_NAME = 256, 255
_DOUBLE, _STRING, _DOCUMENT, _ARRAY, _BOOLEAN, _INT32, _INT64 = 1, 2, 3, 4, 8, 16, 18
_SIZES = {_DOUBLE: 8, 6: 0, 7: 12, _BOOLEAN: 1, 9: 8, 10: 0, _INT32: 4, 17: 8, _INT64: 8, 19: 16, 127: 0, 255: 0}
_BEHIND = {_STRING: 4, 5: 5, 12: 16, 13: 4, 14: 4}  # besides the length that they begin with
_WITH_LENGTH = {_DOCUMENT, _ARRAY, 15}  # whose length counts itself


@dataclass(frozen=True, slots=True)
class Header:
    """What a message begins with. `answers`: the number of what it answers; 0: nothing."""

    length: int
    number: int
    answers: int
    kind: int

    @property
    def is_message(self) -> bool:
        """Whether it can be read: older kinds only greet, and what is compressed is not opened."""
        return self.kind == _MSG


def header(data: bytes | bytearray) -> Header | None:
    """That of these bytes; None: they are none."""
    length, number, answers, kind = (int.from_bytes(data[at : at + 4], "little") for at in range(0, HEADER_BYTES, 4))
    is_one = len(data) >= HEADER_BYTES and HEADER_BYTES < length <= MAX_MESSAGE_BYTES
    return Header(length, number, answers, kind) if is_one and kind in {_MSG, _QUERY, _REPLY, _COMPRESSED} else None


@dataclass(frozen=True, slots=True)
class Asked:
    """A command. `collection`, `database`: empty: none, or not seen. `wants_answer`: whether there will be one."""

    command: str
    collection: str
    database: str
    wants_answer: bool


_OF_COLLECTION = {
    "aggregate",
    "collMod",
    "collStats",
    "compact",
    "convertToCapped",
    "count",
    "create",
    "createIndexes",
    "delete",
    "distinct",
    "drop",
    "dropIndexes",
    "find",
    "findAndModify",
    "findandmodify",
    "insert",
    "killCursors",
    "listIndexes",
    "mapReduce",
    "planCacheClear",
    "reIndex",
    "update",
    "validate",
}
"""Commands whose value is a collection's name; of others it may be a user's."""


def asked(head: bytes) -> Asked | None:
    """What a message asks, by its first bytes; None: it cannot be read."""
    flags, document = _body(head)
    command = collection = database = ""
    for name, kind, value in elements(document):
        if not command:
            if not (name.isascii() and name.isalnum() and len(name) <= 40):
                return None
            command = name
            if kind == _STRING and name in _OF_COLLECTION:
                collection = _text(value)
        elif name == "$db" and kind == _STRING:
            database = _text(value)
        elif name == "collection" and kind == _STRING and command == "getMore":
            collection = _text(value)
    return Asked(command, collection, database, not flags & _MORE_TO_COME) if command else None


def error(head: bytes) -> str:
    """The code of the error that a message tells; empty: none, or none that was seen."""
    code, failed = 0, False
    for name, kind, value in elements(_body(head)[1]):
        if name == "ok":
            failed = not _number(kind, value)
        elif name == "code":
            code = _number(kind, value)
        elif name == "writeErrors" and kind == _ARRAY:
            for _, inner, one in elements(value):
                return _code(one) if inner == _DOCUMENT else "_OTHER"
        elif name == "writeConcernError" and kind == _DOCUMENT:
            return _code(value)
    return "" if not failed else str(code) if code else "_OTHER"


def elements(document: bytes) -> Iterator[tuple[str, int, bytes]]:
    """Name, type and value of each element that is all there, its length and the end of a string without; documents whole."""
    end, at = min(len(document), int.from_bytes(document[:4], "little")), 4
    for _ in range(_MAX_ELEMENTS):
        if at >= end or not document[at]:
            return
        kind, stop = document[at], document.find(b"\0", at + 1, min(end, at + 2 + _MAX_NAME))
        if stop < 0:
            return
        name, at = document[at + 1 : stop].decode("utf-8", "replace"), stop + 1
        size = _size(kind, document, at)
        if size < 0 or at + size > end:
            return
        value = document[at : at + size]
        yield name, kind, value[4:-1] if kind == _STRING else value
        at += size


def _size(kind: int, document: bytes, at: int) -> int:
    """Bytes of a value; -1: not known."""
    if kind in _SIZES:
        return _SIZES[kind]
    length = int.from_bytes(document[at : at + 4], "little")
    if kind in _WITH_LENGTH:
        return length if length >= 4 else -1
    if kind in _BEHIND:
        return length + _BEHIND[kind]
    if kind == 11:  # a regular expression: two strings
        middle = document.find(b"\0", at)
        last = document.find(b"\0", middle + 1) if middle >= 0 else -1
        return last + 1 - at if last >= 0 else -1
    return -1


def _body(head: bytes) -> tuple[int, bytes]:
    """The flags, and the document that says what is asked or answered; sequences of documents may come before it."""
    flags = int.from_bytes(head[HEADER_BYTES : HEADER_BYTES + 4], "little")
    at = HEADER_BYTES + 4
    while at < len(head) and head[at] == 1:
        at += 1 + max(4, int.from_bytes(head[at + 1 : at + 5], "little"))
    return flags, head[at + 1 :] if at < len(head) and head[at] == 0 else b""


def _text(value: bytes) -> str:
    return value[:_MAX_NAME].decode("utf-8", "replace")


def _number(kind: int, value: bytes) -> int:
    """0 or not is all that a double is asked for."""
    if kind == _DOUBLE:
        return int(any(value[:7]) or bool(value[7] & 0x7F))
    return int.from_bytes(value, "little", signed=True) if kind in {_INT32, _INT64, _BOOLEAN} else 0


def _code(document: bytes) -> str:
    for name, kind, value in elements(document):
        if name == "code" and kind == _INT32:
            return str(_number(kind, value))
    return "_OTHER"
