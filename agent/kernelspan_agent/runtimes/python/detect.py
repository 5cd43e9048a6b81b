# SPDX-License-Identifier: Apache-2.0
"""Whether a process runs CPython, from its executable and its mapped libraries.

The executable is asked first, whatever its name: a static python, a program that embeds one. Then every mapped
libpython3: shared builds, uwsgi, mod_wsgi, PyInstaller. What is only told by a name (PyPy, Python 2, 3.0-3.6) is
unsupported by that name.
"""

from __future__ import annotations

import re
from collections.abc import MutableMapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from kernelspan_agent.process import files, procfs
from kernelspan_agent.process.elf import load_bias, read_elf
from kernelspan_agent.process.errors import ElfError
from kernelspan_agent.runtimes.registry import DetectedRuntime, Detection, Unsupported

from .build import PythonBuild, inspect_file, needs_libpython
from .layout import Offsets, Types, interp_head_address, kernel_row

if TYPE_CHECKING:
    from collections.abc import Sequence

NAME, NUMBER = "python", 1
_LIBRARY = re.compile(r"libpython3\.(\d+)[a-z]*\.so")
_OLD = re.compile(r"(?:libpython|python)(2\.\d|3\.[0-6])[a-z]*(?:\.so.*)?")
_PYPY = re.compile(r"(?:libpypy[\w.]*-c\.so|pypy[\d.]*(?:-c)?)(?:\..*)?")
_NEEDS_LIBRARY = "needs libpython"  # in the cache: a program that is nothing without its libpython


@dataclass(frozen=True, slots=True)
class PythonDetails:
    """What the symboliser needs to know of one process. `types`: addresses in that process."""

    offsets: Offsets
    types: Types


def detect(process: procfs.Process, cache: MutableMapping[files.FileKey, Any]) -> Detection:
    """The process's CPython. None: there is none, though a program may yet load one (dlopen). Raises ProcessError where the process cannot be read."""
    mappings = procfs.read_maps(process)
    executable, _ = procfs.read_executable(process)
    groups = _by_file(mapping for mapping in mappings if mapping.is_file)
    own = [group for group in groups if group[0].path == executable]
    if not own:  # its image is put in place step by step during exec
        return Unsupported("RuntimePending", "the program is still being loaded")
    libraries = [group for group in groups if _LIBRARY.match(_base_name(group[0]))]
    refusal: Unsupported | None = None
    for group in own + libraries:
        found = _ask(process, group, cache)
        if isinstance(found, PythonBuild):
            return _detected(process, group, found)
        if isinstance(found, Unsupported) and (refusal is None or group not in own):
            refusal = found
    return _by_name(groups) or refusal


def _by_file(mappings: Any) -> list[list[procfs.Mapping]]:
    groups: dict[tuple[Any, ...], list[procfs.Mapping]] = {}
    for mapping in mappings:
        groups.setdefault((mapping.device, mapping.inode, mapping.path), []).append(mapping)
    return list(groups.values())


def _ask(
    process: procfs.Process, group: Sequence[procfs.Mapping], cache: MutableMapping[files.FileKey, Any]
) -> PythonBuild | Unsupported | None:
    with files.open_mapping(process, group[0]) as fd:
        key = files.file_key(fd)
        if key not in cache:
            try:
                cache[key] = inspect_file(fd, _base_name(group[0])) or (_NEEDS_LIBRARY if needs_libpython(fd) else None)
            except ElfError as error:
                message = f"{procfs.printable(group[0].path)}: {error}"
                # A file that is no ELF file of ours is only a matter where its name claims to be Python's.
                claims = "python" in _base_name(group[0])
                cache[key] = Unsupported("RuntimeUnsupported", message, "CPython") if claims else None
        found = cache[key]
    if found == _NEEDS_LIBRARY:
        return Unsupported("RuntimePending", "the program's libpython is not mapped yet", "CPython")
    if isinstance(found, Unsupported | PythonBuild):
        return found
    return None


def _detected(
    process: procfs.Process,
    group: Sequence[procfs.Mapping],
    build: PythonBuild,
) -> DetectedRuntime:
    with files.open_mapping(process, group[0]) as fd:
        bias = load_bias(read_elf(fd), group)
    head = interp_head_address(build.runtime_address + bias, build.offsets)
    types = build.types.moved(bias)
    layout = kernel_row(build.offsets, types, head)
    details = PythonDetails(build.offsets, types)
    return DetectedRuntime(NAME, NUMBER, "CPython", build.version, group[0].path, layout, head, details)


def _by_name(groups: list[list[procfs.Mapping]]) -> Unsupported | None:
    for group in groups:
        name = _base_name(group[0])
        if _PYPY.fullmatch(name):
            return Unsupported("RuntimeUnsupported", "PyPy keeps its frames otherwise than CPython", "PyPy")
        if match := _OLD.fullmatch(name):
            return Unsupported("RuntimeUnsupported", f"CPython {match[1]} is older than 3.8", "CPython", match[1])
    return None


def _base_name(mapping: procfs.Mapping) -> str:
    return mapping.path.rpartition("/")[2]
