# SPDX-License-Identifier: Apache-2.0
"""Medians of rounds and how sure they are: percentile bootstrap with a fixed seed, so that a result can be computed again."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np

RESAMPLES = 4000
LOW, HIGH = 2.5, 97.5


@dataclass(frozen=True, slots=True)
class Estimate:
    """A median with its 95 % interval, over `rounds` values."""

    median: float
    low: float
    high: float
    rounds: int

    @property
    def width(self) -> float:
        """Of the interval."""
        return self.high - self.low

    def as_json(self) -> dict[str, float]:
        """For a result file."""
        return asdict(self)


def estimate(values: Sequence[float]) -> Estimate:
    """Median and interval of a round's values; ValueError where there are none."""
    if not len(values):
        raise ValueError("nothing was measured")
    data = np.asarray(values, float)
    picks = np.random.default_rng(1).integers(0, len(data), (RESAMPLES, len(data)))
    low, high = np.percentile(np.median(data[picks], axis=1), (LOW, HIGH))
    return Estimate(float(np.median(data)), float(low), float(high), len(data))
