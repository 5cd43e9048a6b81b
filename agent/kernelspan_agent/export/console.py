# SPDX-License-Identifier: Apache-2.0
"""Traces as trees on a terminal: activity, function spans, operations, with their durations in one column.

A trace is printed when its root has come, or at the end. What is said of a span stands in `labels`, what is kept and
folded in `tree`. Nothing a traced program chose reaches the terminal unescaped.
"""

from __future__ import annotations

import os
import time
import unicodedata
from collections.abc import Mapping
from typing import NamedTuple, TextIO

import numpy as np

from kernelspan_agent.export import labels
from kernelspan_agent.export.base import DirectOutput
from kernelspan_agent.export.counters import failed
from kernelspan_agent.export.labels import Label
from kernelspan_agent.export.tree import Forest, Node, Segments, Tree
from kernelspan_agent.model import SpanBatch

_DURATION_CELLS = 12  # "59 min 59 s "
_LEAST_CELLS = 40
_LEAST_SUBJECT_CELLS = 16
_MAX_DEPTH = 40  # deeper levels are drawn at this one, or the labels would have no room
_KNOWN_LABELS = 4096

_RESET = "\x1b[0m"
_STYLES = {
    "trace": "\x1b[2m",
    "root": "\x1b[1m",
    "function": "\x1b[36m",
    "operation": "",
    "subject": "\x1b[32m",
    "detail": "\x1b[2m",
    "library": "\x1b[35m",
    "error": "\x1b[31m",
    "duration": "\x1b[33m",
}

Piece = tuple[str, str]  # style, text


class Above(NamedTuple):
    """What stands further up already: the app's innermost function, the library it called, whose spans these are."""

    function: str
    library: str
    process: str = ""


Branch = tuple[Node, str, str, Above, int]  # span, prefix of its line, prefix of the lines below, above, depth


def wants_color(stream: TextIO, environ: Mapping[str, str]) -> bool:
    """Colours only on a terminal, and not where NO_COLOR (no-color.org) is set or TERM is dumb."""
    return stream.isatty() and not environ.get("NO_COLOR") and environ.get("TERM") != "dumb"


def terminal_width(stream: TextIO, environ: Mapping[str, str]) -> int:
    """Columns: COLUMNS, else the terminal's, else 100."""
    columns = environ.get("COLUMNS", "")
    if columns.isascii() and columns.isdigit() and 0 < len(columns) < 6 and int(columns):
        return int(columns)
    try:
        return os.get_terminal_size(stream.fileno()).columns or 100
    except (OSError, ValueError):
        return 100


