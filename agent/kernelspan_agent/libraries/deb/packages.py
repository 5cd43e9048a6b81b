# SPDX-License-Identifier: Apache-2.0
"""Which package of Debian's or its like brings a shared library: dpkg's lists of files, and its status for the versions.

Formats: dpkg(1), FILES; deb-control(5). In a merged /usr a list may name a file by its old place. A package URL has the distribution's
ID (os-release(5)) and the architecture, as its specification asks.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import quote

from kernelspan_agent.model import Library

from .lists import file_lists

if TYPE_CHECKING:
    from kernelspan_agent.process.rootfs import Root

STATUS = "/var/lib/dpkg/status"
RELEASE = ("/etc/os-release", "/usr/lib/os-release")
_MAX_STATUS_BYTES = 64 << 20
_MAX_FILES = 65536
_LIBRARY = re.compile(rb"^(/[^\n]*/[^/\n]*\.so(?:\.[^/\n]*)?)$", re.MULTILINE)
_FIELD = re.compile(rb"^(Package|Version|Architecture): ([^\s]+)$", re.MULTILINE)
_ID = re.compile(rb"^ID=\"?([a-z0-9._-]+)\"?$", re.MULTILINE)
_DEFAULT_ID = "debian"
_SAFE = ".-_~"


@dataclass(frozen=True, slots=True)
class Packages:
    """The shared libraries that packages have brought, by path."""

    _names: dict[str, str]  # of packages, with their architecture where dpkg gives one
    _libraries: dict[str, Library]

    def owner(self, file: str) -> Library | None:
        """The package of a file by its real path; None: it is of none."""
        moved = file.removeprefix("/usr") if file.startswith("/usr/") else f"/usr{file}"
        name = self._names.get(file) or self._names.get(moved)
        return self._libraries.get(name) if name is not None else None


def read_packages(root: Root) -> Packages:
    """Those of a tree. Reads a file for each package: some tenths of a second."""
    names: dict[str, str] = {}
    for package, files in file_lists(root):
        for path in _LIBRARY.findall(files):
            if len(names) < _MAX_FILES:
                names[path.decode("utf-8", "surrogateescape")] = package
    return Packages(names, _libraries(root, set(names.values())))


def _libraries(root: Root, wanted: set[str]) -> dict[str, Library]:
    release = next((data for path in RELEASE if (data := root.read(path, 1 << 16))), b"")
    match = _ID.search(release)
    distribution = match[1].decode() if match else _DEFAULT_ID
    found: dict[str, Library] = {}
    for paragraph in (root.read(STATUS, _MAX_STATUS_BYTES) or b"").split(b"\n\n"):
        fields = {key: value.decode("utf-8", "replace") for key, value in _FIELD.findall(paragraph)}
        name, version, machine = (fields.get(key, "") for key in (b"Package", b"Version", b"Architecture"))
        shown = next((each for each in (name, f"{name}:{machine}") if each in wanted), None)
        if shown is not None and version:
            url = f"pkg:deb/{distribution}/{quote(name, _SAFE)}@{quote(version, _SAFE)}"
            found[shown] = Library(name, version, f"{url}?arch={quote(machine, _SAFE)}" if machine else url)
    return found
