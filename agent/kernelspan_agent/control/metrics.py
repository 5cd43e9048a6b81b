# SPDX-License-Identifier: Apache-2.0
"""The agent's counters as Prometheus metrics, read when they are asked for; nothing is counted twice.

Names: prometheus.io/docs/practices/naming. Nothing that a traced program says becomes a label, since paths, functions and
process names would make series without end; but for the libraries, whose series are bounded (`library_series`).
"""

from __future__ import annotations

import contextlib
import platform
from collections import Counter
from collections.abc import Iterator, Mapping
from importlib import metadata
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
    Metric,
)
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest

from kernelspan_agent.control.library_series import LibrarySeries
from kernelspan_agent.guard.control import Phase
from kernelspan_agent.probes.own.probe import Standing
from kernelspan_agent.trace.peers import Outcome

if TYPE_CHECKING:
    from kernelspan_agent.accounting import Accounting
    from kernelspan_agent.control.peering import Peering
    from kernelspan_agent.control.running import Agent, Running

_PREFIX = "kernelspan_"
# Shown as 0 until it happens, so that a rate over it has a beginning; others appear with their first loss.
_DROPPED = ("RingFull", "InflightFull", "QueueFull", "ExportFailed", "TargetGone", "Skipped")

_ASKED = (
    "Found",
    "Nobody",
    "Ambiguous",
    "Refused",
    "Unsound",
    "Unasked",
    "Unanswered",
    "Unreachable",
    "Unlocated",
    "Here",
    "Full",
)
_OPERATIONS = {
    "seen": "Operations that traced processes began and that the profile asks for.",
    "exported": "Operations whose span every output has taken.",
    "filtered": "Operations that the profile's filters left out.",
    "sampled_out": "Operations of traces that were not sampled.",
    "rate_limited": "Operations beyond the profile's limits.",
}


class Metrics:
    """All metrics of one agent, in a registry of their own."""

    content_type = CONTENT_TYPE_LATEST

    def __init__(self, agent: Agent) -> None:
        self._registry = CollectorRegistry(auto_describe=False)
        self._registry.register(_Agent(agent))
        ProcessCollector(registry=self._registry)

    def text(self) -> bytes:
        """The exposition."""
        return generate_latest(self._registry)


class _Agent:
    """A collector (prometheus_client) that asks the running agent."""

    def __init__(self, agent: Agent) -> None:
        self._agent = agent
        self._libraries = LibrarySeries()

    def describe(self) -> list[Metric]:
        """Nothing in advance: to ask is the only way to know."""
        return []

    def collect(self) -> Iterator[Metric]:
        """Every metric as it is now; while nothing is traced only that an agent is there."""
        engine, unobserved = self._agent.engine, self._agent.unobserved
        yield _info(engine)
        if unobserved is not None:
            buckets, sum_seconds = unobserved.histogram()
            text = "How long pods ran before the first of their processes was traced."
            yield HistogramMetricFamily(f"{_PREFIX}pod_unobserved_seconds", text, buckets, sum_seconds)
        if self._agent.peering is not None:
            yield from _peers(self._agent.peering, engine)
        if engine is not None:
            yield from _operations(engine)
            yield _probes(engine)
            yield _missed(engine)
            yield from _stages(engine)
            yield self._libraries.collect(engine.acts)
            yield from _export(engine)
            yield from _programs(engine)
            yield from _guard(engine)


