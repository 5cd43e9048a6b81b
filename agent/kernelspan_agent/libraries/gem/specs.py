# SPDX-License-Identifier: Apache-2.0
"""What RubyGems says it has installed: specifications, one file a gem, in the folders that a gem home has.

A specification is Ruby code; only those lines are understood that RubyGems itself writes (Gem::Specification#to_ruby,
#to_ruby_for_cache). The files may hold anything: sizes and counts are bounded.
"""

from __future__ import annotations

import posixpath
import re
import urllib.parse
from typing import TYPE_CHECKING

from kernelspan_agent.libraries.composer.installed import Packages
from kernelspan_agent.model import Library

if TYPE_CHECKING:
    from kernelspan_agent.process.rootfs import Root

SPECIFICATIONS, DEFAULT = "specifications", "specifications/default"
BUNDLED = "bundler/gems"  # those that Bundler has from repositories
MAX_SPECIFICATIONS = 4096
MAX_SPECIFICATION_BYTES = 1 << 20
MAX_FILES = 8192  # of one gem
_STUB = re.compile(rb"^# stub: ([A-Za-z0-9][A-Za-z0-9._-]{0,127}) ([0-9][0-9A-Za-z.-]{0,63}) (\S{1,64}) ", re.MULTILINE)
_NAME = re.compile(rb"^\s*\w+\.name\s*=\s*['\"]([A-Za-z0-9][A-Za-z0-9._-]{0,127})['\"]", re.MULTILINE)
_VERSION = re.compile(rb"^\s*\w+\.version\s*=\s*['\"]([0-9][0-9A-Za-z.-]{0,63})['\"]", re.MULTILINE)
_FILES = re.compile(rb"^\s*s\.files = \[(.*?)\]", re.MULTILINE | re.DOTALL)
_TEXT = re.compile(rb'"((?:[^"\\\x00-\x1f]|\\.){1,512})"')


def make_library(name: str, version: str) -> Library:
    """The gem of that name."""
    purl = f"pkg:gem/{urllib.parse.quote(name, safe='.-_')}"
    return Library(name, version, f"{purl}@{urllib.parse.quote(version, safe='.-_~')}" if version else purl)


def read_home(root: Root, home: str) -> Packages:
    """The gems of a gem home: each one's folder, and that of its compiled extensions. Also those that Bundler has cloned."""
    found: dict[str, Library] = {}
    platforms = _extension_folders(root, home)
    for name in root.names(f"{home}/{SPECIFICATIONS}", MAX_SPECIFICATIONS):
        if not name.endswith(".gemspec"):
            continue
        library = library_of(root.read(f"{home}/{SPECIFICATIONS}/{name}", MAX_SPECIFICATION_BYTES) or b"")
        full_name = name.removesuffix(".gemspec")
        # The file bears the names that it says, as its folder does.
        if library is None or not f"{full_name}-".startswith(f"{library.name}-{library.version}-"):
            continue
        for folder in (f"{home}/gems/{full_name}", *(f"{platform}/{full_name}" for platform in platforms)):
            entry = root.find(folder)
            if entry is not None and entry.is_directory:
                found[entry.path] = library
    for name in root.names(f"{home}/{BUNDLED}", MAX_SPECIFICATIONS):
        library = _cloned(root, f"{home}/{BUNDLED}/{name}")
        entry = root.find(f"{home}/{BUNDLED}/{name}")
        if library is not None and entry is not None:
            found[entry.path] = library
    return Packages(home, found, f"{home}/gems")


def read_defaults(root: Root, home: str, library_folder: str, extension_folder: str) -> Packages:
    """The gems that come with Ruby, by their files, which lie among Ruby's own."""
    found: dict[str, Library] = {}
    for name in root.names(f"{home}/{DEFAULT}", MAX_SPECIFICATIONS):
        data = root.read(f"{home}/{DEFAULT}/{name}", MAX_SPECIFICATION_BYTES) or b""
        library, files = library_of(data), _FILES.search(data)
        if library is None or files is None or not name.endswith(".gemspec"):
            continue
        for number, match in enumerate(_TEXT.finditer(files[1])):
            file = match[1].decode("utf-8", "surrogateescape").removeprefix("lib/")
            if number >= MAX_FILES or "\\" in file or posixpath.normpath(f"/{file}") != f"/{file}":
                continue
            folder = extension_folder if file.endswith(".so") else library_folder
            if file.endswith((".rb", ".so")):
                found[f"{folder}/{file}"] = library
    return Packages(f"{home}/{DEFAULT}", found)


def _extension_folders(root: Root, home: str) -> list[str]:
    """extensions/PLATFORM/ABI of a home."""
    base = f"{home}/extensions"
    return [f"{base}/{one}/{two}" for one in root.names(base, 16) for two in root.names(f"{base}/{one}", 16)]


def _cloned(root: Root, folder: str) -> Library | None:
    """The gem whose specification lies in a clone: its name, and its version where that is written there."""
    for name in root.names(folder, MAX_SPECIFICATIONS):
        if name.endswith(".gemspec"):
            data = root.read(f"{folder}/{name}", MAX_SPECIFICATION_BYTES) or b""
            said, version = _NAME.search(data), _VERSION.search(data)
            if said is not None:
                return make_library(said[1].decode("ascii"), version[1].decode("ascii") if version else "")
    return None


def library_of(data: bytes) -> Library | None:
    """The gem that a specification says it is of."""
    match = _STUB.search(data[:4096])
    if match is not None:
        return make_library(match[1].decode("ascii"), match[2].decode("ascii"))
    name, version = _NAME.search(data), _VERSION.search(data)
    if name is None or version is None:
        return None
    return make_library(name[1].decode("ascii"), version[1].decode("ascii"))
