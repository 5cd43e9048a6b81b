# SPDX-License-Identifier: Apache-2.0
"""Requests on a terminal: a line for each that was received as it ends, then a table by route, and the slowest as trees.

A line names the function in which most of the request's time passed, itself and not what it called, as far as functions were
seen; and the library of the longest operation below the request. The table has the share of its time that a route's requests were
on a CPU, where that is known of any.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import TextIO

import numpy as np

from kernelspan_agent.export import labels
from kernelspan_agent.export.base import DirectOutput
from kernelspan_agent.export.console import ConsoleExporter, Piece
from kernelspan_agent.export.counters import failed
from kernelspan_agent.export.tree import Forest, Node, Tree
from kernelspan_agent.model import AttributeValue, Kind, Resource, Segment, SpanBatch
from kernelspan_api import semconv

MAX_ROUTES = 200
MAX_TIMES = 4096  # of a route, of which the percentiles are: the newest
MAX_NODES = 2000  # of a trace that is shown whole: one that never ends is cut
OTHERS = "(others)"
HEAD = ("service", "request", "count", "failed", "p50", "p95", "longest", "on CPU")


@dataclass(slots=True)
class Route:
    """Requests that are called alike. `timed_ns`: how long those took of which it is known how long they were on a CPU."""

    timed_ns: int = 0
    on_cpu_ns: int = 0
    count: int = 0
    failed: int = 0
    longest_ns: int = 0
    times_ns: list[int] = field(default_factory=list)

    def add(self, took_ns: int, *, is_failed: bool, on_cpu_ns: int | None = None) -> None:
        """One more. `on_cpu_ns` None: not known."""
        if on_cpu_ns is not None:
            self.timed_ns += took_ns
            self.on_cpu_ns += on_cpu_ns
        if len(self.times_ns) < MAX_TIMES:
            self.times_ns.append(took_ns)
        else:
            self.times_ns[self.count % MAX_TIMES] = took_ns
        self.count += 1
        self.failed += is_failed
        self.longest_ns = max(self.longest_ns, took_ns)

    @property
    def on_cpu(self) -> str:
        """The share of their time; empty: of none it is known."""
        return f"{100 * self.on_cpu_ns / self.timed_ns:.0f}%" if self.timed_ns else ""

    def percentile(self, share: float) -> int:
        """In ns, by the nearest rank."""
        ordered = sorted(self.times_ns)
        return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


class RequestLines(DirectOutput):
    """An Output and an Exporter (see base). `slowest`: how many traces are shown whole at the end."""

    def __init__(self, stream: TextIO, color: bool, width: int, slowest: int) -> None:
        super().__init__("requests")
        self._stream, self._slowest = stream, slowest
        self._console = ConsoleExporter(stream, color, width)
        self._forest = Forest()
        self._routes: dict[tuple[str, str], Route] = {}
        self._is_closed = False
        self._kept: dict[int, tuple[int, Tree]] = {}  # by trace: how long its longest request took, and all of it

    def deliver(self, batch: SpanBatch) -> np.ndarray | None:
        """See Output."""
        try:
            complete = {tree.trace_id: tree for tree in self._forest.add(batch)}
            for trace_id, node, resource in _requests(batch):
                tree = complete.get(trace_id) or self._forest.tree(trace_id)
                if tree is not None:
                    self._take(tree, node, resource)
            for tree in complete.values():
                self._keep(tree)
            self._stream.flush()
        except (OSError, ValueError) as error:
            self.counters.error(f"requests: {error}")
            return failed(len(batch))
        return None

    def close(self, timeout_s: float = 0.0) -> None:  # noqa: ARG002 - Exporter's
        """The table and the slowest; the stream stays open."""
        if self._is_closed:
            return
        self._is_closed = True
        for tree in self._forest.rest():
            self._keep(tree)
        try:
            self._stream.write("\n".join(["", *self._table(), "", ""]))
            for _, tree in sorted(self._kept.values(), key=lambda kept: -kept[0])[: self._slowest]:
                self._console.print_tree(tree)
            self._stream.flush()
        except (OSError, ValueError) as error:
            self.counters.error(f"requests: {error}")

    def _take(self, tree: Tree, node: Node, resource: Resource) -> None:
        said = labels.label(node.segments)
        took_ns = max(0, node.end_ns - node.start_ns)
        service = labels.process(resource.attributes)
        name = (service.partition(" [")[0], said.name)
        if name not in self._routes and len(self._routes) >= MAX_ROUTES:
            name = (OTHERS, OTHERS)
        on_cpu_ns = _attribute(node, semconv.TIME_ON_CPU)
        self._routes.setdefault(name, Route()).add(
            took_ns, is_failed=bool(said.error), on_cpu_ns=on_cpu_ns if isinstance(on_cpu_ns, int) else None
        )
        function, library = _blamed(tree, node)
        clock = time.strftime("%H:%M:%S", time.localtime(node.end_ns // 1_000_000_000 % (1 << 40)))
        pieces: list[Piece] = [("trace", f"{clock}.{node.end_ns // 1_000_000 % 1000:03}  ")]
        status = str(_attribute(node, semconv.HTTP_RESPONSE_STATUS_CODE) or "---")
        pieces.append(("error" if said.error else "detail", f"{labels.safe(status):3}  "))
        pieces.append(("root", said.name))
        for style, text in (
            ("subject", said.subject),
            ("function", function),
            ("library", library),
            ("trace", service),
        ):
            if text:
                pieces.append((style, f"  {text}"))
        self._console.print_line(pieces, labels.duration(took_ns))

    def _keep(self, tree: Tree) -> None:
        """Among the slowest, if it is one of them; what comes late of one that is joins it."""
        took = max((node.end_ns - node.start_ns for node in tree.nodes if _is_request(node.segments)), default=0)
        before = self._kept.get(tree.trace_id)
        if before is not None:
            room = max(0, MAX_NODES - len(before[1].nodes))
            before[1].nodes += tree.nodes[:room]
            before[1].hidden += tree.hidden + len(tree.nodes[room:])
            self._kept[tree.trace_id] = (max(took, before[0]), before[1])
        elif took and self._slowest:
            self._kept[tree.trace_id] = (took, tree)
            if len(self._kept) > self._slowest:
                del self._kept[min(self._kept, key=lambda trace_id: self._kept[trace_id][0])]

    def _table(self) -> Iterator[str]:
        rows: list[tuple[str, ...]] = [HEAD]
        for (service, name), route in sorted(self._routes.items(), key=lambda item: -item[1].longest_ns):
            times = (route.percentile(0.5), route.percentile(0.95), route.longest_ns)
            counts = f"{route.count:,}", f"{route.failed:,}"
            rows.append((service, name, *counts, *map(labels.duration, times), route.on_cpu))
        if len(rows) == 1:
            yield "no requests"
            return
        if not any(row[-1] for row in rows[1:]):
            rows = [row[:-1] for row in rows]
        widths = [max(len(row[at]) for row in rows) for at in range(len(rows[0]))]
        for row in rows:
            left = [cell.ljust(width) for cell, width in zip(row[:2], widths[:2], strict=True)]
            right = [cell.rjust(width) for cell, width in zip(row[2:], widths[2:], strict=True)]
            yield "  ".join(left + right).rstrip()


def _requests(batch: SpanBatch) -> Iterator[tuple[int, Node, Resource]]:
    """The requests received that a batch has: trace, span, who answered."""
    for at, segments in enumerate(batch.segments):
        if _is_request(segments):
            row = batch.rows[at]
            start, end = int(row["start_ns"]), int(row["end_ns"])
            trace_id = int(row["trace_id"][0]) << 64 | int(row["trace_id"][1])
            whose, said = batch.resources[int(row["resource"])], tuple(segments)
            node = Node(int(row["span_id"]), int(row["parent_id"]), said, start, end, end - start, {}, whose)
            yield trace_id, node, whose


def _is_request(segments: Iterable[Segment | None]) -> bool:
    return any(segment is not None and segment.kind is Kind.SERVER for segment in segments)


def _attribute(node: Node, key: str) -> AttributeValue | None:
    return next((segment.attributes[key] for segment in node.segments if segment and key in segment.attributes), None)


def _blamed(tree: Tree, request: Node) -> tuple[str, str]:
    """The function with the most time of its own, and the library of the longest operation; "" where there is none."""
    children = tree.children()
    function = library = ""
    most_ns = longest_ns = -1
    todo, seen = [request.span_id], {request.span_id}
    while todo:
        for node in children.get(todo.pop(), ()):
            below = children.get(node.span_id, ())
            if node.span_id not in seen and not _is_request(node.segments):  # which has a line of its own
                seen.add(node.span_id)
                todo.append(node.span_id)
            said = labels.label(node.segments)
            if _attribute(node, semconv.SPAN_BOUND) is not None:
                own_ns = node.busy_ns - sum(each.busy_ns for each in below if _attribute(each, semconv.SPAN_BOUND))
                if own_ns > most_ns:
                    most_ns, function = own_ns, said.name
            elif said.library and node.busy_ns > longest_ns:
                longest_ns, library = node.busy_ns, said.library
    return function, library
