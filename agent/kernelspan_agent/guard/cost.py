# SPDX-License-Identifier: Apache-2.0
"""What tracing costs: the agent's own CPU time, and the time the kernel spends in its programs.

The kernel times programs only while somebody asks for it, and then all programs of the machine, whoever is traced: some
40 ns a run. It is asked for SAMPLE_SECONDS in every PERIOD_SECONDS, and the figure is that of the samples.
"""

from __future__ import annotations

import os
import resource
from dataclasses import dataclass
from typing import TYPE_CHECKING

from kernelspan_agent.probes import bpf

if TYPE_CHECKING:
    from kernelspan_agent.probes.session import Session

SAMPLE_SECONDS = 0.1
PERIOD_SECONDS = 10.0


@dataclass(frozen=True, slots=True)
class Cost:
    """`programs_millicores` is None where nothing was sampled."""

    agent_cpu_seconds: float
    agent_millicores: int
    programs_millicores: int | None
    sampled_seconds: float


class CostSampler:
    """Samples the programs' run time; `tick` now and then, `close` at the end."""

    def __init__(self, session: Session, now_seconds: float) -> None:
        self._session = session
        self._began = self._since = now_seconds
        self._cpu = _own_cpu_seconds()
        self._fd = -1
        self._before = 0
        self._run_time_ns = 0
        self._sampled = 0.0

    def tick(self, now_seconds: float) -> None:
        """Begins or ends a sample where it is time to."""
        elapsed = now_seconds - self._since
        if self._fd >= 0 and elapsed >= SAMPLE_SECONDS:
            self._end(now_seconds)
        elif self._fd < 0 and (elapsed >= PERIOD_SECONDS - SAMPLE_SECONDS or not self._sampled):
            self._begin(now_seconds)

    def _begin(self, now_seconds: float) -> None:
        self._since = now_seconds
        try:
            self._fd = bpf.enable_stats()
        except OSError:
            return  # before Linux 5.8, or not permitted: not measured, and said so
        self._before = self._total_ns()

    def _end(self, now_seconds: float) -> None:
        self._run_time_ns += self._total_ns() - self._before
        self._sampled += now_seconds - self._since
        os.close(self._fd)
        self._fd, self._since = -1, now_seconds

    def _total_ns(self) -> int:
        return sum(info["run_time_ns"] for info in self._session.programs().values())

    def cost(self, now_seconds: float) -> Cost:
        """What it cost up to now."""
        if self._fd >= 0:
            self._end(now_seconds)
        cpu = _own_cpu_seconds() - self._cpu
        elapsed = max(now_seconds - self._began, 1e-3)
        programs = round(self._run_time_ns / self._sampled / 1e6) if self._sampled else None
        return Cost(round(cpu, 3), round(cpu / elapsed * 1000), programs, round(self._sampled, 3))

    def close(self) -> None:
        """Lets the kernel stop timing."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


def _own_cpu_seconds() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime
