# SPDX-License-Identifier: Apache-2.0
"""Source maps (ECMA-426, revision 3): from a place in what was compiled to the line that its author wrote.

Read are maps inside a source, and those that lie where the source says, in a file of the process's own, if the file that
the source came from still holds that very source: then the map is the one that was written with it. A map is somebody else's
data: whatever in it contradicts itself makes it no map.
"""

from __future__ import annotations

import binascii
import posixpath
import re
import urllib.parse
from dataclasses import dataclass
from typing import TYPE_CHECKING

import msgspec
import numpy as np

from kernelspan_agent.process.errors import ProcessError
from kernelspan_agent.process.procfs import read_stat
from kernelspan_agent.process.rootfs import MAX_PATH_BYTES, Root

from .functions import path_of
from .heap import decode

if TYPE_CHECKING:
    from kernelspan_agent.process.procfs import Process

MAX_MAP_BYTES = 4 << 20
MAX_MAPPINGS, MAX_PLACES = 1 << 20, 160_000  # characters, and what they say
MAX_SOURCES, MAX_SOURCE_CHARS = 4096, 1 << 18  # and of all their paths
MAX_SCRIPT_CHARS = 2 << 20
_AT_ONCE = 1 << 15  # characters of mappings: numpy needs 80 bytes for each
_TAIL_CHARS = 1024  # in which a source says where its map is, if it is not inside
_DIGITS, _SHIFT, _MORE = 7, 5, 32  # of a number: 35 bits at the most; bits a digit; the digit's flag that one follows
_MOST = 1 << 31
_NONE = -1
_COMMENTS = ("//# sourceMappingURL=", "//@ sourceMappingURL=")
_INLINE = re.compile(r"data:application/json(?:;charset=[-\w]+)?;base64,", re.IGNORECASE)
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:")
_MODULES = "/node_modules/"
_ALPHABET = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
_VALUES = np.full(256, 255, np.uint8)
_VALUES[np.frombuffer(_ALPHABET.encode(), np.uint8)] = np.arange(64)


class _Map(msgspec.Struct, rename="camel"):
    version: int
    sources: list[str | None]
    mappings: str
    source_root: str | None = None


@dataclass(frozen=True, slots=True, eq=False)
class SourceMap:
    """Places of a script, in their order. `lines`: the first of each line, and their number, uint32, shape (lines + 1,).

    `columns`, `origins`, `places`: of each, the UTF-16 column from 0, the number of its source (-1: it has none) and the
    line there from 0, int32, shape (n,). `sources`: paths; empty: one that is no file.
    """

    lines: np.ndarray
    columns: np.ndarray
    origins: np.ndarray
    places: np.ndarray
    sources: tuple[str, ...]

    def __len__(self) -> int:
        """Numbers that it holds."""
        return len(self.lines) + 3 * len(self.columns) + sum(map(len, self.sources)) // 2

    def find(self, line: int, column: int) -> tuple[str, int] | None:
        """The file and the line, from 1, of the place in the script's line (from 1) and column (from 0); None: of none."""
        if not 0 < line < len(self.lines):
            return None
        begin, end = self.lines[line - 1 : line + 1].tolist()
        at = begin + int(np.searchsorted(self.columns[begin:end], column, "right")) - 1
        if at < begin or self.origins[at] == _NONE:
            return None
        source = self.sources[self.origins[at]]
        return (source, int(self.places[at]) + 1) if source else None


def map_of(process: Process, file: str, source: bytes, width: int) -> SourceMap | None:
    """The map of a script whose file and source (of characters of `width` bytes) these are; None: there is none to be trusted."""
    is_apps = file.startswith("/") and _MODULES not in file and len(file) <= MAX_PATH_BYTES
    if not is_apps or len(source) > MAX_SCRIPT_CHARS * width:
        return None
    where = _where(source, width)
    folder = posixpath.dirname(file)
    inline = _INLINE.match(where)
    if inline is not None:
        try:
            return parse(binascii.a2b_base64(where[inline.end() :], strict_mode=True), folder)
        except ValueError:
            return None
    path = _path(folder, "", where)
    return _beside(process, path, file, decode(source, width)) if path else None


