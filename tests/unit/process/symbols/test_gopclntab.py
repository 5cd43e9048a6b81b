# SPDX-License-Identifier: Apache-2.0
"""Go's table of functions in each of its layouts, and damaged. Files of real linkers: tests/kernel/test_symbols_go.py."""

from __future__ import annotations

import contextlib
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kernelspan_agent.process.elf import read_elf
from kernelspan_agent.process.errors import ElfError, ProcessError
from kernelspan_agent.process.symbols import gopclntab, tables
from kernelspan_agent.process.symbols.functions import find_functions
from tests.unit.process.symbols import crafting

TEXT = crafting.BASE + 64 + 56 + 8
FUNCTIONS = [("main.main", 0, 32), ("main.(*Engine).Quote", 32, 64), ("runtime.äh", 96, 32)]
LAYOUTS = [gopclntab.GO_1_2, gopclntab.GO_1_16, gopclntab.GO_1_18, gopclntab.GO_1_20]


def table_of(magic: int, text: int, functions: list[tuple[str, int, int]] = FUNCTIONS) -> bytes:
    """As a linker writes it, with no more than what is read of it."""
    names, places = b"", []
    for name, _, _ in functions:
        places.append(len(names))
        names += name.encode() + b"\0"
    end = functions[-1][1] + functions[-1][2]
    wide = magic in {gopclntab.GO_1_2, gopclntab.GO_1_16}
    count, head = len(functions), struct.pack("<IBBBB", magic, 0, 0, 1, 8)
    if magic == gopclntab.GO_1_2:
        names_at = 16 + 16 * count + 8
        records_at = names_at + len(names)
        array = b"".join(
            struct.pack("<QQ", text + at, records_at + 12 * index) for index, (_, at, _) in enumerate(functions)
        ) + struct.pack("<Q", text + end)
        records = b"".join(
            struct.pack("<QI", text + at, names_at + place) for (_, at, _), place in zip(functions, places, strict=True)
        )
        return head + struct.pack("<Q", count) + array + names + records + b"\0" * 16
    entry = "<QQ" if wide else "<II"
    size = struct.calcsize(entry)
    names_at = 72
    array_at = names_at + len(names)
    base = text if wide else 0
    record = "<QI" if wide else "<II"
    first = count * size + size
    array = b"".join(
        struct.pack(entry, base + at, first + struct.calcsize(record) * index)
        for index, (_, at, _) in enumerate(functions)
    ) + struct.pack(entry, base + end, 0)
    records = b"".join(
        struct.pack(record, base + at, place) for (_, at, _), place in zip(functions, places, strict=True)
    )
    if magic == gopclntab.GO_1_16:
        words = (count, 0, names_at, array_at, array_at, array_at, array_at, 0)
    else:
        words = (count, 0, text, names_at, array_at, array_at, array_at, array_at)
    return head + struct.pack("<8Q", *words) + names + array + records + b"\0" * 16


def file_of(table: bytes, *, headers: bool = True) -> bytes:
    made = crafting.File(headers=headers)
    made.section(".text", b"\x90" * 1024)
    made.section(".gopclntab", table)
    return made.content()


@pytest.mark.parametrize("magic", LAYOUTS)
@pytest.mark.parametrize("headers", [True, False])
def test_every_layout(magic: int, headers: bool) -> None:
    """Names, entries and sizes, with section headers and without any."""
    with crafting.opened(file_of(table_of(magic, TEXT), headers=headers)) as binary:
        found = find_functions(binary, ["main.(*Engine).Quote", "main.*", "runtime.äh"])
    assert [each.problem for each in found] == [None, None, None]
    quote = found[0].functions[0]
    assert (quote.address, quote.offset, quote.size, quote.source) == (
        TEXT + 32,
        TEXT + 32 - crafting.BASE,
        64,
        "pclntab",
    )
    assert [each.name for each in found[1].functions] == ["main.main", "main.(*Engine).Quote"]
    assert found[2].functions[0].size == 32


@pytest.mark.parametrize("magic", LAYOUTS)
def test_many_functions_over_batches(monkeypatch: pytest.MonkeyPatch, magic: int) -> None:
    """The last of one batch has the size that the first of the next gives it."""
    monkeypatch.setattr(gopclntab, "batch_of", lambda _: 7)
    monkeypatch.setattr(gopclntab, "WINDOW_BYTES", 64)
    monkeypatch.setattr(tables, "WINDOW_BYTES", 64)
    functions = [(f"p.f{index}", 8 * index, 8) for index in range(50)]
    with crafting.opened(file_of(table_of(magic, TEXT, functions))) as binary:
        (found,) = find_functions(binary, ["p.f*"])
    assert [(each.name, each.address, each.size) for each in found.functions] == [
        (name, TEXT + at, size) for name, at, size in functions
    ]


