# SPDX-License-Identifier: Apache-2.0
"""Spans that are still open, and the rows of those that have closed.

What an open span knows is brought up to date at the innermost one only; its parent learns of it when it closes. A
parent closes after all its children, so its time encloses theirs and its count includes theirs.

msgspec structs, because several are made for every change of stack and theirs is the cheapest __init__. They hold no
cycles (a span knows what is above it, nothing knows what is below), so the garbage collector need not look at them:
that, with ids drawn together, takes a quarter off the cost where every operation has another stack.
"""

from __future__ import annotations

import msgspec
import numpy as np

from kernelspan_agent.model import SPAN, VALUE_KEYS, ProcessInfo, Resource, Segment, SpanBatch
from kernelspan_agent.trace.segments import Function
from kernelspan_api import semconv

_OPERATIONS_KEY = VALUE_KEYS.index(semconv.OPERATIONS)


class Trace(msgspec.Struct, eq=False, gc=False):
    """Where spans go: a trace, whether it is sampled (decided here, once), and the process that made them.

    Only that of a request that waits for who asked (joins.py) becomes another, once; and one that is `undecided` counts as
    sampled until it is known what came of its requests (keep.py).
    """

    high: int
    low: int
    sampled: bool
    process: ProcessInfo
    is_request: bool = False  # what is in it belongs to a request that was received
    undecided: bool = False
    unsettled: bool = False  # it has this name for now (adopt.py)

    @property
    def resource(self) -> Resource:
        """The process's, as it is known by now: its runtime may have been found after the trace began."""
        return self.process.resource


class OpenSpan(msgspec.Struct, eq=False, gc=False):
    """An activity (`function` None) or a function span that may still see operations. Times are Unix epoch, ns.

    `operations` counts those directly here until children have closed. `merged`: two operations inside are not proved
    to be of one call. `asked`: a request was made inside, whose span is below it. `row` is the span's place in the table of parents of batch number `batch`.
    """

    trace: Trace
    span_id: int
    start_ns: int
    end_ns: int
    parent: OpenSpan | None = None
    function: Function | None = None
    operations: int = 0
    merged: bool = False
    asked: bool = False
    batch: int = -1
    row: int = 0

    def fold_into(self, parent: OpenSpan) -> None:
        """Let the parent enclose this span, which closes now. Without min() and max(), which are half of its cost."""
        if self.start_ns < parent.start_ns:  # noqa: PLR1730
            parent.start_ns = self.start_ns
        if self.end_ns > parent.end_ns:  # noqa: PLR1730
            parent.end_ns = self.end_ns
        parent.operations += self.operations
        if self.merged:
            parent.merged = True
        if self.asked:
            parent.asked = True


class Closed(msgspec.Struct, frozen=True, eq=False, gc=False):
    """A span with nothing left to learn. `parent_id` 0: a root."""

    trace: Trace
    span_id: int
    parent_id: int
    start_ns: int
    end_ns: int
    operations: int
    segment: Segment
    is_function: bool


def closed(span: OpenSpan, parent_id: int, segment: Segment) -> Closed:
    """The end of a span under this parent."""
    is_function = span.function is not None
    return Closed(
        span.trace, span.span_id, parent_id, span.start_ns, span.end_ns, span.operations, segment, is_function
    )


def fill_closed(rows: np.ndarray, segments: np.ndarray, spans: list[Closed], resources: dict[Resource, int]) -> None:
    """Write n closed spans. `rows`: SPAN, shape (n,); `segments`: object, shape (n, k >= 1); `resources` grows."""
    rows["trace_id"][:, 0] = np.fromiter((span.trace.high for span in spans), np.uint64, len(spans))
    rows["trace_id"][:, 1] = np.fromiter((span.trace.low for span in spans), np.uint64, len(spans))
    rows["span_id"] = np.fromiter((span.span_id for span in spans), np.uint64, len(spans))
    rows["parent_id"] = np.fromiter((span.parent_id for span in spans), np.uint64, len(spans))
    rows["start_ns"] = np.fromiter((span.start_ns for span in spans), np.uint64, len(spans))
    rows["end_ns"] = np.fromiter((span.end_ns for span in spans), np.uint64, len(spans))
    numbers = (resources.setdefault(span.trace.resource, len(resources)) for span in spans)
    rows["resource"] = np.fromiter(numbers, np.uint32, len(spans))
    rows["values"] = 0
    rows["values"][:, 0] = np.fromiter((span.operations for span in spans), np.int64, len(spans))
    rows["value_keys"] = (_OPERATIONS_KEY, 0)
    segments[:] = None
    segments[:, 0] = [span.segment for span in spans]


def only_closed(spans: list[Closed]) -> SpanBatch:
    """A batch of closed spans and no operations."""
    rows, segments = np.empty(len(spans), SPAN), np.empty((len(spans), 1), object)
    resources: dict[Resource, int] = {}
    fill_closed(rows, segments, spans, resources)
    return SpanBatch(rows, segments, list(resources))
