# SPDX-License-Identifier: Apache-2.0
"""The table by which a Go program names its own functions in a traceback: there however much was stripped.

Four layouts, told apart by the magic number: Go 1.2, 1.16, 1.18 and 1.20. Up to 1.16 entries are addresses, since 1.18
offsets from the start of the text, which linkers since 1.26 no longer write into the header (`gomodule`). Facts: the Go project's
design note "Go 1.2 Runtime Symbol Information", and the fields as src/internal/abi and src/runtime/symtab.go name them.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from kernelspan_agent.process.elf import MAX_STRINGS_BYTES, PT_LOAD, SHT_NOBITS, Elf, read_at
from kernelspan_agent.process.errors import ElfError

from .gomodule import text_start
from .tables import MAX_FUNCTIONS, WINDOW_BYTES, Columns, Table, batch_of

GO_1_2, GO_1_16, GO_1_18, GO_1_20 = 0xFFFFFFFB, 0xFFFFFFFA, 0xFFFFFFF0, 0xFFFFFFF1
SECTIONS = (".gopclntab", ".data.rel.ro.gopclntab")
MERGED, MARKS = (
    ".data.rel.ro",
    (".go.buildinfo", ".note.go.buildid"),
)  # where another linker than Go's has put it; of whom
MAX_SCAN_BYTES = 1 << 30  # of a file without section headers
_LAYOUTS = {struct.pack("<I", magic): magic for magic in (GO_1_2, GO_1_16, GO_1_18, GO_1_20)}
_TAIL = b"\xff\xff\xff\0\0"  # what follows a magic number's first byte


@dataclass(frozen=True, slots=True)
class GoTable:
    """Where the parts of one file's table lie, as offsets in the file. `text`: what its entries count from."""

    fd: int
    magic: int
    count: int
    text: int
    names: int
    names_size: int
    functions: int  # the array of (entry, offset of the function's own record)
    records: int  # what those offsets count from
    end: int
    start: int = 0  # what precedes all of these: the table's header
    units: int = 0  # for each file of a compilation unit the place of its name; since 1.18, as the two that follow
    files: int = 0  # names of files
    values: int = 0  # what belongs to which instructions

    @property
    def wide(self) -> bool:
        """Whether entries are addresses of 8 bytes, and not offsets of 4."""
        return self.magic in {GO_1_2, GO_1_16}


def go_table(elf: Elf) -> GoTable | None:
    """The file's table; None: it is no Go program's. Raises ElfError for one that contradicts itself."""
    for name in SECTIONS:
        section = elf.section(name)
        if section is not None and section.kind != SHT_NOBITS and section.size:
            return _table(elf, section.offset, section.size)
    if not any(section.name == ".text" for section in elf.sections):
        return _scan(elf, [(each.offset, each.file_bytes) for each in elf.segments if each.kind == PT_LOAD])
    if not any(section.name in MARKS for section in elf.sections):
        return None
    return _scan(elf, [(each.offset, each.size) for each in elf.sections if each.name == MERGED])


def functions(table: GoTable) -> Table:
    """Its functions, to be searched."""
    return Table("pclntab", table.fd, table.names, table.names_size, lambda: _batches(table))


