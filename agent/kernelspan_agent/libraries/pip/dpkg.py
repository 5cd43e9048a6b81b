# SPDX-License-Identifier: Apache-2.0
"""Debian's own lists of files: modules of distributions that it installs without a RECORD, and scripts.

A binary package (`/var/lib/dpkg/info/*.list`, see dpkg(1), FILES) that brings the metadata of exactly one
distribution brings its modules too. Debian Policy for Python names such packages `python3-*`.
"""

from __future__ import annotations

import posixpath
from collections.abc import Iterable

from kernelspan_agent.libraries.pip.metadata import MAX_LINE_BYTES, MAX_LIST_BYTES, source_path
from kernelspan_agent.libraries.pip.trees import DirectoryTree
from kernelspan_agent.process.rootfs import Root

SITE_DIRECTORY = "/usr/lib/python3/dist-packages"
_INFO = "/var/lib/dpkg/info"
_MAX_INFO_NAMES = 200_000  # about five a package
_MAX_LISTS = 4096
_METADATA = (".dist-info", ".egg-info")


def debian_lists(root: Root, folders: frozenset[str]) -> dict[str, list[str]]:
    """Modules and scripts, relative to SITE_DIRECTORY, of each distribution whose metadata is one of `folders`."""
    found: dict[str, list[str]] = {}
    names = [name for name in root.names(_INFO, _MAX_INFO_NAMES) if name.startswith("python3-")]
    tree = DirectoryTree(root, _INFO)
    for name in [name for name in names if name.endswith(".list")][:_MAX_LISTS]:
        files = _files(tree.lines(name, MAX_LINE_BYTES, MAX_LIST_BYTES) or ())
        metadata = {top for file in files if (top := file.partition("/")[0]).endswith(_METADATA)}
        if len(metadata) == 1 and metadata <= folders:
            found[metadata.pop()] = [source_path(file) for file in files]
    return found


def _files(lines: Iterable[str]) -> list[str]:
    inside = []
    for line in lines:
        path = line.rstrip("\n")
        if path.startswith(f"{SITE_DIRECTORY}/"):
            inside.append(path[len(SITE_DIRECTORY) + 1 :])
        elif path.startswith("/usr/bin/"):
            inside.append("../../../bin/" + path[len("/usr/bin/") :])
    directories = {posixpath.dirname(path) for path in inside}  # the lists name each directory, too
    return [path for path in inside if path and path not in directories]
