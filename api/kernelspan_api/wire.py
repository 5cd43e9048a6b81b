# SPDX-License-Identifier: Apache-2.0
"""The few pieces of the protobuf wire format by which messages are put together of parts that are encoded already.

Layout: protobuf.dev/programming-guides/encoding.
"""

from __future__ import annotations

BYTES = 2  # the wire type of messages, strings and bytes


def varint(value: int) -> bytes:
    """Shortest varint of `value`; a negative int64 takes its ten bytes of two's complement."""
    value &= (1 << 64) - 1
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def tag(number: int, wire_type: int) -> bytes:
    """Key of a field."""
    return varint(number << 3 | wire_type)


def head(number: int, length: int) -> bytes:
    """What stands before the bytes of a length-delimited field that has so many."""
    return tag(number, BYTES) + varint(length)


def block(number: int, payload: bytes) -> bytes:
    """A length-delimited field: string, bytes or message."""
    return head(number, len(payload)) + payload
