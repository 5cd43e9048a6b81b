# SPDX-License-Identifier: Apache-2.0
"""Which runtime runs a process, and what a runtime must offer.

A runtime is one folder beside this file whose package has a `RUNTIME`; nothing else names it. What is learnt from a
file is cached by the file's identity in a mapping that the caller keeps, so the second process of a program costs a
look at its mappings.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections import Counter, OrderedDict
from collections.abc import Callable, Mapping, MutableMapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Protocol

from kernelspan_agent import runtimes

if TYPE_CHECKING:
    import numpy as np

    from kernelspan_agent.process.files import FileKey
    from kernelspan_agent.process.memory import Memory
    from kernelspan_agent.process.procfs import Process

MAX_CACHED_FILES = 256


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

    @property
    def attributes(self) -> Mapping[str, str]:
        """Resource attributes of the semantic conventions."""
        return {"process.runtime.name": self.implementation, "process.runtime.version": self.version}


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
        found = {"process.runtime.name": self.implementation, "process.runtime.version": self.version}
        return {name: value for name, value in found.items() if value}


Detection = DetectedRuntime | Unsupported | None


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


class Symboliser(Protocol):
    """Names the frames of one process; lives as long as it."""

    unresolved: Counter[str]  # frames without a name so far, by reason

    def learn(self, record: bytes) -> None:
        """Takes in a CODE record of this process, whose layout is the runtime's own."""

    def frames(self, rows: np.ndarray) -> list[RawFrame]:
        """Frames of FRAME rows (shape (n,)), in their order; rows that are no frames of the language are left out."""


COMPLETE, RUNNING, TRUNCATED, UNREADABLE = "Complete", "Running", "Truncated", "Unreadable"


@dataclass(frozen=True, slots=True)
class LiveStack:
    """A thread's frames as user space read them. `state`: COMPLETE, RUNNING (only the outer ones), ..."""

    key: int  # pthread_self(); 0: not known
    native_id: int  # the thread's id in the process's own PID namespace, as the runtime says; 0: it does not
    rows: np.ndarray  # what the symboliser takes, innermost first, shape (n,)
    state: str


class FileCache(OrderedDict["FileKey", Any]):
    """What was learnt from files, by identity; the file least recently used goes first."""

    def __setitem__(self, key: FileKey, value: Any) -> None:
        super().__setitem__(key, value)
        self.move_to_end(key)
        while len(self) > MAX_CACHED_FILES:
            self.popitem(last=False)


@dataclass(frozen=True, slots=True)
class Runtime:
    """What one folder offers. `number` is FRAME["runtime"], never used again."""

    name: str
    number: int
    detect: Callable[[Process, MutableMapping[FileKey, Any]], Detection] = field(repr=False)
    symboliser: Callable[[DetectedRuntime, Memory], Symboliser] = field(repr=False)
    walk: Callable[[DetectedRuntime, Memory], list[LiveStack]] = field(repr=False)


def all_runtimes() -> Sequence[Runtime]:
    """Every runtime there is a folder for, by name."""
    names = sorted(module.name for module in pkgutil.iter_modules(runtimes.__path__) if module.ispkg)
    return [importlib.import_module(f"{runtimes.__name__}.{name}").RUNTIME for name in names]


def symboliser(found: DetectedRuntime, memory: Memory) -> Symboliser:
    """The symboliser of a process whose runtime was detected; `memory` must stay open as long as it is used."""
    return _runtime(found).symboliser(found, memory)


def walk(found: DetectedRuntime, memory: Memory) -> list[LiveStack]:
    """The stacks of all threads of a process as they are now. Raises MemoryReadError where there is no reading them."""
    return _runtime(found).walk(found, memory)


def _runtime(found: DetectedRuntime) -> Runtime:
    return next(runtime for runtime in all_runtimes() if runtime.name == found.runtime)


def detect(process: Process, cache: MutableMapping[FileKey, Any] | None = None) -> Detection:
    """The first runtime that claims the process; None where none does. Raises ProcessError where it cannot be read."""
    files = FileCache() if cache is None else cache
    for runtime in all_runtimes():
        found = runtime.detect(process, files)
        if found is not None:
            return replace(found, runtime=runtime.name)
    return None
