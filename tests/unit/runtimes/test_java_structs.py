# SPDX-License-Identifier: Apache-2.0
"""The tables that a libjvm publishes, in files that are made for it: what is read is what they say, or an error of ours."""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kernelspan_agent.process.elf import ET_DYN, PT_LOAD, Elf, Section, Segment
from kernelspan_agent.process.errors import ElfError, MemoryReadError
from kernelspan_agent.runtimes.java.layout import LayoutError, read_offsets
from kernelspan_agent.runtimes.java.structs import INTS, STRUCTS, TYPES, read_structs, read_tables

SIZE = 8192
SYMBOLS = {STRUCTS: 0x10, TYPES: 0x18, INTS: 0x20}
BIAS = 0x7F0000000000


class Copy:
    """What the loader has made of a file, at BIAS."""

    def __init__(self, data: bytes) -> None:
        self.data = data

    def read(self, address: int, size: int) -> bytes:
        at = address - BIAS
        if not 0 <= at <= len(self.data) - size:
            raise MemoryReadError(address, size, "not here")
        return self.data[at : at + size]


@contextmanager
def elf_of(data: bytes, relocations: bytes = b"") -> Iterator[Elf]:
    """A file loaded whole at 0, behind it its relocations."""
    fd = os.memfd_create("libjvm")
    try:
        os.write(fd, data + relocations)
        sections = (Section(".rela.dyn", 4, 0, len(data), len(relocations), 0),)
        yield Elf(fd, ET_DYN, 62, (Segment(PT_LOAD, 0, 0, len(data), len(data)),), sections)
    finally:
        os.close(fd)


def made() -> tuple[bytearray, bytes, bytearray]:
    """(file, its relocations, what becomes of it): two fields, one of them static, a type and two constants."""
    file, relocations, top = bytearray(SIZE), b"", 0x1000

    def text(words: str) -> int:
        nonlocal top
        at, top = top, top + len(words) + 1
        file[at : at + len(words)] = words.encode()
        return at

    def point(at: int, to: int) -> None:
        nonlocal relocations
        relocations += struct.pack("<QIIq", at, 8, 0, to)

    for symbol, at in zip(SYMBOLS.values(), (0x100, 0x300, 0x400), strict=True):
        point(symbol, at)
    for at, words in ((0x100, ("JavaThread", "_anchor", "JavaFrameAnchor")), (0x130, ("CodeCache", "_heaps", "int"))):
        for number, word in enumerate(words):
            point(at + 8 * number, text(word))
    struct.pack_into("<Q", file, 0x130 + 24, 1)
    point(0x130 + 40, 0x1800)
    point(0x300, text("HeapBlock"))
    for at, name, value in ((0x400, "frame::offset", -6), (0x410, "_thread_in_Java", 8)):
        point(at, text(name))
        struct.pack_into("<i", file, at + 8, value)
    loaded = bytearray(file)
    for at, _, _, to in struct.iter_unpack("<QIIq", relocations):
        struct.pack_into("<Q", loaded, at, BIAS + to)
    struct.pack_into("<Q", loaded, 0x100 + 32, 656)  # put there when it is loaded
    struct.pack_into("<Q", loaded, 0x300 + 32, 16)
    return file, relocations, loaded


def test_rows_from_the_file_numbers_from_the_process() -> None:
    """Names and variables are in the file; offsets and sizes only where it is loaded."""
    file, relocations, loaded = made()
    with elf_of(bytes(file), relocations) as elf:
        tables = read_tables(elf, SYMBOLS)
    assert tables.variables == {("CodeCache", "_heaps"): 0x1800}
    structs = read_structs(Copy(bytes(loaded)), tables, BIAS)
    assert structs.offset(("Thread", "_anchor"), ("JavaThread", "_anchor")) == 656
    assert structs.offset(("Thread", "_anchor")) is None
    assert structs.type_of(("JavaThread", "_anchor")) == "JavaFrameAnchor"
    assert (structs.size("HeapBlock"), structs.size("Other")) == (16, None)
    assert (structs.constant("frame::offset"), structs.constant("_thread_in_Java")) == (-6, 8)
    with pytest.raises(LayoutError, match="_osthread"):
        read_offsets(structs, 17)


@given(st.binary(min_size=64, max_size=600), st.integers(0, SIZE), st.integers(0, 255))
def test_hostile_files(noise: bytes, at: int, byte: int) -> None:
    """Random files, random relocations, and a file with a byte changed: tables or an error."""
    file, relocations, loaded = made()
    changed = bytearray(bytes(file) + relocations)
    changed[at % len(changed)] = byte
    cases = (
        (noise * 4, b""),
        (bytes(file), noise[: len(noise) // 24 * 24]),
        (bytes(changed[:SIZE]), bytes(changed[SIZE:])),
    )
    for data, places in cases:
        with elf_of(data, places) as elf:
            try:
                tables = read_tables(elf, SYMBOLS)
                read_structs(Copy(bytes(loaded)), tables, BIAS)
            except (ElfError, MemoryReadError):
                continue


def test_a_table_without_an_end() -> None:
    """A table that goes on to the end of the file is none."""
    data = bytearray(b"\x40\0\0\0\0\0\0\0" * (SIZE // 8))
    data[0x40:0x48] = b"name\0\0\0\0"
    with elf_of(bytes(data)) as elf, pytest.raises(ElfError):
        read_tables(elf, SYMBOLS)
