# SPDX-License-Identifier: Apache-2.0
"""Keeps back the spans of requests whose trace is not known yet (joins.py) or not decided (keep.py), and of tasks that may work
on a request (adopt.py); and nothing else.

A span that leaves the tracer bears the name that its trace has at that moment. Those of a trace that waits are kept as rows,
and get its right name, and the request's span its parent, when that is known. All are let go after a bounded time or with the
last of their requests, and when there are too many.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np

from kernelspan_agent.model import Segment, SpanBatch
from kernelspan_agent.trace.adopt import Adoption, Adoptions
from kernelspan_agent.trace.joins import Party, Waiting
from kernelspan_agent.trace.keep import Keep, Verdict
from kernelspan_api import semconv

MAX_HELD = 16384  # spans
_LOCAL = Segment({semconv.SAMPLING: "Local"})


class Hold:
    """Of one profile, which joins requests, decides on traces by what came of them, finds the tasks that answer; or some of it."""

    def __init__(self, party: Party | None, keep: Keep | None = None, adoptions: Adoptions | None = None) -> None:
        self._party, self._keep, self._adoptions = party, keep, adoptions
        self._tasks: dict[int, Adoption] = adoptions.pending if adoptions is not None else {}
        self._waiting: dict[int, Waiting] = party.waiting if party is not None else {}
        self._pending: dict[int, Verdict] = keep.pending if keep is not None else {}
        self._kept: list[SpanBatch] = []
        self.spans = self.operations = 0  # that are kept back now
        self.sampled_out = self.orphans = (
            0  # operations of traces that turned out not to be sampled, or to be of no request
        )

    def sift(self, batch: SpanBatch) -> list[SpanBatch]:
        """What of a batch can go on, and what had to be let go to make room for the rest of it."""
        if not (self._waiting or self._pending or self._tasks) or not len(batch):
            return [batch]
        kept = _among(_lows(batch), self._open_keys())
        if not kept.any():
            return [batch]
        self._kept.append(_only(batch, kept))
        self._count()
        let_go = [] if kept.all() else [_only(batch, ~kept)]
        return let_go + (self._make_room() if self.spans > MAX_HELD else [])

    def release(self) -> list[SpanBatch]:
        """The spans of all that was settled and decided since."""
        return self._release(self._adoptions.settle() if self._adoptions is not None else {})

    def _release(self, tasks: dict[int, Adoption]) -> list[SpanBatch]:
        settled = {key: each for key, each in self._waiting.items() if each.settled}
        for key in settled:
            del self._waiting[key]
        decided = self._keep.decided() if self._keep is not None else {}
        if not (settled or decided or tasks):
            return []
        orphans = _keys(each.trace.low for each in tasks.values() if each.is_orphan)
        unsampled = [each.trace.low for found in (tasks, settled) for each in found.values() if not each.trace.sampled]
        unsampled += [low for low, verdict in decided.items() if not verdict.keep]
        left_out, still_open = _keys(unsampled), self._open_keys()
        local = {root: _LOCAL for verdict in decided.values() if verdict.keep for root in verdict.roots}
        told = {each.root_id: each.told for each in settled.values() if each.told is not None}
        names = [
            _Names(tasks),
            _Names(settled),
        ]  # in this order: what tasks are found to belong to may be settled by now
        ready, kept = [], []
        for batch in self._kept:
            for each in names:
                each.give(batch)
            lows = _lows(batch)
            is_open, gone = _among(lows, still_open), _among(lows, left_out)
            if is_open.any():
                kept.append(_marked(_only(batch, is_open), told))
            done = _only(batch, ~is_open & ~gone)
            gone = (~is_open & gone)[: batch.operations]
            of_nobody = gone & _among(lows[: batch.operations], orphans)
            self.orphans += int(np.count_nonzero(of_nobody))
            self.sampled_out += int(np.count_nonzero(gone & ~of_nobody))
            if len(done):
                ready.append(_marked(_marked(done, local), told))
        self._kept = kept
        self._count()
        return ready

    def flush(self) -> list[SpanBatch]:
        """All of it, joined and decided as far as it can be now."""
        found = self._settle_all()
        while self._keep is not None and self._pending:
            self._keep.evict()
        return found + self.release()

    def _settle_all(self) -> list[SpanBatch]:
        """What waits or may be a request's is settled as far as it is known; what goes on then."""
        if self._party is not None:
            self._party.joins.settle_all(self._party)
        return self._release(self._adoptions.settle(all_of_them=True) if self._adoptions is not None else {})

    def _make_room(self) -> list[SpanBatch]:
        found = self._settle_all()
        while self._keep is not None and self._pending and self.spans > MAX_HELD // 2:
            for _ in range(max(1, len(self._pending) // 4)):
                self._keep.evict()
            found += self.release()
        return found

    def _count(self) -> None:
        self.spans = sum(map(len, self._kept))
        self.operations = sum(batch.operations for batch in self._kept)

    def _open_keys(self) -> np.ndarray:
        """Traces that wait or are not decided."""
        return _keys({*self._waiting, *self._pending, *self._tasks})


class _Names:
    """What is to be put into the rows of traces that were settled."""

    def __init__(self, settled: Mapping[int, Waiting | Adoption]) -> None:
        self._keys = _keys(settled)
        found = [settled[key] for key in self._keys.tolist()]
        # trace, root, the root's parent: by key
        self._names = np.array(
            [(each.trace.high, each.trace.low, each.root_id, each.parent_id) for each in found], np.uint64
        ).reshape(-1, 4)

    def give(self, batch: SpanBatch) -> None:
        """Gives the rows of these the names of their traces, and their roots their parents."""
        rows, lows = batch.rows, _lows(batch)
        at = np.flatnonzero(_among(lows, self._keys))
        if not len(at):
            return
        names = self._names[np.searchsorted(self._keys, lows[at])]
        rows["trace_id"][at] = names[:, :2]
        are_roots = rows["span_id"][at] == names[:, 2]
        rows["parent_id"][at[are_roots]] = names[are_roots, 3]


def _lows(batch: SpanBatch) -> np.ndarray:
    lows: np.ndarray = batch.rows["trace_id"][:, 1].astype(np.uint64)
    return lows


def _keys(lows: Iterable[int]) -> np.ndarray:
    """Sorted: uint64, shape (n,)."""
    return np.array(sorted(lows), np.uint64)


def _among(lows: np.ndarray, keys: np.ndarray) -> np.ndarray:
    """Which are among sorted keys: bool, shape of `lows`. Of many keys and few rows numpy.isin sorts both."""
    if not len(keys):
        return np.zeros(len(lows), bool)
    found: np.ndarray = keys[np.minimum(np.searchsorted(keys, lows), len(keys) - 1)] == lows
    return found


def _marked(batch: SpanBatch, marks: Mapping[int, Segment]) -> SpanBatch:
    """The same, with the spans of these numbers saying that, too."""
    if not marks:
        return batch
    ids = batch.rows["span_id"].astype(np.uint64)
    at = np.flatnonzero(_among(ids, _keys(marks)))
    if not len(at):
        return batch
    column = np.full((len(batch), 1), None, object)
    column[at, 0] = [marks[each] for each in ids[at].tolist()]
    return SpanBatch(batch.rows, np.hstack([batch.segments, column]), batch.resources, batch.operations)


def _only(batch: SpanBatch, chosen: np.ndarray) -> SpanBatch:
    """Some of the rows, copied; operations stay first. `chosen`: bool, shape (n,)."""
    return SpanBatch(
        batch.rows[chosen], batch.segments[chosen], batch.resources, int(np.count_nonzero(chosen[: batch.operations]))
    )
