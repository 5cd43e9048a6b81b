# SPDX-License-Identifier: Apache-2.0
"""One look at a process for all runtimes: the files that it has mapped, each of which a runtime is asked once."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from kernelspan_agent.process import files, procfs
from kernelspan_agent.process.elf import load_bias, read_elf

if TYPE_CHECKING:
    from kernelspan_agent.process.files import FileKey
    from kernelspan_agent.process.procfs import Mapping, Process

MAX_CACHED_FILES = 256
_Found = TypeVar("_Found")


class FileCache(OrderedDict[tuple[str, "FileKey"], Any]):
    """What runtimes have learnt from files, by their names and identities; what was learnt first goes first."""

    def __setitem__(self, key: tuple[str, FileKey], value: Any) -> None:
        super().__setitem__(key, value)
        self.move_to_end(key)
        while len(self) > MAX_CACHED_FILES:
            self.popitem(last=False)


def ask(fd: int, name: str, runtime: str, inspect: Callable[[int, str], _Found], cache: FileCache) -> _Found:
    """What `inspect` makes of an open file and its name, kept by the file's identity. Raises ProcessError."""
    key = (runtime, files.file_key(fd))
    if key not in cache:
        cache[key] = inspect(fd, name)
    found: _Found = cache[key]
    return found


class MappedFile:
    """A file that a process has mapped, once or in parts."""

    __slots__ = ("_cache", "_process", "mappings", "path")

    def __init__(self, process: Process, mappings: Sequence[Mapping], cache: FileCache) -> None:
        self._process, self.mappings, self._cache = process, mappings, cache
        self.path = mappings[0].path

    @property
    def name(self) -> str:
        """The last part of its path."""
        return self.path.rpartition("/")[2]

    def ask(self, runtime: str, inspect: Callable[[int, str], _Found]) -> _Found:
        """What `inspect` makes of it: see `ask`. Raises ProcessError."""
        with files.open_mapping(self._process, self.mappings[0]) as fd:
            return ask(fd, self.name, runtime, inspect, self._cache)

    def load_bias(self) -> int:
        """What to add to the file's addresses in this process. Raises ProcessError, ElfError."""
        with files.open_mapping(self._process, self.mappings[0]) as fd:
            return load_bias(read_elf(fd), self.mappings)


class Look:
    """The files that a process has mapped now, in the order of their addresses."""

    def __init__(self, process: Process, cache: FileCache) -> None:
        """Raises ProcessError where the process cannot be read."""
        self.process = process
        mappings = procfs.read_maps(process)
        executable, _ = procfs.read_executable(process)
        groups: dict[tuple[Any, ...], list[Mapping]] = {}
        for mapping in mappings:
            if mapping.is_file:
                groups.setdefault((mapping.device, mapping.inode, mapping.path), []).append(mapping)
        self.files = [MappedFile(process, group, cache) for group in groups.values()]
        self.own = [file for file in self.files if file.path == executable]  # none: it is still being loaded

    def start_of(self, path: str) -> int:
        """Where the first mapping of a file lies; 0: there is none."""
        starts = (mapping.start for file in self.files if file.path == path for mapping in file.mappings)
        return min(starts, default=0)

    @property
    def is_being_linked(self) -> bool:
        """Whether glibc's dynamic linker is at work: it is there, and the C library, which it maps last, is not yet."""
        names = [file.name for file in self.files]
        linked = any(name.startswith(("libc.so", "libc-2")) for name in names)
        return not linked and any(name.startswith(("ld-linux", "ld-2")) for name in names)
