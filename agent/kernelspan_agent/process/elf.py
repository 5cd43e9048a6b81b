# SPDX-License-Identifier: Apache-2.0
"""The little we need of 64-bit little-endian ELF files: segments, sections, a few named symbols, the build id.

A file may be crafted: every count and size is bounded, every read is a pread of a stated length, and what does not
fit gives ElfError. Symbol tables are scanned in chunks as arrays, never held as Python objects (libpython has 8,000
symbols, a browser 500,000). Layout: elf(5) and the System V ABI, chapter 4.
"""

from __future__ import annotations

import os
import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from .errors import ElfError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from .procfs import Mapping

MAX_SEGMENTS = 256
MAX_SECTIONS = 4096
MAX_NAMES_BYTES = 256 << 10  # section names
MAX_STRINGS_BYTES = 512 << 20  # symbol names, read in chunks
MAX_SYMBOLS = 16 << 20
MAX_NOTE_BYTES = 64 << 10
MAX_CANDIDATES = 4096  # places where a wanted name occurs in a string table
PAGE_BYTES = 4096
ET_EXEC, ET_DYN = 2, 3
EM_X86_64, EM_AARCH64 = 62, 183
PT_LOAD, PT_INTERP, PT_TLS = 1, 3, 7
PF_X, PF_W = 1, 2
SHT_SYMTAB, SHT_NOTE, SHT_NOBITS, SHT_DYNSYM = 2, 7, 8, 11
NT_GNU_BUILD_ID = 3

_CHUNK_BYTES = 1 << 20
_HEADER = struct.Struct("<16sHHIQQQIHHHHHH")
_SEGMENT = struct.Struct("<IIQQQQQQ")
_SECTION = struct.Struct("<IIQQQQIIQQ")
_SYMBOL = np.dtype(
    [("name", "<u4"), ("info", "u1"), ("other", "u1"), ("section", "<u2"), ("value", "<u8"), ("size", "<u8")]
)


@dataclass(frozen=True, slots=True)
class Segment:
    """A program header."""

    kind: int
    offset: int
    address: int
    file_bytes: int
    memory_bytes: int
    flags: int = 0
    alignment: int = 0

    @property
    def is_code(self) -> bool:
        """Whether it is loaded to be executed."""
        return self.kind == PT_LOAD and bool(self.flags & PF_X)


@dataclass(frozen=True, slots=True)
class Section:
    """A section header."""

    name: str
    kind: int
    address: int
    offset: int
    size: int
    link: int


@dataclass(frozen=True, slots=True)
class Elf:
    """Headers of one file; `fd` belongs to the caller and must be open while the file is asked for more."""

    fd: int
    kind: int  # ET_EXEC or ET_DYN
    machine: int
    segments: tuple[Segment, ...]
    sections: tuple[Section, ...]

    def section(self, name: str) -> Section | None:
        """The first section of that name."""
        return next((section for section in self.sections if section.name == name), None)


def read_elf(fd: int) -> Elf:
    """Headers of the ELF file open at `fd`. Raises ElfError."""
    ident, kind, machine, _, _, phoff, shoff, _, _, phentsize, phnum, shentsize, shnum, shstrndx = _HEADER.unpack(
        read_at(fd, 0, _HEADER.size)
    )
    if ident[:4] != b"\x7fELF":
        raise ElfError("not an ELF file")
    if ident[4:6] != b"\x02\x01":
        raise ElfError("not a 64-bit little-endian ELF file")
    if kind not in (ET_EXEC, ET_DYN):
        raise ElfError(f"neither a program nor a shared object (type {kind})")
    if phnum > MAX_SEGMENTS or (phnum and phentsize != _SEGMENT.size):
        raise ElfError(f"{phnum} program headers of {phentsize} bytes")
    if shnum > MAX_SECTIONS or (shnum and shentsize != _SECTION.size):
        raise ElfError(f"{shnum} section headers of {shentsize} bytes")
    segments = tuple(
        Segment(p_type, offset, address, file_bytes, memory_bytes, flags, alignment)
        for p_type, flags, offset, address, _, file_bytes, memory_bytes, alignment in _SEGMENT.iter_unpack(
            read_at(fd, phoff, phnum * _SEGMENT.size)
        )
    )
    rows = list(_SECTION.iter_unpack(read_at(fd, shoff, shnum * _SECTION.size)))
    return Elf(fd, kind, machine, segments, _named_sections(fd, rows, shstrndx))


