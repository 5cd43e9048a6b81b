# SPDX-License-Identifier: Apache-2.0
"""One running agent: the ring's thread, the stages behind it, and their end.

The ring's thread only copies records out, so the kernel never waits for Python's slower half. What it has drained waits
in a bounded queue; operations beyond the bound are dropped and counted (QueueFull), records that carry names never are.
Everything else happens in the thread that calls `run`.
"""

from __future__ import annotations

import os
import queue
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np

from kernelspan_agent.accounting import Accounting, UserCounts, balance
from kernelspan_agent.guard.cost import CostSampler
from kernelspan_agent.libraries.base import Libraries
from kernelspan_agent.probes.session import RING_BYTES, Session
from kernelspan_agent.resolve.clock import Clock
from kernelspan_agent.resolve.glance import Glance, glance
from kernelspan_agent.resolve.processes import ProcessTable, TracedProcess
from kernelspan_agent.resolve.resolver import Resolver, ResolveSettings
from kernelspan_agent.resolve.resource import ResourceSettings
from kernelspan_agent.ring.reader import Drained, RingReader
from kernelspan_agent.ring.records import PROCESS, ProcessEvent, RecordKind
from kernelspan_agent.trace import Tracer, TraceSettings
from kernelspan_agent.trace.settings import Orphans
from kernelspan_api.plan import wanted as plan_of

if TYPE_CHECKING:
    from kernelspan_agent.export.base import Exporter
    from kernelspan_agent.model import ResolvedBatch, SpanBatch
    from kernelspan_agent.probes.mechanisms import Mechanism
    from kernelspan_api.profile import TraceProfile

MAX_WAITING_OPERATIONS = 65536  # 10 MB of records
IDLE_WAIT_SECONDS = 0.05
TICK_SECONDS = 0.2
GREENLET_LOOK_SECONDS = 1.0
BURST_SECONDS = 2
_TICK_NS = 1_000_000_000 // os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, slots=True)
class Timings:
    """Seconds of an agent's own life, for the report."""

    open_seconds: float = 0.0
    compile_seconds: float = 0.0
    compile_cached: bool = False


@dataclass(slots=True)
class SpanLimit:
    """limits.spansPerSecond: a token bucket over operations, which every other span hangs from."""

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


