# SPDX-License-Identifier: Apache-2.0
"""Names and lines of Ruby's frames from crafted records and memory; what is hostile gives no name, no hang and no error."""

from __future__ import annotations

import contextlib
import os
import struct
from unittest import mock

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kernelspan_agent.process.errors import MemoryReadError
from kernelspan_agent.process.procfs import Process, open_process, parse_maps
from kernelspan_agent.ring.records import FRAME
from kernelspan_agent.runtimes.registry import DetectedRuntime
from kernelspan_agent.runtimes.ruby.detect import RubyDetails
from kernelspan_agent.runtimes.ruby.frames import MAX_FRAMES, line_of
from kernelspan_agent.runtimes.ruby.layout import (
    BLOCK,
    BY_VERSION,
    CFUNC,
    CUT_CLASS,
    CUT_FILE,
    CUT_NAME,
    EVAL,
    MAIN,
    METHOD,
    MISSING,
    RESCUE,
    RUBY_CODE,
    RUBY_LAYOUT,
    SINGLETON,
    TLS_DYNAMIC,
    UNREAD,
    kernel_row,
)
from kernelspan_agent.runtimes.ruby.objects import CorruptObjectError, Names
from kernelspan_agent.runtimes.ruby.symbolise import MAX_CODES, MAX_NAME_CHARS, RubySymboliser, function_name
from kernelspan_agent.runtimes.ruby.walk import MAX_THREADS, read_stacks

OWN = open_process(os.getpid())


def details(version: tuple[int, int] = (3, 3), process: Process = OWN) -> RubyDetails:
    return RubyDetails(process, BY_VERSION[version], version, TLS_DYNAMIC, 0x1000, 0x77, 0x2000)


class Nothing:
    """Memory of which nothing can be read."""

    def read(self, address: int, size: int) -> bytes:
        raise MemoryReadError(address, size, "nothing is there")


def code_record(code: int, name: bytes, class_name: bytes, file: bytes, flags: int = 0, owner: int = METHOD) -> bytes:
    header = np.zeros(1, RUBY_CODE)
    header["code"], header["flags"], header["owner"] = code, flags, owner
    header["name_bytes"], header["class_bytes"], header["file_bytes"] = len(name), len(class_name), len(file)
    present = [
        text for text, cut in ((name, CUT_NAME), (class_name, CUT_CLASS), (file, CUT_FILE)) if not flags & cut * MISSING
    ]
    return header.tobytes() + b"".join(present)


def rows_of(*frames: tuple[int, int, int]) -> np.ndarray:
    rows = np.zeros(len(frames), FRAME)
    for row, (code, line, owner) in zip(rows, frames, strict=True):
        row["code"], row["pc"], row["owner"] = code, line | 7 << 32, owner
    return rows


@pytest.mark.parametrize(
    ("label", "class_name", "owner", "expected"),
    [
        ("find", "Shop::Cart", METHOD, "Shop::Cart#find"),
        ("find", "Shop::Cart", METHOD | SINGLETON, "Shop::Cart.find"),
        ("find", "", METHOD, "find"),
        ("block in find", "Shop", BLOCK, "block in Shop#find"),
        ("block (12 levels) in find", "Shop", BLOCK | SINGLETON, "block (12 levels) in Shop.find"),
        ("rescue in block in find", "Shop", RESCUE, "rescue in block in Shop#find"),
        ("find", "Shop", EVAL, "Shop#find"),
        ("<main>", "", MAIN, "<main>"),
        ("block in <class:Shop>", "Shop", BLOCK, "block in <class:Shop>"),
        ("block in singleton class", "Shop", BLOCK, "block in singleton class"),
        ("<=>", "Shop", METHOD, "Shop#<=>"),
        ("block in <<", "Shop", BLOCK, "block in Shop#<<"),
        ("block in find", "Shop", METHOD, "Shop#block in find"),  # of a method that is called so
        ("each", "Array", CFUNC, "Array#each"),
        ("x" * 300, "", METHOD, "x" * (MAX_NAME_CHARS - 1) + "…"),
    ],
)
def test_functions(label: str, class_name: str, owner: int, expected: str) -> None:
    """A class stands before the method, wherever that stands in the label."""
    assert function_name(label, class_name, owner) == expected


