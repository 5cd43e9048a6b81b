# SPDX-License-Identifier: Apache-2.0
"""Messages put together of parts that are encoded already: a field that is a message is its tag, its length, its bytes.

A plan is made for every node that a change touches; to set its thousand fields anew each time took most of that time, and
the objects of protobuf take seven times the room of the bytes. (protobuf.dev/programming-guides/encoding.)
"""

from __future__ import annotations

from functools import lru_cache

from google.protobuf.message import Message

from kernelspan_api import wire


def number(message: type[Message], field: str) -> int:
    """A field's number, as the .proto says it."""
    return int(message.DESCRIPTOR.fields_by_name[field].number)


@lru_cache(4096)
def head(field: int, length: int) -> bytes:
    """What stands before the bytes of a field that has so many; of pods of one shape they are the same."""
    return wire.head(field, length)


def delimited(field: int, data: bytes) -> bytes:
    """The field whole."""
    return head(field, len(data)) + data
