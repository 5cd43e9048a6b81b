# SPDX-License-Identifier: Apache-2.0
"""Whose cost it is: what programs took in a sample, told apart by match classes, and by the profiles of a class.

The programs of the built-in groups run for every call of the machine; most runs may find that nobody wants it. What those
cost is nobody's: it would be there for any profile. What operations cost is their classes', in proportion to how many they
were; of the profiles of a class, each bears its part of what it lets through.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from kernelspan_agent.guard.control import Load

ASSUMED_NS, ASSUMED_THROWN_NS = 2000.0, 200.0  # of an operation, where the kernel does not time programs
RUNS = 2  # of an operation: its entry and its return
THROWN_AWAY = 4.4  # runs that find nothing: what an operation costs that is thrown away (measured: 193 ns to 44)
_MOST_FIXED = 0.5  # of what an operation costs, where the above has not been learnt yet
_ENOUGH_RUNS = 1000


@dataclass(frozen=True, slots=True)
class Counted:
    """Operations of a class in a sample; `thrown`: of them those that were thrown away."""

    seen: int
    thrown: int


@dataclass(slots=True)
class Groups:
    """The built-in groups' programs. `idle_ns`: what a run takes that finds nothing, the least that was ever seen."""

    idle_ns: float = math.inf

    def split(self, run_ns: int, runs: int, classes: Mapping[int, Counted]) -> tuple[dict[int, Load], float]:
        """By class its cost in nanoseconds, and what is nobody's."""
        if runs >= _ENOUGH_RUNS:
            self.idle_ns = min(self.idle_ns, run_ns / runs)
        seen = sum(each.seen for each in classes.values())
        thrown = sum(each.thrown for each in classes.values())
        if not seen:
            return {}, float(run_ns)
        others = max(runs - RUNS * seen, 0)
        idle_ns = self.idle_ns if math.isfinite(self.idle_ns) else run_ns / max(runs, 1)
        nobodys = min(others * idle_ns, float(run_ns))
        mine = run_ns - nobodys
        if seen == thrown:
            fixed = whole = mine / seen
        else:
            fixed = min(THROWN_AWAY * idle_ns, (1.0 if thrown else _MOST_FIXED) * mine / seen)
            whole = (mine - thrown * fixed) / (seen - thrown)
        return {
            number: Load((each.seen - each.thrown) * whole + each.thrown * fixed, each.seen * fixed)
            for number, each in classes.items()
            if each.seen
        }, nobodys

    @staticmethod
    def assumed(classes: Mapping[int, Counted]) -> tuple[dict[int, Load], float]:
        """The same where nothing is timed: by how many operations there were."""
        return {
            number: Load(
                (each.seen - each.thrown) * ASSUMED_NS + each.thrown * ASSUMED_THROWN_NS, each.seen * ASSUMED_THROWN_NS
            )
            for number, each in classes.items()
            if each.seen
        }, 0.0


def among(load: Load, shares: Mapping[str, float]) -> dict[str, Load]:
    """A cost that several profiles cause together, by profile. `shares`: of each what it lets through; the largest is had.

    What is fixed all bear alike; of the rest, what is let through for the smallest share all bear, and so on upwards.
    """
    on = sorted((share, name) for name, share in shares.items() if share)
    if not on:
        return {}
    fixed, rest = load.fixed / len(on), load.total - load.fixed
    borne, below, found = 0.0, 0.0, {}
    for index, (share, name) in enumerate(on):
        borne += (share - below) / on[-1][0] * rest / (len(on) - index)
        below = share
        found[name] = Load(fixed + borne, fixed)
    return found