def test_what_the_kernel_sent() -> None:
    """Function, file and line; what was cut says so; what was not sent has no name and says why."""
    symboliser = RubySymboliser(Nothing(), details())
    symboliser.learn(code_record(1, b"find", b"Shop", b"/a.rb"))
    symboliser.learn(code_record(2, b"n" * 100, b"C", b"/f", CUT_NAME | CUT_FILE))
    symboliser.learn(code_record(3, "é\xff".encode("latin-1"), b"", b"/\xff.rb"))
    one, two, three, four = symboliser.frames(rows_of((1, 12, METHOD), (2, 0, METHOD), (3, 3, METHOD), (4, 5, METHOD)))
    assert (one.function, one.file, one.line, one.call_site, one.unresolved) == ("Shop#find", "/a.rb", 12, 7, "")
    assert (two.function, two.file) == ("C#" + "n" * 100 + "…", "/f…")
    assert three.file == "/\udcff.rb"
    assert (four.function, four.unresolved) == ("", "CodeFreed")
    assert symboliser.unresolved == {"CodeFreed": 1}


def test_what_handles_exceptions_since_3_4() -> None:
    """It stands for the method it is in, as in Ruby's own backtraces; before it is a frame of its own."""
    for version, expected in (
        ((3, 3), ["rescue in Shop#find", "Shop#find", "<main>"]),
        ((3, 4), ["Shop#find", "<main>"]),
    ):
        symboliser = RubySymboliser(Nothing(), details(version))
        symboliser.learn(code_record(1, b"rescue in find", b"Shop", b"/a.rb", owner=RESCUE))
        symboliser.learn(code_record(2, b"find", b"Shop", b"/a.rb"))
        symboliser.learn(code_record(3, b"<main>", b"", b"/a.rb", owner=MAIN))
        frames = symboliser.frames(rows_of((1, 9, RESCUE), (2, 5, METHOD), (3, 1, MAIN)))
        assert [frame.function for frame in frames] == expected
        assert frames[0].line == 9


def test_texts_that_were_not_resident() -> None:
    """Read later only where the process cannot have written them since: in a file that it has mapped for reading."""

    class Always:
        def read(self, _address: int, size: int) -> bytes:
            return b"read"[:size]

    maps = "1000-2000 r--p 00000000 08:01 5 /lib/libruby.so\n2000-3000 rw-p 00001000 08:01 5 /lib/libruby.so\n"
    mappings = list(parse_maps(maps.encode()))
    with mock.patch("kernelspan_agent.runtimes.ruby.symbolise.procfs.read_maps", return_value=mappings):
        for address, found in ((0x1100, "IO#read"), (0x2100, ""), (0x9000, "")):
            symboliser = RubySymboliser(Always(), details())
            record = np.frombuffer(code_record(9, b"read", b"IO", b"/a.rb", MISSING * CUT_NAME), RUBY_CODE, 1).copy()
            record["name_at"] = address
            symboliser.learn(record.tobytes() + b"IO/a.rb")
            (frame,) = symboliser.frames(rows_of((9, 1, METHOD | UNREAD)))
            assert frame.function == found
            assert bool(frame.unresolved) == (not found)