def _operations(engine: Running) -> Iterator[Metric]:
    found: dict[str, list[Accounting]] = {}  # a profile whose spec has changed runs twice for a moment
    in_kernel = engine.session.in_flight()  # once: it is a look at every call
    for uid, run in dict(engine.profiles).items():
        with contextlib.suppress(KeyError):  # it has been taken out meanwhile
            found.setdefault(run.label, []).append(engine.accounting_of(uid, in_kernel))
    for field, text in _OPERATIONS.items():
        counted = {label: sum(getattr(one, field) for one in each) for label, each in found.items()}
        yield _totals(f"operations_{field}", text, "profile", counted)
    dropped = CounterMetricFamily(
        f"{_PREFIX}operations_dropped", "Operations lost against our will.", labels=["profile", "reason"]
    )
    for label, each in found.items():
        by_reason = Counter(dict.fromkeys(_DROPPED, 0))
        for one in each:
            by_reason.update(one.dropped)
        for reason, lost in by_reason.items():
            dropped.add_metric([label, reason], lost)
    yield dropped
    in_flight = {label: sum(one.in_flight for one in each) for label, each in found.items()}
    yield _gauges(
        "operations_in_flight", "Operations seen and not settled yet, wherever they are.", "profile", in_flight
    )


def _probes(engine: Running) -> Metric:
    """By profile and where they stand; every standing is shown, so that an alert on failed ones has its zero."""
    family = GaugeMetricFamily(f"{_PREFIX}probes", "Own probes of a profile on this node.", labels=["profile", "state"])
    found: Counter[tuple[str, str]] = Counter()
    for run in dict(engine.profiles).values():
        for probe in run.wanted.probes:
            found.update({(run.label, each.value): 0 for each in Standing})
            own = engine.session.own.get(probe)
            if own is not None:
                found[run.label, own.standing.value] += 1
    for labels, count in found.items():
        family.add_metric(labels, count)
    return family


def _missed(engine: Running) -> Metric:
    """By profile, probe and reason; of a probe of which the kernel counts nothing there is no series."""
    family = CounterMetricFamily(
        f"{_PREFIX}probe_missed",
        "Calls, of any process, that the kernel did not show an own probe.",
        labels=["profile", "probe", "reason"],
    )
    found: Counter[tuple[str, str, str]] = Counter()
    for run in dict(engine.profiles).values():
        for probe in run.wanted.probes:
            own = engine.session.own.get(probe)
            for reason, count in (own.missed.sums or {}).items() if own is not None else ():
                found[run.label, probe.name, reason] += count
    for labels, count in found.items():
        family.add_metric(labels, count)
    return family


def _stages(engine: Running) -> Iterator[Metric]:
    yield _gauge("ring_fill_ratio", "Share of the ring buffer that waits to be drained.", engine.ring_fill())
    yield _gauge(
        "queue_operations", "Operations drained from the ring that wait for the next stage.", engine.waiting_operations
    )
    yield _gauge("processes_traced", "Processes that are traced now.", len(engine.processes.alive()))
    yield _totals("runtimes_detected", "Processes whose runtime was detected.", "runtime", engine.processes.runtimes)
    runs = list(dict(engine.profiles).values())
    states: Counter[str] = sum((run.resolver.frame_states for run in runs), Counter())
    yield _totals("stacks", "Operations by the state of their stack.", "state", states)
    yield _totals("frames", "Frames of new stacks: resolved, or why not.", "state", engine.tables.stacks.frames)
    traced = [run.tracer.counters for run in runs]
    yield _gauge(
        "contexts_open",
        "Threads, tasks and greenlets that hold open spans.",
        sum(each.contexts_open for each in traced),
    )
    yield _total(
        "contexts_evicted",
        "Contexts closed early because there were too many.",
        sum(each.contexts_evicted for each in traced),
    )
    yield _total(
        "function_spans", "Spans of functions that were inferred.", sum(each.function_spans for each in traced)
    )
    for name, meaning in (
        ("requests", "Requests that were seen."),
        ("requests_ambiguous", "Requests whose thread turned out to work on several at once."),
        ("requests_evicted", "Requests given up early because there were too many."),
        ("requests_untold", "Requests of HTTP/2 whose headers refer to what was not seen: they have no span."),
        ("requests_unreadable", "Messages of requests or answers that could not be read (of DNS, MongoDB)."),
        ("traces_kept", "Traces that were not sampled and are kept for what came of them."),
        ("traces_evicted", "Traces decided on early to make room."),
    ):
        yield _total(name, meaning, sum(getattr(each, name) for each in traced))
    yield _total(
        "request_bytes_lost",
        "Calls whose bytes of requests or answers were lost, in the ring or in the agent.",
        engine.session.bytes_lost() + engine.tables.payloads.dropped,
    )
    joins = engine.joins
    for name, meaning, count in (
        ("requests_joined", "Requests received that go on with the trace of who asked.", joins.joined),
        ("requests_join_ambiguous", "Requests received that two may be, or that two may have sent.", joins.ambiguous),
        ("requests_join_expired", "Requests received of which nobody here was found who asked.", joins.expired),
        ("requests_joined_elsewhere", "Of those joined: with who asked on another node.", joins.joined_elsewhere),
        ("requests_join_passed_over", "What another node's agent told too late, or what cannot be.", joins.passed_over),
        ("requests_join_evicted", "Requests sent, forgotten early because there were too many.", joins.evicted),
    ):
        yield _total(name, meaning, count)
    yield _gauge("requests_waiting", "Requests received that wait for who asked.", joins.waiting)
    yield _total("activities", "Spans of activities that were closed.", sum(each.activities for each in traced))
    attached = len(engine.session.attached) if engine.is_attached else 0
    yield _gauge("attachments", "Places in the kernel where a program is attached.", attached)
    start = GaugeMetricFamily(f"{_PREFIX}start_seconds", "What the start took.", labels=["part"])
    start.add_metric(["open"], engine.timings.open_seconds)
    start.add_metric(["compile"], engine.timings.compile_seconds)
    yield start