@pytest.mark.parametrize("magic", [gopclntab.GO_1_18, gopclntab.GO_1_20])
@pytest.mark.parametrize("relocated", [False, True])
def test_the_text_begins_where_moduledata_says(magic: int, relocated: bool) -> None:
    """Not where .text does: C's start-up code comes first; in the data, or among the relocations only."""
    start = TEXT + 64
    table = table_of(magic, 0)
    made = crafting.File(flags=5)
    made.section(".text", b"\x90" * 1024)
    index = made.section(".gopclntab", table)
    at = made.offset(index)
    module = bytearray(256)
    pointers = {0: crafting.BASE + at, 8: crafting.BASE + at + 72, 160: start, 176: start}
    for place, value in pointers.items():
        struct.pack_into("<Q", module, place, 0 if relocated else value)
    data = made.section(".go.module", bytes(module))
    address = crafting.BASE + made.offset(data)
    rows = b"".join(struct.pack("<QQq", address + place, 8, value) for place, value in pointers.items())
    made.section(".rela.dyn", rows if relocated else b"", crafting.SHT_RELA)
    content = bytearray(made.content())
    # a second program header would be the data's: here the one segment is both
    with crafting.opened(_with_data_segment(content)) as binary:
        (found,) = find_functions(binary, ["main.main"])
    assert [(each.address, each.size) for each in found.functions] == [(start, 32)]


def _with_data_segment(content: bytearray) -> bytes:
    """The same bytes loaded twice: as code and, by a second header that replaces nothing, as data."""
    (table,) = struct.unpack_from("<Q", content, 32)
    code = bytes(content[table : table + 56])
    where = len(content)
    struct.pack_into("<Q", content, 32, where)
    struct.pack_into("<H", content, 56, 2)
    data = bytearray(code)
    struct.pack_into("<I", data, 4, 6)
    return bytes(content) + code + bytes(data)


def test_a_table_that_does_not_say_where_the_text_begins_is_refused() -> None:
    """A guess could set a probe into the middle of an instruction."""
    content = file_of(table_of(gopclntab.GO_1_20, 0))
    with crafting.opened(content) as binary, pytest.raises(ElfError, match="where the text begins"):
        find_functions(binary, ["main.main"])


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ((0, b"\xf2"), "unknown layout"),
        ((4, b"\1"), "unknown layout"),
        ((6, b"\3"), "64-bit"),
        ((7, b"\4"), "64-bit"),
        ((8, b"\xff" * 8), "does not hold"),
        ((8 + 24, b"\xff" * 8), "does not hold"),
        ((8 + 56, b"\xff" * 8), "does not hold"),
        ((8 + 32, b"\0" * 8), "overlap"),
    ],
)
def test_crafted_headers(change: tuple[int, bytes], problem: str) -> None:
    """Each has its own clear error."""
    table = bytearray(table_of(gopclntab.GO_1_20, TEXT))
    table[change[0] : change[0] + len(change[1])] = change[1]
    with crafting.opened(file_of(bytes(table))) as binary, pytest.raises(ElfError, match=problem):
        find_functions(binary, ["main.main"])


@given(st.data())
def test_damaged_tables_never_do_more_than_raise(data: st.DataObject) -> None:
    """Any bytes of any layout changed; what is found lies in the code."""
    magic = data.draw(st.sampled_from(LAYOUTS))
    table = bytearray(table_of(magic, data.draw(st.sampled_from([0, TEXT]))))
    for _ in range(data.draw(st.integers(1, 8))):
        table[data.draw(st.integers(0, len(table) - 1))] = data.draw(st.integers(0, 255))
    content = file_of(bytes(table), headers=data.draw(st.booleans()))
    with crafting.opened(content) as binary:
        try:
            for found in find_functions(binary, ["main.main", "*"]):
                assert all(0 <= function.offset < len(content) for function in found.functions)
        except ProcessError:
            pass


@given(st.binary(max_size=200))
def test_bytes_of_any_kind_are_no_table(content: bytes) -> None:
    """A section of that name with anything in it."""
    with crafting.opened(file_of(content)) as binary, contextlib.suppress(ElfError):
        gopclntab.go_table(read_elf(binary.fd))
