# SPDX-License-Identifier: Apache-2.0
"""Which runtime runs a process, and what a runtime must offer.

A runtime is one folder beside this file whose package has a `RUNTIME`; nothing else names it. What names its frames is
imported with the first process that has it. What its walker in the kernel is compiled of, its constants, structs and programs, is declared there too (`Walker`); the text is
bpf/<name>.bpf.c. What is learnt from a file is cached by the file's identity in a mapping that the caller keeps, so the
second process of a program costs a look at its mappings.
"""

from __future__ import annotations

import functools
import importlib
import os
import pkgutil
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Protocol

from kernelspan_agent import runtimes
from kernelspan_agent.model import Library, Origin
from kernelspan_agent.process.errors import ProcessError
from kernelspan_agent.runtimes.look import FileCache, Look, ask

if TYPE_CHECKING:
    import numpy as np

    from kernelspan_agent.process.memory import Memory
    from kernelspan_agent.process.procfs import Process

MAX_RUNTIMES = 16  # numbers from 1 on
MAX_WALKERS = 4 * MAX_RUNTIMES  # programs
WORDS = 3  # of a runtime's own that the kernel is told of a process


@dataclass(frozen=True, slots=True)
class DetectedRuntime:
    """A process's runtime, with all that the kernel's walk and the symboliser need."""

    runtime: str  # name of the folder
    number: int  # FRAME["runtime"]
    implementation: str  # process.runtime.name: "CPython"
    version: str  # process.runtime.version: "3.11.7"
    file: str  # the executable or library that holds the runtime, as the process names it
    layout: np.ndarray  # one row for the kernel, shape (1,); equal rows may share a layout id
    address: int  # where the walk begins, in the process
    details: Any = None  # the runtime's own, for its symboliser
    start: int = 0  # where the first mapping of `file` lay when the process was looked at

    @property
    def attributes(self) -> Mapping[str, str]:
        """Resource attributes of the semantic conventions."""
        return _told(self.implementation, self.version)

    @property
    def numbers(self) -> tuple[int, ...]:
        """The first two of its version, as far as they are."""
        return tuple(int(part) for part in self.version.split(".")[:2] if part.isdigit())


@dataclass(frozen=True, slots=True)
class Unsupported:
    """A runtime that is known but cannot be walked: RuntimeUnsupported, RuntimeLayoutUnknown or RuntimePending."""

    reason: str
    message: str
    implementation: str = ""
    version: str = ""
    runtime: str = ""  # name of the folder that knows it

    @property
    def waits(self) -> bool:
        """Whether another look may find a runtime that can be walked."""
        return self.reason == "RuntimePending"

    @property
    def attributes(self) -> Mapping[str, str]:
        """What is known of the resource attributes of the semantic conventions."""
        return _told(self.implementation, self.version)


def _told(name: str, version: str) -> Mapping[str, str]:
    found = {"process.runtime.name": name, "process.runtime.version": version}
    return {name: value for name, value in found.items() if value}


Detection = DetectedRuntime | Unsupported | None
Verdict = tuple[Origin, Library | None]


@dataclass(frozen=True, slots=True)
class RawFrame:
    """A frame as its runtime names it, before anybody asks whose code it is."""

    function: str  # module.qualname as far as known; empty: unresolved
    module: str  # empty: not known
    qualname: str  # the bare name where the runtime keeps no qualified one
    file: str  # undecodable bytes as os.fsdecode gives them
    line: int  # 0: not known
    call_site: int  # the instruction, in bytes from the start of the code
    code: int  # the same for every frame of one function of one process
    unresolved: str = ""  # why there is no name: CodeFreed, CodeReplaced, MemoryUnreadable or Corrupt
    whose: Verdict | None = None  # where the program itself says it; None: a library manager is asked by the file
    unit: str = ""  # what the library manager is asked for, where that is not the file: a class


class Symboliser(Protocol):
    """Names the frames of one process; lives as long as it."""

    unresolved: Counter[str]  # frames without a name so far, by reason

    def learn(self, record: bytes) -> None:
        """Takes in a CODE record of this process, whose layout is the runtime's own."""

    def frames(self, rows: np.ndarray) -> list[RawFrame]:
        """Frames of FRAME rows (shape (n,)), in their order; rows that are no frames of the language are left out."""


