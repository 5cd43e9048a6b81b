# SPDX-License-Identifier: Apache-2.0
"""Rows are what readelf makes of the same .eh_frame; whatever a file holds, nothing but an ElfError comes of it."""

from __future__ import annotations

import os
import re
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kernelspan_agent.process.elf import ET_DYN, PF_X, PT_LOAD, Elf, Section, Segment, read_elf
from kernelspan_agent.process.errors import ElfError
from kernelspan_agent.runtimes.native.ehframe import read_rows
from kernelspan_agent.runtimes.native.rows import AT_RBP, HELD, OUTERMOST, RBP, RSP, SIGNAL, UNKNOWN, rule
from tests.support.compiled import compiled

LIBC = "/lib/x86_64-linux-gnu/libc.so.6"
CODE = 0x1000
CODE_BYTES = 0x1000
# A CIE as gcc has it: the CFA is %rsp + 8, the return lies below it; addresses are absolute.
CIE = b"\x01zR\0\x01\x78\x10\x01\x00\x0c\x07\x08\x90\x01"
_ENTRY = re.compile(r"[0-9a-f]{8,16} [0-9a-f]{16} [0-9a-f]{8} FDE cie=\S+ pc=([0-9a-f]+)\.\.([0-9a-f]+)")
_ROW = re.compile(r"([0-9a-f]{16}) (\S+)\s+(.*)")


def entry(number: int, body: bytes) -> bytes:
    """One of .eh_frame, filled up to whole words."""
    body += b"\0" * (-(len(body) + 8) % 8)
    return (len(body) + 4).to_bytes(4, "little") + number.to_bytes(4, "little") + body


def section(*functions: tuple[int, int, bytes], cie: bytes = CIE) -> bytes:
    """A CIE, and functions of it: where they begin, how long they are, what is said of them."""
    made = entry(0, cie)
    for start, size, instructions in functions:
        body = start.to_bytes(8, "little") + size.to_bytes(8, "little") + b"\0" + instructions
        made += entry(len(made) + 4, body)
    return made


@contextmanager
def elf_of(data: bytes) -> Iterator[Elf]:
    """A file with this .eh_frame."""
    with tempfile.TemporaryFile() as file:
        file.write(data)
        file.flush()
        code = Segment(PT_LOAD, 0, CODE, CODE_BYTES, CODE_BYTES, PF_X)
        yield Elf(file.fileno(), ET_DYN, 62, (code,), (Section(".eh_frame", 1, 0x9000, 0, len(data), 0),))


def rows(data: bytes) -> list[tuple[int, int]]:
    """Addresses and rules."""
    with elf_of(data) as elf:
        return [(row >> 32, row & 0xFFFF_FFFF) for row in read_rows(elf)]


def test_a_function_with_a_frame() -> None:
    """From instruction to instruction, and nothing behind its end."""
    push = b"\x41\x0e\x10\x86\x02"  # push %rbp
    move = b"\x43\x0d\x06"  # mov %rsp, %rbp
    leave = b"\x50\x0c\x07\x08"
    assert rows(section((CODE, 32, push + move + leave))) == [
        (CODE, rule(RSP, 8, 0)),
        (CODE + 1, rule(RSP, 16, 2)),
        (CODE + 4, rule(RBP, 16, 2)),
        (CODE + 20, rule(RSP, 8, 2)),
        (CODE + 32, UNKNOWN),
    ]


@pytest.mark.parametrize(
    ("instructions", "wanted"),
    [
        (b"\x07\x10", OUTERMOST),  # the return is undefined
        (b"\x09\x10\x03", UNKNOWN),  # in a register
        (b"\x90\x02", UNKNOWN),  # elsewhere on the stack
        (b"\x0e\x0c", UNKNOWN),  # not a word
        (b"\x0c\x03\x08", UNKNOWN),  # by %rbx
        (b"\x0f\x03\x77\x08\x06", UNKNOWN),  # an expression
        (
            b"\x0f\x03\x76\x78\x06\x10\x06\x02\x76\x00",
            rule(AT_RBP, 8, HELD),
        ),  # *(%rbp - 8), and %rbp leads to its caller's
        (b"\x16\x06\x01\x30", UNKNOWN),  # %rbp by an expression
        (b"\x3f", UNKNOWN),  # no instruction
        (b"\x0b", UNKNOWN),  # a state that was not remembered
        (b"\x0e\x80\x80\x80\x80\x08", UNKNOWN),  # too large
        (b"\x0a\x0e\x20\x0b", rule(RSP, 8, 0)),
        (b"\x2e\x10", rule(RSP, 8, 0)),
    ],
)
def test_what_is_said(instructions: bytes, wanted: int) -> None:
    """Whatever cannot be told is not told."""
    assert rows(section((CODE, 16, instructions)))[0] == (CODE, wanted)


def test_a_handler_of_signals() -> None:
    """As glibc's __restore_rt has it, and only so."""
    cie = CIE.replace(b"zR\0", b"zRS\0")
    known = b"\x0f\x04\x77\xa0\x01\x06"
    assert rows(section((CODE, 16, known), cie=cie))[0][1] == SIGNAL
    assert rows(section((CODE, 16, b"\x0f\x04\x77\xa8\x01\x06"), cie=cie))[0][1] == UNKNOWN
    assert rows(section((CODE, 16, b""), cie=cie))[0][1] == UNKNOWN
    assert rows(section((CODE, 16, known)))[0][1] == UNKNOWN


def test_functions_that_overlap() -> None:
    """Make all of it void; one that is there twice does not."""
    with pytest.raises(ElfError, match="two functions"):
        rows(section((CODE, 32, b""), (CODE + 16, 32, b"")))
    assert rows(section((CODE, 32, b""), (CODE, 32, b""))) == [(CODE, rule(RSP, 8, 0)), (CODE + 32, UNKNOWN)]
    beyond = rows(section((CODE, 32, b""), (CODE + CODE_BYTES - 8, 16, b"")))
    assert beyond == [(CODE, rule(RSP, 8, 0)), (CODE + 32, UNKNOWN)]


def test_a_cie_that_is_not_understood() -> None:
    """Its functions are known to be there, and no more; what lies between others is never theirs."""
    for cie in (b"\x01zRX\0" + CIE[4:], b"\x07" + CIE[1:], CIE.replace(b"\x78\x10", b"\x78\x1e")):
        assert {what for _, what in rows(section((CODE, 16, b""), cie=cie))} <= {UNKNOWN}


@pytest.mark.parametrize("flags", [("-O2",), ("-O0",), ("-O3", "-fno-omit-frame-pointer", "-mavx2")])
def test_what_a_compiler_writes(tmp_path: Path, flags: tuple[str, ...]) -> None:
    """Every row of readelf's, of a program of our own."""
    text = (Path(__file__).parents[2] / "support/targets/native/truth.c").read_text()
    (tmp_path / "said.h").write_text((Path(__file__).parents[2] / "support/targets/native/said.h").read_text())
    compare(compiled(tmp_path, text, *flags))


def test_the_c_library() -> None:
    """With all that is written by hand."""
    compare(Path(LIBC))


def compare(path: Path) -> None:
    """Our rows against readelf's interpretation."""
    with path.open("rb") as file:
        made = read_rows(read_elf(file.fileno()))
    starts = [row >> 32 for row in made]
    assert starts == sorted(set(starts))
    checked = known = at = 0
    for address, wanted in interpreted(path):
        while at + 1 < len(made) and starts[at + 1] <= address:
            at += 1
        found = made[at] & 0xFFFF_FFFF if starts[at] <= address else UNKNOWN
        checked += 1
        known += found != UNKNOWN
        if found != UNKNOWN or wanted is not None:
            assert wanted is None or found == wanted, (hex(address), hex(found), wanted and hex(wanted))
    assert known > checked * 0.9 > 50, (known, checked)


def interpreted(path: Path) -> list[tuple[int, int | None]]:
    """(address, rule; None: none that a row can hold) as readelf has it, in the order of addresses."""
    found: list[tuple[int, int | None]] = []
    columns: list[str] = []
    inside = False
    # It ends with an error where a debug file is named that is not there.
    done = subprocess.run(
        ["readelf", "--debug-dump=frames-interp", "-W", str(path)], capture_output=True, text=True, check=False
    )
    for line in done.stdout.splitlines():
        if match := _ENTRY.match(line.strip()):
            inside, columns = True, []
        elif not line.strip() or "CIE" in line:
            inside = False
        elif inside and line.split()[:2] == ["LOC", "CFA"]:
            columns = line.split()[2:]
        elif inside and (match := _ROW.match(line.strip())):
            found.append(
                (
                    int(match[1], 16),
                    _wanted(match[2], dict(zip(columns, re.sub(r" \(\w+\)", "", match[3]).split(), strict=False))),
                )
            )
    return sorted(found, key=lambda each: each[0])


def _wanted(cfa: str, registers: dict[str, str]) -> int | None:
    match = re.fullmatch(r"(rsp|rbp)\+(\d+)", cfa)
    kept = re.fullmatch(r"c-(\d+)", registers.get("rbp", ""))
    if registers.get("ra") == "u":
        return OUTERMOST
    if match is None or registers.get("ra") != "c-8" or (kept is None and registers.get("rbp", "u") != "u"):
        return None
    return rule(RSP if match[1] == "rsp" else RBP, int(match[2]), int(kept[1]) // 8 if kept else 0)


@given(st.binary(max_size=400))
def test_any_bytes(data: bytes) -> None:
    """Rows in order, or an ElfError."""
    check(data)


@given(
    st.lists(st.tuples(st.integers(0, 64), st.integers(0, 32), st.binary(max_size=40)), max_size=5),
    st.binary(max_size=20),
)
def test_any_instructions(functions: list[tuple[int, int, bytes]], more: bytes) -> None:
    """The same of a section that is one, but for what is said in it."""
    placed = [(CODE + 16 * start, size, instructions) for start, size, instructions in functions]
    check(section(*placed, cie=CIE + more))


@given(st.integers(0, 2000), st.binary(min_size=1, max_size=8))
def test_a_library_that_was_changed(at: int, other: bytes) -> None:
    """What a compiler wrote, with some bytes of something else."""
    data = bytearray(_compiled_section())
    at %= len(data)
    data[at : at + len(other)] = other
    check(bytes(data))


_kept: list[bytes] = []


def _compiled_section() -> bytes:
    if not _kept:
        fd = os.open("/lib64/ld-linux-x86-64.so.2", os.O_RDONLY)
        try:
            found = read_elf(fd).section(".eh_frame")
            assert found is not None
            _kept.append(os.pread(fd, 2000, found.offset))
        finally:
            os.close(fd)
    return _kept[0]


def check(data: bytes) -> None:
    """Of a crafted section."""
    try:
        found = rows(data)
    except ElfError:
        return
    addresses = [address for address, _ in found]
    assert addresses == sorted(set(addresses))
    assert all(CODE <= address <= CODE + CODE_BYTES for address in addresses)
    assert not found or found[-1][1] == UNKNOWN
