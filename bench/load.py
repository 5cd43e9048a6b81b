# SPDX-License-Identifier: Apache-2.0
"""What the agent takes and what it costs itself: loss at a rate, exactness of the accounting, CPU an operation, memory."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from bench.machine import anonymous_bytes
from bench.processes import Agent, Worker
from bench.profiles import profile

MIX = (("files-memory", 100), ("sqlite", 20), ("write1", 500), ("pingpong", 100), ("http", 50))


@dataclass(frozen=True, slots=True)
class Flood:
    """One flood: operations made by the generator against what the agent says of them."""

    wanted_per_second: int
    reached_per_second: float
    made: int
    seen: int
    unaccounted: int
    lost_in_kernel: int
    exported: int
    lost_after: dict[str, int]

    @property
    def exact(self) -> bool:
        """Every operation made was seen, and every one seen has a fate."""
        return self.made == self.seen and self.unaccounted == 0


def flood(worker: Worker, endpoint: str, per_second: int, seconds: float, threads: int) -> Flood:
    """One-byte writes at a rate. The generator's own count is the oracle of the accounting."""
    with Agent(profile(files={}), ["--pid", str(worker.pid), "--otlp", endpoint]) as agent:
        answer = worker.run("flood", int(per_second * seconds), per_second, threads)
        agent.settle()
        report = agent.stop()
    operations = report["operations"]
    kernel = report["kernel"]
    dropped = dict(operations["dropped"])
    in_kernel = sum(dropped.pop(reason, 0) for reason in ("RingFull", "InflightFull", "Skipped"))
    return Flood(
        per_second,
        answer.operations / answer.wall_ns * 1e9,
        answer.operations,
        kernel.get("seen", 0),
        operations["unaccounted"],
        in_kernel,
        operations["exported"],
        {"rateLimited": operations["rateLimited"], **dropped},
    )


@dataclass
class Steady:
    """A load over minutes: the agent's memory second by second, its CPU time, and what it exported."""

    seconds: list[float] = field(default_factory=list)
    anonymous_mb: list[float] = field(default_factory=list)
    cpu_seconds: float = 0.0
    exported: int = 0
    spans: int = 0
    report: dict[str, Any] = field(default_factory=dict)

    @property
    def per_core_second(self) -> float:
        """Operations brought from the ring to the collector for one second of the agent's CPU."""
        return self.exported / self.cpu_seconds if self.cpu_seconds else 0.0

    def growth_mb(self, over_seconds: float) -> float:
        """What the second half's slope comes to over so many seconds."""
        half = len(self.seconds) // 2
        if len(self.seconds) - half < 3:
            return 0.0
        return float(np.polyfit(self.seconds[half:], self.anonymous_mb[half:], 1)[0] * over_seconds)


def steady(worker: Worker, endpoint: str, seconds: float, pause_seconds: float, say: Callable[[str], None]) -> Steady:
    """The mix of MIX, function spans on, everything exported; `pause_seconds` between bursts leaves the agent room."""
    found = Steady()
    wanted = profile(files={}, network={})
    with Agent(wanted, ["--pid", str(worker.pid), "--otlp", endpoint]) as agent:
        for name, count in MIX:  # the warm-up: symbols and libraries are found once
            worker.run(name, count)
        agent.settle()
        warm = agent.cpu_seconds()
        begin, last = time.monotonic(), 0.0
        while (now := time.monotonic() - begin) < seconds:
            for name, count in MIX:
                worker.run(name, count)
                time.sleep(pause_seconds)
            if now - last >= 1.0:
                last = now
                found.seconds.append(now)
                found.anonymous_mb.append(anonymous_bytes(agent.pid) / 1e6)
        agent.settle()
        found.cpu_seconds = agent.cpu_seconds() - warm
        found.report = agent.stop()
    found.exported, found.spans = found.report["operations"]["exported"], found.report["spans"]["exported"]
    say(f"steady: {found.exported} operations, {found.cpu_seconds:.1f} s of CPU")
    return found
