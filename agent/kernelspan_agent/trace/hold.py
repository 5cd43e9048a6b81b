# SPDX-License-Identifier: Apache-2.0
"""Keeps back the spans of requests whose trace is not known yet (joins.py) or not decided (keep.py), and nothing else.

A span that leaves the tracer bears the name that its trace has at that moment. Those of a trace that waits are kept as rows,
and get its right name, and the request's span its parent, when that is known. All are let go after a bounded time or with the
last of their requests, and when there are too many.
"""

from __future__ import annotations

import numpy as np

from kernelspan_agent.model import Segment, SpanBatch
from kernelspan_agent.trace.joins import Party, Waiting
from kernelspan_agent.trace.keep import Keep, Verdict
from kernelspan_api import semconv

MAX_HELD = 16384  # spans
_LOCAL = Segment({semconv.SAMPLING: "Local"})


class Hold:
    """Of one profile, which joins requests or decides on traces by what came of them, or both."""

    def __init__(self, party: Party | None, keep: Keep | None = None) -> None:
        self._party, self._keep = party, keep
        self._waiting: dict[int, Waiting] = party.waiting if party is not None else {}
        self._pending: dict[int, Verdict] = keep.pending if keep is not None else {}
        self._kept: list[SpanBatch] = []
        self.spans = self.operations = 0  # that are kept back now
        self.sampled_out = 0  # operations of traces that turned out not to be sampled

    def sift(self, batch: SpanBatch) -> list[SpanBatch]:
        """What of a batch can go on, and what had to be let go to make room for the rest of it."""
        if not (self._waiting or self._pending) or not len(batch):
            return [batch]
        kept = self._is_open(batch)
        if not kept.any():
            return [batch]
        self._kept.append(_only(batch, kept))
        self._count()
        let_go = [] if kept.all() else [_only(batch, ~kept)]
        return let_go + (self._make_room() if self.spans > MAX_HELD else [])

    def release(self) -> list[SpanBatch]:
        """The spans of all that was settled and decided since."""
        settled = {key: each for key, each in self._waiting.items() if each.settled}
        for key in settled:
            del self._waiting[key]
        decided = self._keep.decided() if self._keep is not None else {}
        if not settled and not decided:
            return []
        ready, kept = [], []
        for batch in self._kept:
            if settled:
                self._name(batch, settled)
            shown = self._is_shown(batch, settled, decided)
            is_open = self._is_open(batch)
            if is_open.any():
                kept.append(_only(batch, is_open))
            done = _only(batch, ~is_open & shown)
            self.sampled_out += int(np.count_nonzero((~is_open & ~shown)[: batch.operations]))
            if len(done):
                ready.append(_marked(done, decided))
        self._kept = kept
        self._count()
        return ready

    def flush(self) -> list[SpanBatch]:
        """All of it, joined and decided as far as it can be now."""
        if self._party is not None:
            self._party.joins.settle_all(self._party)
        found = self.release()
        while self._keep is not None and self._pending:
            self._keep.evict()
        return found + self.release()

    def _make_room(self) -> list[SpanBatch]:
        if self._party is not None:
            self._party.joins.settle_all(self._party)
        found = self.release()
        while self._keep is not None and self._pending and self.spans > MAX_HELD // 2:
            for _ in range(max(1, len(self._pending) // 4)):
                self._keep.evict()
            found += self.release()
        return found

    def _count(self) -> None:
        self.spans = sum(map(len, self._kept))
        self.operations = sum(batch.operations for batch in self._kept)

    def _is_open(self, batch: SpanBatch) -> np.ndarray:
        """The rows of traces that wait or are not decided: bool, shape (n,)."""
        lows = batch.rows["trace_id"][:, 1].astype(np.uint64)
        return np.isin(lows, _keys(self._waiting)) | np.isin(lows, _keys(self._pending))

    def _name(self, batch: SpanBatch, settled: dict[int, Waiting]) -> None:
        """Gives the rows of these requests the names of their traces, and the requests' spans their parents."""
        rows = batch.rows
        for at in np.flatnonzero(np.isin(rows["trace_id"][:, 1].astype(np.uint64), _keys(settled))).tolist():
            request = settled[int(rows["trace_id"][at, 1])]
            rows["trace_id"][at] = request.trace.high, request.trace.low
            if int(rows["span_id"][at]) == request.root_id:
                rows["parent_id"][at] = request.parent_id

    @staticmethod
    def _is_shown(batch: SpanBatch, settled: dict[int, Waiting], decided: dict[int, Verdict]) -> np.ndarray:
        """The rows of traces that were not found unsampled just now: bool, shape (n,)."""
        left_out = {each.trace.low for each in settled.values() if not each.trace.sampled}
        left_out |= {low for low, verdict in decided.items() if not verdict.keep}
        return ~np.isin(batch.rows["trace_id"][:, 1].astype(np.uint64), _keys(left_out))


def _keys(lows: dict[int, Waiting] | dict[int, Verdict] | set[int]) -> np.ndarray:
    return np.fromiter(lows, np.uint64, len(lows))


def _marked(batch: SpanBatch, decided: dict[int, Verdict]) -> SpanBatch:
    """The same, with the requests that were kept by a decision of this node saying so."""
    roots = {root for verdict in decided.values() if verdict.keep for root in verdict.roots}
    at = np.isin(batch.rows["span_id"].astype(np.uint64), _keys(roots))
    if not at.any():
        return batch
    column = np.full((len(batch), 1), None, object)
    column[at, 0] = _LOCAL
    return SpanBatch(batch.rows, np.hstack([batch.segments, column]), batch.resources, batch.operations)


def _only(batch: SpanBatch, chosen: np.ndarray) -> SpanBatch:
    """Some of the rows, copied; operations stay first. `chosen`: bool, shape (n,)."""
    return SpanBatch(
        batch.rows[chosen], batch.segments[chosen], batch.resources, int(np.count_nonzero(chosen[: batch.operations]))
    )
