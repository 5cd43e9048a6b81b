# SPDX-License-Identifier: Apache-2.0
"""Whether a process runs PHP: its executable (php, php-fpm, php-cgi, whatever its name), or a mapped libphp."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from kernelspan_agent.process import procfs
from kernelspan_agent.process.errors import ElfError
from kernelspan_agent.runtimes.look import ask
from kernelspan_agent.runtimes.registry import DetectedRuntime, Detection, Unsupported

from .build import PhpBuild, inspect_file
from .layout import Offsets, Symbols, head_of, kernel_row

if TYPE_CHECKING:
    from kernelspan_agent.runtimes.look import FileCache, Look

NAME, NUMBER = "php", 2
LIBRARY = re.compile(r"(?:lib|mod_)php[0-9.]*\.so")


@dataclass(frozen=True, slots=True)
class PhpDetails:
    """What the symboliser and the walk from outside need of one process. Addresses in that process."""

    offsets: Offsets
    symbols: Symbols


def detect(look: Look) -> Detection:
    """The process's PHP. Raises ProcessError where the process cannot be read."""
    refusal: Unsupported | None = None
    for file in [*look.own, *(file for file in look.files if LIBRARY.match(file.name))]:
        found = file.ask(NAME, inspect)
        if isinstance(found, PhpBuild):
            return _found(file.path, found, file.load_bias())
        refusal = refusal or found
    return refusal


def inspect(fd: int, name: str) -> PhpBuild | Unsupported | None:
    """What an open file with this name says of the PHP in it; None: nothing."""
    try:
        return inspect_file(fd, name)
    except ElfError as error:
        # A file that is no ELF file of ours is only a matter where its name claims to be PHP's.
        message = f"{procfs.printable(name)}: {error}"
        return Unsupported("RuntimeUnsupported", message, "PHP") if re.match(r"(?:lib)?php", name) else None


def foresee(fd: int, name: str, cache: FileCache) -> DetectedRuntime | None:
    """What an open file says of whoever will run it. Raises ProcessError."""
    build = ask(fd, name, NAME, inspect, cache)
    return _found("", build, 0) if isinstance(build, PhpBuild) else None


def _found(path: str, build: PhpBuild, bias: int) -> DetectedRuntime:
    symbols = build.symbols.moved(bias)
    layout = kernel_row(build.offsets, build.number, symbols)
    details = PhpDetails(build.offsets, symbols)
    return DetectedRuntime(NAME, NUMBER, "PHP", build.version, path, layout, head_of(build.offsets, symbols), details)
