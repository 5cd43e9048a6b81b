# SPDX-License-Identifier: Apache-2.0
"""Spans on their way to the console: gathered by trace, equal siblings folded, bounded.

Operations of one parent that say the same (the same segments) are one node with a count, the sum of their times and
bytes, and the place of the first. A trace is complete when its root has come. Bounds: nodes of a trace, and nodes of all
traces that wait; a trace that no longer fits only counts its spans, and the oldest waiting one is given out early.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np

from kernelspan_agent.export.batches import operation_mask
from kernelspan_agent.model import SPAN, VALUE_KEYS, Resource, Segment, SpanBatch

Segments = tuple[Segment | None, ...]
Content = tuple[object, ...]
_KNOWN_CONTENTS = 4096


@dataclass(slots=True)
class Node:
    """One span, or `count` equal operations. Times in ns; `busy_ns` is the sum of their durations. `resource`: whose it is."""

    span_id: int  # of the first
    parent_id: int
    segments: Segments
    start_ns: int
    end_ns: int
    busy_ns: int
    values: dict[str, int]
    resource: Resource
    count: int = 1


@dataclass(slots=True)
class Tree:
    """The spans of one trace so far. `resource`: of the first that came. `hidden`: spans beyond the bound. `roots`: how many of its nodes are roots."""

    trace_id: int
    resource: Resource
    nodes: list[Node] = field(default_factory=list)
    folded: dict[tuple[int, Content], Node] = field(default_factory=dict)
    hidden: int = 0
    roots: int = 0

    def children(self) -> dict[int, list[Node]]:
        """Nodes by parent, each list in the order of start; under 0 the roots, and nodes whose parent is not here."""
        known = {node.span_id for node in self.nodes}
        found: dict[int, list[Node]] = {}
        for node in sorted(self.nodes, key=lambda one: (one.start_ns, -one.end_ns)):
            found.setdefault(node.parent_id if node.parent_id in known else 0, []).append(node)
        return found


class Forest:
    """The traces that wait for their roots."""

    def __init__(self, max_nodes_a_trace: int = 500, max_nodes: int = 20_000) -> None:
        self._max_nodes_a_trace, self._max_nodes = max_nodes_a_trace, max_nodes
        self._trees: dict[int, Tree] = {}
        self._contents: dict[Segments, Content] = {}
        self._nodes = 0

    def add(self, batch: SpanBatch) -> Iterator[Tree]:
        """Takes the batch in; gives the traces that are complete now, then the oldest ones if there are too many."""
        complete: dict[int, None] = {}
        rows = batch.rows.astype(SPAN, copy=False)
        high, low = rows["trace_id"][:, 0].tolist(), rows["trace_id"][:, 1].tolist()
        columns = (rows["span_id"], rows["parent_id"], rows["start_ns"], rows["end_ns"], rows["resource"])
        lists = zip(*(column.tolist() for column in columns), strict=True)
        operations = operation_mask(batch).tolist()
        for at, (span_id, parent_id, start_ns, end_ns, resource) in enumerate(lists):
            trace_id = high[at] << 64 | low[at]
            tree = self._trees.get(trace_id)
            if tree is None:
                tree = self._trees[trace_id] = Tree(trace_id, batch.resources[resource])
            segments, took_ns = tuple(batch.segments[at]), end_ns - start_ns
            values, whose = _values(rows[at]), batch.resources[resource]
            node = Node(span_id, parent_id, segments, start_ns, end_ns, took_ns, values, whose)
            self._nodes += self._put(tree, node, operations[at])
            if not parent_id:
                complete[trace_id] = None
        yield from (self._out(trace_id) for trace_id in complete)
        while self._nodes > self._max_nodes and self._trees:
            yield self._out(next(iter(self._trees)))

    def tree(self, trace_id: int) -> Tree | None:
        """What there is of a trace that waits."""
        return self._trees.get(trace_id)

    def rest(self) -> Iterator[Tree]:
        """Everything that still waits."""
        while self._trees:
            yield self._out(next(iter(self._trees)))

    def _put(self, tree: Tree, node: Node, is_operation: bool) -> int:
        """1 if the tree has a node more."""
        key = (node.parent_id, self._content(node.segments)) if is_operation and node.parent_id else None
        if key is not None and (first := tree.folded.get(key)) is not None:
            _fold(first, node)
            return 0
        if len(tree.nodes) >= self._max_nodes_a_trace and node.parent_id:
            tree.hidden += 1
            return 0
        tree.nodes.append(node)
        tree.roots += not node.parent_id
        if key is not None:
            tree.folded[key] = node
        return 1

    def _content(self, segments: Segments) -> Content:
        """What segments say: a file that was made anew has another segment of the same words."""
        found = self._contents.get(segments)
        if found is None:
            if len(self._contents) >= _KNOWN_CONTENTS:
                self._contents.clear()
            found = self._contents[segments] = tuple(
                segment and (segment.name, segment.error, *sorted(segment.attributes.items())) for segment in segments
            )
        return found

    def _out(self, trace_id: int) -> Tree:
        tree = self._trees.pop(trace_id)
        self._nodes -= len(tree.nodes)
        return tree


def _fold(first: Node, node: Node) -> None:
    first.count += 1
    first.busy_ns += node.busy_ns
    first.start_ns = min(first.start_ns, node.start_ns)
    first.end_ns = max(first.end_ns, node.end_ns)
    for key, value in node.values.items():
        first.values[key] = first.values.get(key, 0) + value


def _values(row: np.void) -> dict[str, int]:
    return {VALUE_KEYS[key]: int(value) for key, value in zip(row["value_keys"], row["values"], strict=True) if key}