def _table(elf: Elf, offset: int, size: int) -> GoTable:
    header = read_at(elf.fd, offset, min(size, 72))
    magic = _LAYOUTS.get(header[:4])
    if magic is None or len(header) < 16 or header[4:6] != b"\0\0":
        raise ElfError("a table of Go's functions of an unknown layout")
    if header[6] not in {1, 2, 4} or header[7] != 8:
        raise ElfError("a table of Go's functions that is not of a 64-bit machine")
    if magic != GO_1_2 and len(header) < 72:
        raise ElfError("a table of Go's functions that ends in its header")
    words = struct.unpack_from("<8Q", header, 8) if magic != GO_1_2 else struct.unpack_from("<Q", header, 8)
    count = words[0]
    text = 0
    if magic == GO_1_2:
        names, records, array = 0, 0, 16
    elif magic == GO_1_16:
        names, array = words[2], words[6]
        records = array
    else:
        text, names, array = words[2], words[3], words[7]
        records = array
    entry = 16 if magic in {GO_1_2, GO_1_16} else 8
    if count > MAX_FUNCTIONS or names >= size or array + count * entry > size or size > MAX_STRINGS_BYTES:
        raise ElfError(f"a table of Go's functions that does not hold its {count} functions")
    if magic in {GO_1_18, GO_1_20} and not text:
        text = text_start(elf, offset, offset + names)
    names_size = (words[3] if magic == GO_1_16 else words[4]) - names if magic != GO_1_2 else size
    if not 0 < names_size <= size - names:
        raise ElfError("a table of Go's functions whose parts overlap")
    parts = [offset + word for word in words[4:7]] if magic in {GO_1_18, GO_1_20} else []
    places = (offset + names, names_size, offset + array, offset + records, offset + size, offset)
    return GoTable(elf.fd, magic, count, text, *places, *parts)


def _batches(table: GoTable) -> Iterator[Columns]:
    word = np.dtype("<u8") if table.wide else np.dtype("<u4")
    batch = batch_of(table.count)
    for first in range(0, table.count, batch):
        count = min(batch, table.count - first)
        # One word more: the next function's entry, or the end of the text.
        data = read_at(table.fd, table.functions + first * 2 * word.itemsize, (2 * count + 1) * word.itemsize)
        words = np.frombuffer(data, word).astype(np.uint64)
        entries, records = words[::2], words[1::2]
        sizes = entries[1:] - entries[:-1]
        sizes[entries[1:] < entries[:-1]] = 0
        names, found = _names(table, records)
        addresses = entries[:-1] + np.uint64(table.text)
        yield Columns(names[found], addresses[found], sizes[found], np.zeros(int(found.sum()), np.bool_))


def _names(table: GoTable, records: NDArray[np.uint64]) -> tuple[NDArray[np.uint32], NDArray[np.bool_]]:
    """For each function's record the place of its name, and whether there is such a record."""
    at = 8 if table.wide else 4  # behind the record's own entry
    room = table.end - table.records - at - 4
    order = np.argsort(records, kind="stable")
    offsets = records[order]
    offsets = offsets[: np.searchsorted(offsets, np.uint64(max(room, 0)))].astype(np.int64)
    names = np.zeros(len(records), np.uint32)
    found = np.zeros(len(records), np.bool_)
    done = 0
    while done < len(offsets):
        start = int(offsets[done])
        size = min(WINDOW_BYTES, table.end - table.records - start)
        window = np.frombuffer(read_at(table.fd, table.records + start, size), np.uint8)
        until = int(np.searchsorted(offsets, start + size - at - 4, side="right"))
        places = offsets[done:until] - start + at
        value = sum(window[places + byte].astype(np.uint32) << np.uint32(8 * byte) for byte in range(4))
        names[order[done:until]] = value
        found[order[done:until]] = True
        done = until
    return names, found


def _scan(elf: Elf, parts: list[tuple[int, int]]) -> GoTable | None:
    """The table of a file that does not say where it is: looked for by its header, in these parts (offset, size)."""
    remaining = MAX_SCAN_BYTES
    for offset, length in parts:
        position = 0
        while position + 72 < length and remaining > 0:
            size = min(WINDOW_BYTES, length - position)
            remaining -= size
            data = read_at(elf.fd, offset + position, size)
            at = data.find(_TAIL, 1)
            while at >= 0:
                if data[at - 1 : at + 3] in _LAYOUTS and (position + at - 1) % 8 == 0:
                    try:
                        return _table(elf, offset + position + at - 1, length - position - at + 1)
                    except ElfError:  # the number stood there by chance
                        pass
                at = data.find(_TAIL, at + 1)
            position += max(size - 16, 1)
    return None
