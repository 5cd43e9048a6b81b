# SPDX-License-Identifier: Apache-2.0
"""Functions of a file by name: where each can be probed, and if it cannot, why.

Tables are asked in the order of what they cost: .symtab and .dynsym, the debug file, MiniDebugInfo, Go's own. One without
.symtab may hide functions of a name that another table has as well, so all of them are asked then. Several functions of one
name (static ones) are all found; one place is one function, however many names it has.
"""

from __future__ import annotations

import os
import re
from array import array
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field

import numpy as np

from kernelspan_agent.process.elf import SHT_DYNSYM, SHT_SYMTAB, Elf, build_id, file_offset, read_elf
from kernelspan_agent.process.errors import ElfError, SymbolError
from kernelspan_agent.process.procfs import printable

from .debugfiles import debug_file, mini_debug_info
from .demangling import qualified, readable, written
from .gopclntab import functions as go_functions
from .gopclntab import go_table
from .nearest import nearest
from .patterns import Pattern, decode, encode, without_version
from .reading import demangled, is_mangled
from .tables import Entry, Table, elf_table, search
from .where import Binary

MAX_MATCHES = 256  # functions of one text
MAX_PLACES = 4 << 20  # that are counted beyond those
MAX_DEMANGLED = 2 << 20  # names of one file
_NEAR_NAMES, _MAX_NEAR_CANDIDATES, _NEAR_PIECE = 3, 20_000, 3


@dataclass(frozen=True, slots=True)
class Function:
    """One place of a file where a function begins.

    `name`: as its table has it, without a version. `demangled`: as its language writes it; empty: it is not mangled.
    `offset`: in the file, what a uprobe takes; `address`: before relocation. `size`: in bytes; 0: not known. `source`:
    `symtab`, `dynsym`, `debug file`, `minidebuginfo` or `pclntab`.
    """

    name: str
    demangled: str
    offset: int
    address: int
    size: int
    source: str


@dataclass(frozen=True, slots=True)
class Found:
    """What one text of a user's stands for: functions by offset, at most as many as asked for, or a problem.

    `matched`: how many places there are in all.
    """

    text: str
    functions: tuple[Function, ...]
    matched: int
    problem: SymbolError | None = None


def find_functions(binary: Binary, texts: Sequence[str], limit: int = MAX_MATCHES) -> list[Found]:
    """What each text stands for, in their order. Raises ElfError for a file that is none or contradicts itself."""
    searched = _Search(binary, [Pattern(text) for text in texts], limit)
    with ExitStack() as stack:
        for table in searched.tables(stack):
            searched.ask(table)
        return [_answer(searched, wanted) for wanted in searched.wanted]


def check_offset(binary: Binary, offset: int) -> None:
    """Raises SymbolError where no code lies at the offset of the file; ElfError for a file that is none.

    A uprobe on data changes what the program reads: the kernel puts its breakpoint into any private mapping of the file.
    Whether an instruction begins there nobody can tell: whoever gives an offset must know.
    """
    elf = read_elf(binary.fd)
    inside = any(each.is_code and each.offset <= offset < each.offset + each.file_bytes for each in elf.segments)
    if not inside or offset >= os.fstat(binary.fd).st_size:
        raise SymbolError(f"{printable(binary.path)} has no code at offset {offset:#x}")


@dataclass(slots=True)
class _Hits:
    """Places of one kind for one text."""

    functions: dict[int, Function] = field(default_factory=dict)
    places: array[int] = field(default_factory=lambda: array("Q"))
    indirect: str = ""  # name of an IFUNC that was meant

    @property
    def matched(self) -> int:
        return len(np.unique(np.frombuffer(self.places, np.uint64))) if self.places else 0


@dataclass(slots=True)
class _Wanted:
    pattern: Pattern
    exact: _Hits = field(default_factory=_Hits)
    demangled: _Hits = field(default_factory=_Hits)
    glob: _Hits = field(default_factory=_Hits)

    @property
    def best(self) -> _Hits:
        return next((hits for hits in (self.exact, self.demangled) if hits.places or hits.indirect), self.glob)


