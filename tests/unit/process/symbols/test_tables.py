# SPDX-License-Identifier: Apache-2.0
"""Symbol tables of any shape: a search finds what reading name by name finds."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kernelspan_agent.process.elf import SHT_DYNSYM, read_elf
from kernelspan_agent.process.errors import ElfError
from kernelspan_agent.process.symbols import tables
from tests.unit.process.symbols import crafting

NAMES = st.lists(st.binary(max_size=5).map(lambda name: name.replace(b"\0", b"x")), max_size=12)


def file_of(strings: bytes, entries: list[tuple[int, int, int, int]]) -> bytes:
    made = crafting.File()
    link = made.section(".dynstr", strings, crafting.SHT_STRTAB)
    made.section(".dynsym", crafting.symbols(entries), crafting.SHT_DYNSYM, link)
    return made.content()


def found(content: bytes, needles: list[bytes]) -> list[tuple[bytes, int]]:
    with crafting.opened(content) as binary:
        table = tables.elf_table(read_elf(binary.fd), SHT_DYNSYM, "dynsym")
        if table is None:
            return []
        return sorted((entry.name, entry.address) for entries in tables.search(table, needles) for entry in entries)


@pytest.mark.parametrize(("window", "batch"), [(16, 2), (64, 3), (1 << 20, 1 << 18)])
def test_search_is_reading_name_by_name(monkeypatch: pytest.MonkeyPatch, window: int, batch: int) -> None:
    """Names that share tails, in any order, across the edges of windows and batches."""
    monkeypatch.setattr(tables, "WINDOW_BYTES", window)
    monkeypatch.setattr(tables, "batch_of", lambda _: batch)

    @given(NAMES, st.lists(st.integers(0, 70), max_size=12), st.lists(st.binary(max_size=2), min_size=1, max_size=3))
    def check(names: list[bytes], places: list[int], needles: list[bytes]) -> None:
        strings = b"\0" + b"".join(name + b"\0" for name in names)
        places = [place for place in places if place < len(strings)]
        entries = [(place, 1000 + index, 1, 2) for index, place in enumerate(places)]
        wanted = sorted(
            (name, address)
            for place, address, _, _ in entries
            for name in [strings[place : strings.index(b"\0", place)]]
            if any(needle in name for needle in needles) and b"\0" not in b"".join(needles)
        )
        if b"\0" not in b"".join(needles):
            assert found(file_of(strings, entries), needles) == wanted

    check()


def test_what_is_no_function_is_left_out() -> None:
    """Objects, imports and functions at no address; an IFUNC is told."""
    strings = b"\0name\0"
    content = file_of(strings, [(1, 16, 4, 1), (1, 0, 4, 2), (1, 32, 4, 2), (1, 48, 4, 10), (400, 64, 4, 2)])
    with crafting.opened(content) as binary:
        table = tables.elf_table(read_elf(binary.fd), SHT_DYNSYM, "dynsym")
        assert table is not None
        entries = [entry for part in tables.search(table, [b"name"]) for entry in part]
    assert [(entry.address, entry.indirect) for entry in entries] == [(32, False), (48, True)]


def test_a_name_without_end_is_passed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    """One that fills a window or the rest of the table matches nothing, and what stands behind it is found."""
    monkeypatch.setattr(tables, "WINDOW_BYTES", 64)
    strings = b"\0" + b"a" * 200 + b"\0good\0" + b"a" * 30
    content = file_of(strings, [(1, 16, 1, 2), (100, 17, 1, 2), (202, 18, 1, 2), (210, 19, 1, 2)])
    assert found(content, [b"good"]) == [(b"good", 18)]
    assert found(content, [b""]) == [(b"good", 18)]


def test_scattered_names_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """A file that would have its names read again for every batch is given up."""
    monkeypatch.setattr(tables, "WINDOW_BYTES", 64)
    monkeypatch.setattr(tables, "batch_of", lambda _: 2)
    monkeypatch.setattr(tables, "MAX_READ_BYTES", 2000)
    strings = b"\0" + b"a\0" * 500
    content = file_of(strings, [(1 + 998 * (index % 2), 16 + index, 1, 2) for index in range(100)])
    with pytest.raises(ElfError, match="scattered"):
        found(content, [b"a"])


def test_more_than_can_be_looked_at_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """A file in which every one of millions of functions has the wanted piece in its name."""
    monkeypatch.setattr(tables, "MAX_ENTRIES", 5)
    content = file_of(b"\0wanted\0", [(1, 16 + index, 1, 2) for index in range(6)])
    with pytest.raises(ElfError, match="more than 5 functions"):
        found(content, [b"wanted"])
