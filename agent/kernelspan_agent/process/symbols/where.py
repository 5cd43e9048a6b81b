# SPDX-License-Identifier: Apache-2.0
"""The file that a probe names, opened: in a process's own tree, or of this machine.

A probe is attached to an inode, once, whichever paths, processes and containers lead to it: `identity` is what to
remember. Nothing but a regular file is ever opened for reading, and no link leads out of the process's root.
"""

from __future__ import annotations

import stat
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

from kernelspan_agent.process.errors import ProcessEndedError, ProcessError, SymbolError
from kernelspan_agent.process.files import FileKey, file_key, open_executable, open_mapping
from kernelspan_agent.process.procfs import Mapping, Process, printable, read_executable, read_maps
from kernelspan_agent.process.rootfs import Root

from .identity import Identity, identity

AUTO = "Auto"


@dataclass(frozen=True, slots=True)
class Binary:
    """An open file to attach to. `fd` is good as long as the `with` it came from.

    `path`: as its tree names it, for people and for the search of debug files. `root`: the path that its tree has for
    us; empty: not known. `key`: of the content, for what is learnt from it. `identity`: of what a probe is attached to.
    """

    fd: int
    path: str
    root: str
    key: FileKey
    identity: Identity

    @property
    def attach_path(self) -> str:
        """A path by which the kernel finds this very file, while `fd` is open in this process."""
        return f"/proc/self/fd/{self.fd}"


@contextmanager
def open_binary(process: Process, path: str = AUTO) -> Iterator[Binary]:
    """The process's executable (`Auto`), or the regular file `path` of its tree. Raises SymbolError, ProcessEndedError."""
    if path == AUTO:
        with open_executable(process) as fd:
            yield Binary(fd, read_executable(process)[0], f"{process.path}/root", file_key(fd), identity(fd))
        return
    with _opened(f"{process.path}/root", path, f"the tree of process {process.pid}") as found:
        yield found


@contextmanager
def open_path(path: str, root: str = "/") -> Iterator[Binary]:
    """The regular file `path` of the tree `root`. Raises SymbolError."""
    with _opened(root, path, "this machine" if root == "/" else printable(root)) as found:
        yield found


def mapped_binaries(process: Process) -> Iterator[Mapping]:
    """One mapping for each file that the process may run code of, now: a library that is loaded later comes later.

    For `open_mapped`. Raises ProcessEndedError.
    """
    seen: set[tuple[tuple[int, int], int]] = set()
    for mapping in read_maps(process):
        if mapping.is_file and "x" in mapping.permissions and (mapping.device, mapping.inode) not in seen:
            seen.add((mapping.device, mapping.inode))
            yield mapping


@contextmanager
def open_mapped(process: Process, mapping: Mapping) -> Iterator[Binary]:
    """The file behind a mapping, whatever its name leads to by now. Raises ProcessError."""
    with open_mapping(process, mapping) as fd:
        yield Binary(fd, mapping.path, f"{process.path}/root", file_key(fd), identity(fd))


@contextmanager
def _opened(root: str, path: str, whose: str) -> Iterator[Binary]:
    shown = printable(path)
    if not path.startswith("/"):
        raise SymbolError(f"{shown!r} is no absolute path", reason="BinaryNotFound")
    try:
        tree = Root(root)
    except (FileNotFoundError, ProcessLookupError) as error:
        raise ProcessEndedError(f"{whose} is gone") from error
    except OSError as error:
        raise ProcessError(f"{whose} cannot be opened: {error.strerror}") from error
    with tree, ExitStack() as stack:
        entry = tree.find(path)
        if entry is None:
            raise SymbolError(
                f"{whose} has no file {shown}", reason="BinaryNotFound", hint="give the path as the container sees it"
            )
        if not entry.is_file:
            raise SymbolError(f"{shown} is {_kind(entry.mode)}, no program or library", reason="BinaryNotFound")
        try:
            fd = stack.enter_context(tree.opened(path))
        except OSError as error:
            raise SymbolError(f"{shown} cannot be opened: {error.strerror}", reason="BinaryNotFound") from error
        yield Binary(fd, entry.path, root, file_key(fd), identity(fd))


def _kind(mode: int) -> str:
    kinds = (
        (stat.S_ISDIR, "a directory"),
        (stat.S_ISFIFO, "a FIFO"),
        (stat.S_ISSOCK, "a socket"),
        (stat.S_ISCHR, "a character device"),
        (stat.S_ISBLK, "a block device"),
    )
    return next((name for test, name in kinds if test(mode)), "no regular file")
