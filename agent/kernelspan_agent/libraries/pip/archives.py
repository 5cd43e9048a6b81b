# SPDX-License-Identifier: Apache-2.0
"""Distributions inside one zip file that Python imports from: a wheel, a zipped egg, a zipapp, a pex.

A zip may hold several directories with distributions (a pex keeps each wheel in a folder of its own).
Imported at the first such file: zipfile brings all its compressors.
"""

from __future__ import annotations

import errno
import io
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager

from kernelspan_agent.libraries.pip.claims import ArchiveIndex
from kernelspan_agent.libraries.pip.index import build_index
from kernelspan_agent.libraries.pip.metadata import read_library
from kernelspan_agent.libraries.pip.trees import Budget, bounded_lines
from kernelspan_agent.process.rootfs import Root

MAX_SITES = 512  # a pex has one a wheel
MAX_ARCHIVE_INDEX_BYTES = 2 * 1024 * 1024  # some 20,000 members of about 100 bytes
_BROKEN = (OSError, ValueError, RuntimeError, NotImplementedError, EOFError, zipfile.BadZipFile, zlib.error)
_LANDMARKS = ("os.py", "os.pyc")


def read_archive(root: Root, path: str) -> ArchiveIndex:
    """The index of the zip file `path`; not `readable` where it is none."""
    try:
        with root.opened(path) as fd, opened_archive(fd) as archive:
            return _read(archive)
    except _BROKEN:
        return ArchiveIndex(readable=False)


def _read(archive: zipfile.ZipFile) -> ArchiveIndex:
    if "EGG-INFO/PKG-INFO" in archive.NameToInfo:
        return ArchiveIndex(egg=read_library(ArchiveTree(archive, "", []), "EGG-INFO"))
    sites = []
    for prefix, names in sorted(_metadata(archive).items(), key=lambda site: len(site[0]))[:MAX_SITES]:
        sites.append((prefix, build_index(ArchiveTree(archive, prefix, sorted(names)), by_name=True)))
    return ArchiveIndex(tuple(sites), has_landmark=any(mark in archive.NameToInfo for mark in _LANDMARKS))


def _metadata(archive: zipfile.ZipFile) -> dict[str, set[str]]:
    """Names of metadata folders by the prefix they stand in."""
    found: dict[str, set[str]] = {}
    for member in archive.NameToInfo:
        end = member.find(".dist-info/")
        if end > 0:
            start = member.rfind("/", 0, end) + 1
            found.setdefault(member[:start], set()).add(member[start : end + len(".dist-info")])
    return found


class ArchiveTree:
    """The members of a zip below `prefix`, which is empty or ends in `/`; `names`: those at its top."""

    def __init__(self, archive: zipfile.ZipFile, prefix: str, names: list[str]) -> None:
        self._archive = archive
        self._prefix = prefix
        self._names = names
        self._budget = Budget()

    def names(self) -> list[str]:
        """As `Tree.names`."""
        return self._names

    def read(self, path: str, limit_bytes: int) -> bytes | None:
        """As `Tree.read`."""
        try:
            with self._archive.open(self._prefix + path) as file:
                data = file.read(limit_bytes if self._budget.left_bytes > 0 else 0)
                self._budget.spend(len(data))
                return data
        except (KeyError, *_BROKEN):
            return None

    def lines(self, path: str, line_bytes: int, limit_bytes: int) -> Iterator[str] | None:
        """As `Tree.lines`."""
        known = self._prefix + path in self._archive.NameToInfo
        return self._lines(self._prefix + path, line_bytes, limit_bytes) if known else None

    def _lines(self, member: str, line_bytes: int, limit_bytes: int) -> Iterator[str]:
        try:
            with self._archive.open(member) as file:
                yield from bounded_lines(file, line_bytes, limit_bytes, self._budget)
        except _BROKEN:
            return

    def is_link(self, name: str) -> bool:  # noqa: ARG002 - a zip that Python imports from has none
        """As `Tree.is_link`."""
        return False

    def changed_ns(self, name: str) -> int:  # noqa: ARG002 - a member changes with its archive
        """As `Tree.changed_ns`."""
        return 0


@contextmanager
def opened_archive(fd: int) -> Iterator[zipfile.ZipFile]:
    """The zip file (perhaps with a program before it) that `fd` reads.

    Raises OSError, ValueError, NotImplementedError or zipfile.BadZipFile if it is none or beyond the bounds.
    """
    with _Bounded(fd, "rb", closefd=False) as file, zipfile.ZipFile(file) as archive:
        yield archive


class _Bounded(io.FileIO):
    """A file that refuses the large reads which a zip with an enormous index asks of its reader."""

    def read(self, size: int | None = -1, /) -> bytes:
        if size is None or size < 0:
            return super().read(MAX_ARCHIVE_INDEX_BYTES)
        if size > MAX_ARCHIVE_INDEX_BYTES:
            raise OSError(errno.EFBIG, "index too large")
        return super().read(size)
