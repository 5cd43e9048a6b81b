# SPDX-License-Identifier: Apache-2.0
"""Notes of static probes: of many sites, moved, and crafted."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kernelspan_agent.process.errors import ElfError, ProcessError, SymbolError
from kernelspan_agent.process.symbols import usdt
from tests.unit.process.symbols import crafting

CODE = 64 + 56 + 8  # the first section's content


def note(provider: bytes, name: bytes, text: bytes, address: int, semaphore: int = 0, base: int = 0x400180) -> bytes:
    value = struct.pack("<QQQ", address, base, semaphore) + provider + b"\0" + name + b"\0" + text + b"\0"
    return struct.pack("<III", 8, len(value), 3) + b"stapsdt\0" + value + b"\0" * (-len(value) % 4)


def file_of(*notes: bytes) -> bytes:
    made = crafting.File()
    made.section(".text", b"\x90" * 256)
    made.section(".stapsdt.base", b"\0")
    made.section(".note.stapsdt", b"".join(notes), crafting.SHT_NOTE)
    return made.content()


def address(at: int) -> int:
    return crafting.BASE + CODE + at


def test_a_probe_is_all_its_sites() -> None:
    """Each with its own arguments, in the order of the file; the semaphore's place in it."""
    content = file_of(
        note(b"p", b"go", b"8@%rax", address(32), address(100)),
        note(b"p", b"stop", b"", address(40)),
        note(b"p", b"go", b"-4@%ebx 8@$3", address(16), address(100)),
        note(b"q", b"go", b"", address(48)),
    )
    with crafting.opened(content) as binary:
        probe = usdt.find_probe(binary, "p", "go")
        assert [(site.offset, site.semaphore_offset, site.text) for site in probe.sites] == [
            (CODE + 16, CODE + 100, "-4@%ebx 8@$3"),
            (CODE + 32, CODE + 100, "8@%rax"),
        ]
        assert probe.argument_count == 1
        probes, matched = usdt.list_probes(binary, "p:*")
        assert ([probe.name for probe in probes], matched) == (["go", "stop"], 2)
        assert usdt.list_probes(binary, "go")[1] == 2
        assert len(usdt.list_probes(binary, "*", 1)[0]) == 1
        with pytest.raises(SymbolError, match=r"no static probe p:og; it has p:go") as caught:
            usdt.find_probe(binary, "p", "og")
        assert caught.value.reason == "UsdtNotFound"


def test_notes_that_prelink_left_behind_are_moved() -> None:
    """Their base is not where .stapsdt.base lies by now."""
    made = crafting.File()
    made.section(".text", b"\x90" * 256)
    base = made.section(".stapsdt.base", b"\0")
    moved = 0x10000
    linked = crafting.BASE + made.offset(base) - moved
    made.section(
        ".note.stapsdt", note(b"p", b"go", b"", address(8) - moved, address(100) - moved, linked), crafting.SHT_NOTE
    )
    with crafting.opened(made.content()) as binary:
        (site,) = usdt.find_probe(binary, "p", "go").sites
        assert (site.offset, site.semaphore_offset) == (CODE + 8, CODE + 100)


@pytest.mark.parametrize(
    ("notes", "problem"),
    [
        ([note(b"p", b"go", b"", 0x10)], "no code is loaded"),
        ([note(b"p", b"go", b"", address(8), 0x10)], "nothing is loaded"),
        ([note(b"p", b"go", b"", address(8))[:-4]], "middle of a note"),
        ([struct.pack("<III", 0xFFFFFFFF, 0xFFFFFFFF, 3)], "middle of a note"),
        ([note(b"p", b"go", b"", address(8))] * (usdt.MAX_SITES + 1), "more than"),
    ],
)
def test_crafted_notes(notes: list[bytes], problem: str) -> None:
    """Each has its own clear error."""
    with crafting.opened(file_of(*notes)) as binary, pytest.raises(ProcessError, match=problem):
        usdt.find_probe(binary, "p", "go")


def test_notes_of_others_and_without_names_are_passed_over() -> None:
    """A note that is too short, of another owner, of another kind, or names nothing."""
    other = note(b"p", b"go", b"", address(8))
    content = file_of(
        other.replace(b"stapsdt", b"stapsdu"),
        struct.pack("<III", 8, 4, 3) + b"stapsdt\0abcd",
        note(b"", b"go", b"", address(8)),
        note(b"p", b"", b"", address(8)),
        other[:8] + b"\4" + other[9:],
    )
    with crafting.opened(content) as binary:
        assert usdt.list_probes(binary) == ([], 0)


@given(st.data())
def test_damaged_notes_never_do_more_than_raise(data: st.DataObject) -> None:
    """Any bytes changed anywhere in the file."""
    content = bytearray(
        file_of(note(b"p", b"go", b"8@%rax", address(32), address(100)), note(b"p", b"stop", b"8@a(%rip)", address(40)))
    )
    for _ in range(data.draw(st.integers(1, 6))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    with crafting.opened(bytes(content)) as binary:
        try:
            usdt.list_probes(binary)
            usdt.find_probe(binary, "p", "go")
        except (ElfError, SymbolError):
            pass