def _beside(process: Process, path: str, file: str, source: str) -> SourceMap | None:
    """The map in a file; None: it is none, or the script's file is not what runs."""
    try:
        with Root(f"{process.path}/root") as root:
            read_stat(process)  # the root is this process's: it lives
            text = root.read(file, len(source) * 3 + 4)  # UTF-8 has at most so many bytes for a character of 16 bits
            found = root.read(path, MAX_MAP_BYTES + 1)
    except (OSError, ProcessError):
        return None
    if text is None or found is None or len(found) > MAX_MAP_BYTES:
        return None
    if text.decode("utf-8", "replace").removeprefix("\ufeff") != source:
        return None
    return parse(found, posixpath.dirname(path))


def _where(source: bytes, width: int) -> str:
    """What the last line of a source says of where its map is; empty: nothing."""
    tail = decode(source[-_TAIL_CHARS * width :], width).rstrip()
    begin = tail.rfind("\n") + 1
    if begin:
        line = tail[begin:]
        at = max(map(line.rfind, _COMMENTS))
    else:  # a long one: that of a map inside begins with the comment
        line = decode(source[_last_line(source, width) :], width).rstrip()
        at = 0 if line.startswith(_COMMENTS) else -1
    url = line[at + len(_COMMENTS[0]) :] if at >= 0 else ""
    return url if not any(each.isspace() for each in url) else ""


def _last_line(source: bytes, width: int) -> int:
    """Where it begins, in bytes; the end that a file may have does not count."""
    at = len(source.rstrip(b"\n\r\0"))
    while True:
        at = source.rfind(b"\n", 0, at)
        if at < 0 or (width == 1 or (at % width == 0 and source[at + 1] == 0)):
            return at + width if at >= 0 else 0


def parse(data: bytes, folder: str) -> SourceMap | None:
    """A map that lies in a folder, or belongs to a script that does. None: it is none, or one of several parts."""
    try:
        said = msgspec.json.decode(data.removeprefix(b")]}'\n"), type=_Map)
        text = np.frombuffer(said.mappings.encode("ascii"), np.uint8)
    except (ValueError, RecursionError):
        return None
    if said.version != 3 or len(said.sources) > MAX_SOURCES or len(text) > MAX_MAPPINGS:
        return None
    sources: list[str] = []
    chars = 0
    for each in said.sources:
        sources.append(_path(folder, said.source_root or "", each or ""))
        chars += len(sources[-1])
        if chars > MAX_SOURCE_CHARS:
            return None
    return _decoded(text, tuple(sources))


def _path(folder: str, root: str, source: str) -> str:
    """The file that a URL of a map means; empty: none, or a package's."""
    if not source or len(root) + len(source) > MAX_PATH_BYTES:
        return ""
    url = source if source.startswith("/") or _SCHEME.match(source) or not root else f"{root.rstrip('/')}/{source}"
    is_file = url.startswith("file:///")
    if "?" in url or (not is_file and (_SCHEME.match(url) or url.startswith("//"))):
        return ""
    path = posixpath.normpath(path_of(url) if is_file else posixpath.join(folder, urllib.parse.unquote(url)))
    return path if "\0" not in path and _MODULES not in path else ""


@dataclass(slots=True)
class _Sums:
    """Up to where `mappings` was read. `line`, `column`: in the script; `origin`, `place`: as a SourceMap's."""

    line: int = 0
    column: int = 0
    origin: int = 0
    place: int = 0


