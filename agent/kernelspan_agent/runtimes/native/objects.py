# SPDX-License-Identifier: Apache-2.0
"""The files whose code processes run: one object each, whoever has it mapped, for as long as anybody has.

Its rows are made in a thread, since a large file takes tenths of a second, and lie in the kernel's table from then on. A file is
known by what the file system says of it, and in a process by a part of its build id: of a library that has none nothing is claimed,
since another could lie in its place by the time that a thread is seen in it. What a program is linked with never changes (`linked`).
"""

from __future__ import annotations

import itertools
import os
import threading
import weakref
from array import array
from collections import OrderedDict, deque
from dataclasses import dataclass
from typing import TYPE_CHECKING

from kernelspan_agent.process import files
from kernelspan_agent.process.elf import (
    EM_X86_64,
    ET_EXEC,
    MAX_NOTE_BYTES,
    NT_GNU_BUILD_ID,
    PAGE_BYTES,
    PT_LOAD,
    SHT_NOTE,
    Elf,
    read_at,
    read_elf,
)
from kernelspan_agent.process.errors import ElfError, ProcessError
from kernelspan_agent.process.linked import linked

from .ehframe import read_rows

if TYPE_CHECKING:
    from collections.abc import Callable

    from kernelspan_agent.process.files import FileKey
    from kernelspan_agent.process.procfs import Mapping

    from .room import Extent

MAX_OBJECTS = 512  # open at once
MAX_KEPT = 64  # that nobody has mapped any more
IDENTITY_BYTES = 16
_NOTE_HEADER, _NOTE_NAME = 12, b"GNU\0"
_numbers = itertools.count(1)  # none is used twice


@dataclass(frozen=True, slots=True)
class Identity:
    """Bytes of the file, and the address in the file that they are loaded at."""

    address: int
    data: bytes


class Object:
    """A file's code. `rows`: where its rows are in the kernel; None: it has none, or there is no room."""

    __slots__ = ("__weakref__", "code", "fd", "identity", "is_program", "linked", "number", "path", "ready", "rows")

    def __init__(self, fd: int, path: str, number: int) -> None:
        """`fd`: a copy is kept. Raises ElfError: it has no code of this machine's."""
        elf = read_elf(fd)
        if elf.machine != EM_X86_64:
            raise ElfError("not for x86-64")
        self.code = [each for each in elf.segments if each.is_code]
        self.identity, self.path, self.number = identity_of(elf), path, number
        self.is_program = elf.kind == ET_EXEC
        self.linked = linked(elf)
        self.rows: Extent | None = None
        self.ready = False
        self.fd = os.dup(fd)
        weakref.finalize(self, os.close, self.fd)

    @property
    def name(self) -> str:
        """By which others need it."""
        return self.linked.name or self.path.rpartition("/")[2]

    def bias(self, mapping: Mapping) -> int | None:
        """What to add to the file's addresses in a piece of code that is mapped; None: it is none of its code."""
        for each in self.code:
            first = each.offset // PAGE_BYTES * PAGE_BYTES
            if first <= mapping.offset < each.offset + each.file_bytes:
                bias = mapping.start - (each.address + mapping.offset - each.offset)
                return None if bias < 0 or (self.is_program and bias) else bias
        return None


def identity_of(elf: Elf) -> Identity | None:
    """The last bytes of the build id, where it is loaded with the code. Raises ElfError."""
    for section in elf.sections:
        if section.kind != SHT_NOTE or not section.address or section.size > MAX_NOTE_BYTES:
            continue
        data, at = read_at(elf.fd, section.offset, section.size), 0
        while at + _NOTE_HEADER <= len(data):
            name_bytes, size, kind = (int.from_bytes(data[at + i : at + i + 4], "little") for i in (0, 4, 8))
            name_at = at + _NOTE_HEADER
            value_at = name_at + (name_bytes + 3 & ~3)
            end = value_at + size
            if kind == NT_GNU_BUILD_ID and data[name_at:value_at] == _NOTE_NAME and end <= len(data) and size >= 8:
                begin = end - IDENTITY_BYTES
                address = section.address + begin
                loaded = any(
                    each.kind == PT_LOAD and each.address <= address <= each.address + each.file_bytes - IDENTITY_BYTES
                    for each in elf.segments
                )
                return Identity(address, data[begin:end]) if loaded else None
            at = value_at + (size + 3 & ~3)
    return None


class Objects:
    """All of them, by what they are. For one thread."""

    def __init__(self, take: Callable[[array[int]], Extent | None], give_back: Callable[[Extent], None]) -> None:
        """`take`: puts rows into the kernel's table, and says where; None: there is no room. `give_back`: they are not needed."""
        self._take, self._give_back = take, give_back
        self._known: weakref.WeakValueDictionary[FileKey, Object] = weakref.WeakValueDictionary()
        self._by_number: weakref.WeakValueDictionary[int, Object] = weakref.WeakValueDictionary()
        self._kept: OrderedDict[int, Object] = OrderedDict()  # those that were asked for last
        self._refused: OrderedDict[FileKey, None] = OrderedDict()
        self._wanted: deque[Object] = deque()
        self._made: deque[tuple[Object, array[int]]] = deque()
        self._thread: threading.Thread | None = None

    def numbered(self, number: int) -> Object | None:
        """None: nobody has it mapped any more."""
        return self._by_number.get(number)

    def of(self, fd: int, path: str) -> Object | None:
        """That of an open file; None: it has no code, or there are too many. Raises ProcessError."""
        key = files.file_key(fd)
        found = self._known.get(key)
        if found is None:
            if key in self._refused or len(self._known) >= MAX_OBJECTS:
                return None
            try:
                found = Object(fd, path, next(_numbers))
            except ElfError:
                self._refused[key] = None
                if len(self._refused) > MAX_OBJECTS:
                    self._refused.popitem(last=False)
                return None
            self._known[key] = self._by_number[found.number] = found
            self._wanted.append(found)
        self._kept[found.number] = found
        self._kept.move_to_end(found.number)
        if len(self._kept) > MAX_KEPT:
            self._kept.popitem(last=False)
        return found

    def work(self) -> None:
        """Takes on what the thread has made, and begins with what is wanted."""
        while self._made:
            found, rows = self._made.popleft()
            if rows:
                found.rows = self._take(rows)
                if found.rows is None:
                    self._kept.clear()  # room for the next
                else:
                    weakref.finalize(found, self._give_back, found.rows)
            found.ready = True
        if self._wanted and (self._thread is None or not self._thread.is_alive()):
            self._thread = threading.Thread(target=self._make, name="unwind-tables", daemon=True)
            self._thread.start()

    def _make(self) -> None:
        while self._wanted:
            wanted = self._wanted.popleft()
            try:
                rows = read_rows(read_elf(wanted.fd))
            except (ProcessError, OSError):
                rows = array("Q")
            self._made.append((wanted, rows))
            del wanted
