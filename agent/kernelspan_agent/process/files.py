# SPDX-License-Identifier: Apache-2.0
"""Opening the very files that a process runs: its executable and what it has mapped, deleted or not.

The kernel's own links (/proc/PID/exe, /proc/PID/map_files) lead to the file itself, whatever its name leads to by now
and in whichever mount namespace; the path under /proc/PID/root is taken only where its inode is the mapping's.
"""

from __future__ import annotations

import os
from contextlib import contextmanager
from dataclasses import dataclass
from stat import S_ISREG
from typing import TYPE_CHECKING

from .errors import ProcessError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from .procfs import Mapping, Process


@dataclass(frozen=True, slots=True)
class FileKey:
    """Identity of a file's content as far as the file system tells; what is learnt from a file is cached by it."""

    device: int
    inode: int
    size: int
    modified_ns: int


@contextmanager
def open_executable(process: Process) -> Iterator[int]:
    """A descriptor of its executable. Raises ProcessError."""
    with _opened([f"{process.path}/exe"], 0) as fd:
        yield fd


@contextmanager
def open_mapping(process: Process, mapping: Mapping) -> Iterator[int]:
    """A descriptor of the file behind `mapping`. Raises ProcessError."""
    exact = f"{process.path}/map_files/{mapping.start:x}-{mapping.end:x}"
    with _opened([exact, f"{process.path}/root{mapping.path}"], mapping.inode) as fd:
        yield fd


def file_key(fd: int) -> FileKey:
    """Identity of the open file. Raises ProcessError."""
    try:
        stat = os.fstat(fd)
    except OSError as error:
        raise ProcessError(f"cannot stat the file: {error.strerror}") from error
    return FileKey(stat.st_dev, stat.st_ino, stat.st_size, stat.st_mtime_ns)


@contextmanager
def _opened(paths: list[str], inode: int) -> Iterator[int]:
    why = "it is not a regular file"
    for path in paths:
        try:
            # Not blocking: a path could lead to a pipe by now.
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY)
        except OSError as error:
            why = error.strerror or "error"
            continue
        try:
            stat = os.fstat(fd)
            if S_ISREG(stat.st_mode) and (inode == 0 or path is paths[0] or stat.st_ino == inode):
                yield fd
                return
        finally:
            os.close(fd)
    raise ProcessError(f"cannot open {paths[-1]}: {why}", reason="BinaryNotFound")
