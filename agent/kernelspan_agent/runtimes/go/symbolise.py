# SPDX-License-Identifier: Apache-2.0
"""From the frames of the kernel's walk to function, file and line.

A row is an instruction, counted from the first code of the program (FRAME["code"]); but for the innermost it is where a call
returns to, and the call lies before it. What an instruction is in is read from the program's file, once for all processes
that run it. A row says of which file it is (FRAME["globals"]): a process that nobody could look at may be another program
than was thought, and then the one that it is answers, or nobody.

Functions are shown as Go's own tracebacks show them (runtime.Frames): without wrappers, types of generics as `[...]`.
"""

from __future__ import annotations

import itertools
import os
import weakref
from collections import Counter, OrderedDict
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

from kernelspan_agent.process.elf import read_elf, symbol_addresses
from kernelspan_agent.process.errors import ElfError
from kernelspan_agent.process.procfs import printable
from kernelspan_agent.runtimes.registry import RawFrame

from .layout import FRAME, LEFT, OWN, SYSTEM
from .modules import package_of
from .table import Call, FunctionTable, Place

if TYPE_CHECKING:
    import numpy as np

    from .build import GoBuild

MAX_NAME_CHARS = 256
MAX_PLACES = 16384  # of all programs together: some 8 MB
REPLACED, CORRUPT = "CodeReplaced", "Corrupt"
_ELLIPSIS = "…"
_LISTED = "runtime.allgs"
# Go shows a wrapper only where it has called one of these.
_SHOW_WRAPPERS = frozenset({"runtime.gopanic", "runtime.sigpanic", "runtime.panicwrap"})
# Who called these is not on the thread any more: the scheduler runs, the goroutine may run elsewhere by now.
_LEFT_BEHIND = frozenset({"runtime.mcall", "runtime.morestack", "runtime.mstart", "runtime.rt0_go"})


@dataclass(frozen=True, slots=True)
class _Shown:
    """What stands at an instruction. `frames`: innermost first, each with whether it is a wrapper."""

    frames: tuple[tuple[RawFrame, bool], ...]
    keeps_no_frame: bool  # it has put nothing on the stack: where it is called from lies on top
    took_return: bool  # it has even taken that away, into a register
    is_end: bool  # nothing is known of who called it, or nobody did


_numbers = itertools.count()  # of files
_places: OrderedDict[tuple[int, int, bool], _Shown | None] = OrderedDict()


class GoFile:
    """A program's file, kept open as long as anybody holds it: it may be deleted while it runs. Not for several threads."""

    def __init__(self, fd: int, build: GoBuild) -> None:
        """`fd`: a copy is kept."""
        own = os.dup(fd)
        weakref.finalize(self, os.close, own)
        self.build, self._fd, self._number = build, own, next(_numbers)
        self._table = FunctionTable(build.table_of(own), build.offsets, build.function_data)

    def goroutines(self) -> int:
        """Address in the file of the list of them, runtime.allgs; 0: it has no symbols. Raises ElfError."""
        return symbol_addresses(read_elf(self._fd), (_LISTED,)).get(_LISTED, 0)

    def shown(self, code: int, *, is_return: bool) -> _Shown | None:
        """What stands at an instruction, or before the one that a call returns to; None: no code of Go's. Raises ElfError."""
        key = (self._number, code, is_return)
        if key in _places:
            _places.move_to_end(key)
            return _places[key]
        place = self._table.place(self.build.code + code, is_return=is_return)
        found = _places[key] = None if place is None else self._make(place)
        if len(_places) > MAX_PLACES:
            _places.popitem(last=False)
        return found

    def _make(self, place: Place) -> _Shown:
        wrapper = self.build.offsets.wrapper
        frames = tuple((self._frame(call), call.kind == wrapper) for call in place.calls)
        is_end = place.is_top or place.calls[-1].name in _LEFT_BEHIND
        return _Shown(frames, place.stack_bytes <= 0, place.stack_bytes < 0, is_end)

    def _frame(self, call: Call) -> RawFrame:
        package = package_of(call.name)
        shown, module = _text(_without_types(call.name)), _text(package)
        bare = shown.rpartition("/")[2].partition(".")[2] or shown
        whose = self.build.modules.owner(package, call.file, self.build.root)
        return RawFrame(shown, module, bare, _text(call.file), call.line, call.at, call.name_at, whose=whose)


