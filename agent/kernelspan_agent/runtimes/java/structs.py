# SPDX-License-Identifier: Apache-2.0
"""What a libjvm publishes of its own structures for debuggers (vmStructs): fields, sizes of types, constants.

The tables are plain data (hotspot/share/runtime/vmStructs.hpp: VMStructEntry, VMTypeEntry, VMIntConstantEntry). Which rows
there are, and where variables lie, is in the file, by its relocations, and is read once for all of its processes. The
numbers in them are often put there only when the library is loaded: they come from the process, in three reads, and hold
for that process alone, since whoever runs it could change them.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from kernelspan_agent.process import elf as elf_reader
from kernelspan_agent.process.errors import ElfError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from kernelspan_agent.process.memory import Memory

STRUCTS, TYPES, INTS = "gHotSpotVMStructs", "gHotSpotVMTypes", "gHotSpotVMIntConstants"
MAX_ENTRIES = 8192
MAX_NAME_BYTES = 512  # types of templates have long names
MAX_RELOCATIONS = 4 << 20
_STRUCT_BYTES, _TYPE_BYTES, _INT_BYTES = 48, 40, 16
_SHT_RELA = 4
_RELATIVE, _ABSOLUTE = 8, 1  # R_X86_64_*
_AARCH64_RELATIVE = 1027
_RELOCATION = np.dtype([("at", "<u8"), ("kind", "<u4"), ("symbol", "<u4"), ("addend", "<i8")])
_NAME = re.compile(rb"[\x20-\x7e]+\Z")


@dataclass(frozen=True, slots=True, repr=False)
class Tables:
    """Of one file. Rows by name; `variables`: the file's own addresses of variables; `types`: C types of fields."""

    structs_at: int
    types_at: int
    ints_at: int
    fields: Mapping[tuple[str, str], int]
    types: Mapping[tuple[str, str], str]
    variables: Mapping[tuple[str, str], int]
    sizes: Mapping[str, int]
    constants: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class Structs:
    """Of one process: offsets of fields, sizes of types, constants."""

    tables: Tables
    _offsets: np.ndarray
    _sizes: np.ndarray
    _constants: np.ndarray

    def offset(self, *names: tuple[str, str]) -> int | None:
        """Of the first of these fields that there is, each (type, field); None: of none."""
        row = next((self.tables.fields[name] for name in names if name in self.tables.fields), None)
        return None if row is None else int(self._offsets[row])

    def type_of(self, *names: tuple[str, str]) -> str:
        """The C type of the first of these fields that there is."""
        return next((self.tables.types[name] for name in names if name in self.tables.types), "")

    def size(self, name: str) -> int | None:
        """Of a type; None: it is not there."""
        row = self.tables.sizes.get(name)
        return None if row is None else int(self._sizes[row])

    def constant(self, name: str) -> int | None:
        """Of an int constant; None: it is not there."""
        row = self.tables.constants.get(name)
        return None if row is None else int(self._constants[row])


def read_tables(elf: elf_reader.Elf, symbols: Mapping[str, int]) -> Tables:
    """The rows of the tables at these symbols. Raises ElfError where they are not what they should be."""
    image = _Image(elf)
    fields: dict[tuple[str, str], int] = {}
    types: dict[tuple[str, str], str] = {}
    variables: dict[tuple[str, str], int] = {}
    for number, (type_name, row) in enumerate(_rows(image, symbols[STRUCTS], _STRUCT_BYTES)):
        key = (type_name, image.text(row[1]))
        if row[3] & 0xFFFFFFFF:
            variables[key] = row[5]
        else:
            fields[key] = number
            types[key] = image.text(row[2]) if row[2] else ""
    sizes = {name: number for number, (name, _) in enumerate(_rows(image, symbols[TYPES], _TYPE_BYTES))}
    constants = {name: number for number, (name, _) in enumerate(_rows(image, symbols[INTS], _INT_BYTES))}
    at = [image.words(symbols[name], 1)[0] for name in (STRUCTS, TYPES, INTS)]
    return Tables(at[0], at[1], at[2], fields, types, variables, sizes, constants)


def read_structs(memory: Memory, tables: Tables, bias: int) -> Structs:
    """The numbers of a process in which the file is loaded with this bias. Raises MemoryReadError."""
    structs = _column(memory, tables.structs_at + bias, max(tables.fields.values(), default=0) + 1, _STRUCT_BYTES, 4)
    sizes = _column(memory, tables.types_at + bias, len(tables.sizes), _TYPE_BYTES, 4)
    constants = _column(memory, tables.ints_at + bias, len(tables.constants), _INT_BYTES, 1)
    return Structs(tables, structs, sizes, constants.astype(np.uint32).astype(np.int32))


def _column(memory: Memory, address: int, rows: int, size: int, column: int) -> np.ndarray:
    return np.frombuffer(memory.read(address, rows * size), "<u8").reshape(rows, size // 8)[:, column]


def _rows(image: _Image, symbol: int, size: int) -> Iterator[tuple[str, list[int]]]:
    """(name, words) of each row of the table that the pointer at `symbol` leads to; one without a name ends it."""
    at = image.words(symbol, 1)[0]
    for _ in range(MAX_ENTRIES):
        row = image.words(at, size // 8)
        if not row[0]:
            return
        yield image.text(row[0]), row
        at += size
    raise ElfError(f"a table of more than {MAX_ENTRIES} entries")


class _Image:
    """The file's data as the loader would make it, but for where it is loaded."""

    def __init__(self, elf: elf_reader.Elf) -> None:
        self._elf = elf
        self._at, self._to = _relocations(elf)
        self._texts: dict[int, str] = {}

    def words(self, address: int, count: int) -> list[int]:
        data = elf_reader.read_address(self._elf, address, count * 8)
        found = [int(word) for word in np.frombuffer(data, "<u8")]
        first = int(np.searchsorted(self._at, address))
        while first < len(self._at) and int(self._at[first]) < address + count * 8:
            found[(int(self._at[first]) - address) // 8] = int(self._to[first])
            first += 1
        return found

    def text(self, address: int) -> str:
        found = self._texts.get(address)
        if found is None:
            found = self._texts[address] = _read_text(self._elf, address)
        return found


def _read_text(elf: elf_reader.Elf, address: int) -> str:
    size = MAX_NAME_BYTES
    while True:
        try:
            data = elf_reader.read_address(elf, address, size)
            break
        except ElfError:  # it may lie close to the end of its segment
            if size == 1:
                raise
            size //= 2
    name, nul, _ = data.partition(b"\0")
    if not nul or not _NAME.match(name):
        raise ElfError(f"no name at {address:#x}")
    return name.decode("ascii")


def _relocations(elf: elf_reader.Elf) -> tuple[np.ndarray, np.ndarray]:
    """Places, in order, and what the loader puts there, for a file that is loaded at 0."""
    places, values = [np.zeros(0, np.uint64)], [np.zeros(0, np.uint64)]
    for section in elf.sections:
        if section.kind == _SHT_RELA and section.size <= MAX_RELOCATIONS * _RELOCATION.itemsize:
            count = section.size // _RELOCATION.itemsize
            rows = np.frombuffer(elf_reader.read_at(elf.fd, section.offset, count * _RELOCATION.itemsize), _RELOCATION)
            rows = rows[np.isin(rows["kind"], (_RELATIVE, _AARCH64_RELATIVE))]
            places.append(rows["at"])
            values.append(rows["addend"].astype(np.uint64))
    at, to = np.concatenate(places), np.concatenate(values)
    order = np.argsort(at, kind="stable")
    return at[order], to[order]
