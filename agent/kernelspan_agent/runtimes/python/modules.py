# SPDX-License-Identifier: Apache-2.0
"""The files of the modules that a process has imported: what `sys.modules` holds, read from outside.

Where the interpreter keeps that dict differs from version to version, and is found by what it is: the one dict to which a
word of the interpreter's state points and which, under "sys", has a module whose own "modules" is that dict. Where no word
does (a program that has put another dict in its place), nothing is said.

For people who look, never for tracing: nothing stops the process meanwhile, so a module that comes or goes may be missed.
Memory may be hostile: every list is bounded, and a file is taken only from what is a str. Layouts:
Include/cpython/object.h (tp_base), Objects/moduleobject.c (md_dict).
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

from kernelspan_agent.process.errors import MemoryReadError
from kernelspan_agent.process.memory import read_u64

from .objects import CorruptObjectError, is_alive, is_text, read_entries, read_str

if TYPE_CHECKING:
    from collections.abc import Iterator

    from kernelspan_agent.process.memory import Memory
    from kernelspan_agent.runtimes.registry import DetectedRuntime

    from .layout import Offsets, Types

MAX_INTERPRETERS, MAX_MODULES, MAX_PATH = 64, 16384, 4096
STATE_BYTES = 1 << 16  # the dict's word is at most 9 KB into the state, in any version
MAX_READS = 1 << 20  # some seconds; 2,000 modules take 40,000
_PART_BYTES = 4096
_FIRST_ENTRIES = 16  # sys and builtins come before whatever is imported
_OF_MODULE = 1024  # entries of a module: an extension has its functions before its file
_TYPE, _MODULE_DICT, _TYPE_BASE = 8, 16, 256
_MAX_BASES = 8
_UNSOUND = (MemoryReadError, CorruptObjectError)


class _Bounded:
    """Memory that can be read so many times."""

    def __init__(self, memory: Memory, reads: int) -> None:
        self._memory, self._left = memory, reads

    def read(self, address: int, size: int) -> bytes:
        """Exactly `size` bytes. Raises MemoryReadError."""
        self._left -= 1
        if self._left < 0:
            raise MemoryReadError(address, size, "there were too many reads")
        return self._memory.read(address, size)


def read_files(found: DetectedRuntime, memory: Memory) -> list[str] | None:
    """`__file__` of every module of every interpreter; None: their list was not found.

    Raises MemoryReadError where the interpreter itself cannot be read.
    """
    offsets, types = found.details.offsets, found.details.types
    if not types.dict or not types.unicode:
        return None
    memory, files, known = _Bounded(memory, MAX_READS), dict[str, None](), False
    for interpreter in _interpreters(memory, found.address, offsets):
        modules = _modules(memory, interpreter, offsets, types)
        if modules is not None:
            known = True
            files.update(dict.fromkeys(_files(memory, modules, offsets, types)))
    return list(files) if known else None


def find_module(found: DetectedRuntime, memory: Memory, name: bytes) -> int | None:
    """The address of a module of a process with one interpreter; None: it is not there. Raises MemoryReadError, CorruptObjectError."""
    offsets, types = found.details.offsets, found.details.types
    interpreters = list(_interpreters(memory, found.address, offsets))
    if len(interpreters) != 1 or not types.dict or not types.unicode:
        return None
    bounded = _Bounded(memory, MAX_READS)
    modules = _modules(bounded, interpreters[0], offsets, types)
    return _get(bounded, modules, name, MAX_MODULES, offsets) if modules is not None else None


def find_variable(found: DetectedRuntime, memory: Memory, module: int, name: bytes) -> int | None:
    """The address of what a module has under a name. Raises MemoryReadError, CorruptObjectError."""
    namespace = read_u64(memory, module + _MODULE_DICT)
    if read_u64(memory, namespace + _TYPE) != found.details.types.dict:
        return None
    return _get(memory, namespace, name, _OF_MODULE, found.details.offsets)


def _interpreters(memory: Memory, head: int, offsets: Offsets) -> Iterator[int]:
    interpreter = read_u64(memory, head)
    for _ in range(MAX_INTERPRETERS):
        if not interpreter:
            return
        yield interpreter
        interpreter = read_u64(memory, interpreter + offsets.interp_next)


def _modules(memory: Memory, interpreter: int, offsets: Offsets, types: Types) -> int | None:
    """The address of the interpreter's sys.modules."""
    for address in dict.fromkeys(_words(memory, interpreter)):
        try:
            if read_u64(memory, address + _TYPE) == types.dict and _is_modules(memory, address, offsets, types):
                return address
        except _UNSOUND:
            continue
    return None


def _words(memory: Memory, address: int) -> Iterator[int]:
    """What may be the address of an object, of the words there as far as they can be read."""
    for at in range(address, address + STATE_BYTES, _PART_BYTES):
        try:
            part = memory.read(at, _PART_BYTES)
        except MemoryReadError:
            return
        yield from (word for (word,) in struct.iter_unpack("<Q", part) if word > _PART_BYTES and not word % 8)


def _is_modules(memory: Memory, address: int, offsets: Offsets, types: Types) -> bool:
    if (sys_module := _get(memory, address, b"sys", _FIRST_ENTRIES, offsets)) is None:
        return False
    namespace = read_u64(memory, sys_module + _MODULE_DICT)
    if read_u64(memory, namespace + _TYPE) != types.dict:
        return False
    return _get(memory, namespace, b"modules", _OF_MODULE, offsets) == address


def _get(memory: Memory, namespace: int, name: bytes, most: int, offsets: Offsets) -> int | None:
    """The value under a name in one of the first entries of a dict."""
    for key, value in read_entries(memory, namespace, offsets, most):
        if is_text(memory, key, name, offsets):
            return value
    return None


def _files(memory: Memory, modules: int, offsets: Offsets, types: Types) -> Iterator[str]:
    sys_module = _get(memory, modules, b"sys", _FIRST_ENTRIES, offsets)
    if sys_module is None:
        return
    kinds = {read_u64(memory, sys_module + _TYPE): True}  # which types are modules
    for _, value in read_entries(memory, modules, offsets, MAX_MODULES):
        try:
            kind = read_u64(memory, value + _TYPE)
            if kind not in kinds:
                kinds[kind] = _is_derived(memory, kind, kinds)
            if not kinds[kind]:  # a program may put anything there
                continue
            namespace = read_u64(memory, value + _MODULE_DICT)
            if not is_alive(memory, namespace, types.dict, offsets):
                continue
            file = _get(memory, namespace, b"__file__", _OF_MODULE, offsets)
            if file is not None and is_alive(memory, file, types.unicode, offsets):
                yield read_str(memory, file, offsets, MAX_PATH)
        except _UNSOUND:
            continue


def _is_derived(memory: Memory, kind: int, kinds: dict[int, bool]) -> bool:
    for _ in range(_MAX_BASES):
        kind = read_u64(memory, kind + _TYPE_BASE)
        if not kind or kind in kinds:
            return bool(kind) and kinds[kind]
    return False
