# SPDX-License-Identifier: Apache-2.0
"""Debian's own lists of files: gems whose files it puts among Ruby's, in vendor_ruby, and not into a folder of their own.

A binary package (`/var/lib/dpkg/info/*.list`, see dpkg(1), FILES) that brings exactly one specification brings that gem's files.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from kernelspan_agent.libraries.composer.installed import Packages
from kernelspan_agent.libraries.deb.lists import file_lists

from .specs import MAX_SPECIFICATION_BYTES, library_of

if TYPE_CHECKING:
    from kernelspan_agent.model import Library
    from kernelspan_agent.process.rootfs import Root

VENDOR = "/ruby/vendor_ruby"
_MAX_FILES = 50_000
_SPECIFICATION = re.compile(
    rb"^(/usr/[^\n]*/rubygems-integration/[^/\n]+/specifications/[^/\n]+\.gemspec)$", re.MULTILINE
)


def read_lists(root: Root, folder: str) -> Packages:
    """The gems that have files below `folder`, a vendor_ruby, by these files."""
    found: dict[str, Library] = {}
    for _, data in file_lists(root):
        if VENDOR.encode() not in data:
            continue
        specifications = _SPECIFICATION.findall(data)
        if len(specifications) != 1:
            continue
        path = specifications[0].decode("utf-8", "surrogateescape")
        library = library_of(root.read(path, MAX_SPECIFICATION_BYTES) or b"")
        if library is not None:
            for line in data.decode("utf-8", "surrogateescape").splitlines():
                if line.startswith(f"{folder}/") and line.endswith((".rb", ".so")) and len(found) < _MAX_FILES:
                    found[line] = library
    return Packages(folder, found)