def read_at(fd: int, offset: int, size: int) -> bytes:
    """Exactly `size` bytes of the file. Raises ElfError."""
    if offset < 0 or offset + size > (1 << 62):
        raise ElfError(f"offset {offset:#x} lies outside any file")
    try:
        data = os.pread(fd, size, offset)
    except OSError as error:
        raise ElfError(f"cannot read the file: {error.strerror}") from error
    if len(data) != size:
        raise ElfError(f"the file ends before offset {offset + size:#x}")
    return data


def symbol_addresses(elf: Elf, names: Iterable[str], *, static: bool = True) -> dict[str, int]:
    """Unrelocated addresses of the defined symbols among `names`, from .dynsym, then (`static`) .symtab. Raises ElfError."""
    return {name: address for name, (address, _) in symbol_extents(elf, names, static=static).items()}


def symbol_extents(elf: Elf, names: Iterable[str], *, static: bool = True) -> dict[str, tuple[int, int]]:
    """The same with their sizes, in bytes. Raises ElfError."""
    wanted = set(names)
    found: dict[str, tuple[int, int]] = {}
    for kind in (SHT_DYNSYM, SHT_SYMTAB) if static else (SHT_DYNSYM,):
        for table in elf.sections:
            if table.kind == kind and wanted - found.keys():
                for name, extent in _scan_table(elf, table, wanted - found.keys()):
                    found.setdefault(name, extent)
    return found


def read_address(elf: Elf, address: int, size: int) -> bytes:
    """The file's bytes that are loaded at (unrelocated) `address`. Raises ElfError where no segment holds them all."""
    for segment in elf.segments:
        if segment.kind == PT_LOAD and segment.address <= address <= segment.address + segment.file_bytes - size:
            return read_at(elf.fd, segment.offset + address - segment.address, size)
    raise ElfError(f"no segment of the file holds {size} bytes at {address:#x}")


def file_offset(elf: Elf, address: int, *, code: bool) -> int | None:
    """Where in the file what is loaded at (unrelocated) `address` lies; None: nowhere, or not in code where that is asked."""
    for segment in elf.segments:
        inside = segment.address <= address < segment.address + segment.file_bytes
        if inside and segment.kind == PT_LOAD and (segment.is_code or not code):
            offset = segment.offset + address - segment.address
            return offset if offset < os.fstat(elf.fd).st_size else None
    return None


def section_chunks(elf: Elf, section: Section, overlap: int) -> Iterator[tuple[int, bytes]]:
    """(offset in the section, bytes) of consecutive pieces that overlap by `overlap` bytes. Raises ElfError."""
    if section.size > MAX_STRINGS_BYTES:
        raise ElfError(f"section {section.name!r} of {section.size} bytes")
    position = 0
    while position < section.size:
        size = min(_CHUNK_BYTES, section.size - position)
        yield position, read_at(elf.fd, section.offset + position, size)
        if position + size >= section.size:
            return
        position += size - overlap


def build_id(elf: Elf) -> str:
    """The GNU build id in hexadecimal; empty where there is none. Raises ElfError."""
    for section in elf.sections:
        if section.kind == SHT_NOTE and section.size <= MAX_NOTE_BYTES:
            data = read_at(elf.fd, section.offset, section.size)
            position = 0
            while position + 12 <= len(data):
                name_bytes, value_bytes, kind = struct.unpack_from("<III", data, position)
                name_at = position + 12
                value_at = name_at + (name_bytes + 3 & ~3)
                if kind == NT_GNU_BUILD_ID and data[name_at : name_at + name_bytes] == b"GNU\0":
                    return data[value_at : value_at + value_bytes].hex()
                position = value_at + (value_bytes + 3 & ~3)
    return ""


