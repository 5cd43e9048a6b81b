# SPDX-License-Identifier: Apache-2.0
"""Whether a process is a Go program: by its own executable alone, which holds all of Go that there is in it."""

from __future__ import annotations

import weakref
from dataclasses import dataclass
from typing import TYPE_CHECKING

from kernelspan_agent.process import files
from kernelspan_agent.process.errors import ElfError
from kernelspan_agent.process.procfs import printable
from kernelspan_agent.runtimes.registry import DetectedRuntime, Detection, Unsupported

from .build import NAME as COMPILER
from .build import GoBuild, inspect_file
from .layout import kernel_row
from .symbolise import GoFile

if TYPE_CHECKING:
    from kernelspan_agent.runtimes.look import Look, MappedFile

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
            return _detected(look, file, found)
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


def _detected(look: Look, file: MappedFile, build: GoBuild) -> DetectedRuntime:
    opened = KNOWN.get(build.identity)
    if opened is None or opened.build is not build:
        with files.open_mapping(look.process, file.mappings[0]) as fd:
            opened = KNOWN[build.identity] = GoFile(fd, build)
    bias = file.load_bias()
    layout = kernel_row(build.offsets, build.minor, build.tls, build.callback)
    address = (build.code + bias) & (1 << 64) - 1
    details = GoDetails(opened, bias)
    return DetectedRuntime(NAME, NUMBER, COMPILER, build.version, file.path, layout, address, details)