class _Search:
    def __init__(self, binary: Binary, patterns: list[Pattern], limit: int) -> None:
        self.binary = binary
        self._elf = read_elf(binary.fd)
        self._limit = limit
        self._demangled = 0
        self.wanted = [_Wanted(pattern) for pattern in patterns]
        self.sources: list[Table] = []

    def tables(self, stack: ExitStack) -> Iterator[Table]:
        """Every table there is to ask, as long as there is a reason to."""
        yield from self._of_elf(self._elf, "symtab", "dynsym")
        if self._satisfied():
            return
        if found := stack.enter_context(debug_file(self._elf, self.binary.path, self.binary.root)):
            yield from self._of_elf(found, "debug file", "")
        if self._satisfied():
            return
        if small := stack.enter_context(mini_debug_info(self._elf)):
            yield from self._of_elf(small, "minidebuginfo", "")
        if self._satisfied():
            return
        if go := go_table(self._elf):
            yield self._asked(go_functions(go))

    def ask(self, table: Table) -> None:
        """Takes from the table whatever is wanted."""
        needles = {wanted.pattern.needle for wanted in self.wanted if wanted.pattern.name}
        for wanted in self.wanted:
            if wanted.pattern.name:
                needles |= {wanted.pattern.pieces[0]} if wanted.pattern.pieces else {b"_Z", b"_R"}
        for entries in search(table, sorted(needles, key=len)):
            self._take(entries, table.source)

    def near(self, wanted: _Wanted) -> list[str]:
        """Names of the file's functions that look like the one that was not found."""
        text = without_version(wanted.pattern.text).strip("*?")
        word = (re.findall(r"[^\W\d]\w{2,}", text) or [text])[-1]
        piece = _NEAR_PIECE if len(word) > 2 * _NEAR_PIECE else 1
        needles = sorted({end for end in (encode(word[:piece]), encode(word[-piece:])) if end})
        plain: set[str] = set()
        mangled: list[bytes] = []
        for table in self.sources if needles else ():
            for entry in (entry for entries in search(table, needles) for entry in entries):
                name = entry.name.split(b"@")[0]
                if is_mangled(name):
                    if len(mangled) < _MAX_NEAR_CANDIDATES:
                        mangled.append(name)
                elif abs(len(name) - len(text)) <= len(text) // 3 + 1 and len(plain) < _MAX_NEAR_CANDIDATES:
                    plain.add(decode(name))
        shown = (qualified(readable(name, form)) for name, form in zip(mangled, demangled(mangled), strict=True))
        return nearest(text, [name for name in (*shown, *plain) if name], _NEAR_NAMES)

    def imports(self, wanted: _Wanted) -> bool:
        """Whether it is a function of another file that this one calls."""
        table = elf_table(self._elf, SHT_DYNSYM, "dynsym", imported=True)
        found = search(table, [wanted.pattern.needle]) if table is not None and wanted.pattern.name else ()
        return any(wanted.pattern.is_name(entry.name) for entries in found for entry in entries)

    def offset_of(self, address: int) -> int | None:
        """Where in the file the code at `address` lies; None: no code is loaded there."""
        return file_offset(self._elf, address, code=True)

    @property
    def identity(self) -> str:
        """The build id, or nothing."""
        try:
            return build_id(self._elf)
        except ElfError:
            return ""

    @property
    def has_all(self) -> bool:
        """Whether some table lists more than what the file exports."""
        return any(table.source != "dynsym" for table in self.sources)

    def _of_elf(self, elf: Elf, whole: str, exported: str) -> Iterator[Table]:
        for kind, source in ((SHT_SYMTAB, whole), (SHT_DYNSYM, exported)):
            table = elf_table(elf, kind, source) if source else None
            if table is not None:
                yield self._asked(table)

    def _asked(self, table: Table) -> Table:
        self.sources.append(table)
        return table

    def _satisfied(self) -> bool:
        complete = any(table.source in {"symtab", "debug file"} for table in self.sources)
        return complete and all(wanted.best.places or wanted.best.indirect for wanted in self.wanted)

    def _take(self, entries: list[Entry], source: str) -> None:
        rest: list[Entry] = []
        for entry in entries:
            mangled = is_mangled(entry.name)
            wants_more = False
            for wanted in self.wanted:
                pattern = wanted.pattern
                if pattern.is_name(entry.name):
                    self._add(wanted.exact, entry, "", source)
                elif pattern.matches(entry.name):
                    self._add(wanted.glob, entry, "", source)
                elif mangled and pattern.name and all(piece in entry.name for piece in pattern.pieces):
                    wants_more = True
            if wants_more:
                rest.append(entry)
        rest = rest[: max(MAX_DEMANGLED - self._demangled, 0)]
        self._demangled += len(rest)
        for entry, shown in zip(rest, demangled([entry.name for entry in rest]), strict=True):
            if shown:
                self._take_demangled(entry, readable(entry.name, shown), source)

    def _take_demangled(self, entry: Entry, shown: str, source: str) -> None:
        forms = written(entry.name, shown)
        for wanted in self.wanted:
            if wanted.pattern.is_demangled(*forms):
                self._add(wanted.demangled, entry, shown, source)
            elif wanted.pattern.matches_demangled(*forms):
                self._add(wanted.glob, entry, shown, source)

    def _add(self, hits: _Hits, entry: Entry, shown: str, source: str) -> None:
        if entry.indirect:
            hits.indirect = hits.indirect or decode(entry.name)
            return
        offset = self.offset_of(entry.address)
        if offset is None or len(hits.places) >= MAX_PLACES:
            return
        hits.places.append(offset)
        if offset not in hits.functions and len(hits.functions) < self._limit:
            name = without_version(decode(entry.name))
            hits.functions[offset] = Function(name, shown, offset, entry.address, entry.size, source)


