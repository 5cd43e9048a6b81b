# SPDX-License-Identifier: Apache-2.0
"""Whether a process runs Node.js: its executable, whatever its name, or a mapped libnode. Others with V8 are told by name."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from kernelspan_agent.process import procfs
from kernelspan_agent.process.errors import ElfError
from kernelspan_agent.runtimes.look import ask
from kernelspan_agent.runtimes.registry import DetectedRuntime, Detection, Unsupported

from .build import NodeBuild, inspect_file
from .layout import Layout, kernel_row

if TYPE_CHECKING:
    from kernelspan_agent.runtimes.look import FileCache, Look

NAME, NUMBER = "nodejs", 4
IMPLEMENTATION = "nodejs"  # process.runtime.name, as OpenTelemetry's own detector has it
LIBRARY = re.compile(r"libnode\.so")
_OTHERS = {"deno": "Deno", "bun": "Bun"}


@dataclass(frozen=True, slots=True)
class NodeDetails:
    """What the symboliser and the walk from outside need of one process. `bias`: what to add to the file's addresses."""

    build: NodeBuild
    bias: int

    @property
    def layout(self) -> Layout:
        """The build's."""
        return self.build.layout


def detect(look: Look) -> Detection:
    """The process's Node.js. Raises ProcessError where the process cannot be read."""
    refusal: Unsupported | None = None
    for file in [*look.own, *(file for file in look.files if LIBRARY.match(file.name))]:
        found = file.ask(NAME, inspect)
        if isinstance(found, NodeBuild):
            return _found(file.path, found, file.load_bias())
        refusal = refusal or found
    return refusal


def inspect(fd: int, name: str) -> NodeBuild | Unsupported | None:
    """What an open file with this name says of the Node.js in it; None: nothing."""
    if name in _OTHERS:
        return Unsupported("RuntimeUnsupported", f"{_OTHERS[name]} is not Node.js", name)
    try:
        return inspect_file(fd)
    except ElfError as error:
        # A file that is no ELF file of ours is only a matter where its name claims to be Node.js's.
        message = f"{procfs.printable(name)}: {error}"
        claims = re.fullmatch(r"node(?:js)?|libnode\.so.*", name)
        return Unsupported("RuntimeUnsupported", message, IMPLEMENTATION) if claims else None


def foresee(fd: int, name: str, cache: FileCache) -> DetectedRuntime | None:
    """What an open file says of whoever will run it. Raises ProcessError."""
    build = ask(fd, name, NAME, inspect, cache)
    return _found("", build, 0) if isinstance(build, NodeBuild) else None


def _found(path: str, build: NodeBuild, bias: int) -> DetectedRuntime:
    row = kernel_row(build.layout, build.places)
    base = build.places.interpreter + bias
    details = NodeDetails(build, bias)
    return DetectedRuntime(NAME, NUMBER, IMPLEMENTATION, build.version, path, row, base, details)
