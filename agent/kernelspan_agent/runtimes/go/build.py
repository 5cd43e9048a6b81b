# SPDX-License-Identifier: Apache-2.0
"""What one file says about the Go program that it is: version, modules, table of functions, where runtime.g is kept.

Only the file is read, so the answer holds for every process that runs it. A file without section headers that is no Go
program would cost a search of all that is loaded: the list of modules, at the start of the data, is asked first.
"""

from __future__ import annotations

import os
import re
import struct
from dataclasses import dataclass, replace

from kernelspan_agent.process import elf as elf_reader
from kernelspan_agent.process.elf import PT_LOAD, Elf
from kernelspan_agent.process.errors import ElfError
from kernelspan_agent.process.symbols.gobuildinfo import build_info
from kernelspan_agent.process.symbols.gomodule import module_word
from kernelspan_agent.process.symbols.gopclntab import GO_1_18, GO_1_20, MARKS, SECTIONS, GoTable, functions, go_table
from kernelspan_agent.process.symbols.tables import search
from kernelspan_agent.runtimes.mixing import mix
from kernelspan_agent.runtimes.registry import Unsupported

from .layout import BY_MINOR, NEWEST, OLDEST, Callback, Offsets
from .modules import Modules
from .table import FunctionTable

NAME = "gc"  # of the compiler, as the semantic conventions have it
EM_X86_64 = 62
_VERSION = re.compile(r"go1\.(\d{1,3})(?=[.\s\-+a-z]|\Z)")
_END = b"runtime.goexit"
_PT_TLS = 7
_WORD = 8
_CALLBACK, _CALL_C, _CALL = b"runtime.cgocallback", b"runtime.asmcgocall", b"runtime.cgocall"
_RETURN, _SAVED = 8, 8  # bytes of an address on the stack
_NAMESAKES = 4
_CALLS_C = 2  # FuncID_asmcgocall, in every version
_BEGUN = 4  # bytes of code: a function that keeps a frame has begun with `push %rbp; mov %rsp, %rbp`
_LOOKING = (_CALL_C, b"runtime.morestack", b"runtime.systemstack")  # functions that begin with a look at runtime.g
_CODE_BYTES = 96
_MAX_TLS, _MAX_FRAME = 1 << 20, 1 << 12
_LOOK = re.compile(
    rb"\x64[\x48\x4c]\x8b[\x04\x0c\x14\x1c\x24\x2c\x34\x3c]\x25(....)"  # mov %fs:DISP, REG
    rb"|\x48\xc7[\xc0-\xc7](....)\x64[\x48-\x4d]\x8b",  # mov $DISP, REG; mov %fs:(REG), REG
    re.DOTALL,
)


@dataclass(frozen=True, slots=True)
class GoBuild:
    """A program that can be walked. Addresses are the file's own; `table.fd` is that of whoever has the file open."""

    version: str
    minor: int
    offsets: Offsets
    table: GoTable
    modules: Modules
    tls: int  # where runtime.g is kept, from the thread pointer
    callback: Callback
    code: int  # the first code of the program, C's too
    function_data: int  # where offsets of functions' data count from, in the file; 0: not known
    identity: int  # FRAME["globals"]: see bpf/runtimes/go.bpf.h
    root: str  # where the standard library lay; empty: not known (-trimpath), or not needed

    def table_of(self, fd: int) -> GoTable:
        """The table, to be read by this descriptor."""
        return replace(self.table, fd=fd)


def inspect_file(fd: int) -> GoBuild | Unsupported | None:
    """The Go program in the open ELF file; None: it is none. Raises ElfError."""
    elf = elf_reader.read_elf(fd)
    info = build_info(elf)
    if info is None and not any(elf.section(name) for name in (*SECTIONS, *MARKS)):
        return None
    version = info.version if info else ""
    table = go_table(elf)
    if table is None:
        return Unsupported("RuntimeLayoutUnknown", "the program's table of functions was not found", NAME, version)
    return _build(elf, version, Modules.read(info.modules if info else ""), table)