def _export(engine: Running) -> Iterator[Metric]:
    """By profile, and by output where a profile has several; spans are counted for all outputs of one together."""
    spans = CounterMetricFamily(f"{_PREFIX}spans_exported", "Spans that every output has taken.", labels=["profile"])
    lost = CounterMetricFamily(
        f"{_PREFIX}spans_dropped", "Spans that an output has lost.", labels=["profile", "reason"]
    )
    families = [
        (CounterMetricFamily(f"{_PREFIX}export_{name}", text, labels=["profile", "output"]), name)
        for name, text in (
            ("requests", "Requests (lines, for a file) taken."),
            ("retries", "Requests that had to be sent again."),
            ("bytes", "Size of those requests before compression."),
        )
    ]
    queue = GaugeMetricFamily(
        f"{_PREFIX}export_queue_spans", "Spans queued or being sent.", labels=["profile", "output"]
    )
    sums: dict[
        str, Counter[tuple[str, ...]]
    ] = {}  # by family; a profile whose spec has changed runs twice for a moment

    def add(family: Metric, labels: tuple[str, ...], value: int) -> None:
        sums.setdefault(family.name, Counter())[labels] += value

    for run in dict(engine.profiles).values():
        whole = run.exporter.counters.snapshot()
        add(spans, (run.label,), whole.spans_exported)
        for reason, count in whole.spans_dropped.items():
            add(lost, (run.label, reason), count)
        for output in getattr(run.exporter, "outputs", ()):
            snapshot = output.counters.snapshot()
            for family, name in families:
                add(family, (run.label, output.name), getattr(snapshot, name))
            add(queue, (run.label, output.name), snapshot.spans_in_flight)
    every: list[CounterMetricFamily | GaugeMetricFamily] = [spans, lost, *(family for family, _ in families), queue]
    for each in every:
        for labels, value in sums.get(each.name, Counter()).items():
            each.add_metric(labels, value)
        yield each


def _programs(engine: Running) -> Iterator[Metric]:
    """Runs and time are counted by the kernel only while kernel.bpf_stats_enabled is 1."""
    found = engine.session.programs()
    runs, seconds, skipped = (
        {name: program[key] for name, program in found.items()} for key in ("run_count", "run_time_ns", "skipped")
    )
    yield _totals("program_runs", "Runs of a program (needs kernel.bpf_stats_enabled=1).", "program", runs)
    in_seconds = {name: value / 1e9 for name, value in seconds.items()}
    yield _totals("program_run_seconds", "Time in a program (needs kernel.bpf_stats_enabled=1).", "program", in_seconds)
    yield _totals("program_skipped", "Runs that the kernel left out to prevent recursion.", "program", skipped)


