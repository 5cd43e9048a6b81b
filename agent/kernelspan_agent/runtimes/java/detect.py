# SPDX-License-Identifier: Apache-2.0
"""Whether a process runs a JVM: a mapped libjvm.so, of whatever program; HotSpot is walked, others are told.

OpenJ9 brings a libjvm of its own that redirects to libj9vm; a native image of GraalVM has a JVM's parts in its own
executable, and no Java frames that anybody but itself could tell.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from kernelspan_agent.process import elf as elf_reader
from kernelspan_agent.process import procfs
from kernelspan_agent.process.errors import ElfError, MemoryReadError
from kernelspan_agent.process.memory import ProcessMemory, read_cstring, read_u64
from kernelspan_agent.runtimes.registry import DetectedRuntime, Detection, Unsupported

from .layout import NEWEST, OLDEST, JavaOffsets, LayoutError, kernel_row, read_offsets
from .structs import INTS, STRUCTS, TYPES, Tables, read_structs, read_tables

if TYPE_CHECKING:
    from kernelspan_agent.process.memory import Memory
    from kernelspan_agent.runtimes.look import Look, MappedFile

NAME, NUMBER = "java", 5
IMPLEMENTATION = "OpenJDK Runtime Environment"
_LIBRARY = "libjvm.so"
_OPENJ9 = re.compile(r"libj9(?:vm|prt|thr)\d*\.so")
_NATIVE_IMAGE = ("graal_create_isolate", "__svm_version_info", "__svm_code_section")
_INFO = re.compile(r"(?P<vm>[^()]*(?:\([A-Za-z]*\)[^()]*)*) \((?P<hotspot>[^()]*)\) for \S+ JRE \((?P<jre>[^()]*)\)")
_MAJOR = re.compile(r"(?:1\.)?(\d+)")
_INFO_AT = ("Abstract_VM_Version", "_s_internal_vm_info_string")
_INFO_BYTES = 512
_LOADING = Unsupported("RuntimePending", "the JVM is still being loaded", IMPLEMENTATION)


@dataclass(frozen=True, slots=True)
class JavaLibrary:
    """A HotSpot's libjvm. `start`: its own address of where the walk begins."""

    tables: Tables
    start: int


@dataclass(frozen=True, slots=True)
class Launcher:
    """The command java, which will load a libjvm."""


@dataclass(frozen=True, slots=True)
class JavaDetails:
    """What the symboliser and the walk from outside need of one process."""

    offsets: JavaOffsets


def detect(look: Look) -> Detection:
    """The process's JVM. Raises ProcessError where the process cannot be read."""
    refusal: Unsupported | None = None
    for file in look.files:
        if _OPENJ9.fullmatch(file.name):
            return Unsupported("RuntimeUnsupported", "OpenJ9 keeps its frames otherwise than HotSpot", "Eclipse OpenJ9")
        if file.name == _LIBRARY:
            found = file.ask(NAME, inspect)
            if isinstance(found, JavaLibrary):
                return _detected(look, file, found)
            refusal = refusal or (found if isinstance(found, Unsupported) else None)
    if refusal is None:
        for file in look.own:
            found = file.ask(NAME, inspect)
            refusal = _LOADING if isinstance(found, Launcher) else found if isinstance(found, Unsupported) else None
    return refusal


def inspect(fd: int, name: str) -> JavaLibrary | Launcher | Unsupported | None:
    """What an open file with this name says of the JVM in it; None: nothing."""
    try:
        return _inspect(elf_reader.read_elf(fd), name)
    except ElfError as error:
        message = f"{procfs.printable(name)}: {error}"
        return Unsupported("RuntimeUnsupported", message, IMPLEMENTATION) if name == _LIBRARY else None


def _inspect(elf: elf_reader.Elf, name: str) -> JavaLibrary | Launcher | Unsupported | None:
    if name != _LIBRARY:
        if name == "java" and _calls(elf, b"\0JLI_Launch\0"):
            return Launcher()
        native = elf_reader.symbol_addresses(elf, _NATIVE_IMAGE, static=False)
        if native or any(section.name == ".svm_heap" for section in elf.sections):
            message = "a native image has no frames that can be told from outside"
            return Unsupported("RuntimeUnsupported", message, "GraalVM Native Image")
        return None
    symbols = elf_reader.symbol_addresses(elf, (STRUCTS, TYPES, INTS), static=False)
    if len(symbols) < 3:
        return Unsupported("RuntimeUnsupported", "this libjvm is not HotSpot's: it has no vmStructs", "Java")
    return JavaLibrary(read_tables(elf, symbols), symbols[STRUCTS])


def _calls(elf: elf_reader.Elf, name: bytes) -> bool:
    strings = elf.section(".dynstr")
    return strings is not None and any(name in chunk for _, chunk in elf_reader.section_chunks(elf, strings, len(name)))


def _detected(look: Look, file: MappedFile, library: JavaLibrary) -> DetectedRuntime | Unsupported:
    try:
        bias = file.load_bias()
    except ElfError:
        return _LOADING
    with ProcessMemory(look.process) as memory:
        try:
            structs = read_structs(memory, library.tables, bias)
            info = _info(memory, library.tables, bias)
        except MemoryReadError:
            return _LOADING
    if not structs.offset(("JavaThread", "_anchor")) or not info:  # its constructors have not run yet
        return _LOADING
    match = _INFO.match(info)
    major = _MAJOR.match(match["jre"]) if match else None
    if match is None or major is None:
        return Unsupported("RuntimeLayoutUnknown", "the JVM does not say which version it is", IMPLEMENTATION)
    name, version, number = _implementation(match["vm"]), match["jre"], int(major[1])
    if not OLDEST <= number <= NEWEST:
        what = "RuntimeUnsupported" if number < OLDEST else "RuntimeLayoutUnknown"
        message = f"Java {version} is none of {OLDEST} to {NEWEST}, whose layouts are known"
        return Unsupported(what, message, name, version)
    try:
        offsets = read_offsets(structs, number)
    except LayoutError as error:
        return Unsupported("RuntimeLayoutUnknown", f"Java {version}: {error}", name, version)
    layout = kernel_row(offsets, structs, library.start)
    details = JavaDetails(offsets)
    return DetectedRuntime(NAME, NUMBER, name, version, file.path, layout, library.start + bias, details)


def _implementation(vm: str) -> str:
    """As java.runtime.name has it."""
    if vm.startswith("Java HotSpot(TM)"):
        return "Java(TM) SE Runtime Environment"
    return IMPLEMENTATION if vm.startswith("OpenJDK ") else vm.strip() or IMPLEMENTATION


def _info(memory: Memory, tables: Tables, bias: int) -> str:
    """What the JVM says of itself: "OpenJDK 64-Bit Server VM (17.0.1+12) for linux-amd64 JRE (17.0.1+12), built on ..."."""
    variable = tables.variables.get(_INFO_AT)
    if variable is None:
        return ""
    at = read_u64(memory, variable + bias)
    return read_cstring(memory, at, _INFO_BYTES).decode("latin-1") if at else ""
