# SPDX-License-Identifier: Apache-2.0
"""From the kernel's CLOCK_MONOTONIC to Unix time.

Durations are the monotonic clock's, so they never depend on the wall clock. The difference of the two is taken once and
kept: only when somebody sets the wall clock (a step of more than STEP_NS) is it taken again.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable

STEP_NS = 100_000_000  # slewing moves both clocks alike; what is left below this is scheduling between two reads

TICK_NS = 1_000_000_000 // os.sysconf("SC_CLK_TCK")  # of a process's start in /proc, which is CLOCK_BOOTTIME's


def boot_ahead_ns() -> int:
    """What CLOCK_BOOTTIME shows more than CLOCK_MONOTONIC: the time asleep."""
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME) - time.monotonic_ns()


class Clock:
    """Unix time of monotonic instants."""

    def __init__(
        self, monotonic_ns: Callable[[], int] = time.monotonic_ns, wall_ns: Callable[[], int] = time.time_ns
    ) -> None:
        self._monotonic_ns, self._wall_ns = monotonic_ns, wall_ns
        self.offset_ns = self._measure()

    def _measure(self) -> int:
        samples = []
        for _ in range(3):
            before = self._monotonic_ns()
            wall = self._wall_ns()
            after = self._monotonic_ns()
            samples.append((after - before, wall - (before + after) // 2))
        return min(samples)[1]

    def stepped(self) -> bool:
        """Whether the wall clock was set since the last look; from then on the new time holds."""
        measured = self._measure()
        if abs(measured - self.offset_ns) < STEP_NS:
            return False
        self.offset_ns = measured
        return True

    def now_ns(self) -> int:
        """Unix time now, by the offset in use."""
        return self._monotonic_ns() + self.offset_ns

    def monotonic_now_ns(self) -> int:
        """CLOCK_MONOTONIC."""
        return self._monotonic_ns()
