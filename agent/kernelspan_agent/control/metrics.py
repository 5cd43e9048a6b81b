# SPDX-License-Identifier: Apache-2.0
"""The agent's counters as Prometheus metrics, read when they are asked for; nothing is counted twice.

Names: prometheus.io/docs/practices/naming. Nothing that a traced program says becomes a label: paths, functions and
process names would make series without end.
"""

from __future__ import annotations

import platform
from collections.abc import Iterator, Mapping
from importlib import metadata
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, InfoMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest

if TYPE_CHECKING:
    from kernelspan_agent.control.running import Running

_PREFIX = "kernelspan_"
# Shown as 0 until it happens, so that a rate over it has a beginning; others appear with their first loss.
_DROPPED = ("RingFull", "InflightFull", "QueueFull", "ExportFailed", "TargetGone", "Skipped")


class Metrics:
    """All metrics of one agent, in a registry of their own."""

    content_type = CONTENT_TYPE_LATEST

    def __init__(self, app: Running) -> None:
        self._registry = CollectorRegistry(auto_describe=False)
        self._registry.register(_Agent(app))
        ProcessCollector(registry=self._registry)

    def text(self) -> bytes:
        """The exposition."""
        return generate_latest(self._registry)


class _Agent:
    """A collector (prometheus_client) that asks the running agent."""

    def __init__(self, app: Running) -> None:
        self._app = app

    def describe(self) -> list[Metric]:
        """Nothing in advance: to ask is the only way to know."""
        return []

    def collect(self) -> Iterator[Metric]:
        """Every metric as it is now."""
        app = self._app
        yield from _operations(app)
        yield from _stages(app)
        yield from _export(app)
        yield from _programs(app)
        yield _info(app)


def _operations(app: Running) -> Iterator[Metric]:
    found = app.accounting()
    total = "operations_{}"
    yield _total(
        total.format("seen"), "Operations that traced processes began and that the profile asks for.", found.seen
    )
    yield _total(total.format("exported"), "Operations whose span every output has taken.", found.exported)
    yield _total(total.format("filtered"), "Operations that the profile's filters left out.", found.filtered)
    yield _total(total.format("sampled_out"), "Operations of traces that were not sampled.", found.sampled_out)
    yield _total(total.format("rate_limited"), "Operations beyond the profile's limits.", found.rate_limited)
    yield _totals(
        total.format("dropped"),
        "Operations lost against our will.",
        "reason",
        dict.fromkeys(_DROPPED, 0) | found.dropped,
    )
    yield _gauge("operations_in_flight", "Operations seen and not settled yet, wherever they are.", found.in_flight)


def _stages(app: Running) -> Iterator[Metric]:
    yield _gauge("ring_fill_ratio", "Share of the ring buffer that waits to be drained.", app.ring_fill())
    yield _gauge(
        "queue_operations", "Operations drained from the ring that wait for the next stage.", app.waiting_operations
    )
    yield _gauge("processes_traced", "Processes that are traced now.", len(app.processes.alive()))
    yield _totals("runtimes_detected", "Processes whose runtime was detected.", "runtime", app.processes.runtimes)
    yield _totals("stacks", "Operations by the state of their stack.", "state", app.resolver.frame_states)
    yield _totals("frames", "Frames of new stacks: resolved, or why not.", "state", app.resolver.stacks.frames)
    traced = app.tracer.counters
    yield _gauge("contexts_open", "Threads, tasks and greenlets that hold open spans.", traced.contexts_open)
    yield _total("contexts_evicted", "Contexts closed early because there were too many.", traced.contexts_evicted)
    yield _total("function_spans", "Spans of functions that were inferred.", traced.function_spans)
    yield _total("activities", "Spans of activities that were closed.", traced.activities)
    attached = len(app.session.attached) if app.is_attached else 0
    yield _gauge("attachments", "Places in the kernel where a program is attached.", attached)
    start = GaugeMetricFamily(f"{_PREFIX}start_seconds", "What the start took.", labels=["part"])
    start.add_metric(["open"], app.timings.open_seconds)
    start.add_metric(["compile"], app.timings.compile_seconds)
    yield start


def _export(app: Running) -> Iterator[Metric]:
    """By output; spans are counted in `spans_*` for all outputs together."""
    whole = app.exporter.counters.snapshot()
    yield _total("spans_exported", "Spans that every output has taken.", whole.spans_exported)
    yield _totals("spans_dropped", "Spans that an output has lost.", "reason", whole.spans_dropped)
    outputs = {output.name: output.counters.snapshot() for output in getattr(app.exporter, "outputs", ())}
    yield _totals(
        "export_requests", "Requests (lines, for a file) taken.", "output", {k: v.requests for k, v in outputs.items()}
    )
    yield _totals(
        "export_retries", "Requests that had to be sent again.", "output", {k: v.retries for k, v in outputs.items()}
    )
    yield _totals(
        "export_bytes", "Size of those requests before compression.", "output", {k: v.bytes for k, v in outputs.items()}
    )
    queue = GaugeMetricFamily(f"{_PREFIX}export_queue_spans", "Spans queued or being sent.", labels=["output"])
    for name, snapshot in outputs.items():
        queue.add_metric([name], snapshot.spans_in_flight)
    yield queue


def _programs(app: Running) -> Iterator[Metric]:
    """Runs and time are counted by the kernel only while kernel.bpf_stats_enabled is 1."""
    found = app.session.programs()
    runs, seconds, skipped = (
        {name: program[key] for name, program in found.items()} for key in ("run_count", "run_time_ns", "skipped")
    )
    yield _totals("program_runs", "Runs of a program (needs kernel.bpf_stats_enabled=1).", "program", runs)
    in_seconds = {name: value / 1e9 for name, value in seconds.items()}
    yield _totals("program_run_seconds", "Time in a program (needs kernel.bpf_stats_enabled=1).", "program", in_seconds)
    yield _totals("program_skipped", "Runs that the kernel left out to prevent recursion.", "program", skipped)


def _info(app: Running) -> Metric:
    return InfoMetricFamily(
        f"{_PREFIX}agent",
        "What runs.",
        {
            "version": metadata.version("kernelspan"),
            "kernel": platform.release(),
            "mechanism": app.session.mechanism.name,
            "profile": app.profile.metadata.name,
        },
    )


def _total(name: str, text: str, value: float) -> Metric:
    return CounterMetricFamily(f"{_PREFIX}{name}", text, value=value)


def _totals(name: str, text: str, label: str, values: Mapping[str, float]) -> Metric:
    family = CounterMetricFamily(f"{_PREFIX}{name}", text, labels=[label])
    for key, value in dict(values).items():  # a copy: the agent's thread goes on counting
        family.add_metric([key], value)
    return family


def _gauge(name: str, text: str, value: float) -> Metric:
    return GaugeMetricFamily(f"{_PREFIX}{name}", text, value=value)
