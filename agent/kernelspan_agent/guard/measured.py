# SPDX-License-Identifier: Apache-2.0
"""What is known of a profile's parts: what own probes cost, what the agent's own stages do, and how that is told."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

import numpy as np

from kernelspan_agent.guard.control import Load, Phase
from kernelspan_agent.guard.cost import Run
from kernelspan_agent.probes.own.sources import UserFunction
from kernelspan_api.reasons import Reason

if TYPE_CHECKING:
    from kernelspan_agent.probes.own.probe import OwnProbe
    from kernelspan_api.plan import Wanted
    from kernelspan_api.profile import TraceProfile

OPERATIONS = "operations"  # the part that is a profile's built-in groups
THROWN_AWAY_NS = 150.0  # what a probe's program takes at most to throw a hit away
ASSUMED_RUN_NS = 1000.0  # of a program, where the kernel does not time them
_NOTHING = Run(0, 0)


@dataclass(frozen=True, slots=True)
class Traps:
    """Nanoseconds of one hit, at an entry and at a return. `measured`: else they are assumed, as large machines have them."""

    enter_ns: float
    exit_ns: float
    measured: bool


ASSUMED = Traps(1000.0, 1500.0, measured=False)


class Profile(Protocol):
    """A profile in an engine (profile_run.ProfileRun)."""

    uid: str
    profile: TraceProfile
    wanted: Wanted

    @property
    def label(self) -> str:
        """How logs call it."""

    def cpu_seconds(self) -> float:
        """CPU time that the agent has spent on it alone."""


class Classes(Protocol):
    """The match classes of an engine (classes.Classes)."""

    def limit(self, shares: Mapping[str, float], detached: frozenset[str]) -> None:
        """By profile the share of its operations that is kept; those that see nothing."""

    def kept(self) -> np.ndarray:
        """By class the share that the kernel keeps."""

    def sharers(self) -> dict[int, frozenset[str]]:
        """The classes, each with its profiles."""


def part_of(probe: str) -> str:
    """The name of the part that a probe of a profile is, by its own name."""
    return f"probe {probe}"


def own_load(own: OwnProbe, programs: Mapping[str, Run], traps: Traps) -> Load:
    """What a probe cost, in nanoseconds: its programs, and the traps of one on user code."""
    total = fixed = 0.0
    for part in own.parts:
        places, made = part.plans[0].places, part.generated
        for names, sources, is_return in ((made.enters, places.enters, False), (made.exits, places.exits, True)):
            for name, source in zip(names, sources, strict=True):
                run = programs.get(name + part.suffix, _NOTHING)
                trap_ns = 0.0
                if source.is_user:
                    # a RET instruction is trapped as an entry is; a return address that is not the program's costs more
                    patched = is_return and isinstance(source, UserFunction) and not source.at_ret
                    trap_ns = traps.exit_ns if patched else traps.enter_ns
                time_ns = run.time_ns or run.count * ASSUMED_RUN_NS
                total += time_ns + run.count * trap_ns
                fixed += run.count * trap_ns
                if not is_return:
                    fixed += min(run.count * THROWN_AWAY_NS, time_ns)
    return Load(total, fixed)


@dataclass(slots=True)
class UserSpace:
    """The agent's own CPU time for a profile: its stages and its exporter. What serves all profiles is not in it."""

    run: Profile
    _before: float = field(default=0.0)

    def shared_out(self, loads: Mapping[str, Load], elapsed: float) -> dict[str, Load]:
        """The parts with that beside the kernel's, in proportion: it follows what is let through."""
        now = self.run.cpu_seconds()
        millicores = (now - self._before) / max(elapsed, 1e-3) * 1000
        self._before = now
        rest = {part: load.total - load.fixed for part, load in loads.items()}
        whole = sum(rest.values())
        return {
            part: Load(load.total + (millicores * rest[part] / whole if whole else 0.0), load.fixed)
            for part, load in loads.items()
        }


@dataclass(frozen=True, slots=True)
class Told:
    """How a profile stands to its limit."""

    limit: float
    used: float
    spent_seconds: float
    exceeded: int  # times
    phase: Phase
    shares: dict[str, float]  # by part; 0: it is off

    def is_cut(self, part: str) -> bool:
        """Whether hits of a part are thrown away, or would be."""
        return self.share(part) < 1.0

    @property
    def least_share(self) -> float:
        """Of the part that fares worst."""
        return 0.0 if self.phase is Phase.DETACHED else min(self.shares.values(), default=1.0)

    def share(self, part: str) -> float:
        """Of a part's hits, what is not thrown away."""
        return 0.0 if self.phase is Phase.DETACHED else self.shares.get(part, 1.0)

    def message(self, part: str = "") -> str:
        """What is done about it, and what can be. `part`: of that part alone."""
        share = self.share(part) if part else self.least_share
        remedy = Reason.BUDGET_EXCEEDED.remedy
        if self.phase is Phase.DETACHED:
            return (
                f"Cost more than cpuMillicores {self.limit:.0f}: detached (onExceed: Detach) until the profile is changed. "
                f"{remedy}"
            )
        done = (
            f"{share:.2%} of hits are kept" if share else "taken off for a while, as its hits alone cost more than that"
        )
        return f"Costs {self.used:.0f} millicores, kept within cpuMillicores {self.limit:.0f}: {done}. {remedy}"
