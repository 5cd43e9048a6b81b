# SPDX-License-Identifier: Apache-2.0
"""A jar: which classes it has, in itself and in the jars it carries, and which library it says it is.

What a jar says of itself: META-INF/maven/GROUP/ARTIFACT/pom.properties, which Maven and most others put there; where several
others have been packed into it, the one that its file's name agrees with; else the manifest (OSGi's Bundle-SymbolicName,
Implementation-Title); else only its file's name.
"""

from __future__ import annotations

import re
import urllib.parse
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from kernelspan_agent.libraries.maven.zips import (
    MANIFEST,
    PROPERTIES,
    Member,
    Zip,
    ZipError,
    content_at,
    read_member,
    read_zip,
)
from kernelspan_agent.model import Library
from kernelspan_agent.process.procfs import printable

if TYPE_CHECKING:
    from collections.abc import Mapping

MAX_TEXT_BYTES = 64 << 10
GENERIC = "pkg:generic/"
_CLASSES = ("BOOT-INF/classes/", "WEB-INF/classes/")
_PLAIN = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.+~-]{0,127}\Z")


@dataclass(frozen=True, slots=True)
class Jar:
    """`library`: what it says it is. `boot`: the version of Spring Boot whose loader it has; empty: none."""

    name: str  # of its file
    archive: Zip
    library: Library
    nested: tuple[Jar, ...] = ()
    boot: str = ""
    class_path: tuple[str, ...] = field(default=())  # of its manifest

    @property
    def weight(self) -> int:
        """How many members it has, with those of jars in it."""
        return len(self.archive.hashes) + 16 + sum(each.weight for each in self.nested)

    def has_class(self, path: str) -> str | None:
        """Below which prefix it has a class ("com/acme/Some.class"); None: it has none."""
        return next((prefix for prefix in ("", *_CLASSES) if self.archive.has(prefix + path)), None)


def read_jar(fd: int, name: str) -> Jar:
    """The jar that is open. Raises ZipError, OSError."""
    archive = read_zip(fd)
    nested = []
    for path, member in archive.nested.items():
        if member.is_stored:
            try:
                inner = read_zip(fd, content_at(fd, archive, member), member.size)
                nested.append(_make(fd, path.rpartition(b"/")[2].decode("utf-8", "replace"), inner, ()))
            except (ZipError, OSError):
                continue
    return _make(fd, name, archive, tuple(nested))


def _make(fd: int, name: str, archive: Zip, nested: tuple[Jar, ...]) -> Jar:
    manifest: Mapping[str, str] = {}
    if MANIFEST in archive.known:
        manifest = parse_manifest(_text(fd, archive, archive.known[MANIFEST]))
    library = _by_properties(fd, name, archive) or _by_manifest(manifest) or _generic(_stem(name), "")
    return Jar(
        name,
        archive,
        library,
        nested,
        _plain(manifest.get("spring-boot-version", "")),
        tuple(manifest.get("class-path", "").split()),
    )


def _by_properties(fd: int, name: str, archive: Zip) -> Library | None:
    found = []
    for path, member in archive.known.items():
        if path.endswith(PROPERTIES):
            said = parse_properties(_text(fd, archive, member))
            group, artifact, version = (said.get(key, "") for key in ("groupId", "artifactId", "version"))
            if _plain(group) and _plain(artifact):
                found.append((group, artifact, _plain(version)))
    if len(found) > 1:
        found = [each for each in found if _stem(name) in (each[1], f"{each[1]}-{each[2]}")]
    return make_library(*found[0]) if len(found) == 1 else None


def _by_manifest(manifest: Mapping[str, str]) -> Library | None:
    ways = (("bundle-symbolicname", "bundle-version"), ("implementation-title", "implementation-version"))
    for title, version in ways:
        name = manifest.get(title, "").partition(";")[0].strip()
        if name:
            return _generic(name[:128], _plain(manifest.get(version, "")))
    return None


def make_library(group: str, artifact: str, version: str) -> Library:
    """The library as Maven names it."""
    purl = f"pkg:maven/{urllib.parse.quote(group, safe='.-_~')}/{urllib.parse.quote(artifact, safe='.-_~')}"
    quoted = urllib.parse.quote(version, safe=".-~_")
    return Library(f"{group}:{artifact}", version, f"{purl}@{quoted}" if version else purl)


def _generic(name: str, version: str) -> Library:
    """What no package manager names: the package URL's type is `generic`."""
    shown = printable(name)
    purl = f"{GENERIC}{urllib.parse.quote(shown, safe='.-_~')}"
    return Library(shown, version, f"{purl}@{urllib.parse.quote(version, safe='.-~_')}" if version else purl)


def parse_manifest(text: str) -> dict[str, str]:
    """Its main attributes, by their names in small letters; a line that begins with a space goes on with the one before."""
    joined = text.replace("\r\n", "\n").replace("\r", "\n").replace("\n ", "")
    found: dict[str, str] = {}
    for line in joined.split("\n"):
        if not line.strip() and found:
            break
        key, colon, value = line.partition(":")
        if colon:
            found.setdefault(key.strip().lower(), value.strip())
    return found


def parse_properties(text: str) -> dict[str, str]:
    """The keys of a simple properties file."""
    found: dict[str, str] = {}
    for line in text.splitlines():
        key, equals, value = line.strip().partition("=")
        if equals and not key.startswith(("#", "!")):
            found[key.strip()] = value.strip()
    return found


def _text(fd: int, archive: Zip, member: Member) -> str:
    try:
        return read_member(fd, archive, member, MAX_TEXT_BYTES).decode("utf-8", "replace")
    except (ZipError, OSError):
        return ""


def _plain(text: str) -> str:
    return text if _PLAIN.match(text) else ""


def _stem(name: str) -> str:
    return name.rpartition(".")[0] or name
