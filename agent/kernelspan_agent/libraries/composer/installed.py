# SPDX-License-Identifier: Apache-2.0
"""What Composer says it has installed: vendor/composer/installed.json, of Composer 1 and 2.

Of each package Composer 2 says where it is, relative to that file's directory, also where a plug-in has put it somewhere
else; Composer 1 has all in vendor/NAME. A path repository is a link: PHP names files by where links lead, so the
directories are kept by their real paths. The file may hold anything: what is not as it should be is passed over.
"""

from __future__ import annotations

import json
import posixpath
import re
import urllib.parse
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from kernelspan_agent.model import Library

if TYPE_CHECKING:
    from collections.abc import Mapping

    from kernelspan_agent.process.rootfs import Root

MAX_LIST_BYTES = 8 << 20
MAX_PACKAGES = 4096
MAX_NAME_CHARS = 256
_NAME = re.compile(r"[a-z0-9](?:[a-z0-9_.-]*)/[a-z0-9](?:[a-z0-9_.-]*)\Z", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Packages:
    """Libraries by their directories (or files), real paths. What else lies below `all_of` is some library's.

    `place`: the directory whose list it is.
    """

    place: str
    by_path: Mapping[str, Library]
    all_of: str = ""

    @property
    def weight(self) -> int:
        """How many entries it has."""
        return len(self.by_path) + 1


def owner_of(packages: Packages, file: str) -> tuple[bool, Library | None]:
    """(whether the file is a library's, which one if that is known): by the longest path that it lies below."""
    at = file
    while at not in {"", "/"}:
        library = packages.by_path.get(at)
        if library is not None:
            return True, library
        at = at.rpartition("/")[0]
    return bool(packages.all_of) and file.startswith(f"{packages.all_of}/"), None


def make_library(name: str, version: str) -> Library:
    """The library of that name as Composer writes both; its package URL has the name in small letters."""
    purl = f"pkg:composer/{name.lower()}"
    return Library(name, version, f"{purl}@{urllib.parse.quote(version, safe='.-~_')}" if version else purl)


def read_installed(root: Root, directory: str) -> Packages:
    """Of `directory`/composer/installed.json, which is there."""
    data = root.read(f"{directory}/composer/installed.json", MAX_LIST_BYTES + 1)
    if data is None or len(data) > MAX_LIST_BYTES:
        return Packages(directory, {}, directory)
    try:
        said: Any = json.loads(data)
    except (ValueError, RecursionError):
        return Packages(directory, {}, directory)
    packages = said.get("packages") if isinstance(said, dict) else said
    found: dict[str, Library] = {}
    for package in packages[:MAX_PACKAGES] if isinstance(packages, list) else []:
        entry = _package(package, directory)
        if entry is not None:
            path, library = entry
            real = root.find(path)
            # What holds the vendor directory itself is the application.
            if real is not None and real.is_directory and not f"{directory}/".startswith(f"{real.path.rstrip('/')}/"):
                found[real.path] = library
    return Packages(directory, found, directory)


def _package(package: Any, directory: str) -> tuple[str, Library] | None:
    if not isinstance(package, dict):
        return None
    name, version, path = (package.get(key, "") for key in ("name", "version", "install-path"))
    if not isinstance(name, str) or len(name) > MAX_NAME_CHARS or not _NAME.match(name):
        return None
    if not isinstance(version, str) or len(version) > MAX_NAME_CHARS:
        version = ""
    if path is None:  # a metapackage has no files
        return None
    if not isinstance(path, str) or not path or "\0" in path:
        path = f"../{name}"
    return posixpath.normpath(posixpath.join(directory, "composer", path)), make_library(name, version)