class GoSymboliser:
    """Symbols of one process. `known`: other programs by their identities."""

    def __init__(self, file: GoFile, known: weakref.WeakValueDictionary[int, GoFile]) -> None:
        self._file, self._known = file, known
        self.unresolved: Counter[str] = Counter()

    def learn(self, record: bytes) -> None:
        """Nothing: the kernel sends none, all names are in the file."""

    def frames(self, rows: np.ndarray) -> list[RawFrame]:
        """Frames of the rows (fields code, pc, globals, owner, check; shape (n,)), one for each inlined call too.

        Where a row is none of the program's, there is one frame, which says why there are no others.
        """
        if not len(rows):
            return []
        identity = int(rows["globals"][0])
        file = self._file if identity == self._file.build.identity else self._known.get(identity)
        columns = zip(rows["code"].tolist(), rows["pc"].tolist(), rows["owner"].tolist(), strict=True)
        try:
            taken = int(rows["check"][0])
            found = _frames(file, list(columns), taken) if file is not None else _unresolved(REPLACED)
        except ElfError:
            found = _unresolved(CORRUPT)
        self.unresolved.update(frame.unresolved for frame in found if frame.unresolved)
        return found


@lru_cache(MAX_PLACES)
def _text(text: str) -> str:
    """A text that many frames have in common, once, as it is shown."""
    shown = printable(text)
    if len(shown) > MAX_NAME_CHARS and not shown.startswith("/"):
        shown = shown[: MAX_NAME_CHARS - 1] + _ELLIPSIS
    return shown


def _unresolved(why: str) -> list[RawFrame]:
    return [RawFrame("", "", "", "", 0, 0, 0, why)]


def _without_types(name: str) -> str:
    first, last = name.find("["), name.rfind("]")
    return f"{name[:first]}[...]{name[last + 1 :]}" if 0 <= first < last else name


def _frames(file: GoFile, rows: list[tuple[int, int, int]], taken: int) -> list[RawFrame]:
    """`taken`: the innermost function's return, where it took that from the stack. Raises ElfError."""
    code, _, owner = rows[0]
    is_return = False
    if not code or (file.shown(code, is_return=False) is None and owner != OWN):
        # C: it keeps no chain, so nothing is known of the stack of g0
        rows, is_return = [row for row in rows if row[2] == LEFT], True
        if rows and rows[0][1] & FRAME and rows[0][1] != FRAME | file.build.callback.frame:
            return _unresolved(CORRUPT)  # sched.bp is of another call by now
    levels: list[_Shown] = []
    for code, behind, owner in rows:
        # Of a function that keeps no frame the return lies behind its own callee's: the chain leads past its caller.
        for at in (code, behind):
            shown = file.shown(taken if levels and levels[-1].took_return else at, is_return=is_return)
            if shown is None and owner == SYSTEM:  # C's, which began the thread
                return _without_wrappers(levels)
            if shown is None:
                return _unresolved(CORRUPT)
            levels.append(shown)
            is_return = True
            if shown.is_end or not shown.keeps_no_frame or behind & FRAME:
                break
        if levels[-1].is_end:
            break
    return _without_wrappers(levels)


def _without_wrappers(levels: list[_Shown]) -> list[RawFrame]:
    found, called = [], ""
    for level in levels:
        for frame, is_wrapper in level.frames:
            if not is_wrapper or called in _SHOW_WRAPPERS:
                found.append(frame)
            called = frame.function
    return found
