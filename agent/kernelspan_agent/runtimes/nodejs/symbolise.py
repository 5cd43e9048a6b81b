# SPDX-License-Identifier: Apache-2.0
"""From the frames of the kernel's walk to function, file and line.

What a function is shown by comes from the kernel (a CODE record, `learn`), under a number of which no address is a part.
Lines are counted in the script's source, which V8 keeps: it is read once, where the Script at its last known address is
still the one of that number, and stays so until it is read. Where it has a source map (`maps`), file and line are those of
what it was compiled from. What cannot be had is left out: a line is right, or 0. A
frame of compiled code is read from the code (`compiled`), as it may stand for several functions: where that fails it is
unresolved, and with it the stack.
"""

from __future__ import annotations

import itertools
import time
from collections import Counter, OrderedDict
from dataclasses import replace
from typing import TYPE_CHECKING, TypeVar

import numpy as np

from kernelspan_agent.process.errors import MemoryReadError
from kernelspan_agent.process.memory import ProcessMemory
from kernelspan_agent.runtimes.mixing import mix
from kernelspan_agent.runtimes.registry import RawFrame

from . import lines
from .compiled import places_of
from .functions import (
    ELLIPSIS,
    NATIVE_FILE,
    NO_CHECK,
    Function,
    initializer,
    path_of,
    read_function,
    short,
    unnamed,
)
from .heap import CorruptHeapError, decode, read_script, read_source
from .layout import BUILTIN, COMPILED, CUT_FILE, CUT_NAME, EVALUATED, INTERPRETED, JS_CODE, MISSING, OUTSIDE
from .maps import SourceMap, map_of
from .positions import position_of

if TYPE_CHECKING:
    from kernelspan_agent.process.memory import Memory

    from .detect import NodeDetails

MAX_CODES = 8192
MAX_TABLES = 8192
MAX_FRAMES = 32768
ATTEMPTS = 3  # V8 may be moving what is read
MAP_SECONDS = 2.0  # of one process, for reading source maps: whoever makes scripts without end has none at last
UNREADABLE, COMPILED_CODE = "MemoryUnreadable", "CompiledCode"
_numbers = itertools.count()
_Key = TypeVar("_Key")
_Value = TypeVar("_Value")


