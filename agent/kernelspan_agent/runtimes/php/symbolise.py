# SPDX-License-Identifier: Apache-2.0
"""From the frames of the kernel's walk to function, file and line.

The line comes with the frame. What a function is shown by comes from the kernel, which read it while the function was on a
stack (a CODE record, `learn`), under a hash of just that: whatever else lies at the function's address by now, the name
is the frame's. Where the kernel could not read all of it, the memory is read here, and believed only where it gives the
frame's hash again. Answers are kept by the hash; the cache is bounded.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from kernelspan_agent.process.errors import MemoryReadError
from kernelspan_agent.process.procfs import printable
from kernelspan_agent.runtimes.registry import RawFrame

from .functions import ELLIPSIS, CorruptFunctionError, Text, is_whole, read_function
from .layout import CUT_CLASS, CUT_FILE, CUT_NAME, EVAL, INTERNAL, MAIN, MISSING, PHP_CODE, UNREAD

if TYPE_CHECKING:
    from kernelspan_agent.process.memory import Memory

    from .detect import PhpDetails

MAX_NAME_CHARS = 256
MAX_CODES = 8192
REPLACED, UNREADABLE, CORRUPT = "CodeReplaced", "MemoryUnreadable", "Corrupt"
INTERNAL_FILE = "[internal function]"  # as PHP's own traces have it
_NAMELESS = {MAIN: "{main}", EVAL: "{eval}"}
_INCLUDED = "{include}"
_CUTS = (CUT_NAME, CUT_CLASS, CUT_FILE)


@dataclass(frozen=True, slots=True)
class _Part:
    """A text of a CODE record; `missing_at`: where its string is, of which nothing could be read; 0: it is here."""

    text: bytes
    cut: bool
    missing_at: int


@dataclass(frozen=True, slots=True)
class _Shown:
    name: str  # with its class; empty: code of a file or of eval
    file: str


class PhpSymboliser:
    """Symbols of one process. Not for several threads at once."""

    def __init__(self, memory: Memory, details: PhpDetails) -> None:
        self._memory, self._offsets = memory, details.offsets
        self._codes: OrderedDict[int, _Shown] = OrderedDict()
        self._partial: OrderedDict[int, list[_Part]] = OrderedDict()
        self.unresolved: Counter[str] = Counter()  # frames without a name, by reason

    def learn(self, record: bytes) -> None:
        """Takes in a CODE record; one that contradicts itself is passed over."""
        if len(record) < PHP_CODE.itemsize:
            return
        header = np.frombuffer(record, PHP_CODE, 1)[0]
        flags, sizes = int(header["flags"]), [int(header[name]) for name in ("name_bytes", "class_bytes", "file_bytes")]
        if PHP_CODE.itemsize + sum(sizes) > len(record):
            return
        texts, at = [], PHP_CODE.itemsize
        for size in sizes:
            texts.append(record[at : at + size])
            at += size
        parts = [
            _Part(text, bool(flags & flag), int(header[name]) if flags & flag * MISSING else 0)
            for text, flag, name in zip(texts, _CUTS, ("name_at", "class_at", "file_at"), strict=True)
        ]
        code = int(header["code"])
        if any(part.missing_at for part in parts):
            self._partial[code] = parts
            if len(self._partial) > MAX_CODES:
                self._partial.popitem(last=False)
        else:
            self._keep(code, _shown(*(_text(part.text, cut=part.cut) for part in parts)))

    def _keep(self, code: int, shown: _Shown) -> None:
        self._codes[code] = shown
        self._codes.move_to_end(code)
        if len(self._codes) > MAX_CODES:
            self._codes.popitem(last=False)

    def frames(self, rows: np.ndarray) -> list[RawFrame]:
        """Frames of the rows (fields code, pc, globals, owner; shape (n,)) in their order.

        A frame that could not be resolved has no function and says why.
        """
        found = []
        columns = [rows[name].tolist() for name in ("code", "pc", "globals", "owner")]
        for code, pc, function, owner in zip(*columns, strict=True):
            shown = self._codes.get(code) or self._complete(code) or self._read(code, function, owner)
            if isinstance(shown, str):
                self.unresolved[shown] += 1
                found.append(RawFrame("", "", "", "", 0, pc >> 32, code, shown))
            else:
                found.append(_frame(shown, code, pc, owner & ~UNREAD))
        return found

    def _complete(self, code: int) -> _Shown | None:
        """What a record said of a function whose strings were not all resident, with these; None: they cannot be had.

        They are read anew each time: where they lie is a part of the hash, and tells nothing of what lies there later.
        """
        parts = self._partial.get(code)
        if parts is None:
            return None
        texts = []
        for part in parts:
            text = Text(0, 0, part.text, part.cut)
            if part.missing_at:
                try:
                    text = Text.read(self._memory, part.missing_at)
                    if not is_whole(self._memory, text):
                        return None
                except (MemoryReadError, CorruptFunctionError):
                    return None
            texts.append(_text(text.text, cut=text.cut))
        return _shown(*texts)

    def _read(self, code: int, address: int, owner: int) -> _Shown | str:
        """What the function in memory is shown by; a reason where it cannot be the frame's."""
        try:
            function = read_function(self._memory, address, self._offsets)
        except MemoryReadError:
            return UNREADABLE
        except CorruptFunctionError:
            return CORRUPT
        if not function.is_shown_as(code, owner):
            return REPLACED
        texts = (_text(each.text, cut=each.cut) for each in (function.name, function.class_name, function.file))
        shown = _shown(*texts)
        if not owner & UNREAD:  # else addresses are part of the hash: not to be trusted a second time
            self._keep(code, shown)
        return shown


def _frame(shown: _Shown, code: int, pc: int, kind: int) -> RawFrame:
    name = shown.name or _NAMELESS.get(kind, _INCLUDED)
    file = INTERNAL_FILE if kind == INTERNAL else shown.file
    return RawFrame(name, "", name, file, pc & 0xFFFFFFFF, pc >> 32, code)


def _shown(name: str, class_name: str, file: str) -> _Shown:
    return _Shown(printable(_short(f"{class_name}::{name}" if class_name and name else name)), file)


def _short(text: str) -> str:
    return text if len(text) <= MAX_NAME_CHARS else text[: MAX_NAME_CHARS - 1] + ELLIPSIS


def _text(data: bytes, *, cut: bool) -> str:
    """A string's text up to its first NUL: behind it a class without a name has where it was declared."""
    text, nul, _ = data.partition(b"\0")
    shown = text.decode("utf-8", "surrogateescape")
    return shown + ELLIPSIS if cut and not nul else shown
