# SPDX-License-Identifier: Apache-2.0
"""One profile in a running agent: what becomes of the operations of the processes that it selects."""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np

from kernelspan_agent.probes.constants import MAX_PORTS
from kernelspan_agent.resolve.infos import Infos
from kernelspan_agent.resolve.own import OwnProbes, OwnSpans
from kernelspan_agent.resolve.resolver import Resolver, ResolveSettings
from kernelspan_agent.trace import Tracer, TraceSettings
from kernelspan_agent.trace.adopt import Adoptions
from kernelspan_agent.trace.hold import Hold
from kernelspan_agent.trace.ids import ratio_bound
from kernelspan_agent.trace.keep import Keep
from kernelspan_agent.trace.settings import Orphans
from kernelspan_api.handling import Traceparent
from kernelspan_api.operations import BY_NAME, Group
from kernelspan_api.plan import Wanted
from kernelspan_api.plan import wanted as wanted_by
from kernelspan_api.subjects import Role

if TYPE_CHECKING:
    from collections.abc import Callable

    from kernelspan_agent.export.base import Exporter
    from kernelspan_agent.model import ResolvedBatch, SpanBatch
    from kernelspan_agent.resolve.acts import Acts
    from kernelspan_agent.resolve.clock import Clock
    from kernelspan_agent.resolve.durations import Durations
    from kernelspan_agent.resolve.resource import ResourceSettings
    from kernelspan_agent.resolve.tables import Tables, Taken
    from kernelspan_agent.resolve.touched import Touched
    from kernelspan_agent.resolve.traced import TracedProcess
    from kernelspan_agent.trace.joins import Joins, Party
    from kernelspan_api.profile import TraceProfile

BURST_SECONDS = 2


@dataclass(slots=True)
class RateLimit:
    """A token bucket over operations, of BURST_SECONDS' worth."""

    per_second: int
    tokens: float = 0.0
    last_seconds: float = field(default_factory=time.monotonic)

    def __post_init__(self) -> None:
        self.tokens = float(self.per_second * BURST_SECONDS)

    def allow(self, count: int, now_seconds: float) -> int:
        """How many of `count` may pass."""
        rest = self.tokens + (now_seconds - self.last_seconds) * self.per_second
        self.tokens = min(rest, float(self.per_second * BURST_SECONDS))
        self.last_seconds = now_seconds
        passed = min(count, int(self.tokens))
        self.tokens -= passed
        return passed