def _build(elf: Elf, version: str, modules: Modules, table: GoTable) -> GoBuild | Unsupported:
    shown = version or "Go of an unknown version"
    if elf.machine != EM_X86_64:
        return Unsupported("RuntimeUnsupported", f"{shown}: not for x86-64", NAME, version)
    if table.magic not in {GO_1_18, GO_1_20}:
        message = f"{shown} is older than 1.{OLDEST}"
        return Unsupported("RuntimeUnsupported", message, NAME, version)
    match = _VERSION.search(version)
    if match is None:
        message = "the program does not say which version of Go it was made by"
        return Unsupported("RuntimeLayoutUnknown", message, NAME, version)
    minor = int(match[1])
    offsets = BY_MINOR.get(minor)
    if minor < OLDEST:
        return Unsupported("RuntimeUnsupported", f"{shown} is older than 1.{OLDEST}", NAME, version)
    if offsets is None or version.startswith("devel"):
        message = f"{shown} is not among the releases whose layout is known, up to 1.{NEWEST}"
        return Unsupported("RuntimeLayoutUnknown", message, NAME, version)
    # To look for a function by its name is to read all names: of a large program that takes a tenth of a second.
    names = {_CALLBACK, _CALL_C, _CALL, *_LOOKING} if _has_c(elf) else set()
    places = _places(table, names if modules.listed else {_END, *names})
    tls = _tls(elf, places)
    if not tls:
        return Unsupported("RuntimeLayoutUnknown", f"{shown}: it does not show where it keeps runtime.g", NAME, version)
    code, identity = _identity(elf)
    data = _function_data(elf, table, offsets)
    lines = FunctionTable(table, offsets, data)
    callback = _callback(lines, places) if _has_c(elf) else Callback()
    root = "" if modules.listed else _root(lines, places)
    return GoBuild(version, minor, offsets, table, modules, tls, callback, code, data, identity, root)


def _has_c(elf: Elf) -> bool:
    """Whether C is linked in: without it runtime.g is the only variable of the threads, and ends at the thread pointer."""
    return any(segment.kind == _PT_TLS and segment.memory_bytes > _WORD for segment in elf.segments) or bool(
        elf.section(".interp")
    )


def _places(table: GoTable, names: set[bytes]) -> dict[bytes, list[tuple[int, int]]]:
    """Addresses and sizes of functions: one in assembly has a namesake that compiled code calls it by."""
    found: dict[bytes, list[tuple[int, int]]] = {name: [] for name in names}
    if not names:
        return found
    for entries in search(functions(table), sorted(names)):
        for entry in entries:
            if entry.name in names and len(found[entry.name]) < _NAMESAKES:
                found[entry.name].append((entry.address, entry.size))
    return found


def _tls(elf: Elf, places: dict[bytes, list[tuple[int, int]]]) -> int:
    """0: not found."""
    if not any(segment.kind == _PT_TLS and segment.memory_bytes > _WORD for segment in elf.segments):
        return -_WORD
    looks = (_look(elf, place) for name in _LOOKING for place in places[name])
    found = next((look for look in looks if look), 0)
    return found if -_MAX_TLS < found < 0 else 0


def _look(elf: Elf, place: tuple[int, int]) -> int:
    """Where a function looks for runtime.g; 0: it does not."""
    address, size = place
    look = _LOOK.search(elf_reader.read_address(elf, address, min(size, _CODE_BYTES)))
    return int(struct.unpack("<i", look[1] or look[2])[0]) if look is not None else 0


def _callback(table: FunctionTable, places: dict[bytes, list[tuple[int, int]]]) -> Callback:
    """runtime.cgocall is what calls runtime.asmcgocall itself; its namesake is for others."""
    try:
        known = {place: table.place(place[0] + _BEGUN) for place in places[_CALL_C]}
        call_c = [place for place, at in known.items() if at is not None and at.calls[-1].kind == _CALLS_C]
        if not len(call_c) == len(places[_CALL]) == len(places[_CALLBACK]) == 1:
            return Callback()
        begun = known[call_c[0]]
        callback, caller = (table.frame_bytes(place[0]) for place in (places[_CALLBACK][0], places[_CALL][0]))
    except ElfError:
        return Callback()
    if begun is None or begun.stack_bytes not in {0, _SAVED}:
        return Callback()
    if not _SAVED <= min(callback, caller) <= max(callback, caller) <= _MAX_FRAME:
        return Callback()
    return Callback(callback + _RETURN, 0 if begun.stack_bytes else _RETURN + caller - _SAVED)


def _root(table: FunctionTable, places: dict[bytes, list[tuple[int, int]]]) -> str:
    place = table.place(places[_END][0][0]) if places[_END] else None
    return place.calls[-1].file.rpartition("/runtime/")[0] if place is not None else ""


def _identity(elf: Elf) -> tuple[int, int]:
    """The first code, and the file as the kernel's walk names it: by its size, its time, and what of it is loaded."""
    loads = [segment for segment in elf.segments if segment.kind == PT_LOAD]
    first = elf_reader.first_code(elf)
    end = max(segment.address + segment.file_bytes for segment in loads if segment.is_code)
    data_end = max(segment.address + segment.file_bytes for segment in loads)
    status = os.fstat(elf.fd)
    modified = status.st_mtime_ns // 1_000_000_000
    words = [status.st_size, modified, end - first, data_end - first]
    return first, mix(0, *(word & (1 << 64) - 1 for word in words))


def _function_data(elf: Elf, table: GoTable, offsets: Offsets) -> int:
    try:
        address = module_word(elf, table.start, table.names, offsets.function_data)
    except ElfError:
        return 0
    return elf_reader.file_offset(elf, address, code=False) or 0
