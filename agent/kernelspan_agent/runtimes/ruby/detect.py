# SPDX-License-Identifier: Apache-2.0
"""Whether a process runs Ruby: a mapped libruby, in whatever program, or an executable that has it in itself."""

from __future__ import annotations

import re
import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING

from kernelspan_agent.process import procfs
from kernelspan_agent.process.errors import ElfError, MemoryReadError
from kernelspan_agent.process.memory import ProcessMemory
from kernelspan_agent.runtimes.registry import DetectedRuntime, Detection, Unsupported

from .build import Launcher, RubyBuild, inspect_file
from .layout import ABSENT, TLS_DYNAMIC, TLS_FIXED, Offsets, kernel_row
from .objects import CorruptObjectError, Names

if TYPE_CHECKING:
    from kernelspan_agent.process.procfs import Process
    from kernelspan_agent.runtimes.look import Look, MappedFile

NAME, NUMBER = "ruby", 6
_LIBRARY = re.compile(r"libruby[-0-9.a-z]*\.so")
_MUSL = re.compile(r"(?:ld-musl|libc\.musl)-")
_GLIBC_STEP, _MUSL_STEP = 16, 8  # of an entry of the table that leads to a thread's blocks of variables


@dataclass(frozen=True, slots=True)
class RubyDetails:
    """What the symboliser and the walk from outside need of one process. Addresses in that process."""

    process: Process
    offsets: Offsets
    numbers: tuple[int, int]
    tls: int
    symbols: int  # rb_symbols_t; 0: not known
    classpath_id: int
    vm: int  # ruby_current_vm_ptr; 0: not known


def detect(look: Look) -> Detection:
    """The process's Ruby. Raises ProcessError where the process cannot be read."""
    refusal: Unsupported | None = None
    for file in [*(file for file in look.files if _LIBRARY.match(file.name)), *look.own]:
        found = file.ask(NAME, inspect)
        if isinstance(found, RubyBuild):
            return _detected(look, file, found)
        if isinstance(found, Unsupported):
            refusal = refusal or found
        elif isinstance(found, Launcher) and refusal is None:
            refusal = Unsupported("RuntimePending", "libruby is still being loaded", "Ruby")
    return refusal


def inspect(fd: int, name: str) -> RubyBuild | Launcher | Unsupported | None:
    """What an open file with this name says of the Ruby in it; None: nothing."""
    try:
        return inspect_file(fd, name)
    except ElfError as error:
        # A file that is no ELF file of ours is only a matter where its name claims to be Ruby's.
        message = f"{procfs.printable(name)}: {error}"
        return Unsupported("RuntimeUnsupported", message, "Ruby") if _LIBRARY.match(name) else None


def _detected(look: Look, file: MappedFile, build: RubyBuild) -> Detection:
    bias = file.load_bias()
    symbols = build.symbols + bias if build.symbols else 0
    vm = build.vm + bias if build.vm else 0
    classpath_id = 0
    if build.offsets.class_path == ABSENT and symbols:
        try:
            classpath_id = _classpath_id(look.process, symbols, build.offsets)
        except (MemoryReadError, CorruptObjectError):
            classpath_id = 0
        if not classpath_id:
            return Unsupported("RuntimePending", "Ruby is still making its first classes", "Ruby", build.version)
    musl = any(_MUSL.match(each.name) for each in look.files)
    place = {TLS_DYNAMIC: _MUSL_STEP if musl else _GLIBC_STEP, TLS_FIXED: build.tls_offset}.get(build.tls, 0)
    away = build.symbols - build.head if build.symbols else 0
    layout = kernel_row(build.numbers, build.offsets, build.tls, place, classpath_id=classpath_id, symbols=away)
    details = RubyDetails(look.process, build.offsets, build.numbers, build.tls, symbols, classpath_id, vm)
    return DetectedRuntime(NAME, NUMBER, "CRuby", build.version, file.path, layout, build.head + bias, details)


def _classpath_id(process: Process, symbols: int, offsets: Offsets) -> int:
    """The id under which classes keep their names, before 3.2; 0: not there yet. Raises MemoryReadError, CorruptObjectError."""
    with ProcessMemory(process) as memory:
        if not struct.unpack("<I", memory.read(symbols, 4))[0]:
            return 0
        return Names(memory, symbols, offsets).find(b"__classpath__")
