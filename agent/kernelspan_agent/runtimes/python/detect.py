# SPDX-License-Identifier: Apache-2.0
"""Whether a process runs CPython, from its executable and its mapped libraries.

The executable is asked first, whatever its name: a static python, a program that embeds one. Then every mapped
libpython3: shared builds, uwsgi, mod_wsgi, PyInstaller. What is only told by a name (PyPy, Python 2, 3.0-3.6) is
unsupported by that name.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from kernelspan_agent.process import procfs
from kernelspan_agent.process.errors import ElfError
from kernelspan_agent.runtimes.look import ask
from kernelspan_agent.runtimes.registry import DetectedRuntime, Detection, Unsupported

from .build import PythonBuild, inspect_file, needs_libpython
from .layout import Offsets, Types, interp_head_address, kernel_row

if TYPE_CHECKING:
    from kernelspan_agent.runtimes.look import FileCache, Look, MappedFile

NAME, NUMBER = "python", 1
GREENLETS = 1  # KS_RUNTIME_GREENLETS
GREENLETS_LIBRARY = "_greenlet."  # how its name begins
LIBRARY = re.compile(r"libpython3\.(\d+)[a-z]*\.so")
_OLD = re.compile(r"(?:libpython|python)(2\.\d|3\.[0-6])[a-z]*(?:\.so.*)?")
_PYPY = re.compile(r"(?:libpypy[\w.]*-c\.so|pypy[\d.]*(?:-c)?)(?:\..*)?")
_NEEDS_LIBRARY = Unsupported("RuntimePending", "the program's libpython is not mapped yet", "CPython")


@dataclass(frozen=True, slots=True)
class PythonDetails:
    """What the symboliser needs to know of one process. `types`: addresses in that process."""

    offsets: Offsets
    types: Types


def detect(look: Look) -> Detection:
    """The process's CPython. Raises ProcessError where the process cannot be read."""
    libraries = [file for file in look.files if LIBRARY.match(file.name)]
    refusal: Unsupported | None = None
    for file in look.own + libraries:
        found = file.ask(NAME, inspect)
        if isinstance(found, PythonBuild):
            return _found(file.path, found, file.load_bias())
        if found is not None and (refusal is None or file not in look.own):
            refusal = found
    return _by_name(look.files) or refusal


def flags(process: procfs.Process) -> int:
    """Whether it has begun to use greenlets: a thread may then have one stack after another."""
    found = any(f"/{GREENLETS_LIBRARY}" in mapping.path for mapping in procfs.read_maps(process))
    return GREENLETS if found else 0


def inspect(fd: int, name: str) -> PythonBuild | Unsupported | None:
    """What an open file with this name says of the CPython in it; None: nothing."""
    try:
        return inspect_file(fd, name) or (_NEEDS_LIBRARY if needs_libpython(fd) else None)
    except ElfError as error:
        # A file that is no ELF file of ours is only a matter where its name claims to be Python's.
        message = f"{procfs.printable(name)}: {error}"
        return Unsupported("RuntimeUnsupported", message, "CPython") if "python" in name else None


def foresee(fd: int, name: str, cache: FileCache) -> DetectedRuntime | None:
    """What an open file says of whoever will run it. Raises ProcessError."""
    build = ask(fd, name, NAME, inspect, cache)
    return _found("", build, 0) if isinstance(build, PythonBuild) else None


def _found(path: str, build: PythonBuild, bias: int) -> DetectedRuntime:
    head = interp_head_address(build.runtime_address + bias, build.offsets)
    types = build.types.moved(bias)
    layout = kernel_row(build.offsets, types, head)
    details = PythonDetails(build.offsets, types)
    return DetectedRuntime(NAME, NUMBER, "CPython", build.version, path, layout, head, details)


def _by_name(found: list[MappedFile]) -> Unsupported | None:
    for file in found:
        if _PYPY.fullmatch(file.name):
            return Unsupported("RuntimeUnsupported", "PyPy keeps its frames otherwise than CPython", "PyPy")
        if match := _OLD.fullmatch(file.name):
            return Unsupported("RuntimeUnsupported", f"CPython {match[1]} is older than 3.8", "CPython", match[1])
    return None
