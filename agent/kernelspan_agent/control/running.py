# SPDX-License-Identifier: Apache-2.0
"""What `control` asks of a running agent, from threads of its own: to read, never to steer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from kernelspan_agent.accounting import Accounting
    from kernelspan_agent.control.peering import Peering
    from kernelspan_agent.export.base import Exporter
    from kernelspan_agent.guard.measured import Told
    from kernelspan_agent.probes.session import Session
    from kernelspan_agent.resolve.acts import Acts
    from kernelspan_agent.resolve.processes import ProcessTable
    from kernelspan_agent.resolve.resolver import Resolver
    from kernelspan_agent.resolve.tables import Tables
    from kernelspan_agent.trace import Tracer
    from kernelspan_agent.trace.joins import Joins
    from kernelspan_api.plan import Wanted


class Timings(Protocol):
    """Seconds of the agent's start."""

    @property
    def open_seconds(self) -> float:
        """All of it."""

    @property
    def compile_seconds(self) -> float:
        """Of it the compiler."""


class RunningProfile(Protocol):
    """A profile in it (profile_run.ProfileRun)."""

    @property
    def label(self) -> str:
        """How metrics call it."""

    wanted: Wanted
    resolver: Resolver
    tracer: Tracer
    exporter: Exporter


class Limits(Protocol):
    """What keeps profiles within their limits (guard.budget.Guard)."""

    nobodys_millicores: float  # of programs that found that nobody wants what they saw

    def told(self, uid: str) -> Told | None:
        """How a profile stands to its limit."""


class Running(Protocol):
    """What traces (engine.Engine)."""

    session: Session
    processes: ProcessTable
    tables: Tables
    acts: Acts
    joins: Joins

    @property
    def profiles(self) -> Mapping[str, RunningProfile]:
        """Its profiles, by uid."""

    @property
    def guard(self) -> Limits:
        """What keeps them within their limits."""

    @property
    def timings(self) -> Timings:
        """Of its start."""

    @property
    def is_attached(self) -> bool:
        """Whether operations are being seen."""

    @property
    def waiting_operations(self) -> int:
        """Operations that wait for the stages."""

    def ring_fill(self) -> float:
        """Share of the ring buffer that waits to be drained."""

    def accounting_of(self, uid: str, in_flight: Mapping[int, int] | None = None) -> Accounting:
        """A profile's balance so far. `in_flight`: what the session says of that, for many of them."""


class Pods(Protocol):
    """How long pods ran unseen (node.unobserved.Unobserved)."""

    def histogram(self) -> tuple[list[tuple[str, float]], float]:
        """Cumulative buckets by their upper bound, and the sum of all, in seconds."""


class Agent(Protocol):
    """The process (app.App, node.Node)."""

    last_step_seconds: float  # time.monotonic() of the loop's last step

    @property
    def unobserved(self) -> Pods | None:
        """Of pods; None: it knows none."""

    @property
    def engine(self) -> Running | None:
        """What traces now; None: there is nothing to trace."""

    @property
    def peering(self) -> Peering | None:
        """The agents of other nodes; None: they are not asked."""

    def trouble(self) -> str:
        """Why it does not do its work now; empty: it does."""
