# SPDX-License-Identifier: Apache-2.0
"""Which function of a file an address is in, by the file's own tables, or MiniDebugInfo.

A function is named only where the address lies in it: tables say how long functions are, and what none of them covers has no name,
whatever stands before it. Tables are read as arrays when they are asked, and not kept.
"""

from __future__ import annotations

import os
import re
import weakref
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from kernelspan_agent.process.elf import SHT_DYNSYM, SHT_SYMTAB, read_at, read_elf
from kernelspan_agent.process.errors import ElfError
from kernelspan_agent.process.symbols.debugfiles import mini_debug_info
from kernelspan_agent.process.symbols.demangling import qualified, readable
from kernelspan_agent.process.symbols.reading import demangled, is_mangled
from kernelspan_agent.process.symbols.tables import elf_table

if TYPE_CHECKING:
    from collections.abc import Sequence

    from kernelspan_agent.process.symbols.tables import Table

MAX_NAME_BYTES = 4096
# What gcc, clang and their linkers add to the name of a function's part or copy.
_COPY = re.compile(r"(?:\.(?:cold|constprop|isra|part|lto_priv|llvm|localalias|clone)(?:\.\d+)*)+\Z")


@dataclass(frozen=True, slots=True)
class Named:
    """A function: where it begins, and its name as its language writes it, without parameters."""

    start: int
    name: str


class Names:
    """Those of one file. `fd` belongs to the caller."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._tables: list[Table] | None = None

    def of(self, addresses: Sequence[int]) -> dict[int, Named]:
        """The functions that addresses of the file are in; those in none are left out."""
        found: dict[int, tuple[int, bytes]] = {}
        try:
            if self._tables is None:
                self._tables = self._open()
            for table in self._tables:
                missing = [address for address in addresses if address not in found]
                if missing:
                    found.update(_look(table, missing))
        except ElfError:
            pass  # what was found is right all the same
        names = _written(sorted({name for _, name in found.values()}))
        return {address: Named(start, names[name]) for address, (start, name) in found.items()}

    def _open(self) -> list[Table]:
        self._tables = []
        elf = read_elf(self._fd)
        whole = elf_table(elf, SHT_SYMTAB, "symtab")
        if whole is not None:
            return [whole]
        found = [elf_table(elf, SHT_DYNSYM, "dynsym")]
        with mini_debug_info(elf) as other:
            if other is not None:
                fd = os.dup(other.fd)
                weakref.finalize(self, os.close, fd)
                found.append(elf_table(read_elf(fd), SHT_SYMTAB, ".gnu_debugdata"))
        return [each for each in found if each is not None]


def _look(table: Table, addresses: Sequence[int]) -> dict[int, tuple[int, bytes]]:
    """Of each address that a function covers its start and its name."""
    wanted = np.array(sorted(addresses), np.uint64)
    candidates: dict[int, list[tuple[int, int]]] = {}
    for columns in table.batches():
        first = np.searchsorted(wanted, columns.addresses)
        behind = np.searchsorted(wanted, columns.addresses + columns.sizes)
        for row in np.flatnonzero(behind > first).tolist():
            start, name = int(columns.addresses[row]), int(columns.names[row])
            for address in wanted[first[row] : behind[row]].tolist():
                candidates.setdefault(address, []).append((start, name))
    return {address: _best(table, places) for address, places in candidates.items()}


def _best(table: Table, places: list[tuple[int, int]]) -> tuple[int, bytes]:
    """Of functions inside of others the innermost; of its names the one that people use: `read`, not `__libc_read`."""
    start = max(place[0] for place in places)
    names = {_name(table, at) for begin, at in places if begin == start}
    return start, min(names, key=lambda name: (len(name) - len(name.lstrip(b"_")), len(name), name))


def _name(table: Table, at: int) -> bytes:
    if at >= table.size:
        raise ElfError(f"a name of {table.source} lies outside of its names")
    return read_at(table.fd, table.offset + at, min(MAX_NAME_BYTES, table.size - at)).split(b"\0", 1)[0]


def _written(names: list[bytes]) -> dict[bytes, str]:
    plain = {name: _COPY.sub("", name.decode("utf-8", "surrogateescape")) for name in names}
    mangled = [name for name in names if is_mangled(name)]
    shown = demangled([plain[name].encode("utf-8", "surrogateescape") for name in mangled])
    for name, answer in zip(mangled, shown, strict=True):
        if answer:
            plain[name] = qualified(readable(name, answer)) or answer
    return plain
