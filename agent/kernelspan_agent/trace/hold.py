# SPDX-License-Identifier: Apache-2.0
"""Keeps back the spans of requests whose trace is not known yet (joins.py), and nothing else.

A span that leaves the tracer bears the name that its trace has at that moment. Those of a trace that waits are kept as rows,
and get its right name, and the request's span its parent, when that is known. All are let go after a bounded time, and when
there are too many.
"""

from __future__ import annotations

import numpy as np

from kernelspan_agent.model import SpanBatch
from kernelspan_agent.trace.joins import Party, Waiting

MAX_HELD = 16384  # spans


class Hold:
    """Of one profile."""

    def __init__(self, party: Party) -> None:
        self._party = party
        self._kept: list[SpanBatch] = []
        self.spans = self.operations = 0  # that are kept back now
        self.sampled_out = 0  # operations of traces that turned out not to be sampled

    def sift(self, batch: SpanBatch) -> list[SpanBatch]:
        """What of a batch can go on, and what had to be let go to make room for the rest of it."""
        waiting = self._party.waiting
        if not waiting or not len(batch):
            return [batch]
        keys = np.fromiter(waiting, np.uint64, len(waiting))
        kept = np.isin(batch.rows["trace_id"][:, 1].astype(np.uint64), keys)
        if not kept.any():
            return [batch]
        held = _only(batch, kept)
        self._kept.append(held)
        self.spans += len(held)
        self.operations += held.operations
        let_go = [] if kept.all() else [_only(batch, ~kept)]
        return let_go + (self.flush() if self.spans > MAX_HELD else [])

    def release(self) -> list[SpanBatch]:
        """The spans of all that was settled since."""
        settled = {key: each for key, each in self._party.waiting.items() if each.settled}
        if not settled:
            return []
        for key in settled:
            del self._party.waiting[key]
        ready, kept = [], []
        for batch in self._kept:
            lows = batch.rows["trace_id"][:, 1].astype(np.uint64)
            mine = np.isin(lows, np.fromiter(settled, np.uint64, len(settled)))
            if not mine.any():
                kept.append(batch)
                continue
            if not mine.all():
                kept.append(_only(batch, ~mine))
            ready.append(self._named(_only(batch, mine), lows[mine].tolist(), settled))
        self._kept = kept
        self.spans = sum(map(len, kept))
        self.operations = sum(batch.operations for batch in kept)
        return [batch for batch in ready if len(batch)]

    def flush(self) -> list[SpanBatch]:
        """All of it, joined as far as it can be now."""
        self._party.joins.settle_all(self._party)
        return self.release()

    def _named(self, batch: SpanBatch, keys: list[int], settled: dict[int, Waiting]) -> SpanBatch:
        rows, requests = batch.rows, [settled[key] for key in keys]
        rows["trace_id"][:, 0] = np.fromiter((each.trace.high for each in requests), np.uint64, len(rows))
        rows["trace_id"][:, 1] = np.fromiter((each.trace.low for each in requests), np.uint64, len(rows))
        is_root = rows["span_id"] == np.fromiter((each.root_id for each in requests), np.uint64, len(rows))
        parents = np.fromiter((each.parent_id for each in requests), np.uint64, len(rows))
        rows["parent_id"] = np.where(is_root, parents, rows["parent_id"])
        sampled = np.fromiter((each.trace.sampled for each in requests), bool, len(rows))
        if sampled.all():
            return batch
        left = _only(batch, sampled)
        self.sampled_out += batch.operations - left.operations
        return left


def _only(batch: SpanBatch, chosen: np.ndarray) -> SpanBatch:
    """Some of the rows, copied; operations stay first. `chosen`: bool, shape (n,)."""
    return SpanBatch(
        batch.rows[chosen], batch.segments[chosen], batch.resources, int(np.count_nonzero(chosen[: batch.operations]))
    )