class NodeSymboliser:
    """Symbols of one process. Not for several threads at once."""

    def __init__(self, memory: Memory, details: NodeDetails) -> None:
        self._memory, self._layout = memory, details.layout
        self._process = memory.process if isinstance(memory, ProcessMemory) else None
        self._map_seconds = 0.0
        self._number = next(_numbers)  # an object's id may be another's later
        self._codes: OrderedDict[int, Function] = OrderedDict()
        self._tables: OrderedDict[tuple[int, int], bytes] = OrderedDict()
        self._frames: OrderedDict[tuple[int, int, int, int], tuple[RawFrame, ...]] = OrderedDict()
        self._read_lines: dict[object, lines.Lines] = {}  # until it is proved that they are the script's
        self.unresolved: Counter[str] = Counter()  # frames without a name, by reason

    def learn(self, record: bytes) -> None:
        """Takes in a CODE record; one that contradicts itself is passed over."""
        if len(record) < JS_CODE.itemsize:
            return
        header = np.frombuffer(record, JS_CODE, 1)[0]
        sizes = [int(header[name]) for name in ("name_bytes", "file_bytes", "table_bytes")]
        if JS_CODE.itemsize + sum(sizes) > len(record):
            return
        name_end = JS_CODE.itemsize + sizes[0]
        file_end = name_end + sizes[1]
        code, flags = int(header["code"]), int(header["flags"])
        name = decode(record[JS_CODE.itemsize : name_end], int(header["name_width"]))
        file = decode(record[name_end:file_end], int(header["file_width"]))
        said = Function(
            initializer(int(header["function_flags"]), self._layout)
            or short(name, cut=flags & CUT_NAME)
            or unnamed(evaluated=bool(flags & EVALUATED)),
            NATIVE_FILE if header["owner"] == BUILTIN else path_of(file) + (ELLIPSIS if flags & CUT_FILE else ""),
            int(header["number"]),
            int(header["script"]),
            int(header["script_id"]),
            int(header["source_length"]),
            int(header["line_offset"]),
            int(header["source_check"]),
        )
        function = self._read_function(int(header["shared"]), said) if flags & (CUT_NAME | CUT_FILE) * MISSING else said
        if function is None:
            return
        _keep(self._codes, code, function, MAX_CODES)
        if sizes[2]:
            _keep(self._tables, (code, int(header["check"])), record[file_end : file_end + sizes[2]], MAX_TABLES)

    def _read_function(self, shared: int, said: Function) -> Function | None:
        """What the kernel could not read, where the function and its script are still those that it saw."""
        try:
            found = read_function(self._memory, shared, self._layout)
            again = read_function(self._memory, shared, self._layout)
        except (MemoryReadError, CorruptHeapError):
            return None
        return replace(found, check=said.check) if found == again and found.is_of(said) else None

    def frames(self, rows: np.ndarray) -> list[RawFrame]:
        """Frames of the rows (fields code, pc, globals, check, owner; shape (n,)) in their order.

        A frame that could not be resolved has no function and says why. One of compiled code may give several.
        """
        found: list[RawFrame] = []
        columns = [rows[name].tolist() for name in ("code", "pc", "check", "owner", "globals")]
        for code, pc, check, owner, shared in zip(*columns, strict=True):
            key = (code, pc, check, owner)
            made = self._frames.get(key)
            if made is None:
                made = self._resolve(*key, shared)
                if not made[0].unresolved:
                    _keep(self._frames, key, made, MAX_FRAMES)
            if made[0].unresolved:
                self.unresolved[made[0].unresolved] += 1
            found += made
        return found

    def _resolve(self, code: int, pc: int, check: int, owner: int, shared: int) -> tuple[RawFrame, ...]:
        function = self._codes.get(code)
        if function is None:
            return (RawFrame("", "", "", "", 0, pc, code, UNREADABLE),)
        if owner == COMPILED:
            return self._resolve_compiled(function, pc, check, shared)
        position = -1
        if owner == INTERPRETED:
            table = self._tables.get((code, check), b"")
            found = position_of(table, pc, packed=self._layout.version.packed_positions)
            position = -1 if found is None else found
        if position >= 0 and self._lines(function, position) is None:
            function = self._moved(code, shared, function)
        return (self._frame(function, position, pc),)

    def _moved(self, code: int, shared: int, said: Function) -> Function:
        """A function whose script is no longer where it was, as its SharedFunctionInfo says by now, if that is there."""
        found = self._read_function(shared, said)
        if found is None:
            return said
        found = replace(said, script=found.script)
        _keep(self._codes, code, found, MAX_CODES)
        return found

    def _resolve_compiled(self, function: Function, pc: int, check: int, shared: int) -> tuple[RawFrame, ...]:
        wanted, reason = (self._memory, pc, check, function, shared, self._layout), COMPILED_CODE
        for _ in range(ATTEMPTS):
            try:
                places = places_of(*wanted)
                frames = tuple(self._frame(place.function, place.position, pc) for place in places)
                if places_of(*wanted) == places:
                    lines.KNOWN.keep_all(self._read_lines)
                    return frames
            except MemoryReadError:
                reason = UNREADABLE
            except CorruptHeapError:
                reason = COMPILED_CODE
            finally:
                self._read_lines.clear()
        return (RawFrame("", "", "", "", 0, pc, pc, reason),)

    def _frame(self, function: Function, position: int, pc: int) -> RawFrame:
        code = mix(0, function.script_id, function.number, function.source_length) & (1 << 63) - 1
        known = self._lines(function, position)
        file, line = function.file, 0
        if known is not None:
            origin = known.origin_of(position) if not function.line_offset else None
            file, line = origin or (file, max(known.line_at(position) + function.line_offset, 0))
        site = position if position >= 0 else pc
        return RawFrame(function.name, "", function.name, file, line, site, code, unit=function.file)

    def _lines(self, function: Function, position: int) -> lines.Lines | None:
        """Of its script, in which the position must be; None: not known."""
        if not 0 <= position <= function.source_length:
            return None
        key = (self._number, function.file, function.script_id, function.source_length)
        known = lines.KNOWN.get(key)
        if known is None:
            known = self._read_lines.get(key)
        if known is None:
            known = self._read(function)
            if known is None:
                return None
            if function.check == NO_CHECK:
                self._read_lines[key] = known
            else:
                lines.KNOWN.keep(key, known)
        return known

    def _read(self, function: Function) -> lines.Lines | None:
        try:
            words = read_script(self._memory, function.script, self._layout)
            if words.number != function.script_id:
                return None
            source, where = read_source(self._memory, function.script, words, self._layout)
        except (MemoryReadError, CorruptHeapError):
            return None
        if function.check not in (NO_CHECK, OUTSIDE if where.outside else lines.check_of(source)):
            return None
        if len(source) != function.source_length * where.width:
            return None
        ends = lines.line_ends(source, where.width)
        return lines.Lines(ends, self._map(function.file, source, where.width, ends))

    def _map(self, file: str, source: bytes, width: int, ends: np.ndarray) -> SourceMap | None:
        """Of a script, as long as the process's maps have not taken too long. Writers of maps know no other ends of lines
        than feeds.
        """
        if self._process is None or file.endswith(ELLIPSIS) or self._map_seconds > MAP_SECONDS:
            return None
        begun = time.monotonic()
        found = map_of(self._process, file, source, width) if lines.are_feeds(source, width, ends) else None
        self._map_seconds += time.monotonic() - begun
        return found if found is not None and len(found) <= lines.MOST_OF_ONE else None


def _keep(known: OrderedDict[_Key, _Value], key: _Key, value: _Value, most: int) -> None:
    known[key] = value
    known.move_to_end(key)
    if len(known) > most:
        known.popitem(last=False)
