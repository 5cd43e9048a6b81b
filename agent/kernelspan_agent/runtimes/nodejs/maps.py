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

from .heap import decode

if TYPE_CHECKING:
    from kernelspan_agent.process.procfs import Process

MAX_MAP_BYTES = 4 << 20
MAX_SOURCES = 16384
_TAIL_CHARS = 1024  # in which a source says where its map is, if it is not inside
_DIGITS, _SHIFT, _MORE = 7, 5, 32  # of a number: 35 bits at the most; bits a digit; the digit's flag that one follows
_MOST = 1 << 31
_NONE = -1
_COMMENT = re.compile(r"//[#@]\s*sourceMappingURL=(\S+)\s*\Z")
_INLINE = re.compile(r"data:application/json(?:;charset=[-\w]+)?;base64,", re.IGNORECASE)
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:")
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
        return len(self.lines) + 3 * len(self.columns)

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
    where = _where(source, width)
    if not where or not file.startswith("/") or "/node_modules/" in file or len(file) > MAX_PATH_BYTES:
        return None
    folder = posixpath.dirname(file)
    inline = _INLINE.match(where)
    if inline is not None:
        try:
            return parse(binascii.a2b_base64(where[inline.end() :], strict_mode=True), folder)
        except binascii.Error:
            return None
    path = _path(folder, "", where)
    if not path:
        return None
    try:
        with Root(f"{process.path}/root") as root:
            read_stat(process)  # the root is this process's: it lives
            text = root.read(file, len(source) * 3 + 4)
            found = root.read(path, MAX_MAP_BYTES + 1)
    except (OSError, ProcessError):
        return None
    if text is None or found is None or len(found) > MAX_MAP_BYTES:
        return None
    if text.decode("utf-8", "replace").removeprefix("\ufeff") != decode(source, width):
        return None
    return parse(found, posixpath.dirname(path))


def _where(source: bytes, width: int) -> str:
    """What the last line of a source says of where its map is; empty: nothing."""
    tail = decode(source[-_TAIL_CHARS * width :], width)
    at = tail.rfind("sourceMappingURL=")
    if at < 0:
        text = decode(source[-4 * MAX_MAP_BYTES // 3 * width :], width)
        tail = text[text.rfind("\n", 0, len(text.rstrip())) + 1 :]
    found = _COMMENT.search(tail)
    return found[1] if found is not None else ""


def parse(data: bytes, folder: str) -> SourceMap | None:
    """A map that lies in a folder, or belongs to a script that does. None: it is none, or one of several parts."""
    try:
        said = msgspec.json.decode(data.removeprefix(b")]}'\n"), type=_Map)
        text = np.frombuffer(said.mappings.encode("ascii"), np.uint8)
    except (msgspec.DecodeError, UnicodeEncodeError):
        return None
    if said.version != 3 or len(said.sources) > MAX_SOURCES:
        return None
    sources = tuple(_path(folder, said.source_root or "", source or "") for source in said.sources)
    return _decoded(text, sources)


def _path(folder: str, root: str, source: str) -> str:
    """The file that a URL of a map means; empty: none."""
    url = f"{root.rstrip('/')}/{source}" if root and source else source
    if url.startswith("file://"):
        url = url.removeprefix("file://")
    if not url or _SCHEME.match(url) or url.startswith("//") or len(url) > MAX_PATH_BYTES:
        return ""
    path = posixpath.normpath(posixpath.join(folder, urllib.parse.unquote(url)))
    return path if "\0" not in path else ""


def _decoded(text: np.ndarray, sources: tuple[str, ...]) -> SourceMap | None:
    """What `mappings` (ASCII) says: segments between commas, lines between semicolons, of numbers in base 64."""
    is_line, values = text == ord(";"), _VALUES[text]
    is_gap = is_line | (text == ord(","))
    if (is_gap == (values < 64)).any():
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
    segment, first, count = np.unique(np.cumsum(is_gap)[at[begins]], return_index=True, return_counts=True)
    if not np.isin(count, (1, 4, 5)).all():
        return None
    lines = np.cumsum(is_line)[at[begins]][first] if len(segment) else np.zeros(0, int)
    starts = np.searchsorted(lines, np.arange(int(is_line.sum()) + 2)).astype(np.uint32)
    sums = np.cumsum(numbers[first])
    columns = sums - (sums - numbers[first])[starts[lines]] if len(segment) else sums
    has_source = count > 1
    origins = np.full(len(segment), _NONE)
    places = np.zeros(len(segment), np.int64)
    origins[has_source] = np.cumsum(numbers[first[has_source] + 1])
    places[has_source] = np.cumsum(numbers[first[has_source] + 2])
    is_sorted = ((np.diff(columns) >= 0) | (np.diff(lines) > 0)).all()
    in_range = all(((each >= low) & (each < high)).all() for each, low, high in (
        (columns, 0, _MOST), (origins, _NONE, len(sources)), (origins[has_source], 0, len(sources)), (places, 0, _MOST)
    ))  # fmt: skip
    if not is_sorted or not in_range:
        return None
    return SourceMap(starts, columns.astype(np.int32), origins.astype(np.int32), places.astype(np.int32), sources)
