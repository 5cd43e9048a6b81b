# SPDX-License-Identifier: Apache-2.0
"""How long the calls took that a profile's own probes have seen: a histogram each, of a fixed size.

Of what has passed the profile's filters and limits, before sampling: with a sample of traces there are fewer spans.
"""

from __future__ import annotations

import numpy as np

from kernelspan_agent.ring.records import MAX_OWN_PROBES, OWN_OPERATION, OperationFlag

BUCKETS = 64  # bucket k: from 2^(k-1) to below 2^k ns; 0: none at all


class Durations:
    """Counts by probe number and bucket: 128 KiB. Not for several threads."""

    def __init__(self) -> None:
        self._counts = np.zeros(MAX_OWN_PROBES * BUCKETS, np.int64)

    def add(self, ops: np.ndarray) -> None:
        """Takes operations in; those of modes other than Span have no duration. `ops`: OPERATION, shape (n,)."""
        mine = ops[(ops["op"] >= OWN_OPERATION) & (ops["flags"] & OperationFlag.INSTANT == 0)]
        if not len(mine):
            return
        took = np.maximum(mine["time"].astype(np.int64) - mine["start"].astype(np.int64), 0)
        bucket = np.minimum(np.frexp(took.astype(np.float64))[1], BUCKETS - 1)  # the number of bits
        place = (mine["op"].astype(np.int64) - OWN_OPERATION) * BUCKETS + bucket
        counts = np.bincount(place)
        self._counts[: len(counts)] += counts

    def of(self, number: int) -> list[tuple[int, int, int]]:
        """Of a probe's number: (from, below, count) of each bucket from the first that has any to the last; ns."""
        counts = self._counts[number * BUCKETS : (number + 1) * BUCKETS]
        filled = np.flatnonzero(counts)
        if not len(filled):
            return []
        first, last = int(filled[0]), int(filled[-1])
        return [(1 << k >> 1, 1 << k, int(counts[k])) for k in range(first, last + 1)]
