# SPDX-License-Identifier: Apache-2.0
"""From the frames of the kernel's walk to class, method, file and line.

An interpreted frame's names come from the kernel, which read them while the method was on a stack (a CODE record, `learn`),
under a hash of just that; where the kernel could not, the memory is read here and believed only where it gives the frame's
hash again. A compiled frame is read here: it may stand for several methods, inlined into one. Its code keeps what it names
alive for as long as it is on a stack, and each compilation of a process has a number of its own, which is looked at before
and after. What Java leaves out of its own traces (@Hidden) is left out here. Answers are kept; the caches are bounded.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from kernelspan_agent.process.errors import MemoryReadError
from kernelspan_agent.process.memory import read_u64
from kernelspan_agent.process.procfs import printable
from kernelspan_agent.runtimes.mixing import mix_lanes
from kernelspan_agent.runtimes.registry import RawFrame

from .layout import COMPILED, CUT, INTERPRETED, JAVA_CODE, UNREAD, WRAPPER
from .methods import CorruptMethodError, Method, make_method, read_method
from .nmethods import number_of, read_scopes

if TYPE_CHECKING:
    from kernelspan_agent.process.memory import Memory

    from .detect import JavaDetails

MAX_NAME_CHARS = 256
MAX_CODES, MAX_PLACES = 8192, 4096
REPLACED, UNREADABLE, CORRUPT = "CodeReplaced", "MemoryUnreadable", "Corrupt"
_CONTINUATION = (b"jdk/internal/vm/Continuation", b"enterSpecial")
_ELLIPSIS = "…"


@dataclass(frozen=True, slots=True)
class _Shown:
    """A method as frames show it."""

    method: Method
    function: str
    name: str
    file: str
    unit: str  # the class
    code: int


class JavaSymboliser:
    """Symbols of one process. Not for several threads at once."""

    def __init__(self, memory: Memory, details: JavaDetails) -> None:
        self._memory, self._offsets = memory, details.offsets
        self._codes: OrderedDict[int, _Shown] = OrderedDict()  # interpreted methods
        self._places: OrderedDict[tuple[int, int, int], tuple[tuple[_Shown, int], ...]] = (
            OrderedDict()
        )  # in compiled code
        self.unresolved: Counter[str] = Counter()  # frames without a name, by reason

    def learn(self, record: bytes) -> None:
        """Takes in a CODE record; one that contradicts itself is passed over."""
        if len(record) < JAVA_CODE.itemsize:
            return
        header = np.frombuffer(record, JAVA_CODE, 1)[0]
        sizes = [int(header[name]) for name in ("class_bytes", "name_bytes", "file_bytes", "table_bytes")]
        if JAVA_CODE.itemsize + sum(sizes) > len(record) or int(header["flags"]) & CUT or not sizes[0] or not sizes[1]:
            return
        texts, at = [], JAVA_CODE.itemsize
        for size in sizes:
            texts.append(record[at : at + size])
            at += size
        bits = (
            int(header["access"]),
            int(header["method_flags"]),
            int(header["const_flags"]),
            int(header["code_size"]),
        )
        try:
            method = make_method((texts[0], texts[1], texts[2]), int(header["klass"]), bits, texts[3], self._offsets)
        except CorruptMethodError:  # a longer table than is sent: to be read
            return
        self._keep(int(header["code"]), _shown(method))

    def _keep(self, code: int, shown: _Shown) -> None:
        self._codes[code] = shown
        self._codes.move_to_end(code)
        if len(self._codes) > MAX_CODES:
            self._codes.popitem(last=False)

    def frames(self, rows: np.ndarray) -> list[RawFrame]:
        """Frames of the rows (fields code, pc, globals, check, owner; shape (n,)) in their order.

        A row of compiled code may be several frames; one that could not be resolved has no function and says why. Of a
        virtual thread what its carrier does is no frame of its.
        """
        found: list[RawFrame] = []
        columns = [rows[name].tolist() for name in ("code", "pc", "globals", "check", "owner")]
        for code, pc, method, check, owner in zip(*columns, strict=True):
            shown: tuple[tuple[_Shown, int], ...] | str
            kind = owner & ~UNREAD
            if kind == INTERPRETED:
                shown = self._interpreted(code, pc, method, is_unread=bool(owner & UNREAD))
            elif kind in (COMPILED, WRAPPER):
                shown = self._compiled(code, pc, check, kind)
            else:
                continue
            if isinstance(shown, str):
                self.unresolved[shown] += 1
                found.append(RawFrame("", "", "", "", 0, pc & 0xFFFFFFFF, code, shown))
                continue
            for each, bci in shown:
                if (each.method.class_name, each.method.name) == _CONTINUATION:
                    return found
                if not each.method.is_hidden:
                    found.append(_frame(each, bci))
        return found

    def _interpreted(
        self, code: int, bci: int, address: int, *, is_unread: bool
    ) -> tuple[tuple[_Shown, int], ...] | str:
        shown = self._codes.get(code)
        if shown is None:
            try:
                method = read_method(self._memory, address, self._offsets)
            except MemoryReadError:
                return UNREADABLE
            except CorruptMethodError:
                return CORRUPT
            if code not in method.identities:
                return REPLACED
            shown = _shown(method)
            if not is_unread:  # else addresses are part of the hash: not to be trusted a second time
                self._keep(code, shown)
        return ((shown, bci),)

    def _compiled(self, blob: int, pc: int, check: int, kind: int) -> tuple[tuple[_Shown, int], ...] | str:
        key = (blob, check, pc if kind == COMPILED else 0)
        places = self._places.get(key)
        if places is None:
            try:
                if number_of(self._memory, blob, self._offsets) != check:
                    return REPLACED
                places = self._read(blob, pc, kind)
                if number_of(self._memory, blob, self._offsets) != check:
                    return REPLACED
            except MemoryReadError:
                return UNREADABLE
            except CorruptMethodError:
                return CORRUPT
            self._places[key] = places
        self._places.move_to_end(key)
        if len(self._places) > MAX_PLACES:
            self._places.popitem(last=False)
        return places

    def _read(self, blob: int, pc: int, kind: int) -> tuple[tuple[_Shown, int], ...]:
        scopes = [] if kind == WRAPPER else read_scopes(self._memory, blob, pc, self._offsets)
        if not scopes:  # its own method, whose line is not known
            scopes = [(read_u64(self._memory, blob + self._offsets.scopes.method), -1)]
        return tuple((_shown(read_method(self._memory, method, self._offsets)), bci) for method, bci in scopes)


def _frame(shown: _Shown, bci: int) -> RawFrame:
    line = shown.method.line_of(bci)
    return RawFrame(shown.function, "", shown.name, shown.file, line, bci & 0xFFFFFFFF, shown.code, unit=shown.unit)


def _shown(method: Method) -> _Shown:
    class_name, name = _text(method.class_name), _text(method.name)
    package, slash, _ = class_name.rpartition("/")
    source = _text(method.source)
    file = f"{package}{slash}{source}" if source else ""
    function = printable(_short(f"{class_name.replace('/', '.')}.{name}"))
    # The same for a method interpreted and compiled; its lines tell it from others of its name in its class.
    code = mix_lanes(b"\0".join((method.class_name, method.name, method.lines, method.klass.to_bytes(8, "little"))))
    return _Shown(method, function, printable(name), printable(file), class_name, code)


def _short(text: str) -> str:
    return text if len(text) <= MAX_NAME_CHARS else text[: MAX_NAME_CHARS - 1] + _ELLIPSIS


def _text(data: bytes) -> str:
    """A Symbol's text: modified UTF-8, whose NUL and letters beyond 16 bits are written otherwise."""
    if b"\xed" not in data and b"\xc0" not in data:
        return data.decode("utf-8", "surrogateescape")
    try:
        text = data.replace(b"\xc0\x80", b"\0").decode("utf-8", "surrogatepass")
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    except UnicodeDecodeError:
        return data.decode("utf-8", "surrogateescape")