def test_mappings_are_not_read_again_for_every_stray_address() -> None:
    """A thousand functions that are nowhere cost some ten looks; one of a library that was loaded meanwhile is found."""
    with mock.patch("kernelspan_agent.runtimes.ruby.symbolise.procfs.read_maps", return_value=[]) as read:
        symboliser = RubySymboliser(Nothing(), details())
        for code in range(1, 1001):
            record = np.frombuffer(code_record(code, b"f", b"", b"", owner=CFUNC), RUBY_CODE, 1).copy()
            record["function"] = 0x100 * code
            symboliser.learn(record.tobytes() + b"f")
        assert read.call_count <= 12
    maps = b"1000-2000 r-xp 00000000 08:01 5 /lib/late.so\n"
    with mock.patch(
        "kernelspan_agent.runtimes.ruby.symbolise.procfs.read_maps", side_effect=[[], list(parse_maps(maps))]
    ):
        symboliser = RubySymboliser(Nothing(), details())
        record["function"] = 0x1100
        symboliser.learn(record.tobytes() + b"f")
    (frame,) = symboliser.frames(rows_of((1000, 0, CFUNC)))
    assert (frame.function, frame.file) == ("f", "/lib/late.so")


def test_the_cache_is_bounded() -> None:
    """What was used last stays."""
    symboliser = RubySymboliser(Nothing(), details())
    for code in range(1, MAX_CODES + 10):
        symboliser.learn(code_record(code, b"f", b"", b"/a.rb"))
        symboliser.frames(rows_of((1, 1, METHOD)))
    assert len(symboliser._codes) == MAX_CODES
    first, second = symboliser.frames(rows_of((1, 1, METHOD), (2, 1, METHOD)))
    assert (first.function, second.unresolved) == ("f", "CodeFreed")


@given(st.binary(max_size=200), st.integers(0, 255))
def test_hostile_records(data: bytes, flags: int) -> None:
    """A record that contradicts itself is no name and no error."""
    symboliser = RubySymboliser(Nothing(), details())
    symboliser.learn(data)
    header = np.zeros(1, RUBY_CODE)
    header["code"], header["flags"] = 5, flags
    header["name_bytes"], header["class_bytes"], header["file_bytes"] = 60_000, 3, 7
    symboliser.learn(header.tobytes() + data)
    (frame,) = symboliser.frames(rows_of((5, 1, METHOD)))
    assert frame.unresolved


# --- lines --------------------------------------------------------------------------------------------------------


def succinct(positions: list[int], size: int) -> bytes:
    """The table that Ruby makes of the positions where entries begin (iseq.c: succ_index_table_create), the first 0."""
    starts, ranks, rank = set(positions), [], 0
    for at in range(size):
        rank += at in starts
        ranks.append(rank)
    words = [0] * 6
    for at in range(min(size, 54)):
        words[at // 9] |= ranks[at] << at % 9 * 7
    data = struct.pack("<6Q", *words)
    for base in range(54, size, 512):
        before, small, bits, within = ranks[base - 1], 0, [0] * 8, 0
        for word in range(8):
            if word:
                small |= within << (word - 1) * 9
            for bit in range(64):
                if base + word * 64 + bit in starts:
                    bits[word] |= 1 << bit
                    within += 1
        data += struct.pack("<QQ8Q", before, small, *bits)
    return data


class Table:
    """A body, its entries and its table at fixed addresses."""

    def __init__(self, version: tuple[int, int], positions: list[int], size: int) -> None:
        self.offsets = BY_VERSION[version]
        body = bytearray(400)
        struct.pack_into("<4Q", body, self.offsets.lines, 0x10000, 0, len(positions), 0x20000)
        entries = b"".join(
            struct.pack("<I", 100 + number) + bytes(self.offsets.line_bytes - 4) for number in range(len(positions))
        )
        self.parts = {0x1000: bytes(body), 0x10000: entries, 0x20000: succinct(positions, size)}

    def read(self, address: int, size: int) -> bytes:
        base = max(each for each in self.parts if each <= address)
        data = self.parts[base][address - base : address - base + size]
        if len(data) != size:
            raise MemoryReadError(address, size, "outside")
        return data


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(sorted(BY_VERSION)), st.integers(1, 1700), st.data())
def test_lines_of_every_position(version: tuple[int, int], size: int, data: st.DataObject) -> None:
    """The entry that a position belongs to, in small functions and in large ones."""
    others = data.draw(st.sets(st.integers(1, max(size - 1, 1)), max_size=60))
    positions = sorted({0} | {each for each in others if each < size})
    table = Table(version, positions, size)
    for pc in range(1, size + 1):
        expected = 100 + max(number for number, at in enumerate(positions) if at <= pc - 1)
        assert line_of(table, 0x1000, pc, table.offsets) == expected
    assert line_of(table, 0x1000, 0, table.offsets) == 100


