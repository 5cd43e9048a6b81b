# SPDX-License-Identifier: Apache-2.0
"""Where a directory of Python files stands: which indexes may own its files, and whose they are if none does.

In the order of proof: inside a zip file, by the distributions in it, then as the zip itself; below `site-packages` or
`dist-packages`, by that directory's index, and nobody's file there is still a library's; an unpacked `.egg`; the
standard library, told by CPython's own landmark `os.py` (Modules/getpath.py) in a `python3.N`; below any directory
that holds distributions (`pip install --target`), but only what they list; a `bin` beside a site directory, only what
is listed. All else is the app's, if it exists. An editable install is the app's: its files are the author's own.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace

from kernelspan_agent.libraries.base import LibraryContext
from kernelspan_agent.libraries.pip.claims import ArchiveIndex, Claim, Owner, SiteIndex
from kernelspan_agent.libraries.pip.indexes import SITE_NAMES, Indexes
from kernelspan_agent.libraries.pip.metadata import read_library, source_path
from kernelspan_agent.libraries.pip.trees import DirectoryTree
from kernelspan_agent.model import Library, Origin
from kernelspan_agent.process.rootfs import Entry, Root

LANDMARKS = ("os.py", "os.pyc")
_STDLIB = re.compile(r"python(3)\.([0-9]{1,3})t?", re.ASCII)
_STDLIB_ARCHIVE = re.compile(r"python3[0-9]{1,3}\.zip|base_library\.zip", re.ASCII)  # CPython's; PyInstaller's
_SITES_OF_BIN = ("lib/python{0}.{1}/site-packages", "lib64/python{0}.{1}/site-packages",
                 "lib/python{0}.{1}/dist-packages", "lib/python3/dist-packages")  # fmt: skip


@dataclass(frozen=True, slots=True, eq=False)
class Place:
    """What is known of the files in one directory.

    `below`: indexes with the directory's path relative to theirs. `scripts`: indexes that may list them as scripts.
    `otherwise`: whose they are if nobody lists them, with `library`; None: the app's where they exist.
    """

    below: tuple[tuple[SiteIndex, str], ...] = ()
    scripts: tuple[SiteIndex, ...] = ()
    otherwise: Origin | None = None
    library: Library | None = None

    def owner(self, name: str) -> Owner:
        """Who lists the file `name` of this directory."""
        for index, start in self.below:
            owner = index.owner(source_path(start + name))
            if owner is not Claim.NOBODY:
                return owner
        for index in self.scripts:
            if (owner := index.scripts.get(name, Claim.NOBODY)) is not Claim.NOBODY:
                return owner
        return Claim.NOBODY


def find_place(directory: str, context: LibraryContext, root: Root, indexes: Indexes) -> Place:
    """The place of the absolute, normal path `directory`."""
    entries = root.walk(directory)
    parts = ["", *(part for part in directory.split("/") if part)]
    last = entries[-1]
    if last.is_file:
        return _in_archive(parts, len(entries), last, context, root, indexes)
    place = _on_disk(parts, entries, context, root, indexes)
    if place.otherwise is None and not place.below and len(entries) == len(parts) and last.path != directory:
        # Reached through links: what they lead to may stand where the names do not say.
        place = _on_disk(["", *last.path.split("/")[1:]], root.walk(last.path), context, root, indexes)
    return place


def _on_disk(parts: list[str], entries: list[Entry], context: LibraryContext, root: Root, indexes: Indexes) -> Place:
    directories = [entry for entry in entries if entry.is_directory]
    for depth in range(len(directories) - 1, 0, -1):
        rest = "/".join([*parts[depth + 1 :], ""])
        if parts[depth].endswith(".egg"):
            egg = read_library(DirectoryTree(root, directories[depth].path), "EGG-INFO")
            if egg:
                return Place(otherwise=Origin.LIBRARY, library=egg)
        if parts[depth] in SITE_NAMES:
            return Place(((indexes.of_directory(root, directories[depth]), rest),), otherwise=Origin.LIBRARY)
        if _is_stdlib(parts[depth], directories[depth], context, root):
            return Place(otherwise=Origin.RUNTIME)
    below = []
    for depth, entry in enumerate(directories):
        index = indexes.of_directory(root, entry)
        if index.has_metadata:
            below.append((index, "/".join([*parts[depth + 1 :], ""])))
    return Place(tuple(below), tuple(_script_indexes(parts, context, root, indexes)))


def _is_stdlib(name: str, entry: Entry, context: LibraryContext, root: Root) -> bool:
    version = _STDLIB.fullmatch(name)
    if not version or (context.version and tuple(map(int, version.groups())) != context.version[:2]):
        return False
    return any((found := root.find(f"{entry.path}/{mark}")) and found.is_file for mark in LANDMARKS)


def _script_indexes(parts: list[str], context: LibraryContext, root: Root, indexes: Indexes) -> Iterator[SiteIndex]:
    if parts[-1] != "bin":
        return
    seen = set()
    for pattern in _SITES_OF_BIN:
        if not context.version and "{" in pattern:
            continue
        site = root.find(posixpath.join("/".join(parts[:-1]) or "/", pattern.format(*context.version)))
        if site and site.is_directory and site.path not in seen:
            seen.add(site.path)
            yield indexes.of_directory(root, site)


def _in_archive(
    parts: list[str], depth: int, entry: Entry, context: LibraryContext, root: Root, indexes: Indexes
) -> Place:
    archive: ArchiveIndex = indexes.of_archive(root, entry)
    inner = "/".join([*parts[depth:], ""])
    if archive.egg:
        return Place(otherwise=Origin.LIBRARY, library=archive.egg)
    if archive.has_landmark and _STDLIB_ARCHIVE.fullmatch(parts[depth - 1]):
        return Place(otherwise=Origin.RUNTIME)
    below = tuple((index, inner[len(start) :]) for start, index in archive.sites if inner.startswith(start))
    outer = find_place("/".join(parts[: depth - 1]) or "/", context, root, indexes)
    owner = outer.owner(parts[depth - 1])
    place = replace(outer, below=below, scripts=(), otherwise=outer.otherwise or Origin.APP)
    if isinstance(owner, Library):
        place = replace(place, otherwise=Origin.LIBRARY, library=owner)
    return replace(place, otherwise=Origin.UNKNOWN) if not archive.readable else place
