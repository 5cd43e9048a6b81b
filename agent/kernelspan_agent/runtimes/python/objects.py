# SPDX-License-Identifier: Apache-2.0
"""Reading CPython's str, bytes and dict from another process's memory.

The memory is hostile: every length found in it is bounded before it is used, and what does not look like the object it
should be gives CorruptObjectError. Nothing here follows more than one pointer, and no loop is longer than a constant.
Layouts: Include/cpython/unicodeobject.h, Include/internal/pycore_dict.h.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

from kernelspan_agent.process.memory import read_u64

if TYPE_CHECKING:
    from collections.abc import Iterator

    from kernelspan_agent.process.memory import Memory

    from .layout import Offsets, Types

MAX_STR_LENGTH = 1 << 30  # longer than any name: a stray word
MAX_DICT_ENTRIES_READ = 64  # a module puts __name__ first
ELLIPSIS = "…"

_STR_HEADER_BYTES = 36
_FIRST_WITH_FLAGS = 14
_COUNT_AND_OVERFLOW = 0xFFFFFFFFFFFF
_MAX_COUNT = 0xFFFFFFFF  # immortal objects of 3.12 and 3.13
_COMPACT, _ASCII = 1 << 5, 1 << 6
_ENCODINGS = {1: "latin-1", 2: "utf-16-le", 4: "utf-32-le"}
_POINTER = struct.Struct("<Q")


class CorruptObjectError(ValueError):
    """The memory does not hold the object that it should."""


def is_alive(memory: Memory, address: int, type_address: int, offsets: Offsets) -> bool:
    """Whether an object (of that type, where it is known) lives at `address`; its other fields may outlive it.

    A dead object's reference count is 0, until its allocator puts a link to the next free block there: a word beyond
    32 bits from pymalloc, whose arenas are mapped high; malloc overwrites the type, too. From 3.14 on the upper 16
    bits of the word are flags. Raises MemoryReadError.
    """
    count, kind = struct.unpack("<QQ", memory.read(address, 16))
    if offsets.minor >= _FIRST_WITH_FLAGS:
        count &= _COUNT_AND_OVERFLOW
    return 0 < count <= _MAX_COUNT and (not type_address or kind == type_address)


def read_str(memory: Memory, address: int, offsets: Offsets, max_chars: int) -> str:
    """The str at `address`; longer than `max_chars` it is cut and ends in an ellipsis.

    Raises MemoryReadError and CorruptObjectError.
    """
    header = memory.read(address, _STR_HEADER_BYTES)
    length = _POINTER.unpack_from(header, offsets.str_length)[0]
    state = struct.unpack_from("<I", header, offsets.str_state)[0]
    width = state >> 2 & 7
    if width not in _ENCODINGS or length > MAX_STR_LENGTH:
        raise CorruptObjectError(f"no str at {address:#x}")
    if state & _COMPACT:
        data = address + (offsets.str_data if state & _ASCII else offsets.str_compact_data)
    else:
        data = read_u64(memory, address + offsets.str_compact_data)
    raw = memory.read(data, min(length, max_chars) * width)
    text = _decode(raw, width)
    return text if length <= max_chars else text[: max_chars - 1] + ELLIPSIS


def read_bytes(memory: Memory, address: int, offsets: Offsets, max_bytes: int) -> bytes:
    """The bytes object at `address`. Raises MemoryReadError, and CorruptObjectError where it is longer."""
    size = read_u64(memory, address + offsets.bytes_size)
    if size > max_bytes:
        raise CorruptObjectError(f"{size} bytes at {address:#x}")
    return memory.read(address + offsets.bytes_data, size)


def find_module_name(memory: Memory, namespace: int, offsets: Offsets, types: Types) -> int:
    """Address of the str under "__name__" in the dict at `namespace`; 0 where its first entries hold none.

    A program may put anything there: only what is known to be a str is taken for one.

    Raises MemoryReadError and CorruptObjectError.
    """
    for key, value in read_entries(memory, namespace, offsets, MAX_DICT_ENTRIES_READ):
        if is_text(memory, key, b"__name__", offsets):
            return value if types.unicode and is_alive(memory, value, types.unicode, offsets) else 0
    return 0


def read_entries(memory: Memory, namespace: int, offsets: Offsets, most: int) -> Iterator[tuple[int, int]]:
    """Addresses of key and value of the first entries, `most` at most, of the dict at `namespace`.

    An instance's dict, which shares its keys with others, gives none. Raises MemoryReadError and CorruptObjectError.
    """
    keys, values = struct.unpack("<QQ", memory.read(namespace + offsets.dict_keys, 16))
    if values:
        return
    entries, stride, key_at = _entries(memory, keys, offsets, most)
    for position in range(0, len(entries), stride):
        key, value = struct.unpack_from("<QQ", entries, position + key_at)
        if key and value:  # a deleted entry has neither
            yield key, value


def _entries(memory: Memory, keys: int, offsets: Offsets, most: int) -> tuple[bytes, int, int]:
    """(the first entries, bytes of one, where its key stands)."""
    header = memory.read(keys, 40)
    if offsets.minor >= 11:
        log2_index_bytes, kind = header[9], header[10]
        count = _POINTER.unpack_from(header, 24)[0]
        if log2_index_bytes > 40 or kind > 1:
            raise CorruptObjectError(f"no dict keys at {keys:#x}")
        first = keys + 32 + (1 << log2_index_bytes)
        stride, key_at = (16, 0) if kind == 1 else (24, 8)
    else:
        size, count = _POINTER.unpack_from(header, 8)[0], _POINTER.unpack_from(header, 32)[0]
        if size > 1 << 40:
            raise CorruptObjectError(f"no dict keys at {keys:#x}")
        width = 1 if size <= 0xFF else 2 if size <= 0xFFFF else 4 if size <= 0xFFFFFFFF else 8
        first = keys + 40 + size * width
        stride, key_at = 24, 8
    return memory.read(first, min(count, most) * stride), stride, key_at


def is_text(memory: Memory, key: int, text: bytes, offsets: Offsets) -> bool:
    """Whether there is the compact ASCII str `text` at `key`. Raises MemoryReadError."""
    header = memory.read(key, offsets.str_data + len(text))
    length = _POINTER.unpack_from(header, offsets.str_length)[0]
    state = struct.unpack_from("<I", header, offsets.str_state)[0]
    return length == len(text) and state & (_COMPACT | _ASCII) == _COMPACT | _ASCII and header.endswith(text)


def _decode(raw: bytes, width: int) -> str:
    try:
        return raw.decode(_ENCODINGS[width], "surrogatepass")
    except UnicodeDecodeError as error:
        raise CorruptObjectError(f"no text: {error.reason}") from error
