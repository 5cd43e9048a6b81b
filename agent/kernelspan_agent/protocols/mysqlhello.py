# SPDX-License-Identifier: Apache-2.0
"""How a connection of MySQL's protocol begins: what the server says first, what the client answers, what both agree upon.

MariaDB's manual, "1 - Connecting", and MySQL's, "Connection Phase". Hostile input: what is not there is empty.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from kernelspan_agent.protocols.mysqlwire import string_of

MAX_NAME = 128
_WITH_DATABASE, _COMPRESSED, PROTOCOL_41, TLS, _SECURE = 0x8, 0x20, 0x200, 0x800, 0x8000
_MYSQL = 0x1  # which MariaDB does not say
_LENGTH_OF_SECRET, TRACKS, _ZSTD = 0x200000, 0x800000, 0x4000000
SEVERAL = 0x10000  # statements at once
ATTRIBUTES = 0x8000000  # statements may bear some
_TLS_BYTES = 32  # of a client's first packet that asks for TLS
_GREETING = re.compile(
    rb"\x0a(?P<version>[0-9][ -~]{0,63})\x00.{12}\x00(?P<low>..)(?:.(?P<status>..)(?P<high>..).{11})?", re.DOTALL
)


@dataclass(frozen=True, slots=True)
class Greeting:
    """A server's. `capabilities`: bits of what it can do."""

    is_mariadb: bool
    capabilities: int


@dataclass(frozen=True, slots=True)
class Hello:
    """A client's. `asks_for_tls`: the connection goes on encrypted, and there is no more."""

    capabilities: int
    database: bytes = b""
    asks_for_tls: bool = False

    @property
    def is_compressed(self) -> bool:
        """Whether what follows the login is."""
        return bool(self.capabilities & (_COMPRESSED | _ZSTD))


def greeting_of(body: bytes) -> Greeting | None:
    """None: it is none."""
    found = _GREETING.match(body)
    if found is None:
        return None
    low = int.from_bytes(found["low"], "little")
    high = int.from_bytes(found["high"] or b"", "little")
    return Greeting(b"MariaDB" in found["version"] or not low & _MYSQL, high << 16 | low)


def hello_of(body: bytes, server: int) -> Hello | None:
    """`server`: its capabilities; what only one end has is not used. None: it is none of this protocol's present form."""
    said = int.from_bytes(body[:4], "little")
    if len(body) < _TLS_BYTES or not said & PROTOCOL_41:
        return None
    both = said & server
    if len(body) == _TLS_BYTES and both & TLS:
        return Hello(both, asks_for_tls=True)
    rest = body[_TLS_BYTES:].partition(b"\0")[2]
    if said & _LENGTH_OF_SECRET:
        _, at = string_of(rest, 0)
    elif said & _SECURE:
        at = 1 + rest[0] if rest else 0
    else:
        at = rest.find(b"\0") + 1
    database = rest[at:].partition(b"\0")[0] if said & _WITH_DATABASE else b""
    return Hello(both, database)


def database_of_change(body: bytes) -> bytes:
    """Which a client that becomes another user selects; `body`: behind the command's byte."""
    rest = body.partition(b"\0")[2]
    return rest[1 + rest[0] :].partition(b"\0")[0] if rest else b""