class App:
    """An agent for one profile. `with` it, or `close` it."""

    def __init__(
        self,
        profile: TraceProfile,
        exporter: Exporter,
        environ: Mapping[str, str],
        *,
        resource: ResourceSettings,
        mechanism: Mechanism | None = None,
        ring_bytes: int = RING_BYTES,
        watch_exec: bool = False,
    ) -> None:
        """Builds, loads and attaches. Raises MachineError; nothing is left behind then."""
        started = time.monotonic()
        spec = profile.spec
        self.profile, self.exporter = profile, exporter
        self.wanted = plan_of(profile.metadata.name, spec)
        self.clock = Clock()
        self.session = Session.open(
            self.wanted, environ, ring_bytes=ring_bytes, watch_exec=watch_exec, mechanism=mechanism
        )
        built = self.session.built
        self.timings = Timings(time.monotonic() - started, built.seconds, built.cached)
        self.processes = ProcessTable(
            self.session,
            resource,
            Libraries(),
            lambda monotonic_ns: monotonic_ns + self.clock.offset_ns,
            app_paths=tuple(spec.code.app_paths),
            library_paths=tuple(spec.code.library_paths),
            glances=self._glance_of,
        )
        self.resolver = Resolver(
            ResolveSettings(
                paths=self.wanted.paths,
                cidrs=self.wanted.cidrs,
                stacks=self.wanted.max_depth > 0,
                stack_trace=spec.code.stack_trace.value == "Attribute",
                redact_paths=tuple(spec.redaction.paths),
            ),
            self.processes,
            self.clock,
            self.session,
        )
        self.tracer = Tracer(
            TraceSettings(
                functions=spec.code.functions,
                orphans=Orphans(spec.correlation.orphans.value),
                percent=spec.sampling.percent,
            )
        )
        self._limit = SpanLimit(spec.limits.spans_per_second)
        self.counts = UserCounts()
        self._ring = RingReader(self.session.ring_fd, self.session.ring_bytes)
        self._queue: queue.SimpleQueue[Drained] = queue.SimpleQueue()
        self._waiting = 0
        self._lock = threading.Lock()
        self._boot_ahead_ns = time.clock_gettime_ns(time.CLOCK_BOOTTIME) - time.monotonic_ns()
        self.on_exec: Callable[[int], object] = int  # told of programs that start; nothing by itself
        self._glances: dict[tuple[int, int], Glance | None] = {}
        self._stopping = threading.Event()
        self._next_tick = self._next_look = 0.0
        self._lost_processes = 0
        self.cost = CostSampler(self.session, time.monotonic())
        self.last_step_seconds = time.monotonic()
        self._stepped = False
        self._reader = threading.Thread(target=self._drain_loop, name="ring", daemon=True)
        self._reader.start()

    # --- whom ---------------------------------------------------------------------------------------------------

    def trace(self, pid: int, name: str, *, held: bool = False) -> TracedProcess:
        """Traces a process that exists already. `held`: a child of ours that waits for its exec; its frames are ours."""
        start = self.clock.monotonic_now_ns()
        self.session.trace(pid, start)  # first: the kernel is told of runtimes of images that it knows
        traced = self.processes.add(pid, start, name=name, from_start=held)
        if held:
            self.processes.leave_unwalked(traced)
        self._tell_tracer()
        self.processes.detect_pending(self.clock.monotonic_now_ns())
        return traced

    # --- the ring's thread --------------------------------------------------------------------------------------

    def _drain_loop(self) -> None:
        while not self._stopping.is_set():
            self._ring.wait(IDLE_WAIT_SECONDS)
            self._drain_once()

    def _drain_once(self) -> bool:
        drained = self._ring.drain()
        count = len(drained.operations)
        if not count and not drained.others:
            return False
        with self._lock:
            self.counts.received += count
            if self._waiting + count > MAX_WAITING_OPERATIONS:
                self.counts.dropped["QueueFull"] = self.counts.dropped.get("QueueFull", 0) + count
                drained = Drained(drained.operations[:0], drained.others)
            else:
                self._waiting += count
        self._look_at(drained.others)
        self._queue.put(drained)
        return True

    def _look_at(self, records: list[tuple[int, bytes]]) -> None:
        """Takes a glance at every process that starts, before anything else: it may live for milliseconds only."""
        for kind, record in records:
            if kind == RecordKind.PROCESS:
                row = np.frombuffer(record, PROCESS, 1)[0]
                tgid, start = int(row["tgid"]), int(row["start"])
                if int(row["event"]) == ProcessEvent.EXIT or not start:
                    continue
                seen = glance(tgid)
                if seen is not None and not self._is_image(seen, tgid, start):
                    seen.close()
                    seen = None
                self._glances[tgid, start] = seen

    def _is_image(self, seen: Glance, tgid: int, start_ns: int) -> bool:
        """Whether a glance is of the image that began at `start_ns`: not of a later one, nor of a pid used again.

        Only where the kernel still says so: what has ended since may have become another program in between.
        """
        now = self.session.process_start(tgid)
        began_ns = seen.process.start_ticks * _TICK_NS - self._boot_ahead_ns
        return now == start_ns and began_ns <= start_ns + _TICK_NS

    def _glance_of(self, tgid: int, start_ns: int) -> Glance | None:
        if (tgid, start_ns) in self._glances:
            return self._glances.pop((tgid, start_ns))
        return glance(tgid)

    # --- the stages ---------------------------------------------------------------------------------------------

    def run(self, until: Callable[[], bool]) -> None:
        """Works until `until` says so; it is asked at least 20 times a second."""
        while not until():
            self.step(0.002 if self.processes.has_pending else IDLE_WAIT_SECONDS)

    def step(self, timeout_seconds: float) -> None:
        """Takes on what waits, at most one drained piece, and does what is due."""
        self.last_step_seconds = time.monotonic()
        self._stepped = True
        try:
            drained = self._queue.get(timeout=timeout_seconds)
        except queue.Empty:
            pass
        else:
            self._process(drained)
        self.processes.detect_pending(self.clock.monotonic_now_ns())
        now = time.monotonic()
        if now >= self._next_tick:
            self._next_tick = now + TICK_SECONDS
            self._housekeep(now)

    def _process(self, drained: Drained) -> None:
        self.resolver.learn(drained.others)
        for tgid in self.processes.execs:
            self.on_exec(tgid)
        self.processes.execs.clear()
        self._tell_tracer()
        count = len(drained.operations)
        if count:
            batch = self.resolver.resolve(drained.operations)
            if batch is not None:
                passed = self._limit.allow(len(batch.ops), time.monotonic())
                if passed < len(batch.ops):
                    self.counts.rate_limited += len(batch.ops) - passed
                    batch = _head(batch, passed)
                if passed:
                    self._export(self.tracer.process(batch))
            with self._lock:
                self._waiting -= count
        self._tell_ended()

    def _tell_tracer(self) -> None:
        for traced in self.processes.started:
            self.tracer.process_started(traced.info)
        self.processes.started.clear()

    def _tell_ended(self) -> None:
        for traced in self.processes.finished:
            self.tracer.process_ended(traced.info, traced.info.ended_ns)
        self.processes.finished.clear()

    def _housekeep(self, now: float) -> None:
        if self.clock.stepped():  # somebody set the wall clock: what is open ends in the old time
            self._export(self.tracer.close(self.clock.now_ns()))
        monotonic = self.clock.monotonic_now_ns()
        # what is still in the ring or the queue may be as old as the last drain
        self._export(self.tracer.tick(monotonic + self.clock.offset_ns - int(TICK_SECONDS * 1e9)))
        self._catch_up(monotonic)
        self.processes.sweep(monotonic)
        self.cost.tick(now)
        if now >= self._next_look:
            self._next_look = now + GREENLET_LOOK_SECONDS
            self.processes.look_for_greenlets()

    def _catch_up(self, monotonic_ns: int) -> None:
        lost = self.session.lost_processes()
        if lost != self._lost_processes and not self.waiting_operations:  # else what ended may still have some here
            self._lost_processes = lost
            self.processes.catch_up(monotonic_ns)

    def _export(self, batch: SpanBatch) -> None:
        if len(batch):
            self.exporter.export(batch)

    # --- how it is, for whoever asks from another thread ----------------------------------------------------------

    @property
    def is_attached(self) -> bool:
        """Whether operations are being seen: from the first step, before which it is said whose, to `finish` or `close`."""
        return self._stepped and not self._stopping.is_set()

    @property
    def waiting_operations(self) -> int:
        """Operations that were drained and wait for the stages."""
        with self._lock:
            return self._waiting

    def ring_fill(self) -> float:
        """Share of the ring buffer that waits to be drained."""
        return self._ring.fill()

    # --- the end ------------------------------------------------------------------------------------------------

    def finish(self, timeout_seconds: float) -> None:
        """Detaches, takes on what is still in the ring, closes what is open, and exports all of it."""
        self.session.detach()
        self._stopping.set()
        self._reader.join()
        while self._drain_once():
            pass
        while True:
            try:
                self._process(self._queue.get_nowait())
            except queue.Empty:
                break
        self._export(self.tracer.close(self.clock.now_ns()))
        self.exporter.close(timeout_seconds)

    def accounting(self) -> Accounting:
        """The balance; exact once `finish` has run."""
        exported = self.exporter.counters.snapshot()
        counters = self.tracer.counters
        with self._lock:
            user = UserCounts(
                received=self.counts.received,
                filtered=self.counts.filtered + self.resolver.filtered,
                sampled_out=counters.operations_sampled_out,
                rate_limited=self.counts.rate_limited,
                exported=exported.operations_exported,
                waiting=self._waiting + exported.operations_in_flight,
                dropped=_sum(
                    [
                        self.counts.dropped,
                        self.resolver.dropped,
                        exported.operations_dropped,
                        {"Orphan": counters.orphans_dropped},
                    ]
                ),
            )
        return balance(self.session.counts(), self.session.in_flight(), user)

    def close(self) -> None:
        """Gives everything back to the kernel; what was not exported is lost."""
        self._stopping.set()
        self.cost.close()
        self.session.detach()
        if self._reader.is_alive():
            self._reader.join()
        self._ring.close()
        self.session.close()
        self.processes.close()


def _head(batch: ResolvedBatch, count: int) -> ResolvedBatch:
    return replace(
        batch,
        ops=batch.ops[:count],
        start_ns=batch.start_ns[:count],
        end_ns=batch.end_ns[:count],
        stacks=batch.stacks[:count],
        processes=batch.processes[:count],
        segments=batch.segments[:count],
        rows=batch.rows[:count],
    )


def _sum(parts: Iterable[Mapping[str, int]]) -> dict[str, int]:
    total: dict[str, int] = {}
    for part in parts:
        for reason, count in dict(part).items():  # a copy: another thread may add to it
            total[reason] = total.get(reason, 0) + count
    return total
