# SPDX-License-Identifier: Apache-2.0
"""Trace and span ids, and the sampling decision that is taken from a trace id.

Ids are random and never zero, as OpenTelemetry demands; the generator is seeded from the kernel's entropy once, so ids
cost nanoseconds. They are names, not secrets.

Sampling is OpenTelemetry's TraceIdRatioBased: the low 64 bits of the trace id are compared with ratio * 2^64. Every
party that samples the same trace at the same or a higher ratio agrees (opentelemetry-sdk's sampler is the oracle in
the tests).
"""

from __future__ import annotations

import os

import numpy as np

_HIGHEST = (1 << 64) - 1
_POOL = 4096  # ids drawn at once for the spans that Python code opens one by one: 0.15 MB


class IdSource:
    """A supply of random ids. `entropy`: bytes of the seed; the default is 32 bytes of os.urandom."""

    def __init__(self, entropy: bytes = b"") -> None:
        seed = int.from_bytes(entropy or os.urandom(32))
        self._generator = np.random.Generator(np.random.PCG64(seed))
        self._pool: list[int] = []

    def many(self, count: int) -> np.ndarray:
        """`count` ids: uint64, shape (count,), none of them zero."""
        return self._generator.integers(1, _HIGHEST, size=count, dtype=np.uint64, endpoint=True)

    def one(self) -> int:
        """One id, 1 to 2^64 - 1."""
        return self.some(1)[0]

    def some(self, count: int) -> list[int]:
        """A few ids, as one() would give them."""
        if len(self._pool) < count:
            self._pool = self.many(max(count, _POOL)).tolist()
        taken = self._pool[-count:]
        del self._pool[-count:]
        return taken


def ratio_bound(percent: int) -> int:
    """A trace is sampled if the low 64 bits of its id are below this: 0 (none) to 2^64 (all)."""
    return round(percent / 100 * (1 << 64))


def sampled_mask(low: np.ndarray, bound: int) -> np.ndarray:
    """Which traces are sampled: bool, shape (n,). `low`: uint64, shape (n,), the low halves of the trace ids."""
    if bound > _HIGHEST:
        return np.ones(len(low), bool)
    return low < np.uint64(bound)
