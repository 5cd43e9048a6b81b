# SPDX-License-Identifier: Apache-2.0
"""The operator's counters as Prometheus metrics, read when they are asked for; nothing is counted twice.

Names: prometheus.io/docs/practices/naming. No name of a pod, a node or a profile becomes a label: those would make
series without end.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator, Mapping
from importlib import metadata

from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
    Metric,
)
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest

from kernelspan_operator.models.distribution import Distribution
from kernelspan_operator.models.profiles import Profile

from .system import System

PREFIX = "kernelspan_operator_"
# Shown as 0 until it happens, so that a rate over it has a beginning.
_REFUSED = ("NoToken", "BadToken", "OtherServiceAccount", "OtherNode", "NoNode", "NoHello")
_STATES = ("Active", "Paused", "Expired", "Pending", "Refused")
_RESTARTS = ("Ended", "Gone", "Silent", "Refused", "Failed")
_WRITES = ("Written", "Failed", "Gone")
_EVENTS = ("Written", "Failed", "Repeated")


class Metrics:
    """All metrics of one operator, in a registry of their own."""

    content_type = CONTENT_TYPE_LATEST

    def __init__(self, system: System) -> None:
        self._registry = CollectorRegistry(auto_describe=False)
        self._registry.register(_Operator(system))
        ProcessCollector(registry=self._registry)

    def text(self) -> bytes:
        """The exposition."""
        return generate_latest(self._registry)


class _Operator:
    """A collector (prometheus_client) that asks the services."""

    def __init__(self, system: System) -> None:
        self._system = system

    def describe(self) -> list[Metric]:
        """Nothing in advance: to ask is the only way to know."""
        return []

    def collect(self) -> Iterator[Metric]:
        """Every metric as it is now."""
        yield from _profiles(self._system)
        yield from _plans(self._system)
        yield from _streams(self._system)
        yield from _requests(self._system)
        yield InfoMetricFamily(f"{PREFIX[:-1]}", "What runs.", {"version": metadata.version("kernelspan")})


def _state(profile: Profile, now_seconds: float) -> str:
    if profile.spec is None or profile.problem:
        return "Refused"
    if profile.is_expired(now_seconds):
        return "Expired"
    if profile.spec.paused:
        return "Paused"
    return "Pending" if profile.pending else "Active"


def _profiles(system: System) -> Iterator[Metric]:
    now = system.kube.now()
    states = Counter(_state(one, now) for one in system.profiles)
    yield _gauges("profiles", "Profiles, by what becomes of them.", "state", dict.fromkeys(_STATES, 0) | states)
    refused = Counter(one.reason for one in system.profiles if one.problem)
    yield _gauges("profiles_refused", "Profiles of which nothing is traced, by reason.", "reason", refused)
    yield _gauge("selected_pods", "Pods that some profile selects.", len(system.pods))
    yield _gauge("nodes", "Nodes of the cluster.", len(system.nodes))
    yield _gauge("ready", "1 once everything has been seen and plans are given.", system.plans.is_open)


def _plans(system: System) -> Iterator[Metric]:
    agents = system.agents
    yield _total(
        "plans_built", "Plans made, to be sent or to see whether they are others than before.", system.plans.built
    )
    yield _total("plans_acknowledged", "Plans sent whose hash the agent has said since.", agents.acknowledged)
    yield _histogram("plan_size_bytes", "Plans sent, by size.", agents.plan_bytes)
    yield _histogram(
        "plan_delay_seconds",
        "From a change in the cluster, as it came in, to the plan sent to a node it touches.",
        agents.plan_seconds,
    )


def _streams(system: System) -> Iterator[Metric]:
    agents = system.agents
    yield _gauge("streams", "Streams of agents that are open.", agents.connected)
    yield _total("streams_opened", "Streams that agents have opened.", agents.opened)
    yield _totals("streams_ended", "Streams that have ended, by why.", "reason", agents.ended)
    refused = dict.fromkeys(_REFUSED, 0) | system.auth.refused
    yield _totals("streams_refused", "Streams refused, by reason.", "reason", refused)
    meetings = system.meetings
    yield _gauge("meetings", "Agents that may be asked by others.", len(meetings))
    known = {"Located": meetings.located, "Unlocated": meetings.unlocated}
    yield _totals("addresses", "Addresses that agents asked about, by whether they are a node's.", "result", known)


def _requests(system: System) -> Iterator[Metric]:
    family = CounterMetricFamily(
        f"{PREFIX}api_requests",
        "Answers of the API server; code none: there was no answer. The watch of the profiles themselves is not here.",
        labels=["verb", "code"],
    )
    for (verb, code), count in sorted(system.kube.answers.items()):
        family.add_metric([verb, code], count)
    yield family
    yield _gauge("watches", "Watches that are open.", len(system.watches))
    restarts = dict.fromkeys(_RESTARTS, 0) | system.watches.restarts
    yield _totals("watch_restarts", "Watches begun anew, by why.", "reason", restarts)
    writes = dict.fromkeys(_WRITES, 0) | system.statuses.writes
    yield _totals("status_writes", "Writes of a profile's status, by what came of them.", "result", writes)
    made = dict.fromkeys(_EVENTS, 0) | system.events.made
    yield _totals("events", "Kubernetes events of profiles, by what came of them.", "result", made)
    behind = system.kube.now() - time.time()
    yield _gauge("clock_behind_seconds", "How far the API server's clock is ahead of this one.", behind)


def _total(name: str, text: str, value: float) -> Metric:
    return CounterMetricFamily(f"{PREFIX}{name}", text, value=value)


def _totals(name: str, text: str, label: str, values: Mapping[str, float]) -> Metric:
    family = CounterMetricFamily(f"{PREFIX}{name}", text, labels=[label])
    for key, value in values.items():
        family.add_metric([key], value)
    return family


def _gauge(name: str, text: str, value: float) -> Metric:
    return GaugeMetricFamily(f"{PREFIX}{name}", text, value=value)


def _gauges(name: str, text: str, label: str, values: Mapping[str, float]) -> Metric:
    family = GaugeMetricFamily(f"{PREFIX}{name}", text, labels=[label])
    for key, value in values.items():
        family.add_metric([key], value)
    return family


def _histogram(name: str, text: str, values: Distribution) -> Metric:
    return HistogramMetricFamily(f"{PREFIX}{name}", text, buckets=values.buckets(), sum_value=values.sum)
