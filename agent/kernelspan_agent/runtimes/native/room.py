# SPDX-License-Identifier: Apache-2.0
"""Places in an array of the kernel's, given away and taken back: what a walk may still be reading is not given to another."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

QUARANTINE_NS = 10_000_000_000


@dataclass(frozen=True, slots=True)
class Extent:
    """Places in a row."""

    first: int
    count: int


class Room:
    """Who has which places. For one thread, but for `give_back`."""

    def __init__(self, places: int, clock: Callable[[], int] = time.monotonic_ns) -> None:
        self._free = [(0, places)]  # first and count, in order, none beside another
        self._waiting: deque[tuple[int, Extent]] = deque()  # since when
        self._clock = clock

    def take(self, count: int) -> Extent | None:
        """So many places that nobody has; None: there are none in a row."""
        while self._waiting and self._clock() - self._waiting[0][0] > QUARANTINE_NS:
            self._put_back(self._waiting.popleft()[1])
        for index, (first, free) in enumerate(self._free):
            if free >= count:
                self._free[index : index + 1] = [(first + count, free - count)] if free > count else []
                return Extent(first, count)
        return None

    def give_back(self, extent: Extent) -> None:
        """Nobody is told of these places any more."""
        self._waiting.append((self._clock(), extent))

    def _put_back(self, extent: Extent) -> None:
        merged: list[tuple[int, int]] = []
        for first, count in sorted([*self._free, (extent.first, extent.count)]):
            if merged and sum(merged[-1]) == first:
                merged[-1] = (merged[-1][0], merged[-1][1] + count)
            else:
                merged.append((first, count))
        self._free = merged
