# SPDX-License-Identifier: Apache-2.0
"""Whether a process is a Go program: by its own executable alone, which holds all of Go that there is in it."""

from __future__ import annotations

import weakref
from dataclasses import dataclass
from typing import TYPE_CHECKING

from kernelspan_agent.process import files
from kernelspan_agent.process.errors import ElfError
from kernelspan_agent.process.procfs import printable
from kernelspan_agent.runtimes.look import ask
from kernelspan_agent.runtimes.registry import DetectedRuntime, Detection, Unsupported

from .build import NAME as COMPILER
from .build import GoBuild, inspect_file
from .layout import kernel_row
from .symbolise import GoFile

if TYPE_CHECKING:
    from kernelspan_agent.runtimes.look import FileCache, Look

NAME, NUMBER = "go", 3
# Programs whose files are open, by their identities: of one program that is one file, whoever runs it.
KNOWN: weakref.WeakValueDictionary[int, GoFile] = weakref.WeakValueDictionary()


@dataclass(frozen=True, slots=True)
class GoDetails:
    """What the symboliser and the walk from outside need of one process. `bias`: from the file's addresses to its own."""

    file: GoFile
    bias: int


def detect(look: Look) -> Detection:
    """The process's Go. Raises ProcessError where the process cannot be read."""
    for file in look.own:
        found = file.ask(NAME, inspect)
        if isinstance(found, GoBuild):
            with files.open_mapping(look.process, file.mappings[0]) as fd:
                return _found(file.path, _file(fd, found), file.load_bias())
        if found is not None:
            return found
    return None


def inspect(fd: int, name: str) -> GoBuild | Unsupported | None:
    """What an open file with this name says of the Go program in it; None: it is none."""
    del name
    try:
        return inspect_file(fd)
    except ElfError as error:
        if "Go" in str(error):
            return Unsupported("RuntimeLayoutUnknown", printable(str(error)), COMPILER)
        return None


def foresee(fd: int, name: str, cache: FileCache) -> DetectedRuntime | None:
    """What an open file says of whoever will run it. Raises ProcessError."""
    build = ask(fd, name, NAME, inspect, cache)
    return _found("", _file(fd, build), 0) if isinstance(build, GoBuild) else None


def _file(fd: int, build: GoBuild) -> GoFile:
    opened = KNOWN.get(build.identity)
    if opened is None or opened.build is not build:
        opened = KNOWN[build.identity] = GoFile(fd, build)
    return opened


def _found(path: str, file: GoFile, bias: int) -> DetectedRuntime:
    build = file.build
    layout = kernel_row(build.offsets, build.minor, build.tls, build.callback)
    address = (build.code + bias) & (1 << 64) - 1
    return DetectedRuntime(NAME, NUMBER, COMPILER, build.version, path, layout, address, GoDetails(file, bias))
