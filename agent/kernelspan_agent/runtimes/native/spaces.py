# SPDX-License-Identifier: Apache-2.0
"""What code processes have mapped where, as the kernel's walk looks it up; processes that were forked share a table.

The tables are the kernel's of one session: they are kept by whom they are filled with (`tables_of`).
"""

from __future__ import annotations

import itertools
import weakref
from collections import Counter
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from kernelspan_agent.process import files, procfs
from kernelspan_agent.process.errors import ProcessError
from kernelspan_agent.process.linked import held

from .layout import PART, PARTS, PARTS_EACH, PARTS_MAP, ROWS, ROWS_MAP
from .objects import Object, Objects
from .room import Extent, Room

if TYPE_CHECKING:
    from array import array

    from kernelspan_agent.process.procfs import Mapping, Process
    from kernelspan_agent.runtimes.registry import Tables

_COUNT_SHIFT = 32


@dataclass(frozen=True, slots=True)
class Part:
    """A piece of code that is mapped."""

    start: int
    end: int
    bias: int
    object: Object
    checked: bool = True  # whether the file is to be known by its build id


@dataclass(frozen=True, slots=True, eq=False, weakref_slot=True)
class Space:
    """A table of parts in the kernel."""

    parts: tuple[Part, ...]
    where: Extent

    @property
    def word(self) -> int:
        """How the kernel is told of it."""
        return self.where.first | self.where.count << _COUNT_SHIFT


class NativeTables:
    """Everything that the walks of one session look things up in. For one thread."""

    def __init__(self, tables: Tables) -> None:
        self._tables = weakref.ref(tables)
        self._rows, self._parts = Room(ROWS), Room(PARTS)
        self.objects = Objects(self._take_rows, self._rows.give_back)
        self._spaces: weakref.WeakValueDictionary[tuple[Part, ...], Space] = weakref.WeakValueDictionary()

    @property
    def are_there(self) -> bool:
        """Whether the walker, and so its maps, has been loaded."""
        tables = self._tables()
        return tables is not None and tables.has_table(PARTS_MAP)

    def parts_of(self, process: Process) -> tuple[Part, ...]:
        """The code that a process has mapped now, as far as it can be walked. Raises ProcessError."""
        executable, _ = procfs.read_executable(process)
        code = (each for each in procfs.read_maps(process) if each.is_file and "x" in each.permissions)
        parts = [part for each in code if (part := self._part(process, each)) is not None]
        stay = _staying(parts, executable)
        found = (replace(part, checked=part.object not in stay) for part in parts)
        walked = (part for part in found if part.object.identity is not None or not part.checked)
        return tuple(itertools.islice(walked, PARTS_EACH))

    def _part(self, process: Process, mapping: Mapping) -> Part | None:
        try:
            with files.open_mapping(process, mapping) as fd:
                found = self.objects.of(fd, mapping.path)
        except ProcessError:
            return None
        bias = found.bias(mapping) if found is not None else None
        return Part(mapping.start, mapping.end, bias, found) if found is not None and bias is not None else None

    def space(self, parts: tuple[Part, ...]) -> Space | None:
        """The table of these parts, whose objects are ready; None: there is no room."""
        found = self._spaces.get(parts)
        if found is None:
            where = self._parts.take(len(parts)) if parts else None
            if where is None:
                return None
            self._fill(PARTS_MAP, where.first, _rows_of(parts))
            found = self._spaces[parts] = Space(parts, where)
            weakref.finalize(found, self._parts.give_back, where)
        return found

    def _take_rows(self, rows: array[int]) -> Extent | None:
        where = self._rows.take(len(rows))
        if where is not None:
            self._fill(ROWS_MAP, where.first, np.frombuffer(rows, "<u8"))
        return where

    def _fill(self, name: str, first: int, values: np.ndarray) -> None:
        tables = self._tables()
        if tables is not None:
            tables.fill_table(name, first, values)


def _staying(parts: list[Part], executable: str) -> set[Object]:
    """The files that cannot be unloaded: the program, and what it is linked with; not what lies there twice."""
    program = next((part.object for part in parts if part.object.path == executable), None)
    if program is None:
        return set()
    places: dict[Object, set[int]] = {}
    for part in parts:
        places.setdefault(part.object, set()).add(part.bias)
    once = {each for each, biases in places.items() if len(biases) == 1}
    names = Counter(each.name for each in places)
    others = {each.name: each.linked for each in once if names[each.name] == 1}
    names_held = held(program.linked, others)
    return {each for each in once if each is program or (each.name in names_held and names[each.name] == 1)}


def _rows_of(parts: tuple[Part, ...]) -> np.ndarray:
    found = np.zeros(len(parts), PART)
    for row, part in zip(found, parts, strict=True):
        row["start"], row["end"], row["bias"], row["object"] = part.start, part.end, part.bias, part.object.number
        if part.checked and part.object.identity is not None:
            row["identity_at"] = part.object.identity.address + part.bias
            row["identity_low"], row["identity_high"] = np.frombuffer(part.object.identity.data, "<u8")
        if part.object.rows is not None:
            row["rows"], row["count"] = part.object.rows.first, part.object.rows.count
    return found


_of_sessions: weakref.WeakKeyDictionary[Tables, NativeTables] = weakref.WeakKeyDictionary()


def tables_of(tables: Tables) -> NativeTables:
    """Those of a session."""
    found = _of_sessions.get(tables)
    if found is None:
        found = _of_sessions[tables] = NativeTables(tables)
    return found
