# SPDX-License-Identifier: Apache-2.0
"""What an installed distribution says of itself: its name, its version and the files it put where.

Formats: core metadata and "Recording installed projects" of the Python packaging specifications (METADATA, RECORD,
direct_url.json), and setuptools' egg-info (PKG-INFO, installed-files.txt, top_level.txt, namespace_packages.txt,
SOURCES.txt). All of it may be missing, torn or made to hurt: what does not fit the specification is not known.
"""

from __future__ import annotations

import csv
import json
import posixpath
import re
from collections.abc import Iterable, Iterator

from kernelspan_agent.libraries.pip.trees import Tree
from kernelspan_agent.model import Library

MAX_HEADER_BYTES = 16 * 1024  # METADATA ends in the project's whole description; name and version stand first
MAX_LIST_BYTES = 16 * 1024 * 1024  # RECORD: the largest known have some 30,000 lines of about 130 bytes
MAX_LIST_LINES = 200_000
MAX_LINE_BYTES = 16 * 1024
_MAX_SMALL_BYTES = 16 * 1024
_NAME = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]{0,126}[A-Za-z0-9])?", re.ASCII)  # "Names and normalization"
_VERSION = re.compile(r"[A-Za-z0-9.!+_-]{1,128}", re.ASCII)
_FOLDER = re.compile(r"([A-Za-z0-9._]+)-([A-Za-z0-9.!+_]+)(?:-py[0-9.]+)?\.(?:dist|egg)-info", re.ASCII)
_MEMBER = re.compile(r"(.*/)?__pycache__/([^/]+?)\.[^/.]+(?:\.opt-[^/.]+)?\.pyc", re.DOTALL)


def make_library(name: str, version: str) -> Library:
    """The library with its package URL (type pypi, the name normalised by PEP 503); an unknown version is empty."""
    purl = "pkg:pypi/" + re.sub(r"[-_.]+", "-", name).lower()
    # Of what a version may hold, the package URL's rules encode these two. urllib would bring 1 MB for it.
    encoded = version.replace("+", "%2B").replace("!", "%21")
    return Library(name, version, f"{purl}@{encoded}" if version else purl)


def merge_libraries(one: Library, other: Library) -> Library | None:
    """What is known of a file that both claim: all, the name without a version, or nothing."""
    if one == other:
        return one
    bare = make_library(one.name, "")
    return bare if bare.purl == make_library(other.name, "").purl else None


def read_library(tree: Tree, folder: str) -> Library | None:
    """Name and version from METADATA or PKG-INFO, or else from the folder's own name; None without a valid name.

    `folder`: a `*.dist-info` or `*.egg-info` directory, an `*.egg-info` file, or `EGG-INFO`.
    """
    name = version = ""
    for file in (f"{folder}/METADATA", f"{folder}/PKG-INFO", folder):
        data = tree.read(file, MAX_HEADER_BYTES)
        if data is not None:
            name, version = _headers(data)
            break
    if not name and (parts := _FOLDER.fullmatch(folder)):
        name, version = parts[1], parts[2]
    if not _NAME.fullmatch(name):
        return None
    return make_library(name, version if _VERSION.fullmatch(version) else "")


def is_editable(tree: Tree, folder: str) -> bool:
    """Whether direct_url.json (PEP 610) says that the distribution is its author's working copy."""
    data = tree.read(f"{folder}/direct_url.json", _MAX_SMALL_BYTES)
    try:
        origin = json.loads(data) if data else None
        return isinstance(origin, dict) and dict(origin.get("dir_info") or {}).get("editable") is True
    except (ValueError, TypeError, RecursionError):
        return False


def listed_files(tree: Tree, folder: str) -> Iterator[str] | None:
    """Paths of the distribution's files relative to the directory it is installed in, or None if it has no list.

    Code as `source_path` names it; what lies outside begins with `..`. Ends early at the bounds of this module.
    """
    lines = tree.lines(f"{folder}/RECORD", MAX_LINE_BYTES, MAX_LIST_BYTES)
    if lines is not None:
        return _paths(_first_fields(lines))
    lines = tree.lines(f"{folder}/installed-files.txt", MAX_LINE_BYTES, MAX_LIST_BYTES)
    if lines is not None:
        return _paths(posixpath.join(folder, line.rstrip("\r\n")) for line in lines)
    return None


def top_levels(tree: Tree, folder: str) -> tuple[set[str], set[str]]:
    """Names that setuptools says it installed at the top, and those of them that other distributions share."""
    return _words(tree, f"{folder}/top_level.txt"), _words(tree, f"{folder}/namespace_packages.txt")


def source_files(tree: Tree, folder: str, tops: set[str]) -> Iterator[str]:
    """What SOURCES.txt lists below the top-level names `tops`, with the folder of a `src` layout taken off."""
    lines = tree.lines(f"{folder}/SOURCES.txt", MAX_LINE_BYTES, MAX_LIST_BYTES)
    for path in _paths(line.rstrip("\r\n") for line in lines or ()):
        first, _, rest = path.partition("/")
        if first in tops:
            yield path
        elif rest.partition("/")[0] in tops and first in {"src", "lib"}:
            yield rest


def source_path(path: str) -> str:
    """The name of the source that a compiled file stands for: `a/__pycache__/b.cpython-311.pyc` is `a/b.py`."""
    if not path.endswith(".pyc"):
        return path
    if member := _MEMBER.fullmatch(path):
        return f"{member[1] or ''}{member[2]}.py"
    return path[:-1]


def _headers(data: bytes) -> tuple[str, str]:
    found = {"name": "", "version": ""}
    for line in data.decode("utf-8", "replace").splitlines():
        if not line:
            break
        key, colon, value = line.partition(":")
        if colon and not found.get(key.lower(), "-"):
            found[key.lower()] = value.strip()
    return found["name"], found["version"]


def _first_fields(lines: Iterable[str]) -> Iterator[str]:
    try:
        for row in csv.reader(lines):
            if row:
                yield row[0]
    except csv.Error:
        return


def _paths(names: Iterable[str]) -> Iterator[str]:
    for number, name in enumerate(names):
        if number == MAX_LIST_LINES:
            return
        if name and "\0" not in name:
            path = source_path(posixpath.normpath(name))
            # `pip install --target` moves bin beside the packages and leaves its place in the scheme in RECORD.
            yield path[len("../../") :] if path.startswith("../../bin/") else path


def _words(tree: Tree, file: str) -> set[str]:
    data = tree.read(file, _MAX_SMALL_BYTES) or b""
    return {word for word in data.decode("utf-8", "replace").split() if "/" not in word}
