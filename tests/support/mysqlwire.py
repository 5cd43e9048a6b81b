# SPDX-License-Identifier: Apache-2.0
"""A connection of MySQL's protocol as the agent is told of it, and packets that go over it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from kernelspan_agent.model import Payload, WireProtocol
from kernelspan_agent.protocols.connections import Connections
from kernelspan_agent.protocols.mysql import Asked

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
    lost: set[int] = field(default_factory=set)  # calls behind the login whose records do not come
    lost_before: set[int] = field(default_factory=set)  # of the login
    number: int = 0

    def __post_init__(self) -> None:
        lost, self.lost = self.lost, self.lost_before
        if not self.joined:
            self.move(greeting(), sends=self.is_server)
            self.move(packet(1, hello(CAPABILITIES | self.capabilities)), sends=not self.is_server)
            self.move(packet(2, b"\xfeother\0salt\0"), sends=self.is_server)
            self.move(packet(3, b"s3cret"), sends=not self.is_server)
            self.move(packet(4, ok()), sends=self.is_server)
            self.calls = 0
        self.lost = lost

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


def numbered(bodies: Iterable[bytes], number: int = 1) -> bytes:
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