def _decoded(text: np.ndarray, sources: tuple[str, ...]) -> SourceMap | None:
    """What `mappings` (ASCII) says: segments between commas, lines between semicolons, of numbers in base 64."""
    is_line = text == ord(";")
    gaps = np.flatnonzero(is_line | (text == ord(",")))
    found: list[tuple[np.ndarray, ...]] = []
    sums, begin, count = _Sums(), 0, 0
    while begin < len(text):
        last = int(np.searchsorted(gaps, begin + _AT_ONCE))
        end = int(gaps[last]) + 1 if last < len(gaps) else len(text)
        part = _part(text[begin:end], sums) if end - begin <= 2 * _AT_ONCE else None
        count += len(part[0]) if part is not None else 0
        if part is None or count > MAX_PLACES:
            return None
        found.append(part)
        begin = end
    each = [np.concatenate(column) for column in zip(*found, strict=True)] if found else [np.zeros(0, int)] * 4
    lines, columns, origins, places = each
    starts = np.searchsorted(lines, np.arange(int(is_line.sum()) + 2)).astype(np.uint32)
    is_sorted = ((np.diff(columns) >= 0) | (np.diff(lines) > 0)).all()
    if not is_sorted or (origins >= len(sources)).any():
        return None
    return SourceMap(starts, columns.astype(np.int32), origins.astype(np.int32), places.astype(np.int32), sources)


def _part(text: np.ndarray, sums: _Sums) -> tuple[np.ndarray, ...] | None:
    """Some of it, up to a gap or the end: of each segment its line, column, source and place; `sums` goes on to there."""
    is_line, values = text == ord(";"), _VALUES[text]
    is_gap = is_line | (text == ord(","))
    if (is_gap == (values < len(_ALPHABET))).any():  # each is a gap or a digit
        return None
    at = np.flatnonzero(~is_gap)
    digits, is_last = values[at], (values[at] & _MORE) == 0
    ends = np.flatnonzero(is_last)
    begins = np.concatenate(([0], ends[:-1] + 1)) if len(ends) else ends
    if len(at) and (not is_last[-1] or (at[ends] - at[begins] != ends - begins).any()):
        return None  # a number that does not end, or has a gap in it
    if len(ends) and int((ends - begins).max()) >= _DIGITS:
        return None
    shifts = (np.arange(len(at)) - np.repeat(begins, ends - begins + 1)) * _SHIFT
    whole = (
        np.add.reduceat((digits & (_MORE - 1)).astype(np.int64) << shifts, begins) if len(ends) else np.zeros(0, int)
    )
    numbers = np.where(whole & 1, -(whole >> 1), whole >> 1)
    _, first, count = np.unique(np.cumsum(is_gap)[at[begins]], return_index=True, return_counts=True)
    if not np.isin(count, (1, 4, 5)).all():
        return None
    lines = np.cumsum(is_line)[at[begins]][first] if len(first) else np.zeros(0, int)
    running = np.cumsum(numbers[first])
    begun = np.searchsorted(lines, lines)  # the first segment of each one's line
    columns = running - (running - numbers[first])[begun] + np.where(lines == 0, sums.column, 0)
    has_source = count > 1
    origins, places = np.full(len(first), _NONE), np.zeros(len(first), np.int64)
    origins[has_source] = sums.origin + np.cumsum(numbers[first[has_source] + 1])
    places[has_source] = sums.place + np.cumsum(numbers[first[has_source] + 2])
    in_range = [(each >= 0) & (each < _MOST) for each in (columns, origins[has_source], places)]
    if not all(each.all() for each in in_range):
        return None
    count_of_lines = int(is_line.sum())
    made = lines + sums.line, columns, origins, places
    if count_of_lines or len(first):
        is_same = len(first) and lines[-1] == count_of_lines
        sums.column = int(columns[-1]) if is_same else 0 if count_of_lines else sums.column
    sums.line += count_of_lines
    if has_source.any():
        sums.origin, sums.place = int(origins[has_source][-1]), int(places[has_source][-1])
    return made
