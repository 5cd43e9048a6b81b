# SPDX-License-Identifier: Apache-2.0
"""Columns in, columns out: what the loop over operations needs of a batch, and the rows that come of it."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from kernelspan_agent.model import SPAN, ResolvedBatch, Resource, SpanBatch, Stack, StackState
from kernelspan_agent.ring.records import ContextKind
from kernelspan_agent.trace.contexts import Key
from kernelspan_agent.trace.ids import IdSource, sampled_mask
from kernelspan_agent.trace.spans import Closed, OpenSpan, fill_closed
from kernelspan_api import semconv

_NO_PLACE = Stack((), StackState.NONE)


def keys_and_stacks(batch: ResolvedBatch) -> tuple[Iterator[Key], list[Stack]]:
    """For every operation the key of its context, and its stack.

    A task, greenlet or goroutine without a generation could be any of those that had its address: all that is known of the
    operation is its thread. It belongs to the thread's context, and its stack, being of a task's chain and not of the
    thread's own, says nothing about where that context is.
    """
    ops, stacks = batch.ops, batch.stacks
    kinds, addresses, generations = ops["context_kind"], ops["context"], ops["generation"]
    named = np.isin(kinds, (ContextKind.TASK, ContextKind.GREENLET, ContextKind.GOROUTINE)) & (generations != 0)
    nameless = (kinds != ContextKind.THREAD) & ~named
    if nameless.any():
        stacks = list(stacks)
        for row in np.flatnonzero(nameless).tolist():
            stacks[row] = _NO_PLACE
    keys = zip(
        batch.processes,
        np.where(named, kinds, ContextKind.THREAD).tolist(),
        np.where(named, addresses, ops["tid"]).tolist(),
        np.where(named, generations, 0).tolist(),
        strict=True,
    )
    return keys, stacks


def set_times(batch: ResolvedBatch) -> None:
    """Fill the rows' times."""
    batch.rows["start_ns"] = np.minimum(batch.start_ns, batch.end_ns)  # a clock set back: no span ends before it began
    batch.rows["end_ns"] = batch.end_ns


def thread_name(batch: ResolvedBatch, row: int) -> str:
    """`thread.name` as the operation in this row has it, or "" if it has none."""
    for segment in batch.segments[row]:
        name = segment.attributes.get(semconv.THREAD_NAME) if segment is not None else None
        if isinstance(name, str):
            return name
    return ""


class Parents:
    """The spans that are parents of a batch's operations, each once: their ids and resources as columns."""

    def __init__(self, batch: int) -> None:
        self._batch = batch
        self._spans: list[OpenSpan] = []

    def add(self, span: OpenSpan) -> None:
        """Give the span the next row."""
        span.batch, span.row = self._batch, len(self._spans)
        self._spans.append(span)

    def in_requests(self, places: list[int]) -> np.ndarray:
        """Which operations belong to a request that was received: bool, shape (n,)."""
        owned = np.array([span.trace.is_request for span in self._spans], bool)
        return owned[np.array(places, np.intp)]

    def fill(
        self,
        batch: ResolvedBatch,
        places: list[int],
        span_ids: np.ndarray,
        done: list[Closed],
        shown: np.ndarray,
    ) -> SpanBatch:
        """The batch's operations under their parents, without those not sampled, then the spans in `done`.

        `places`: for every operation the row of its parent. `span_ids`: uint64, shape (n,). `shown`: bool, shape (n,),
        which of them are to be spans.
        """
        resources: dict[Resource, int] = {}
        traces = [span.trace for span in self._spans]
        high = np.array([trace.high for trace in traces], np.uint64)
        low = np.array([trace.low for trace in traces], np.uint64)
        ids = np.array([span.span_id for span in self._spans], np.uint64)
        numbers = [resources.setdefault(one.resource, len(resources)) if one.sampled else 0 for one in traces]
        place = np.array(places, np.intp)
        rows = batch.rows
        rows["trace_id"][:, 0] = high[place]
        rows["trace_id"][:, 1] = low[place]
        rows["parent_id"] = ids[place]
        rows["resource"] = np.array(numbers, np.uint32)[place]
        if not all(trace.sampled for trace in traces):
            shown = shown & np.array([trace.sampled for trace in traces], bool)[place]
        chosen = None if shown.all() else shown
        return _finished(batch, span_ids, chosen, done, resources)


def every_one_a_root(batch: ResolvedBatch, ids: IdSource, bound: int) -> SpanBatch:
    """Every operation as a trace of its own. `bound`: see ids.ratio_bound."""
    set_times(batch)
    rows, count = batch.rows, len(batch.ops)
    low = ids.many(count)
    rows["trace_id"][:, 0] = ids.many(count)
    rows["trace_id"][:, 1] = low
    rows["parent_id"] = 0
    resources: dict[Resource, int] = {}
    numbers = (resources.setdefault(process.resource, len(resources)) for process in batch.processes)
    rows["resource"] = np.fromiter(numbers, np.uint32, count)
    return _finished(batch, ids.many(count), sampled_mask(low, bound), [], resources)


def _finished(
    batch: ResolvedBatch,
    span_ids: np.ndarray,
    chosen: np.ndarray | None,
    done: list[Closed],
    resources: dict[Resource, int],
) -> SpanBatch:
    rows, segments = batch.rows, batch.segments
    rows["span_id"] = span_ids
    if chosen is not None:
        rows, segments = rows[chosen], segments[chosen]
    operations = len(rows)
    if done:
        count, width = operations + len(done), max(1, segments.shape[1])
        all_rows, all_segments = np.empty(count, SPAN), np.empty((count, width), object)
        all_rows[:operations], all_segments[:operations, : segments.shape[1]] = rows, segments
        fill_closed(all_rows[operations:], all_segments[operations:], done, resources)
        rows, segments = all_rows, all_segments
    return SpanBatch(rows, segments, list(resources), operations)