def _answer(searched: _Search, wanted: _Wanted) -> Found:
    hits = wanted.best
    if hits.functions and not (hits.indirect and hits is not wanted.glob):
        functions = tuple(hits.functions[offset] for offset in sorted(hits.functions))
        return Found(wanted.pattern.text, _with_demangled(functions), hits.matched)
    return Found(wanted.pattern.text, (), 0, _problem(searched, wanted))


def _with_demangled(functions: tuple[Function, ...]) -> tuple[Function, ...]:
    """Those that were found by their mangled name get the other one as well."""
    raw = [function for function in functions if not function.demangled and is_mangled(encode(function.name))]
    if not raw:
        return functions
    names = [encode(function.name) for function in raw]
    shown = {name: readable(name, text) for name, text in zip(names, demangled(names), strict=True)}
    return tuple(
        Function(
            each.name,
            each.demangled or shown.get(encode(each.name), ""),
            each.offset,
            each.address,
            each.size,
            each.source,
        )
        for each in functions
    )


def _problem(searched: _Search, wanted: _Wanted) -> SymbolError:
    text, path = printable(wanted.pattern.text), printable(searched.binary.path)
    if wanted.best.indirect:
        return SymbolError(
            f"{text} of {path} is chosen among several functions when the program is loaded (IFUNC)",
            hint=f"probe the function that is chosen, one of {text}'s variants in the library's symbols",
        )
    if searched.imports(wanted):
        return SymbolError(
            f"{path} calls {text}, which is a function of a library", hint="give the path of the library that has it"
        )
    near = searched.near(wanted)
    if near:
        return SymbolError(f"{path} has no function {text}; it has {', '.join(map(printable, near))}", hint="")
    if searched.has_all:
        return SymbolError(f"{path} has no function {text}", hint=_MANGLED)
    identity = searched.identity
    place = f" so that /usr/lib/debug/.build-id/{identity[:2]}/{identity[2:]}.debug is there" if identity else ""
    return SymbolError(
        f"{path} is stripped: it names only the functions it exports, and {text} is none of them",
        reason="SymbolStripped",
        hint=f"deploy the unstripped file, give offsets, or put its package of debug symbols (-dbgsym, -debuginfo) into"
        f" the image{place}",
    )


_MANGLED = (
    "`kernelspan list symbols` shows its names; C++ and Rust names can be given as they are written in the source"
)