class ConsoleExporter(DirectOutput):
    """An Output and an Exporter (see base) that prints to `stream`, in lines of at most `width` cells."""

    def __init__(self, stream: TextIO, color: bool, width: int, forest: Forest | None = None) -> None:
        super().__init__("console")
        self._stream = stream
        self._color = color
        self._width = max(_LEAST_CELLS, width)
        self._forest = forest or Forest()
        self._labels: dict[Segments, Label] = {}

    def deliver(self, batch: SpanBatch) -> np.ndarray | None:
        """See Output. A stream that cannot be written to loses the batch; what it says of itself is counted."""
        try:
            written = 0
            for tree in self._forest.add(batch):
                written += self.print_tree(tree)
            self._stream.flush()
        except (OSError, ValueError) as error:
            self.counters.error(f"console: {error}")
            return failed(len(batch))
        if written:
            self.counters.request(written)
        return None

    def close(self, timeout_s: float = 0.0) -> None:  # noqa: ARG002 - Exporter's
        """Print the traces whose root has not come; the stream stays open."""
        try:
            for tree in self._forest.rest():
                self.print_tree(tree)
            self._stream.flush()
        except (OSError, ValueError) as error:
            self.counters.error(f"console: {error}")

    def print_line(self, pieces: list[Piece], right: str) -> None:
        """One line: pieces from the left, as far as there is room, and something at the right."""
        self._stream.write(_encodable(self._line(pieces, right) + "\n", self._stream))

    def print_tree(self, tree: Tree) -> int:
        """A trace; gives how many characters it took."""
        first = min((node.start_ns for node in tree.nodes), default=0)
        clock = time.strftime("%H:%M:%S", time.localtime(first // 1_000_000_000 % (1 << 40)))
        children = tree.children()
        roots = children.get(0, [])
        process = labels.process((roots[0] if roots else tree).resource.attributes)
        head = f"{process}  {clock}.{first // 1_000_000 % 1000:03}"
        partial = "" if tree.roots else "  (in part)"
        out = [self._line([("trace", f"{head}  trace {tree.trace_id:032x}{partial}")], "")]
        stack: list[Branch] = [(node, "", "", Above("", "", process), 0) for node in reversed(roots)]
        while stack:
            node, prefix, below, above, depth = stack.pop()
            said, process = self._label(node.segments), labels.process(node.resource.attributes)
            inner = children.pop(node.span_id, [])  # so that an id that stands twice makes no circle
            other = "" if process == above.process else process
            out.append(self._span(node, said, prefix, above, other, is_leaf=not inner))
            stack += reversed(_branches(inner, below, _below(above, said)._replace(process=process), depth + 1))
        if tree.hidden:
            out.append(self._line([("detail", f"… {tree.hidden} more")], ""))
        text = "\n".join(out) + "\n\n"
        self._stream.write(_encodable(text, self._stream))
        return len(text)

    def _span(self, node: Node, said: Label, prefix: str, above: Above, process: str, is_leaf: bool) -> str:
        """`process`: of a span that is another one's than what it is below, as with a request to the next service."""
        style = "operation" if is_leaf and node.parent_id else "function" if node.parent_id else "root"
        pieces = [("trace", prefix), (style, said.name)]
        if node.count > 1:
            pieces.append((style, f" ×{node.count}"))  # noqa: RUF001 - meant
        if process:
            pieces.append(("root", f"  {process}"))
        details = [
            ("detail", said.result or labels.numbers(node.values, node.count)),
            ("error", said.error),
            ("library", "" if said.library == above.library else said.library),
            ("detail", "" if said.function == above.function else said.function),
            ("detail", said.code),
        ]
        after = [(kind, f"  {text}") for kind, text in details if text]
        if said.subject:
            room = self._width - _DURATION_CELLS - 3 - sum(cells(text) for _, text in pieces + after)
            pieces.append(("subject", f"  {_squeezed(said.subject, max(room, _LEAST_SUBJECT_CELLS))}"))
        return self._line(pieces + after, labels.duration(max(0, node.busy_ns)))

    def _line(self, pieces: list[Piece], right: str) -> str:
        room = self._width - (_DURATION_CELLS + 1 if right else 0)
        out: list[str] = []
        for style, text in pieces:
            shown = _cut(text, room)
            room -= cells(shown)
            out.append(self._styled(style, shown))
            if shown != text:
                break
        if right:
            out.append(" " * (room + 1) + self._styled("duration", right.rjust(_DURATION_CELLS)))
        return "".join(out).rstrip()

    def _styled(self, style: str, text: str) -> str:
        code = _STYLES[style]
        return f"{code}{text}{_RESET}" if self._color and code and text else text

    def _label(self, segments: Segments) -> Label:
        found = self._labels.get(segments)
        if found is None:
            if len(self._labels) >= _KNOWN_LABELS:
                self._labels.clear()
            found = self._labels[segments] = labels.label(segments)
        return found


def _below(above: Above, said: Label) -> Above:
    """What a span's children need not say again."""
    if said.library:
        return Above(said.function or above.function, said.library)
    return Above(said.function or said.name, above.library)


def _branches(nodes: list[Node], below: str, above: Above, depth: int) -> list[Branch]:
    """What to print of a span's children."""
    if depth > _MAX_DEPTH:
        return [(node, f"{below}· ", below, above, depth) for node in nodes]
    last = len(nodes) - 1
    return [
        (node, below + ("└─ " if at == last else "├─ "), below + ("   " if at == last else "│  "), above, depth)
        for at, node in enumerate(nodes)
    ]


def cells(text: str) -> int:
    """Columns that the text takes on a terminal."""
    if text.isascii():
        return len(text)
    return sum(map(_cells, text))


def _cells(one: str) -> int:
    if unicodedata.combining(one) or unicodedata.category(one) in ("Mn", "Me"):
        return 0
    return 2 if unicodedata.east_asian_width(one) in ("W", "F") else 1


def _cut(text: str, room: int) -> str:
    """At most `room` cells, the last of them … where something is missing."""
    if cells(text) <= room:
        return text
    kept, used = [], 1
    for one in text:
        used += _cells(one)
        if used > room:
            break
        kept.append(one)
    return "".join(kept) + "…" if room > 0 else ""


def _squeezed(text: str, room: int) -> str:
    """At most `room` cells (4 or more), the first third and the rest from the end: where a path's name is."""
    if cells(text) <= room:
        return text
    head = _cut(text, room // 3)
    kept, left = len(text), room - cells(head)
    while kept and _cells(text[kept - 1]) <= left:
        kept -= 1
        left -= _cells(text[kept])
    return head + text[kept:]


def _encodable(text: str, stream: TextIO) -> str:
    """For a terminal that is not UTF-8: what it cannot show, escaped."""
    encoding = stream.encoding or "utf-8"
    try:
        text.encode(encoding)
    except (UnicodeEncodeError, LookupError):
        return text.encode("ascii", "backslashreplace").decode()
    return text
