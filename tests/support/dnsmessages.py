# SPDX-License-Identifier: Apache-2.0
"""Messages of DNS as servers and resolvers write them."""

from __future__ import annotations

import ipaddress
import struct
from collections.abc import Sequence


def packed(name: str) -> bytes:
    labels = [each.encode("latin-1") for each in name.split(".") if each]
    return b"".join(bytes([len(each)]) + each for each in labels) + b"\0"


def question(number: int, name: str = "www.example.com", kind: int = 1, more: bytes = b"") -> bytes:
    head = struct.pack(">HHHHHH", number, 0x0100, 1, 0, 0, bool(more))
    return head + packed(name) + struct.pack(">HH", kind, 1) + more


def answer(
    number: int,
    name: str = "www.example.com",
    kind: int = 1,
    flags: int = 0,
    addresses: Sequence[str] = (),
    more: bytes = b"",
) -> bytes:
    """The owner of each record is a pointer to the question."""
    head = struct.pack(">HHHHHH", number, 0x8180 | flags, 1, len(addresses), 0, bool(more))
    records = b""
    for each in addresses:
        data = ipaddress.ip_address(each).packed
        records += b"\xc0\x0c" + struct.pack(">HHIH", 1 if len(data) == 4 else 28, 1, 60, len(data)) + data
    return head + packed(name) + struct.pack(">HH", kind, 1) + records + more


def opt(high: int = 0) -> bytes:
    return b"\0" + struct.pack(">HHIH", 41, 1232, high << 24, 0)


def framed(message: bytes) -> bytes:
    return len(message).to_bytes(2, "big") + message
