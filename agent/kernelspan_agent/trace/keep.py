# SPDX-License-Identifier: Apache-2.0
"""`sampling.keepErrors` and `keepSlowerThanMilliseconds`: traces that their ids leave out are kept for what came of them.

A received request of such a trace is taken as sampled, its spans are kept back (hold.py), and as the last request of the
trace that a profile has on this node ends, all of them go on or none. What other nodes did for it is not known here, and they
decide for themselves: the span of a request that was kept so says `kernelspan.sampling` `Local`.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, field

from kernelspan_agent.trace.spans import Trace

MAX_REMEMBERED = 4096  # traces that were kept, for requests of them that are heard of later


@dataclass(slots=True, eq=False)
class Verdict:
    """On one trace. `open`: its requests that are not over; `traces`: what their spans bear; `roots`: the requests' spans."""

    open: int = 0
    keep: bool = False
    traces: list[Trace] = field(default_factory=list)
    roots: set[int] = field(default_factory=set)


class Keep:
    """Of one profile. `pending`: traces that are not decided, by the lower half of their id.

    It counts the traces that were `kept`, and those that were decided early to make room (`evicted`).
    """

    def __init__(self, *, errors: bool, slower_than_ns: int) -> None:
        """`slower_than_ns` 0: however long they take."""
        self._errors, self._slower_than_ns = errors, slower_than_ns
        self._early: dict[int, Verdict] = {}
        self._remembered: OrderedDict[int, None] = OrderedDict()
        self.pending: dict[int, Verdict] = {}
        self.kept = self.evicted = 0

    def began(self, trace: Trace, root_id: int) -> None:
        """A request of a trace that is not sampled."""
        verdict = self.pending.setdefault(trace.low, Verdict(keep=trace.low in self._remembered))
        verdict.open += 1
        verdict.traces.append(trace)
        verdict.roots.add(root_id)
        trace.sampled = trace.undecided = True

    def follows(self, trace: Trace) -> None:
        """Spans that are found to be of an undecided trace."""
        verdict = self.pending.get(trace.low)
        if verdict is not None:
            verdict.traces.append(trace)
            trace.undecided = True

    def ended(self, trace: Trace, *, failed: bool, took_ns: int) -> None:
        """It is over. One that was decided early stays as it is."""
        verdict = self.pending.get(trace.low)
        if not trace.undecided or verdict is None:
            return
        verdict.open -= 1
        verdict.keep |= (failed and self._errors) or 0 < self._slower_than_ns < took_ns

    def decided(self) -> dict[int, Verdict]:
        """The traces of which all requests were over since the last time, and those decided early; pending no more."""
        found = {low: verdict for low, verdict in self.pending.items() if not verdict.open}
        for low, verdict in found.items():
            del self.pending[low]
            self._settle(low, verdict)
        found |= self._early
        self._early = {}
        return found

    def evict(self) -> None:
        """Decides on the oldest trace by what is known of it."""
        low = next(iter(self.pending), None)
        if low is not None:
            verdict = self._early[low] = self.pending.pop(low)
            self.evicted += 1
            self._settle(low, verdict)

    def _settle(self, low: int, verdict: Verdict) -> None:
        for trace in verdict.traces:
            trace.sampled, trace.undecided = verdict.keep, False
        if verdict.keep:
            self.kept += 1
            self._remembered[low] = None
            if len(self._remembered) > MAX_REMEMBERED:
                self._remembered.popitem(last=False)
