# SPDX-License-Identifier: Apache-2.0
"""From the frames of the kernel's walk to function, file and line.

The line comes with the frame. What a function is shown by comes from the kernel, which read it while the function was on a
stack (a CODE record, `learn`), under a hash of just that: whatever else lies at its addresses by now, the name is the
frame's. Two things are read here: names of C functions by their ids, which are never another's; and texts in pages that
the kernel found not resident, believed only where they lie in a file that the process cannot write to. Answers are kept by
the hash; the cache is bounded.
"""

from __future__ import annotations

import contextlib
import re
from collections import Counter, OrderedDict
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from kernelspan_agent.process import procfs
from kernelspan_agent.process.errors import MemoryReadError, ProcessError
from kernelspan_agent.process.procfs import printable
from kernelspan_agent.runtimes.registry import RawFrame

from .frames import function_of, label_of, path_of
from .layout import (
    CFUNC,
    CUT_CLASS,
    CUT_FILE,
    CUT_NAME,
    ENSURE,
    KIND,
    METHOD,
    MISSING,
    RESCUE,
    RUBY_CODE,
    SINGLETON,
    TEXT_BYTES,
)
from .objects import CorruptObjectError, Names, read_string

if TYPE_CHECKING:
    from kernelspan_agent.process.memory import Memory
    from kernelspan_agent.process.procfs import Mapping

    from .detect import RubyDetails

MAX_NAME_CHARS = 256
MAX_CODES = 16384  # as many as the kernel's ks_codes
FREED, UNREADABLE, CORRUPT = "CodeFreed", "MemoryUnreadable", "Corrupt"
ELLIPSIS = "…"
NAMELESS = "<c function>"  # where the table of symbols is not known
MERGED_SINCE = (3, 4)
_CUTS = (CUT_NAME, CUT_CLASS, CUT_FILE)
# Before the name of the method itself; the names of code that is in none have angle brackets around them.
_WITHIN = re.compile(r"(?:(?:block(?: \(\d+ levels\))?|rescue|ensure) in )+")
_HANDLING = re.compile(r"(?:rescue|ensure) in ")
_NO_METHOD = re.compile(r"<[a-z].*>\Z|singleton class\Z", re.DOTALL)


@dataclass(frozen=True, slots=True)
class _Shown:
    name: str
    file: str