# --- memory -------------------------------------------------------------------------------------------------------


class Noise:
    """Memory whose every byte follows from its address and a seed; words are often addresses of itself."""

    def __init__(self, data: bytes, *, holes: int) -> None:
        self.data, self.holes, self.reads = data, holes, 0

    def read(self, address: int, size: int) -> bytes:
        self.reads += 1
        if size > 1 << 20 or (self.holes and address % self.holes == 0):
            raise MemoryReadError(address, size, "a hole")
        start = address % len(self.data)
        return (self.data[start:] + self.data * (size // len(self.data) + 1))[:size]


WORDS = st.lists(
    st.one_of(
        st.integers(0, 64),
        st.sampled_from([5, 7, 0x2005, 0x2007, 26 | 6 << 12, 26 | 2 << 12, 0x55550003, 0x11110003, 2, 0x1002]),
        st.integers(0, (1 << 64) - 1),
    ),
    min_size=1,
    max_size=64,
).map(lambda words: struct.pack(f"<{len(words)}Q", *words))
VERSIONS = st.sampled_from(sorted(BY_VERSION))


@settings(max_examples=300, deadline=None)
@given(WORDS, st.integers(0, 7), VERSIONS)
def test_hostile_stacks(data: bytes, holes: int, version: tuple[int, int]) -> None:
    """Lists without an end, or of nothing, end; whatever lies there is no error but our own."""
    memory = Noise(data, holes=holes)
    found = DetectedRuntime("ruby", 6, "CRuby", "", "", np.zeros(1, RUBY_LAYOUT), 0, details(version))
    with (
        mock.patch("kernelspan_agent.runtimes.ruby.walk.MAX_THREADS", 3),
        mock.patch("kernelspan_agent.runtimes.ruby.frames.MAX_STEPS", 40),
    ):
        try:
            stacks = read_stacks(found, memory)
        except MemoryReadError:
            return
    assert len(stacks) <= MAX_THREADS
    for stack in stacks:
        assert len(stack.rows) <= MAX_FRAMES + 1
        RubySymboliser(memory, details(version)).frames(stack.rows)
    assert memory.reads < 200_000


@settings(max_examples=300, deadline=None)
@given(WORDS, st.integers(0, 7), VERSIONS, st.integers(0, 1 << 40))
def test_hostile_names(data: bytes, holes: int, version: tuple[int, int], number: int) -> None:
    """A table of symbols that is none gives no name, in a few reads."""
    memory = Noise(data, holes=holes)
    with contextlib.suppress(MemoryReadError, CorruptObjectError):
        Names(memory, 0x1000, BY_VERSION[version]).name(number)
    assert memory.reads < 20


def test_layouts_of_the_kernel() -> None:
    """A row says how the context is found, and what is absent as such."""
    for version, offsets in BY_VERSION.items():
        row = kernel_row(version, offsets, TLS_DYNAMIC, 16, classpath_id=9, symbols=-8)[0]
        assert (row["version"], row["tls"], row["tls_step"], row["symbols"]) == (
            version[0] * 100 + version[1],
            1,
            16,
            -8,
        )
        assert (row["ec_fiber"], row["local_iseq"]) == (offsets.ec_thread - 8, offsets.parent_iseq + 8)
        assert (row["class_path"] == 0xFFFF) == (version < (3, 2))
