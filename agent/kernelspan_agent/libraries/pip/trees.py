# SPDX-License-Identifier: Apache-2.0
"""A directory with distributions in it, on disk or (`archives`) inside a zip file, read in one way."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import IO, Protocol

from kernelspan_agent.process.rootfs import Root

MAX_NAMES = 20_000  # in one directory; the largest site directories have some thousands


@dataclass(slots=True)
class Budget:
    """How much more of one tree is read; afterwards its files are as if they were not there.

    The largest environments seen have about 20 MiB of lists; this much takes some two seconds.
    """

    left_bytes: int = 64 * 1024 * 1024

    def spend(self, size_bytes: int) -> None:
        """Takes `size_bytes` and the cost of handling one piece."""
        self.left_bytes -= size_bytes + 64


class Tree(Protocol):
    """What reading metadata needs. Paths are relative, with `/`; nothing raises for a bad file; all has a Budget."""

    def names(self) -> list[str]:
        """Names at the top, sorted."""

    def read(self, path: str, limit_bytes: int) -> bytes | None:
        """The first `limit_bytes` of a file, None if it is not there."""

    def lines(self, path: str, line_bytes: int, limit_bytes: int) -> Iterator[str] | None:
        """The file's lines within the first `limit_bytes`, longer ones cut in pieces; None if it is not there."""

    def is_link(self, name: str) -> bool:
        """Whether `name` at the top is a symbolic link."""

    def changed_ns(self, name: str) -> int:
        """When `name` at the top, or with no name the directory, was last changed; Unix epoch, 0: not known."""


class DirectoryTree:
    """The directory `path` below `root`."""

    def __init__(self, root: Root, path: str) -> None:
        self._root = root
        self._path = path
        self._budget = Budget()

    def names(self) -> list[str]:
        """As `Tree.names`."""
        return self._root.names(self._path, MAX_NAMES)

    def read(self, path: str, limit_bytes: int) -> bytes | None:
        """As `Tree.read`."""
        if self._budget.left_bytes <= 0:
            return None
        data = self._root.read(f"{self._path}/{path}", limit_bytes)
        self._budget.spend(len(data or b""))
        return data

    def lines(self, path: str, line_bytes: int, limit_bytes: int) -> Iterator[str] | None:
        """As `Tree.lines`."""
        full = f"{self._path}/{path}"
        entry = self._root.find(full)
        return self._lines(full, line_bytes, limit_bytes) if entry and entry.is_file else None

    def _lines(self, path: str, line_bytes: int, limit_bytes: int) -> Iterator[str]:
        try:
            with self._root.opened(path) as fd, open(fd, "rb", closefd=False) as file:
                yield from bounded_lines(file, line_bytes, limit_bytes, self._budget)
        except OSError:
            return

    def is_link(self, name: str) -> bool:
        """As `Tree.is_link`."""
        here, there = self._root.find(self._path), self._root.find(f"{self._path}/{name}")
        return bool(here and there and there.path != f"{here.path}/{name}")

    def changed_ns(self, name: str) -> int:
        """As `Tree.changed_ns`."""
        entry = self._root.find(f"{self._path}/{name}")
        return entry.mtime_ns if entry else 0


def bounded_lines(file: IO[bytes], line_bytes: int, limit_bytes: int, budget: Budget) -> Iterator[str]:
    """As `Tree.lines`, of an open file."""
    left = limit_bytes
    while left > 0 and budget.left_bytes > 0 and (line := file.readline(min(line_bytes, left))):
        left -= len(line)
        budget.spend(len(line))
        yield line.decode("utf-8", "surrogateescape")