class RubySymboliser:
    """Symbols of one process. Not for several threads at once."""

    def __init__(self, memory: Memory, details: RubyDetails) -> None:
        self._memory, self._details = memory, details
        self._names = Names(memory, details.symbols, details.offsets)
        self._mappings: list[Mapping] = []
        self._misses = 0
        self._codes: OrderedDict[int, _Shown | bytes] = OrderedDict()  # a record: not all of it could be had so far
        with contextlib.suppress(ProcessError):  # a short-lived process may have ended when the first function comes
            self._mappings = procfs.read_maps(details.process)
        self.unresolved: Counter[str] = Counter()  # frames without a name, by reason

    def learn(self, record: bytes) -> None:
        """Takes in a CODE record; one that contradicts itself is passed over."""
        if len(record) < RUBY_CODE.itemsize:
            return
        header = np.frombuffer(record, RUBY_CODE, 1)[0]
        shown = self._shown(record)
        self._codes[int(header["code"])] = record if isinstance(shown, str) else shown
        self._codes.move_to_end(int(header["code"]))
        if len(self._codes) > MAX_CODES:
            self._codes.popitem(last=False)

    def frames(self, rows: np.ndarray) -> list[RawFrame]:
        """Frames of the rows (fields code, pc, owner; shape (n,)) in their order; of rows that `walk` made (code 0) as they are now.

        A frame that could not be resolved has no function and says why.
        """
        found: list[RawFrame] = []
        hidden = False  # since 3.4 what handles an exception stands for the method that it is in
        columns = [rows[name].tolist() for name in ("code", "pc", "owner")]
        for at, (code, pc, owner) in enumerate(zip(*columns, strict=True)):
            skip, hidden = hidden, self._details.numbers >= MERGED_SINCE and owner & KIND in (RESCUE, ENSURE)
            if skip:
                continue
            shown = self._of(code) if code else self._live(rows[at], owner)
            if isinstance(shown, str):
                self.unresolved[shown] += 1
                found.append(RawFrame("", "", "", "", 0, pc >> 32, code, shown))
            else:
                found.append(RawFrame(shown.name, "", shown.name, shown.file, pc & 0xFFFFFFFF, pc >> 32, code))
        return found

    def _of(self, code: int) -> _Shown | str:
        known = self._codes.get(code)
        if known is None:
            return FREED
        self._codes.move_to_end(code)
        if isinstance(known, _Shown):
            return known
        shown = self._shown(known)
        if isinstance(shown, _Shown):
            self._codes[code] = shown
        return shown

    def _live(self, row: np.void, owner: int) -> _Shown | str:
        """What is shown of a body, or of a C function's definition, that `walk` found."""
        memory, details, address, class_string = self._memory, self._details, int(row["globals"]), int(row["class"])
        try:
            class_name = self._string(class_string) if class_string else ""
            if owner & KIND == CFUNC:
                number, function = function_of(memory, address)
                name, file = self._name_of(number), self._file_of(function)
            else:
                name = self._string(label_of(memory, address, details))
                file = self._string(path_of(memory, address, details.offsets))
        except MemoryReadError:
            return UNREADABLE
        except CorruptObjectError:
            return CORRUPT
        return self._made(name, class_name, file, owner)

    def _name_of(self, number: int) -> str:
        """Of a C function by its id. Raises MemoryReadError, CorruptObjectError."""
        return self._names.name(number).decode("utf-8", "surrogateescape") if self._details.symbols else NAMELESS

    def _string(self, address: int) -> str:
        data, cut = read_string(self._memory, address, self._details.offsets, TEXT_BYTES)
        return data.decode("utf-8", "surrogateescape") + (ELLIPSIS if cut else "")

    def _made(self, name: str, class_name: str, file: str, owner: int) -> _Shown:
        if self._details.numbers >= MERGED_SINCE:
            name = _HANDLING.sub("", name)
        return _Shown(function_name(name, class_name, owner), file)

    def _shown(self, record: bytes) -> _Shown | str:
        """What a record says; a reason where not all of it can be had."""
        header = np.frombuffer(record, RUBY_CODE, 1)[0]
        flags, owner, at = int(header["flags"]), int(header["owner"]), RUBY_CODE.itemsize
        texts = []
        try:
            for part, cut in zip(("name", "class", "file"), _CUTS, strict=True):
                size = int(header[f"{part}_bytes"])
                if flags & cut * MISSING:
                    data = self._read_only(int(header[f"{part}_at"]), size)
                else:
                    data = record[at : at + size]
                    at += size
                if len(data) != size:
                    return CORRUPT
                texts.append(data.decode("utf-8", "surrogateescape") + (ELLIPSIS if flags & cut else ""))
            name, class_name, file = texts
            if owner & KIND == CFUNC:
                name = name or self._name_of(int(header["id"]))
                file = self._file_of(int(header["function"]))
        except (MemoryReadError, ProcessError):
            return UNREADABLE
        except CorruptObjectError:
            return CORRUPT
        return self._made(name, class_name, file, owner)

    def _read_only(self, address: int, size: int) -> bytes:
        """A text that nobody can have changed since. Raises MemoryReadError."""
        mapping = self._mapping_of(address)
        if mapping is None or not mapping.is_file or "w" in mapping.permissions:
            raise MemoryReadError(address, size, "it may be another's by now")
        return self._memory.read(address, size)

    def _file_of(self, function: int) -> str:
        """The file that a C function comes from; empty: none, or not known."""
        try:
            mapping = self._mapping_of(function) if function else None
        except ProcessError:
            return ""
        return mapping.path if mapping is not None and mapping.is_file else ""

    def _mapping_of(self, address: int) -> Mapping | None:
        """Raises ProcessError. What is loaded later is looked for, but less and less often where nothing is ever found."""
        for again in (False, True):
            if again:
                self._misses += 1
                if self._misses & (self._misses - 1):
                    return None
                self._mappings = procfs.read_maps(self._details.process)
            for mapping in self._mappings:
                if mapping.start <= address < mapping.end:
                    return mapping
        return None


def function_name(label: str, class_name: str, owner: int) -> str:
    """A frame's function: `block in Shop::Cart#add`, `Shop::Cart.find`; without the class where that is not known."""
    within = _WITHIN.match(label) if owner & KIND not in (METHOD, CFUNC) else None
    at = within.end() if within else 0
    if class_name and not _NO_METHOD.match(label[at:]):
        label = f"{label[:at]}{class_name}{'.' if owner & SINGLETON else '#'}{label[at:]}"
    return printable(label if len(label) <= MAX_NAME_CHARS else label[: MAX_NAME_CHARS - 1] + ELLIPSIS)