def first_code(elf: Elf) -> int:
    """Where the first code of a program lies, as the file has it. Raises ElfError: there is none."""
    found = [segment.address for segment in elf.segments if segment.is_code]
    if not found:
        raise ElfError("a program without code")
    return min(found)


def first_mapped(elf: Elf) -> int:
    """The address, as the file has it, at which its first byte is mapped. Raises ElfError: it is not."""
    for segment in elf.segments:
        if segment.kind == PT_LOAD and segment.offset < PAGE_BYTES:
            return segment.address - segment.offset
    raise ElfError("a file whose beginning is not mapped")


def load_bias(elf: Elf, mappings: Iterable[Mapping]) -> int:
    """What to add to the file's addresses in the process that has these mappings of it. Raises ElfError."""
    if elf.kind == ET_EXEC:
        return 0
    loads = [segment for segment in elf.segments if segment.kind == PT_LOAD]
    for mapping in mappings:
        for segment in loads:
            skew = segment.address % PAGE_BYTES
            if segment.offset - skew == mapping.offset and segment.offset % PAGE_BYTES == skew:
                return mapping.start - (segment.address - skew)
    raise ElfError("no mapping of the file belongs to one of its segments")


def _named_sections(fd: int, rows: list[tuple[int, ...]], names_index: int) -> tuple[Section, ...]:
    names = b""
    if names_index < len(rows):
        offset, size = rows[names_index][4], rows[names_index][5]
        if size > MAX_NAMES_BYTES:
            raise ElfError(f"section names of {size} bytes")
        names = read_at(fd, offset, size)
    return tuple(
        Section(names[name:].split(b"\0", 1)[0][:128].decode("ascii", "replace"), kind, address, offset, size, link)
        for name, kind, _, address, offset, size, link, _, _, _ in rows
    )


def _scan_table(elf: Elf, table: Section, names: set[str]) -> Iterator[tuple[str, tuple[int, int]]]:
    if table.link >= len(elf.sections):
        raise ElfError(f"symbol table {table.name!r} names no string table")
    if table.size > MAX_SYMBOLS * _SYMBOL.itemsize:
        raise ElfError(f"symbol table {table.name!r} of {table.size} bytes")
    places = _name_places(elf, elf.sections[table.link], names)
    if not places:
        return
    offsets = np.fromiter(places, "<u4", len(places))
    step = _CHUNK_BYTES // _SYMBOL.itemsize * _SYMBOL.itemsize
    for position in range(0, table.size - table.size % _SYMBOL.itemsize, step):
        size = min(step, table.size - table.size % _SYMBOL.itemsize - position)
        rows = np.frombuffer(read_at(elf.fd, table.offset + position, size), _SYMBOL)
        for row in rows[np.isin(rows["name"], offsets) & (rows["section"] != 0)]:
            yield places[int(row["name"])], (int(row["value"]), int(row["size"]))


def _name_places(elf: Elf, strings: Section, names: set[str]) -> dict[int, str]:
    # A name may be the tail of a longer one (linkers merge tails), so any occurrence that ends in NUL counts.
    patterns = {name: name.encode() + b"\0" for name in names}
    longest = max(len(pattern) for pattern in patterns.values())
    places: dict[int, str] = {}
    for position, chunk in section_chunks(elf, strings, longest):
        for name, pattern in patterns.items():
            at = chunk.find(pattern)
            while at >= 0:
                if position + at <= 0xFFFFFFFF:
                    places[position + at] = name
                if len(places) > MAX_CANDIDATES:
                    raise ElfError(f"string table {strings.name!r} repeats {name!r}")
                at = chunk.find(pattern, at + 1)
    return places
