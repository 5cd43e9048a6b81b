# SPDX-License-Identifier: Apache-2.0
"""What PEAR says it has installed: one file of PHP's serialize() for each package, in .registry beside the packages.

The format: https://www.php.net/manual/en/function.serialize.php. The files may hold anything: values and depth are bounded,
strings are cut out by their stated lengths, and what is not as it should be ends the reading of that file.
"""

from __future__ import annotations

import re
import urllib.parse
from collections.abc import Iterator
from typing import TYPE_CHECKING

from kernelspan_agent.model import Library

from .installed import Packages

if TYPE_CHECKING:
    from kernelspan_agent.process.rootfs import Root

REGISTRY = ".registry"
MAX_FILES = 1024
MAX_FILE_BYTES = 4 << 20
MAX_VALUES = 200_000
MAX_NESTED = 32
_CHANNEL = ".channel."
_DEFAULT_CHANNEL = "pear.php.net"
_PLAIN = re.compile(rb"[A-Za-z0-9][A-Za-z0-9_.+-]{0,127}\Z")
_HEAD = re.compile(rb"N;|([bid]):([^;]{1,64});|s:(\d{1,8}):\"|a:(\d{1,7}):\{|[rR]:\d{1,9};")

Value = bytes | dict[bytes, "Value"] | None


class SerializedError(ValueError):
    """Not what serialize() writes, or too much of it."""


def read_registry(root: Root, directory: str) -> Packages:
    """Of `directory`/.registry, which is there: each file of each package of it."""
    found: dict[str, Library] = {}
    for path, channel in _files(root, f"{directory}/{REGISTRY}"):
        data = root.read(path, MAX_FILE_BYTES)
        try:
            package = unserialize(data or b"")
        except SerializedError:
            continue
        library = _library(package, channel)
        if library is not None:
            found.update(dict.fromkeys(_installed(root, package), library))
    return Packages(directory, found)


def _files(root: Root, registry: str) -> Iterator[tuple[str, str]]:
    """(path, channel) of each package's file."""
    names = root.names(registry, MAX_FILES)
    for name in names:
        if name.endswith(".reg"):
            yield f"{registry}/{name}", _DEFAULT_CHANNEL
        elif name.startswith(_CHANNEL):
            for inner in root.names(f"{registry}/{name}", MAX_FILES):
                if inner.endswith(".reg"):
                    yield f"{registry}/{name}/{inner}", name.removeprefix(_CHANNEL)


def _library(package: Value, channel: str) -> Library | None:
    if not isinstance(package, dict):
        return None
    name, version = package.get(b"name") or package.get(b"package"), package.get(b"version")
    if isinstance(version, dict):
        version = version.get(b"release")
    if not isinstance(name, bytes) or not _PLAIN.match(name):
        return None
    shown = version.decode("ascii") if isinstance(version, bytes) and _PLAIN.match(version) else ""
    purl = f"pkg:pear/{urllib.parse.quote(channel, safe='.-')}/{name.decode('ascii')}"
    return Library(name.decode("ascii"), shown, f"{purl}@{urllib.parse.quote(shown, safe='.-~_')}" if shown else purl)


def _installed(root: Root, package: Value) -> Iterator[str]:
    files = package.get(b"filelist") if isinstance(package, dict) else None
    for file in files.values() if isinstance(files, dict) else ():
        path = file.get(b"installed_as") if isinstance(file, dict) else None
        if isinstance(path, bytes) and path.startswith(b"/") and path.endswith(b".php") and b"\0" not in path:
            entry = root.find(path.decode("utf-8", "surrogateescape"))
            if entry is not None and entry.is_file:
                yield entry.path


class _Reader:
    """One file's values, with no recursion: its depth is the file's to choose."""

    def __init__(self, data: bytes) -> None:
        self._data, self._at = data, 0
        self._open: list[tuple[dict[bytes, Value], int, bytes | None]] = []  # array, entries left, key without value

    def read(self) -> Value:
        """The whole value. Raises SerializedError."""
        for _ in range(MAX_VALUES):
            value, whole = self._next()
            while whole and self._open:
                value, whole = self._put(value)
            if whole:
                return value
        raise SerializedError("too many values")

    def _next(self) -> tuple[Value, bool]:
        """The next value, and whether it is whole: an array with entries is not."""
        head = _HEAD.match(self._data, self._at)
        if head is None or len(self._open) > MAX_NESTED:
            raise SerializedError(f"at byte {self._at}")
        self._at = head.end()
        if head[3] is not None:
            return self._string(int(head[3])), True
        if head[4] is None:
            return head[2], True
        if int(head[4]):
            self._open.append(({}, int(head[4]), None))
            return None, False
        self._close()
        return {}, True

    def _string(self, size: int) -> bytes:
        end = self._at + size
        if self._data[end : end + 2] != b'";':
            raise SerializedError(f"a string at byte {self._at}")
        text, self._at = self._data[self._at : end], end + 2
        return text

    def _put(self, value: Value) -> tuple[Value, bool]:
        """Puts a value into the array that is open; gives the array where it is whole by that."""
        array, left, key = self._open.pop()
        if key is None:
            if not isinstance(value, bytes):
                raise SerializedError(f"a key at byte {self._at}")
            self._open.append((array, left, value))
            return None, False
        array[key] = value
        if left > 1:
            self._open.append((array, left - 1, None))
            return None, False
        self._close()
        return array, True

    def _close(self) -> None:
        if self._data[self._at : self._at + 1] != b"}":
            raise SerializedError(f"an array that does not end at byte {self._at}")
        self._at += 1


def unserialize(data: bytes) -> Value:
    """Arrays as dicts by their keys' text, strings and numbers as their text. Raises SerializedError."""
    return _Reader(data).read()
