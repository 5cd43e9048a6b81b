# SPDX-License-Identifier: Apache-2.0
"""Names and addresses of functions as arrays: what every kind of symbol table comes down to, and how it is searched.

A table is batches of columns beside one region of NUL-ended names. A search reads the names that a batch refers to in
windows of a megabyte and makes a name of those alone that hold a wanted piece: a browser's 500,000 symbols cost a few
arrays at a time. What a crafted file could make us read is bounded in all.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from kernelspan_agent.process.elf import (
    MAX_STRINGS_BYTES,
    SHT_NOBITS,
    Elf,
    Section,
    read_at,
)
from kernelspan_agent.process.errors import ElfError

MAX_FUNCTIONS = 4 << 20  # of one table; a browser with all its symbols has a million and a half
MAX_NAME_BYTES = 64 << 10  # longer names are never matched; templates reach some 10,000 bytes
BATCH = 1 << 16  # symbols looked at together: some 10 MB of arrays
WINDOW_BYTES = 1 << 20
MAX_BATCHES = 8  # of larger tables: a linker that merges names scatters those of every batch over all of them
MAX_READ_BYTES = 4 << 30  # of names for one table, all batches together
MAX_ENTRIES = 2 << 20  # that one search may give
STT_FUNC, STT_GNU_IFUNC = 2, 10

_SYMBOL = np.dtype(
    [("name", "<u4"), ("info", "u1"), ("other", "u1"), ("section", "<u2"), ("value", "<u8"), ("size", "<u8")]
)


@dataclass(frozen=True, slots=True)
class Columns:
    """Functions of a part of a table, all arrays of one length. `indirect`: the address is that of an IFUNC's resolver."""

    names: NDArray[np.uint32]  # offsets among the table's names
    addresses: NDArray[np.uint64]
    sizes: NDArray[np.uint64]
    indirect: NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Table:
    """One table of functions. `fd` belongs to the caller; the names lie at `offset` of the file for `size` bytes."""

    source: str
    fd: int
    offset: int
    size: int
    batches: Callable[[], Iterator[Columns]]


class Entry(NamedTuple):
    """A function as its table has it."""

    name: bytes
    address: int
    size: int
    indirect: bool


def elf_table(elf: Elf, kind: int, source: str, *, imported: bool = False) -> Table | None:
    """Functions of the first symbol table of that kind (SHT_SYMTAB, SHT_DYNSYM), or what it takes from other files.

    None: the file has none. Raises ElfError.
    """
    section = next((section for section in elf.sections if section.kind == kind and section.size), None)
    if section is None:
        return None
    if section.link >= len(elf.sections):
        raise ElfError(f"symbol table {section.name!r} names no string table")
    strings = elf.sections[section.link]
    if strings.kind == SHT_NOBITS:
        return None
    if section.size > MAX_FUNCTIONS * _SYMBOL.itemsize:
        raise ElfError(f"symbol table {section.name!r} of {section.size} bytes")
    if strings.size > MAX_STRINGS_BYTES:
        raise ElfError(f"section {strings.name!r} of {strings.size} bytes")
    return Table(source, elf.fd, strings.offset, strings.size, lambda: _symbols(elf, section, imported))


def search(table: Table, needles: Sequence[bytes]) -> Iterator[list[Entry]]:
    """Functions whose name holds one of `needles` (an empty one: every name), in lists that follow the table's batches.

    No wanted name is left out; others may be among them only where a needle is all that was asked. Raises ElfError.
    """
    remaining, given = MAX_READ_BYTES, 0
    for columns in table.batches():
        order = np.argsort(columns.names, kind="stable")
        names = columns.names[order].astype(np.int64)
        names = names[: np.searchsorted(names, table.size)]
        at = 0
        while at < len(names):
            start = int(names[at])
            size = min(WINDOW_BYTES, table.size - start)
            remaining -= size
            if remaining < 0:
                raise ElfError(f"the names of {table.source} are scattered over too many bytes")
            window = read_at(table.fd, table.offset + start, size)
            letters = np.frombuffer(window, np.uint8)
            ends = np.flatnonzero(letters == 0)
            if not len(ends):  # a name without an end, or longer than any that is matched
                at = int(np.searchsorted(names, start + size))
                continue
            until = int(np.searchsorted(names, start + int(ends[-1]), side="right"))
            firsts = names[at:until] - start
            stops = ends[np.searchsorted(ends, firsts)]
            matching = _matching(letters, firsts, stops, needles)
            if len(matching):
                given += len(matching)
                if given > MAX_ENTRIES:
                    raise ElfError(f"more than {MAX_ENTRIES} functions of {table.source} have such names")
                rows = order[at:until][matching]
                columns_of = (columns.addresses, columns.sizes, columns.indirect)
                places = zip(firsts[matching].tolist(), stops[matching].tolist(), strict=True)
                found = [window[first:stop] for first, stop in places]
                yield list(map(Entry, found, *(column[rows].tolist() for column in columns_of)))
            at = until


def _matching(
    letters: NDArray[np.uint8], firsts: NDArray[np.int64], stops: NDArray[np.int64], needles: Sequence[bytes]
) -> NDArray[np.int64]:
    """Which of the names, each from its `firsts` to its `stops`, hold a needle."""
    wanted = np.zeros(len(firsts), np.bool_)
    for needle in needles:
        if not needle:
            wanted[:] = True
            break
        places = _places(letters, needle)
        if len(places):
            following = np.searchsorted(places, firsts)
            inside = following < len(places)
            wanted[inside] |= places[following[inside]] + len(needle) <= stops[inside]
    return np.flatnonzero(wanted & (stops - firsts <= MAX_NAME_BYTES))


def batch_of(total: int) -> int:
    """How many of a table's functions are looked at together."""
    return max(BATCH, -(-total // MAX_BATCHES))


def _places(letters: NDArray[np.uint8], needle: bytes) -> NDArray[np.int64]:
    found = np.flatnonzero(letters[: max(len(letters) - len(needle) + 1, 0)] == needle[0])
    for index in range(1, len(needle)):
        found = found[letters[found + index] == needle[index]]
    return found


def _symbols(elf: Elf, section: Section, imported: bool) -> Iterator[Columns]:
    total = section.size // _SYMBOL.itemsize
    batch = batch_of(total)
    for first in range(0, total, batch):
        count = min(batch, total - first)
        data = read_at(elf.fd, section.offset + first * _SYMBOL.itemsize, count * _SYMBOL.itemsize)
        rows = np.frombuffer(data, _SYMBOL)
        kinds = rows["info"] & 15
        if imported:
            rows = rows[(rows["section"] == 0) & (rows["name"] != 0)]
        else:
            function = (kinds == STT_FUNC) | (kinds == STT_GNU_IFUNC)
            rows = rows[function & (rows["section"] != 0) & (rows["value"] != 0)]
        yield Columns(rows["name"], rows["value"], rows["size"], (rows["info"] & 15) == STT_GNU_IFUNC)
