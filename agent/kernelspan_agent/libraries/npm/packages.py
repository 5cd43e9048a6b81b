# SPDX-License-Identifier: Apache-2.0
"""package.json: what a package says of itself, in its directory or in yarn's archive. It may hold anything.

Manifests are read once and shared by all processes that see the same unchanged one.
"""

from __future__ import annotations

import json
import re
import urllib.parse
from collections import OrderedDict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from kernelspan_agent.model import Library

if TYPE_CHECKING:
    from kernelspan_agent.process.rootfs import Root

MANIFEST = "package.json"
MAX_MANIFEST_BYTES = 1 << 20
MAX_MANIFESTS = 8192
MAX_NAME_CHARS = 214  # npm's own
MAX_VERSION_CHARS = 256
_NAME = re.compile(r"(?:@[a-z0-9~_.-]+/)?[a-z0-9~_-][a-z0-9~_.-]*\Z", re.IGNORECASE)
_VERSION = re.compile(r"v?\d+\.\d+\.\d+[0-9A-Za-z.+-]*\Z")
_Key = tuple[tuple[int, int, int, int], str]


def make_library(name: str, version: str) -> Library:
    """The library of that name, whose package URL has the scope as its namespace."""
    scope, _, last = name.rpartition("/")
    place = f"{urllib.parse.quote(scope, safe='.-~_')}/" if scope else ""
    purl = f"pkg:npm/{place}{urllib.parse.quote(last, safe='.-~_')}"
    return Library(name, version, f"{purl}@{urllib.parse.quote(version, safe='.-~_')}" if version else purl)


def parse_manifest(data: bytes) -> Library | None:
    """The library that a package.json names; None: it names none."""
    try:
        said: Any = json.loads(data)
    except (ValueError, RecursionError):
        return None
    if not isinstance(said, dict):
        return None
    name, version = said.get("name"), said.get("version")
    if not isinstance(name, str) or len(name) > MAX_NAME_CHARS or not _NAME.match(name):
        return None
    if not isinstance(version, str) or len(version) > MAX_VERSION_CHARS or not _VERSION.match(version):
        version = ""
    return make_library(name, version)


@dataclass(frozen=True, slots=True)
class Archive:
    """A zip file that yarn lets Node.js read modules from."""

    path: str
    key: tuple[int, int, int, int]

    @classmethod
    def around(cls, root: Root, path: str) -> Archive | None:
        """The archive that a path leads into."""
        at = path.find(".zip/")
        if at < 0 and not path.endswith(".zip"):
            return None
        file = path[: at + 4] if at >= 0 else path
        entry = root.find(file)
        return cls(file, entry.key) if entry is not None and entry.is_file else None

    def inside(self, path: str) -> str:
        """Where in the archive a path leads, from its root."""
        return path.removeprefix(self.path)


class Manifests:
    """The bounded cache. One object a manager."""

    def __init__(self) -> None:
        self._held: OrderedDict[_Key, Library | None] = OrderedDict()

    def __len__(self) -> int:
        return len(self._held)

    def at(self, root: Root, directory: str) -> Library | None:
        """The library whose package.json stands in a directory."""
        path = f"{directory}/{MANIFEST}"
        entry = root.find(path)
        if entry is None or not entry.is_file:
            return None
        key = (entry.key, "")
        if key not in self._held:
            data = root.read(path, MAX_MANIFEST_BYTES + 1)
            self._keep(key, parse_manifest(data) if data is not None and len(data) <= MAX_MANIFEST_BYTES else None)
        return self._held[key]

    def in_archive(self, root: Root, archive: Archive, directory: str) -> Library | None:
        """The library whose package.json stands in a directory of an archive."""
        key = (archive.key, directory)
        if key not in self._held:
            # Imported at the first archive: zipfile brings all its compressors.
            from .archives import read_member  # noqa: PLC0415

            member = f"{directory.lstrip('/')}/{MANIFEST}"
            data = read_member(root, archive.path, member, MAX_MANIFEST_BYTES)
            self._keep(key, parse_manifest(data) if data is not None else None)
        return self._held[key]

    def _keep(self, key: _Key, library: Library | None) -> None:
        self._held[key] = library
        if len(self._held) > MAX_MANIFESTS:
            self._held.popitem(last=False)
