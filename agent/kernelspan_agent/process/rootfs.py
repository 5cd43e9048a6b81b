# SPDX-License-Identifier: Apache-2.0
"""Files as a traced process sees them: below its root, whatever its symbolic links say.

The tree belongs to somebody else, who may change it while we read. So a path is walked one component at a time by
descriptors that never follow a link (open(2), O_PATH | O_NOFOLLOW); links are followed here, absolute ones and `..`
end at the root, and their number, the path's depth and all reads are bounded. Only regular files are opened.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import TracebackType
from typing import Self

MAX_PATH_BYTES = 4096  # PATH_MAX
MAX_DEPTH = 64  # directories held open at once
_MAX_STEPS = 1024  # components of the path and of all links on the way
_WALK = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC


@dataclass(frozen=True, slots=True)
class Entry:
    """What a path leads to. `path` is its real path, without links, in the root's terms."""

    path: str
    mode: int
    device: int
    inode: int
    size_bytes: int
    mtime_ns: int
    ctime_ns: int

    @property
    def is_directory(self) -> bool:
        """Whether it can hold others."""
        return stat.S_ISDIR(self.mode)

    @property
    def is_file(self) -> bool:
        """Whether it is a regular file."""
        return stat.S_ISREG(self.mode)

    @property
    def key(self) -> tuple[int, int, int, int]:
        """Equal for the same unchanged directory or file, by whatever root and path it was reached."""
        return (self.device, self.inode, self.mtime_ns, self.ctime_ns)


class Root:
    """The root directory of a process, open until `close` or the end of `with`."""

    def __init__(self, path: str) -> None:
        """`path` is `/proc/PID/root` or any directory. Raises OSError if it cannot be opened."""
        self._fd = os.open(path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)

    def walk(self, path: str) -> list[Entry]:
        """The root and then one entry a component of the absolute `path`, up to the last that exists."""
        entries: list[Entry] = []
        with _trail(self._fd) as trail:
            entries.append(trail.entry())
            try:
                for name in _components(path):
                    trail.step(name)
                    entries.append(trail.entry())
            except (OSError, ValueError):  # ValueError: a name that no file can have (NUL, lone surrogates)
                pass
        return entries

    def find(self, path: str) -> Entry | None:
        """The entry of `path`, or None if there is none (or none that can be reached)."""
        try:
            with _trail(self._fd) as trail:
                for name in _components(path):
                    trail.step(name)
                return trail.entry()
        except (OSError, ValueError):
            return None

    @contextmanager
    def opened(self, path: str) -> Iterator[int]:
        """A descriptor to read the regular file `path`. Raises OSError if there is none."""
        with _trail(self._fd) as trail:
            for name in _components(path):
                trail.step(name)
            if not trail.entry().is_file:
                raise OSError(errno.EINVAL, "not a regular file")
            # By way of /proc: the very file that was looked at, whatever its name leads to by now.
            fd = os.open(f"/proc/self/fd/{trail.fd}", os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
        try:
            yield fd
        finally:
            os.close(fd)

    def read(self, path: str, limit_bytes: int) -> bytes | None:
        """The first `limit_bytes` of a regular file, or None if it cannot be read."""
        try:
            with self.opened(path) as fd, open(fd, "rb", closefd=False) as file:
                return file.read(limit_bytes)
        except (OSError, ValueError):
            return None

    def names(self, path: str, limit: int) -> list[str]:
        """Names in the directory `path`, sorted, at most `limit` of them; none if it cannot be read."""
        found: list[str] = []
        try:
            with _trail(self._fd) as trail:
                for name in _components(path):
                    trail.step(name)
                fd = os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=trail.fd)
            try:
                with os.scandir(fd) as listing:
                    for item in listing:
                        if len(found) == limit:
                            break
                        found.append(item.name)
            finally:
                os.close(fd)
        except (OSError, ValueError):
            return []
        return sorted(found)

    def close(self) -> None:
        """Gives the descriptor back; the root is of no use afterwards."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class _Trail:
    """The directories from the root to where a walk stands, held open, so that `..` is what it was on the way in."""

    def __init__(self, root_fd: int) -> None:
        self._root_fd = root_fd
        self._fds: list[int] = []
        self._names: list[str] = []
        self._steps = 0

    @property
    def fd(self) -> int:
        return self._fds[-1] if self._fds else self._root_fd

    def entry(self) -> Entry:
        status = os.fstat(self.fd)
        return Entry(
            "/" + "/".join(self._names),
            status.st_mode,
            status.st_dev,
            status.st_ino,
            status.st_size,
            status.st_mtime_ns,
            status.st_ctime_ns,
        )

    def step(self, name: str) -> None:
        """Goes to `name` and on to where it leads. Raises OSError as open(2) does, ELOOP at the bounds."""
        pending = [name]
        while pending:
            self._steps += 1
            if self._steps > _MAX_STEPS or len(self._fds) > MAX_DEPTH:
                raise OSError(errno.ELOOP, "too deep")
            part = pending.pop()
            if part in {"", "."}:
                continue
            if part == "..":
                self.back(1)
                continue
            target = self._enter(part)
            if target.startswith("/"):
                self.back(len(self._fds))
            pending.extend(reversed(target.split("/")))

    def _enter(self, name: str) -> str:
        """Opens `name`; of a symbolic link the target, else the empty string."""
        fd = os.open(name, _WALK, dir_fd=self.fd)
        keep = False
        try:
            keep = not stat.S_ISLNK(os.fstat(fd).st_mode)
            target = "" if keep else os.readlink("", dir_fd=fd)
        finally:
            if not keep:
                os.close(fd)
        if keep:
            self._fds.append(fd)
            self._names.append(name)
            return ""
        return target

    def back(self, count: int) -> None:
        for _ in range(min(count, len(self._fds))):
            os.close(self._fds.pop())
            self._names.pop()


@contextmanager
def _trail(root_fd: int) -> Iterator[_Trail]:
    trail = _Trail(root_fd)
    try:
        yield trail
    finally:
        trail.back(MAX_DEPTH + 1)


def _components(path: str) -> list[str]:
    if len(path) > MAX_PATH_BYTES:
        raise OSError(errno.ENAMETOOLONG, "path too long")
    return [name for name in path.split("/") if name]
