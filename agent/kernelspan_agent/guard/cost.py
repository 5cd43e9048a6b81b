# SPDX-License-Identifier: Apache-2.0
"""What tracing costs: the agent's own CPU time, and the time the kernel spends in its programs.

The kernel times programs only while somebody asks for it, and then all programs of the machine, whoever is traced: some
20 to 40 ns a run. So it is asked for SAMPLE_SECONDS at a time, with a rest between that whoever needs the samples chooses.
It takes CAP_SYS_ADMIN, or an administrator's sysctl kernel.bpf_stats_enabled=1; else a sample has no times.
"""

from __future__ import annotations

import os
import resource
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from kernelspan_agent.probes import bpf

if TYPE_CHECKING:
    from kernelspan_agent.probes.session import Session

SAMPLE_SECONDS = 0.1
REST_SECONDS = 0.5  # so that what begins is seen within a second, with time to do something about it


@dataclass(frozen=True, slots=True)
class Cost:
    """`programs_millicores` is None where nothing was sampled."""

    agent_cpu_seconds: float
    agent_millicores: int
    programs_millicores: int | None
    sampled_seconds: float


@dataclass(frozen=True, slots=True)
class Run:
    """What a program did in a sample."""

    time_ns: int
    count: int


@dataclass(frozen=True, slots=True)
class Sample:
    """Of `seconds` that have just ended, `elapsed` since the one before; `programs` by name; empty: the kernel does not time
    them.
    """

    now: float
    seconds: float
    elapsed: float
    programs: dict[str, Run]


class CostSampler:
    """Samples the programs' run time; `tick` often, `close` at the end."""

    def __init__(
        self,
        session: Session,
        now_seconds: float,
        begins: Callable[[], object] = lambda: None,
        ends: Callable[[Sample], object] = lambda _: None,
    ) -> None:
        """`begins`: called as a sample begins, so that what else is counted is counted over the same time; `ends`: with it."""
        self._session, self._begins, self._ends = session, begins, ends
        self._began = self._since = self._last = now_seconds
        self._cpu = _own_cpu_seconds()
        self._fd = -1
        self._sampling = self._refused = False
        self._before: dict[str, Run] = {}
        self._sampled = self._weighted = self._weight = 0.0
        self.rest_seconds = 0.0  # until the next sample

    def tick(self, now_seconds: float) -> None:
        """Begins or ends a sample where it is time to."""
        elapsed = now_seconds - self._since
        if self._sampling and elapsed >= SAMPLE_SECONDS:
            self._end(now_seconds)
        elif not self._sampling and elapsed >= self.rest_seconds:
            self._begin(now_seconds)

    def _begin(self, now_seconds: float) -> None:
        self._since, self._sampling = now_seconds, True
        try:
            self._fd = bpf.enable_stats()
        except OSError:
            self._fd = -1  # before Linux 5.8, or not permitted
        self._before = self._runs()
        self._begins()

    def _end(self, now_seconds: float) -> None:
        after = self._runs()
        seconds, elapsed = max(now_seconds - self._since, 1e-3), now_seconds - self._last
        self._stop(now_seconds)
        found = {
            name: Run(run.time_ns - before.time_ns, run.count - before.count)
            for name, run in after.items()
            if (before := self._before.get(name, _NONE)).count <= run.count
        }
        if not any(run.count for run in found.values()) and self._refused:
            found = {}
        else:
            total_ns = sum(run.time_ns for run in found.values())
            self._sampled += seconds
            self._weighted += total_ns / seconds * elapsed  # more is sampled where much is run
            self._weight += elapsed
        self._last, self.rest_seconds = now_seconds, REST_SECONDS
        self._ends(Sample(now_seconds, seconds, elapsed, found))

    def _stop(self, now_seconds: float) -> None:
        self._refused = self._fd < 0
        if self._fd >= 0:
            os.close(self._fd)
        self._fd, self._since, self._sampling = -1, now_seconds, False

    def _runs(self) -> dict[str, Run]:
        return {name: Run(info["run_time_ns"], info["run_count"]) for name, info in self._session.programs().items()}

    def cost(self, now_seconds: float) -> Cost:
        """What it cost up to now."""
        if self._sampling:
            self._end(now_seconds)
        cpu = _own_cpu_seconds() - self._cpu
        elapsed = max(now_seconds - self._began, 1e-3)
        programs = round(self._weighted / self._weight / 1e6) if self._weight else None
        return Cost(round(cpu, 3), round(cpu / elapsed * 1000), programs, round(self._sampled, 3))

    def close(self) -> None:
        """Lets the kernel stop timing."""
        if self._sampling:
            self._stop(self._since)


_NONE = Run(0, 0)


def _own_cpu_seconds() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime
