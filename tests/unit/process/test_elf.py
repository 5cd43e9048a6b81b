# SPDX-License-Identifier: Apache-2.0
"""ELF files: this interpreter's, and crafted ones."""

from __future__ import annotations

import ctypes
import os
import struct
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kernelspan_agent.process import elf, files, procfs
from kernelspan_agent.process.errors import ElfError, ProcessError

EXECUTABLE = os.path.realpath(sys.executable)
HEADER = struct.Struct("<16sHHIQQQIHHHHHH")


@contextmanager
def opened(content: bytes) -> Iterator[int]:
    fd = os.memfd_create("elf")
    try:
        os.write(fd, content)
        yield fd
    finally:
        os.close(fd)


def header(
    kind: int = 3,
    phoff: int = 0,
    phnum: int = 0,
    shoff: int = 0,
    shnum: int = 0,
    names: int = 0,
    ident: bytes = b"\x7fELF\2\1",
) -> bytes:
    return HEADER.pack(ident, kind, 62, 1, 0, phoff, shoff, 0, 64, 56, phnum, 64, shnum, names)


def section(kind: int, offset: int, size: int, link: int = 0, name: int = 0) -> bytes:
    return struct.pack("<IIQQQQIIQQ", name, kind, 0, 0, offset, size, link, 0, 0, 0)


def test_symbols_are_where_the_loader_put_them() -> None:
    """Address of a symbol plus the load bias is what the dynamic linker says."""
    process = procfs.open_process(os.getpid())
    expected = ctypes.addressof(ctypes.c_char.in_dll(ctypes.pythonapi, "_PyRuntime"))
    groups: dict[str, list[procfs.Mapping]] = {}
    for mapping in procfs.read_maps(process):
        if mapping.is_file and (mapping.path == EXECUTABLE or "/libpython3." in mapping.path):
            groups.setdefault(mapping.path, []).append(mapping)
    found = []
    for group in groups.values():
        with files.open_mapping(process, group[0]) as fd:
            parsed = elf.read_elf(fd)
            symbols = elf.symbol_addresses(parsed, ["_PyRuntime", "no_such_symbol"])
            if "_PyRuntime" in symbols:
                found.append(symbols["_PyRuntime"] + elf.load_bias(parsed, group))
                assert elf.read_address(parsed, parsed.segments[0].address, 4)
    assert found == [expected]


def test_build_id_is_readelfs() -> None:
    """The build id is the one that readelf prints."""
    said = subprocess.run(["readelf", "-n", "/bin/sh"], capture_output=True, text=True, check=True).stdout
    with Path("/bin/sh").open("rb") as file:
        assert f"Build ID: {elf.build_id(elf.read_elf(file.fileno()))}\n" in said


BAD = {
    "empty": (b"", "ends before"),
    "no elf": (b"#!/bin/sh\n" * 10, "not an ELF"),
    "32 bit": (header(ident=b"\x7fELF\1\1"), "64-bit"),
    "big endian": (header(ident=b"\x7fELF\2\2"), "64-bit"),
    "core": (header(kind=4), "neither"),
    "segments beyond the file": (header(phoff=1 << 40, phnum=3), "ends before"),
    "segments beyond any file": (header(phoff=(1 << 64) - 8, phnum=3), "outside any file"),
    "too many segments": (header(phoff=64, phnum=65535), "program headers"),
    "too many sections": (header(shoff=64, shnum=65535), "section headers"),
    "names beyond the file": (header(shoff=64, shnum=1) + section(3, 1 << 30, 100), "ends before"),
    "huge names": (header(shoff=64, shnum=1) + section(3, 0, 1 << 40), "section names"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_headers(case: str) -> None:
    """Each crafted file gives its own clear error."""
    content, message = BAD[case]
    with opened(content) as fd, pytest.raises(ElfError, match=message):
        elf.read_elf(fd)


def test_bad_symbol_tables() -> None:
    """Tables that are huge, that name no strings, or whose strings repeat a name without end."""
    names = b"\0wanted\0" * 5000
    start = 64 + 3 * 64
    cases = {
        "no string table": section(elf.SHT_DYNSYM, 0, 24, link=9),
        "of 1099511627776 bytes": section(elf.SHT_DYNSYM, 0, 1 << 40, link=1),
        "repeats": section(elf.SHT_DYNSYM, 0, 24, link=2),
    }
    for message, table in cases.items():
        content = (
            header(shoff=64, shnum=3, names=1) + table + section(3, start, 1) + section(3, start, len(names)) + names
        )
        with opened(content) as fd, pytest.raises(ElfError, match=message):
            elf.symbol_addresses(elf.read_elf(fd), ["wanted"])


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_damaged_files_never_do_more_than_raise(data: st.DataObject) -> None:
    """A real file with bytes changed anywhere in its headers is read or refused."""
    content = bytearray(Path("/bin/true").read_bytes())
    table = struct.unpack_from("<Q", content, 40)[0]
    for _ in range(data.draw(st.integers(1, 6))):
        at = data.draw(st.one_of(st.integers(0, 1000), st.integers(table, len(content) - 1)))
        content[at] = data.draw(st.integers(0, 255))
    with opened(bytes(content)) as fd:
        try:
            parsed = elf.read_elf(fd)
            elf.symbol_addresses(parsed, ["free", "_PyRuntime"])
            elf.build_id(parsed)
            elf.load_bias(parsed, [])
        except ElfError:
            pass


def test_a_mapping_is_opened_only_as_itself(tmp_path: Path) -> None:
    """A path that leads to another file by now, or to a pipe, is not taken for the mapped file."""
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    other = tmp_path / "other"
    other.write_bytes(b"x")
    process = procfs.open_process(os.getpid())
    for path in (fifo, other, tmp_path / "none"):
        mapping = procfs.Mapping(1 << 40, (1 << 40) + 4096, "r-xp", 0, (0, 0), 1, str(path), False)
        with pytest.raises(ProcessError, match="cannot open"), files.open_mapping(process, mapping):
            pass
