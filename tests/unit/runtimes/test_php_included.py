# SPDX-License-Identifier: Apache-2.0
"""EG(included_files) in memory that is made to mislead: a path is given only where a key of the table holds it."""

from __future__ import annotations

import struct
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kernelspan_agent.process.errors import MemoryReadError
from kernelspan_agent.runtimes.php.included import INCLUDED_FILES, MAX_FILES, read_files
from kernelspan_agent.runtimes.php.layout import Symbols
from tests.unit.runtimes.test_php_symbolise import Heap

GLOBALS = 0x1000
FOUND = SimpleNamespace(details=SimpleNamespace(symbols=Symbols(GLOBALS)))


def table(heap: Heap, buckets: bytes, used: int, size: int) -> None:
    """The hash table in EG, with these entries."""
    at = heap.put(buckets + b"\0" * 32)
    head = struct.pack("<QIIQIIIIqQ", 0, 0, 0, at, used, used, size, 0, 0, 0)
    heap.write(GLOBALS + INCLUDED_FILES, head)


def bucket(key: int) -> bytes:
    return struct.pack("<QQQQ", 0, 4, 1, key)


def read(heap: Heap) -> list[str] | None:
    return read_files(FOUND, heap)  # type: ignore[arg-type]


def test_in_their_order() -> None:
    """Each once; what is no absolute path, too long, or not there is left out."""
    heap = Heap()
    keys = [heap.string(text) for text in ("/a.php", "/b.php", "/a.php", "relative.php", "/" + "x" * 5000)]
    table(heap, b"".join(map(bucket, [keys[0], 0, 0xDEAD0000, *keys[1:]])), 7, 8)
    assert read(heap) == ["/a.php", "/b.php"]


def test_between_requests() -> None:
    """An empty table is an empty list."""
    heap = Heap()
    table(heap, b"", 0, 8)
    assert read(heap) == []


@pytest.mark.parametrize(("used", "size"), [(9, 8), (3, 7), (MAX_FILES * 2, MAX_FILES * 2), (1, 0), (0xFFFFFFFF, 8)])
def test_what_is_no_table(used: int, size: int) -> None:
    """Its size is a power of two, at least what is used, and bounded."""
    heap = Heap()
    table(heap, bucket(heap.string("/a.php")), used, size)
    assert read(heap) is None


@given(st.binary(min_size=56, max_size=56), st.lists(st.binary(max_size=64), max_size=8))
def test_noise(head: bytes, objects: list[bytes]) -> None:
    """Any table and any memory: a list, nothing, or the one error."""
    heap = Heap()
    for each in objects:
        heap.put(each)
    heap.write(GLOBALS + INCLUDED_FILES, head)
    try:
        found = read(heap)
    except MemoryReadError:
        return
    assert found is None or all(path.startswith("/") for path in found)