def _peers(peering: Peering, engine: Running | None) -> Iterator[Metric]:
    """The agents of other nodes."""
    asked = dict.fromkeys(_ASKED, 0) | dict(peering.counts)
    yield _totals("peer_questions", "Requests received from elsewhere, by what came of asking.", "outcome", asked)
    answered = engine.joins.questions.answered if engine is not None else {}
    told = {each.name.capitalize(): answered.get(each, 0) for each in Outcome if each is not Outcome.PENDING}
    yield _totals("peer_answers", "Questions of other nodes' agents, by what they were told.", "outcome", told)
    yield _totals("peer_streams_refused", "Calls of others that were not let in.", "reason", peering.refused)


def _guard(engine: Running) -> Iterator[Metric]:
    """Profiles against their limits.cpuMillicores."""
    limit, used, spent, cut, detached = (dict[str, float]() for _ in range(5))
    kept = GaugeMetricFamily(
        f"{_PREFIX}guard_kept_ratio", "Share of hits that is not thrown away; 0: taken off.", labels=["profile", "part"]
    )
    shares: dict[tuple[str, str], float] = {}  # a profile whose spec has changed is there twice for a moment
    for uid, run in dict(engine.profiles).items():
        told = engine.guard.told(uid)
        if told is None:
            continue
        limit[run.label] = max(limit.get(run.label, 0.0), told.limit)
        used[run.label] = used.get(run.label, 0.0) + told.used
        spent[run.label] = spent.get(run.label, 0.0) + told.spent_seconds
        cut[run.label] = max(cut.get(run.label, 0.0), told.phase is Phase.THROTTLED)
        detached[run.label] = max(detached.get(run.label, 0.0), told.phase is Phase.DETACHED)
        for part, share in told.shares.items():
            shares[run.label, part] = min(share, shares.get((run.label, part), 1.0))
    for labels, share in shares.items():
        kept.add_metric(list(labels), share)
    yield _gauges("guard_limit_millicores", "limits.cpuMillicores.", "profile", limit)
    yield _gauges("guard_millicores", "CPU that the profile costs, in samples.", "profile", used)
    yield _totals("guard_cpu_seconds", "CPU that the profile has cost, by samples.", "profile", spent)
    yield _gauges("guard_throttled", "1: it cost more than its limit, and hits are thrown away.", "profile", cut)
    yield _gauges("guard_detached", "1: it cost more than its limit, and is detached.", "profile", detached)
    yield kept
    nobodys = engine.guard.nobodys_millicores
    yield _gauge("guard_nobodys_millicores", "CPU of programs that found that nobody wants what they saw.", nobodys)


def _info(engine: Running | None) -> Metric:
    return InfoMetricFamily(
        f"{_PREFIX}agent",
        "What runs.",
        {
            "version": metadata.version("kernelspan"),
            "kernel": platform.release(),
            "mechanism": engine.session.mechanism.name if engine is not None else "",
        },
    )


def _total(name: str, text: str, value: float) -> Metric:
    return CounterMetricFamily(f"{_PREFIX}{name}", text, value=value)


def _totals(name: str, text: str, label: str, values: Mapping[str, float]) -> Metric:
    family = CounterMetricFamily(f"{_PREFIX}{name}", text, labels=[label])
    for key, value in dict(values).items():  # a copy: the agent's thread goes on counting
        family.add_metric([key], value)
    return family


def _gauges(name: str, text: str, label: str, values: Mapping[str, float]) -> Metric:
    family = GaugeMetricFamily(f"{_PREFIX}{name}", text, labels=[label])
    for key, value in values.items():
        family.add_metric([key], value)
    return family


def _gauge(name: str, text: str, value: float) -> Metric:
    return GaugeMetricFamily(f"{_PREFIX}{name}", text, value=value)