class ProfileRun:
    """From the operations of a profile's processes to its exporter."""

    def __init__(
        self,
        uid: str,
        profile: TraceProfile,
        exporter: Exporter,
        resource: ResourceSettings,
        tables: Tables,
        clock: Clock,
        reject: Callable[[int, int], object],
        own: OwnProbes,
        acts: Acts,
        joins: Joins,
    ) -> None:
        """`reject`: told of files (file, path) on which the profile wants no operation. `own`: the session's own probes.

        `acts`: counts for all profiles which libraries act. `joins`: where all of them find the other ends of requests.
        """
        self.uid, self.profile, self.exporter = uid, profile, exporter
        spec = profile.spec
        self.wanted: Wanted = wanted_by(profile.metadata.name, spec)
        self._clock, self._acts = clock, acts
        self.infos = Infos(resource)
        self.resolver = Resolver(
            ResolveSettings(
                self.wanted,
                stack_trace=spec.code.stack_trace.value == "Attribute",
                redact_paths=tuple(spec.redaction.paths),
                app_paths=tuple(spec.code.app_paths),
                library_paths=tuple(spec.code.library_paths),
            ),
            tables,
            clock,
            self.infos,
            reject,
            OwnSpans(self.wanted.probes, own, tables, spec.redaction),
        )
        self._keep = self._keeping()
        self._party = self._joining(joins)
        adoptions = Adoptions(self._keep) if any(Role.SERVER in each.roles for each in self.wanted.requests) else None
        holds = self._party is not None or self._keep is not None or adoptions is not None
        self.hold = Hold(self._party, self._keep, adoptions) if holds else None
        self.tracer = Tracer(
            TraceSettings(
                functions=spec.code.functions,
                orphans=Orphans(spec.correlation.orphans.value),
                percent=spec.sampling.percent,
                requests=self.wanted.requests,
                traceparent=spec.correlation.traceparent is Traceparent.READ,
                parent_based=spec.sampling.parent_based,
                hidden_headers=tuple(spec.redaction.headers),
                times=BY_NAME[Group.WAITS, "OffCPU"].number in self.wanted.operations,
            ),
            party=self._party,
            keep=self._keep,
            adoptions=adoptions,
        )
        self._spans = RateLimit(spec.limits.spans_per_second)
        self._events = RateLimit(spec.limits.events_per_second)
        self.rate_limited = 0
        self._cpu_seconds = 0.0
        self.shared = False
        self.durations: Durations | None = None  # of its own probes, where somebody wants them
        self.touched: Touched | None = None  # by its libraries, the same

    def _joining(self, joins: Joins) -> Party | None:
        """Its part in joining requests, if it wants one; the API's default, which `None` stands for, is that it does."""
        spec = self.profile.spec
        if not self.wanted.requests or spec.correlation.across_services is False:
            return None
        asks = any(Role.CLIENT in request.roles for request in self.wanted.requests)
        bound = ratio_bound(spec.sampling.percent)
        return joins.party(self.uid, asks=asks, bound=bound, parent_based=spec.sampling.parent_based, keep=self._keep)

    def _keeping(self) -> Keep | None:
        """What decides on requests whose traces are not sampled, if it wants any of them."""
        sampling = self.profile.spec.sampling
        slower_than_ns = sampling.keep_slower_than_milliseconds * 1_000_000
        if not self.wanted.requests or not (sampling.keep_errors or slower_than_ns):
            return None
        return Keep(errors=sampling.keep_errors, slower_than_ns=slower_than_ns)

    @property
    def label(self) -> str:
        """How logs and metrics call it: with its namespace where it has one."""
        named = self.profile.metadata
        return f"{named.namespace}/{named.name}" if named.namespace else named.name

    @property
    def shared(self) -> bool:
        """Whether the kernel's filters and limits may be wider than this profile's, others wanting its processes too."""
        return self._shared

    @shared.setter
    def shared(self, value: bool) -> None:
        self._shared = value
        self.resolver.shared = value or len(self.wanted.ports) > MAX_PORTS

    def process(self, taken: Taken, count: int) -> None:
        """Takes on operations of processes that the profile selects: of so many (`count`) those that it may have."""
        began = time.thread_time()
        dropped = count - len(taken.ops)
        self.rate_limited += dropped
        if dropped:
            self.tracer.lose()
        self._process(taken, is_thinned=dropped > 0)
        self._cpu_seconds += time.thread_time() - began

    def cpu_seconds(self) -> float:
        """CPU time that the agent's stages and the profile's outputs have taken for it."""
        outputs = getattr(self.exporter, "outputs", ())
        return self._cpu_seconds + float(sum(output.counters.cpu_seconds for output in outputs))

    def _process(self, taken: Taken, *, is_thinned: bool) -> None:
        batch = self.resolver.resolve(taken)
        if batch is None:
            return
        now = time.monotonic()
        count = len(batch.ops) if batch.hidden is None else len(batch.ops) - int(batch.hidden.sum())
        passed = self._spans.allow(self._events.allow(count, now) if self.shared else count, now)
        self.rate_limited += count - passed
        if passed or batch.hidden is not None:
            batch = _head(batch, passed)
            shown = batch if batch.hidden is None else batch.only(~batch.hidden)
            libraries = self._acts.add(shown)
            if self.touched is not None:
                self.touched.add(shown, libraries)
            if self.durations is not None:
                self.durations.add(shown.ops)
            self.export(self.tracer.process(batch, is_thinned=is_thinned))
        if passed < count:
            self.tracer.lose()

    def export(self, batch: SpanBatch) -> None:
        """Hands spans on, but for those of requests that wait for who asked."""
        self._export([batch] if self.hold is None else self.hold.sift(batch))

    def _export(self, batches: list[SpanBatch]) -> None:
        for batch in batches:
            if len(batch):
                self.exporter.export(batch)

    def started(self, traced: TracedProcess) -> None:
        """A process that it selects has begun."""
        self.tracer.process_started(self.infos.started(traced))

    def ended(self, traced: TracedProcess) -> None:
        """A process has ended; perhaps one that the profile never selected."""
        info = self.infos.ended(traced)
        if info is not None:
            self.tracer.process_ended(info, info.ended_ns)

    def tick(self, now_ns: int) -> None:
        """Closes what has been idle; `now_ns`: all operations that ended before are in (Unix epoch)."""
        self.export(self.tracer.tick(now_ns))

    def release(self) -> None:
        """Lets go of the spans of requests that are settled."""
        if self.hold is not None:
            self._export(self.hold.release())

    def close_spans(self) -> None:
        """Closes every span that is open, and keeps none back."""
        self.export(self.tracer.close(self._clock.now_ns()))
        if self.hold is not None:
            self._export(self.hold.flush())

    def close(self) -> None:
        """The profile is no more."""
        self.close_spans()
        if self._party is not None:
            self._party.joins.leave(self._party)

    def dropped(self) -> Counter[str]:
        """Operations that reached the profile and were lost, by reason."""
        found = Counter(self.exporter.counters.snapshot().operations_dropped)
        found["TargetGone"] += self.resolver.undecided
        found["RingFull"] += self.resolver.unread
        found["Orphan"] += self.tracer.counters.orphans_dropped + (self.hold.orphans if self.hold else 0)
        return found


def _head(batch: ResolvedBatch, count: int) -> ResolvedBatch:
    """The first `count` operations that are to be spans, with the hidden ones up to there."""
    if batch.hidden is not None:
        count = int(np.searchsorted(np.cumsum(~batch.hidden), count, side="right"))
    if count == len(batch.ops):
        return batch
    return replace(
        batch,
        ops=batch.ops[:count],
        start_ns=batch.start_ns[:count],
        end_ns=batch.end_ns[:count],
        stacks=batch.stacks[:count],
        processes=batch.processes[:count],
        segments=batch.segments[:count],
        rows=batch.rows[:count],
        payloads={row: payload for row, payload in batch.payloads.items() if row < count},
        hidden=None if batch.hidden is None else batch.hidden[:count],
        stack_of=None if batch.stack_of is None else batch.stack_of[:count],
    )


def rows_of(taken: Taken, classes: np.ndarray) -> Taken:
    """The operations of these classes: bool, shape (MAX_CLASSES,)."""
    return taken.of(classes[taken.ops["cls"]])
