# SPDX-License-Identifier: Apache-2.0
"""What became of every operation: seen = exported + filtered + sampled out + rate limited + in flight + dropped.

The kernel's programs count per CPU, user space counts what it takes on; both are read when nothing is attached any more,
so the sum is exact.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from kernelspan_agent.probes.constants import Counter

_DROPPED_IN_KERNEL = {
    Counter.RING_FULL: "RingFull",
    Counter.INFLIGHT_FULL: "InflightFull",
    Counter.TARGET_GONE: "TargetGone",
    Counter.REPLACED: "Skipped",
}

_LIMITED = (Counter.RATE_LIMITED, Counter.THROTTLED, Counter.OWN_THROTTLED)


@dataclass(slots=True)
class UserCounts:
    """What user space did with the operations that reached it."""

    received: int = 0
    filtered: int = 0
    sampled_out: int = 0
    rate_limited: int = 0
    exported: int = 0
    waiting: int = 0  # taken on and not settled yet
    dropped: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Accounting:
    """One balance. `dropped` by reason; `unaccounted` is 0 but for a bug, or a read while programs run."""

    seen: int
    exported: int
    filtered: int
    sampled_out: int
    rate_limited: int
    in_flight: int
    dropped: dict[str, int]

    @property
    def unaccounted(self) -> int:
        """What the balance lacks."""
        rest = self.exported + self.filtered + self.sampled_out + self.rate_limited + self.in_flight
        return self.seen - rest - sum(self.dropped.values())

    def as_json(self) -> dict[str, Any]:
        """For --report."""
        return {
            "seen": self.seen,
            "exported": self.exported,
            "filtered": self.filtered,
            "sampledOut": self.sampled_out,
            "rateLimited": self.rate_limited,
            "inFlight": self.in_flight,
            "dropped": dict(sorted(self.dropped.items())),
            "unaccounted": self.unaccounted,
        }


def unfinished(kernel: dict[Counter, int]) -> int:
    """Operations that the kernel's programs have begun to count and not decided about."""
    decided = sum(kernel[counter] for counter in (Counter.SENT, Counter.FILTERED, *_LIMITED))
    return kernel[Counter.SEEN] - kernel[Counter.UNSEEN] - decided - sum(kernel[each] for each in _DROPPED_IN_KERNEL)


def balance(kernel: dict[Counter, int], in_flight: int, user: UserCounts) -> Accounting:
    """The balance of the kernel's counters and user space's."""
    dropped = {name: kernel[counter] for counter, name in _DROPPED_IN_KERNEL.items() if kernel[counter]}
    for reason, count in user.dropped.items():
        if count:
            dropped[reason] = dropped.get(reason, 0) + count
    in_ring = kernel[Counter.SENT] - user.received
    return Accounting(
        seen=kernel[Counter.SEEN] - kernel[Counter.UNSEEN],
        exported=user.exported,
        filtered=kernel[Counter.FILTERED] + user.filtered,
        sampled_out=user.sampled_out,
        rate_limited=sum(kernel[counter] for counter in _LIMITED) + user.rate_limited,
        in_flight=in_flight + in_ring + user.waiting,
        dropped=dropped,
    )