class Watch(Protocol):
    """Looks at one process for what the kernel is to be told besides, as it comes to be known; lives as long as it."""

    @property
    def waits(self) -> bool:
        """Whether it is to be asked again at once, and not only from time to time: no stack is known until it has answered."""

    def words(self) -> tuple[int, ...]:
        """WORDS of the runtime's own; 0: not known, or not yet."""

    def unmapped(self) -> None:
        """A walk has ended at code that the kernel was not told of."""


class Tables(Protocol):
    """The arrays that a walker has in the kernel besides, by the names that its text gives them."""

    def has_table(self, name: str) -> bool:
        """Whether it is there: its walker has been loaded."""

    def fill_table(self, name: str, first: int, values: np.ndarray) -> None:
        """Puts rows into it, of the size that its values have, from place `first` on."""


COMPLETE, RUNNING, TRUNCATED, UNREADABLE = "Complete", "Running", "Truncated", "Unreadable"


@dataclass(frozen=True, slots=True)
class LiveStack:
    """A thread's frames as user space read them. `state`: COMPLETE, RUNNING (only the outer ones), ..."""

    key: int  # pthread_self(); 0: not known
    native_id: int  # the thread's id in the process's own PID namespace, as the runtime says; 0: it does not
    rows: np.ndarray  # what the symboliser takes, innermost first, shape (n,)
    state: str
    main: bool = False  # it is the main thread's, whatever its id
    name: str = ""  # of what is no thread


@dataclass(frozen=True, slots=True)
class Walker:
    """What the kernel's part of a runtime, bpf/<name>.bpf.c, is compiled of."""

    programs: tuple[str, ...]  # a walk begins with the first; the others are reached from there by tail calls
    structs: Mapping[str, np.dtype]  # C structs by name: of the layout, of the CODE record
    constants: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Runtime:
    """What one folder offers. `number` is FRAME["runtime"], never used again.

    `inspect`: what a file, open and with this base name, says of the runtime in it; None or Unsupported: nothing to walk.
    `usual`: its walker is loaded with the first programs, whoever is traced; else at the first sight of such a process.
    `loaded`: files of the program's code that a process has loaded, as it names them; None: they could not be found.
    `flags`: what the kernel is told of a process that may change while it runs; it is asked again and again.
    `flagged_by`: libraries by how their names begin (9 to 16 bytes), and the flag that the kernel itself sets for a process that maps one.
    `watch`: makes what finds the words that the kernel is told of a process; given what was detected, process, memory, symboliser, tables.
    `scripts`: a process is known by the script that it runs; else by its executable.
    `fallback`: asked of processes that no other runtime claims, and given up where one does later.
    `library`: the names of libraries that may hold it.
    `foresee`: what an open file of a program, or of such a library, with this base name, says of whoever will run it, `address` being the file's own.
    """

    name: str
    number: int
    walker: Walker = field(repr=False)
    detect: Callable[[Look], Detection] = field(repr=False)
    symboliser: Callable[[DetectedRuntime, Memory], Symboliser] = field(repr=False)
    walk: Callable[[DetectedRuntime, Memory], list[LiveStack]] = field(repr=False)
    inspect: Callable[[int, str], Any] = field(repr=False)
    loaded: Callable[[DetectedRuntime, Memory], list[str] | None] | None = field(default=None, repr=False)
    usual: bool = False
    flags: Callable[[Process], int] | None = field(default=None, repr=False)
    flagged_by: Mapping[bytes, int] = field(default_factory=dict, repr=False)
    watch: Callable[..., Watch] | None = field(default=None, repr=False)
    scripts: bool = True
    fallback: bool = False
    library: re.Pattern[str] | None = field(default=None, repr=False)
    foresee: Callable[[int, str, FileCache], DetectedRuntime | None] | None = field(default=None, repr=False)

    @property
    def places(self) -> Mapping[int, str]:
        """Its programs by their places in the kernel's array of walkers: the first one's is the runtime's number."""
        return {self.number + index * MAX_RUNTIMES: program for index, program in enumerate(self.walker.programs)}


@functools.cache
def all_runtimes() -> Sequence[Runtime]:
    """Every runtime there is a folder for, by name; fallbacks last."""
    names = sorted(module.name for module in pkgutil.iter_modules(runtimes.__path__) if module.ispkg)
    found = [importlib.import_module(f"{runtimes.__name__}.{name}").RUNTIME for name in names]
    return tuple(sorted(found, key=lambda runtime: runtime.fallback))


