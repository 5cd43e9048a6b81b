# SPDX-License-Identifier: Apache-2.0
"""The few pieces of the protobuf wire format that OTLP needs, so that no message class has to be resident.

Layout: protobuf.dev/programming-guides/encoding. Field numbers: opentelemetry-proto common/v1/common.proto.
"""

from __future__ import annotations

from collections.abc import Iterator

from kernelspan_agent.model import Attributes, AttributeValue
from kernelspan_api.wire import BYTES, block, tag, varint

__all__ = ["BYTES", "any_value", "attributes", "block", "fields", "in_int64", "signed", "tag", "text", "varint"]

VARINT, FIXED64, FIXED32 = 0, 1, 5
_MAX_VARINT_BYTES = 10
_INT64_MIN, _INT64_MAX = -(1 << 63), (1 << 63) - 1


def text(value: str) -> bytes:
    r"""Valid UTF-8 for any str: a byte that was not (surrogateescape) becomes `\xNN`, a lone surrogate `\uNNNN`."""
    try:
        return value.encode()
    except UnicodeEncodeError:
        pass
    try:
        return value.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace").encode()
    except UnicodeEncodeError:
        return value.encode("utf-8", "backslashreplace")


def in_int64(value: int) -> bool:
    """Whether OTLP's intValue can hold it; what it cannot hold travels as decimal text."""
    return _INT64_MIN <= value <= _INT64_MAX


def any_value(value: AttributeValue) -> bytes:
    """AnyValue. Raises TypeError for what is no attribute value."""
    if isinstance(value, str):
        return block(1, text(value))
    if isinstance(value, bool):
        return tag(2, VARINT) + varint(value)
    if isinstance(value, int):
        return tag(3, VARINT) + varint(value) if in_int64(value) else block(1, str(value).encode())
    if isinstance(value, tuple):
        return block(5, b"".join(block(1, any_value(item)) for item in value))
    raise TypeError(f"an attribute value cannot be {type(value).__name__}")


def attributes(number: int, values: Attributes) -> bytes:
    """Repeated KeyValue as field `number` of the message around it."""
    return b"".join(block(number, block(1, text(key)) + block(2, any_value(value))) for key, value in values.items())


def _read_varint(data: bytes, at: int) -> tuple[int, int]:
    value = 0
    for step in range(_MAX_VARINT_BYTES):
        if at + step >= len(data):
            break
        byte = data[at + step]
        value |= (byte & 0x7F) << (7 * step)
        if byte < 0x80:
            return value & ((1 << 64) - 1), at + step + 1
    raise ValueError("malformed varint")


def fields(data: bytes) -> Iterator[tuple[int, int | bytes]]:
    """(number, value) of each field of a message from a peer: int for varints, bytes for the rest.

    Raises ValueError where the bytes are no message; never reads beyond them.
    """
    at = 0
    while at < len(data):
        key, at = _read_varint(data, at)
        number, wire_type = key >> 3, key & 7
        if wire_type == VARINT:
            value, at = _read_varint(data, at)
            yield number, value
            continue
        if wire_type == BYTES:
            size, at = _read_varint(data, at)
        elif wire_type in (FIXED64, FIXED32):
            size = 8 if wire_type == FIXED64 else 4
        else:
            raise ValueError(f"unknown wire type {wire_type}")
        if at + size > len(data):
            raise ValueError("truncated field")
        yield number, data[at : at + size]
        at += size


def signed(value: int) -> int:
    """A varint as the int64 it stands for."""
    return value - (1 << 64) if value >> 63 else value