def symboliser(found: DetectedRuntime, memory: Memory) -> Symboliser:
    """The symboliser of a process whose runtime was detected; `memory` must stay open as long as it is used."""
    return runtime_of(found).symboliser(found, memory)


def walk(found: DetectedRuntime, memory: Memory) -> list[LiveStack]:
    """The stacks of all threads of a process as they are now. Raises MemoryReadError where there is no reading them."""
    return runtime_of(found).walk(found, memory)


def loaded(found: DetectedRuntime, memory: Memory) -> list[str] | None:
    """Files of code that a process has loaded; None: not known. Raises MemoryReadError where there is no reading them."""
    ask = runtime_of(found).loaded
    return ask(found, memory) if ask is not None else None


def flags(found: DetectedRuntime, process: Process) -> int:
    """What the kernel is to be told of the process besides. Raises ProcessError."""
    ask = runtime_of(found).flags
    return ask(process) if ask is not None else 0


def watch(
    found: DetectedRuntime, process: Process, memory: Memory, symboliser: Symboliser, tables: Tables
) -> Watch | None:
    """What finds the words that the kernel is told of a process; None: there are none."""
    make = runtime_of(found).watch
    return make(found, process, memory, symboliser, tables) if make is not None else None


def runtime_of(found: DetectedRuntime) -> Runtime:
    """The runtime that was detected."""
    return next(runtime for runtime in all_runtimes() if runtime.name == found.runtime)


def runs_scripts(found: Detection) -> bool:
    """Whether a process is known by the script that it runs, and not by its executable."""
    return found is not None and all(each.scripts for each in all_runtimes() if each.name == found.runtime)


def of_program(path: str, cache: FileCache) -> str:
    """The name of the runtime that a program has in itself; empty: none, or none that can be walked."""
    try:
        with open(path, "rb") as file:  # noqa: PTH123
            name = _name_of(file.fileno())
            for runtime in (each for each in all_runtimes() if not each.fallback):
                found = ask(file.fileno(), name, runtime.name, runtime.inspect, cache)
                if found is not None and not isinstance(found, Unsupported):
                    return runtime.name
    except (OSError, ProcessError):
        pass
    return ""


def is_library(name: str) -> bool:
    """Whether a library of this name may hold a runtime that can be foreseen."""
    return any(each.foresee and each.library and each.library.match(name) for each in all_runtimes())


def foresee(fd: int, cache: FileCache) -> DetectedRuntime | None:
    """What will run the program in an open file; None: that depends on the process. Raises ProcessError."""
    name = _name_of(fd)
    asked = (runtime.foresee(fd, name, cache) for runtime in all_runtimes() if runtime.foresee is not None)
    return next((found for found in asked if found is not None), None)


def _name_of(fd: int) -> str:
    """The base name of an open file itself: /proc/PID/exe leads to it, whatever that name leads to here."""
    return os.readlink(f"/proc/self/fd/{fd}").removesuffix(" (deleted)").rpartition("/")[2]  # noqa: PTH115


def detect(process: Process, cache: FileCache | None = None) -> Detection:
    """The runtime that can be walked: that of the executable before one that it has loaded (Python with a JVM in it), of
    several the first; else the first that claims the process, a fallback last; None: there is none, though a program may yet load one
    (dlopen).
    Raises ProcessError where the process cannot be read.
    """
    look = Look(process, FileCache() if cache is None else cache)
    if not look.own:  # its image is put in place step by step during exec
        return Unsupported("RuntimePending", "the program is still being loaded")
    loaded: DetectedRuntime | None = None
    refusal: Unsupported | None = None
    for runtime in all_runtimes():
        if runtime.fallback and (loaded or refusal or look.is_being_linked):
            continue
        found = runtime.detect(look)
        if isinstance(found, DetectedRuntime):
            found = replace(found, runtime=runtime.name, start=look.start_of(found.file))
            if any(file.ask(runtime.name, runtime.inspect) is not None for file in look.own):
                return found
            loaded = loaded or found
        elif found is not None and refusal is None:
            refusal = replace(found, runtime=runtime.name)
    if loaded is None and refusal is None and look.is_being_linked:
        return Unsupported("RuntimePending", "the program is still being linked")
    return loaded or refusal
