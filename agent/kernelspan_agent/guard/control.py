# SPDX-License-Identifier: Apache-2.0
"""Keeps one profile within its CPU: from what its parts cost in a sample to the share of hits of each that is not thrown away.

A part is one of its own probes, or its built-in operations together. Of a part's cost some is fixed: paid for every hit,
thrown away or not (a trap, a look-up). Beyond the limit the costliest parts are cut down to one level, the others left alone.
A part whose fixed cost alone is above that level is taken off, and put back after a while that grows; at least as long as
what it cost until it was taken off, spread over that time, is within the limit too, beside what the others cost.

Nothing here knows the kernel or a clock: it is told both.
"""

from __future__ import annotations

import enum
import math
from collections.abc import Mapping
from dataclasses import dataclass, field

TARGET = 0.8  # of the limit: what is aimed at beyond it
RECOVERED = 0.7  # of the limit: what all hits would have to cost less than, for nothing to be thrown away any more
CALM_SECONDS, MOST_CALM_SECONDS = 2.0, 64.0  # for that long; twice as long each time it was too early
RELAPSE_SECONDS = 60.0  # it was, if the limit is exceeded again so soon
DEAD_BAND = 0.1  # of a share: a smaller change is none
GROWTH = 2.0  # of a share, from one sample to the next at most
LEAST_SHARE = 1e-4
TRIAL_SHARE = 0.1  # of a part that is put back
FALLING = 0.5  # of the way that a demand falls, what is believed of it at once
STUBBORN = 7  # samples in a row beyond the limit although hits are thrown away
COOL_SECONDS, MOST_COOL_SECONDS, MOST_DEBT_SECONDS = 2.0, 64.0, 600.0
AVERAGE_SECONDS = 2.0  # over which `used` is told


@dataclass(frozen=True, slots=True)
class Load:
    """What a part cost, in millicores. `fixed`: of it what throwing away hits cannot save."""

    total: float
    fixed: float = 0.0


class Phase(enum.Enum):
    """Where a profile stands."""

    FREE = "Free"
    THROTTLED = "Throttled"
    DETACHED = "Detached"


@dataclass(slots=True)
class Part:
    """A part's share of hits that are not thrown away; 0: it is off."""

    share: float = 1.0
    fixed: float = 0.0
    demand: float = 0.0  # what it would cost if no hit were thrown away
    on_since: float = -math.inf
    off_until: float = 0.0
    failures: int = 0

    def saw(self, load: Load) -> None:
        """Takes in what it cost, at its share."""
        self.fixed = min(load.fixed, load.total)
        demand = self.fixed + (load.total - self.fixed) / max(self.share, LEAST_SHARE)
        self.demand = demand if demand > self.demand else self.demand + FALLING * (demand - self.demand)

    def wanted(self, level: float) -> float:
        """The share at which it costs no more than that."""
        if self.demand <= level:
            return 1.0
        return max((level - self.fixed) / (self.demand - self.fixed), LEAST_SHARE)


@dataclass(slots=True)
class Control:
    """Of one profile. `detaches`: beyond the limit it is detached for good."""

    limit: float
    detaches: bool = False
    phase: Phase = Phase.FREE
    used: float = 0.0  # millicores, lately
    spent_seconds: float = 0.0  # of CPU, by the samples
    exceeded: int = 0  # times
    parts: dict[str, Part] = field(default_factory=dict)
    last: float = 0.0  # what the last sample said
    _over: int = 0
    _calm: float = 0.0
    _patience: float = CALM_SECONDS
    _freed: float = -math.inf

    @property
    def shares(self) -> dict[str, float]:
        """Of each part the share of hits that is not thrown away. From any thread."""
        return {name: 0.0 if self.phase is Phase.DETACHED else part.share for name, part in list(self.parts.items())}

    @property
    def least_share(self) -> float:
        """Of the part that fares worst; 1: nothing is thrown away."""
        return min(self.shares.values(), default=0.0 if self.phase is Phase.DETACHED else 1.0)

    def sample(self, loads: Mapping[str, Load], now: float, elapsed: float) -> None:
        """Takes in a sample of all parts, `elapsed` seconds after the one before, and decides anew. Parts not named are gone."""
        for name in set(self.parts) - set(loads):
            del self.parts[name]
        for name, load in loads.items():
            part = self.parts.setdefault(name, Part())
            if part.share:
                part.saw(load)
        total = sum(load.total for load in loads.values())
        self.spent_seconds += total * elapsed / 1000
        self.used += (total - self.used) * -math.expm1(-elapsed / AVERAGE_SECONDS)
        recent, self.last = (total + self.last) / 2, total
        if self.phase is Phase.FREE and recent > self.limit:
            self._exceeded(loads, now)
        elif self.phase is Phase.THROTTLED:
            self._go_on(loads, total, now, elapsed)

    def _exceeded(self, loads: Mapping[str, Load], now: float) -> None:
        self.exceeded += 1
        if self.detaches:
            self.phase = Phase.DETACHED
            return
        self.phase, self._over, self._calm = Phase.THROTTLED, 0, 0.0
        early = now - self._freed < RELAPSE_SECONDS
        self._patience = min(self._patience * 2, MOST_CALM_SECONDS) if early else CALM_SECONDS
        self._share_out(loads, now)

    def _go_on(self, loads: Mapping[str, Load], total: float, now: float, elapsed: float) -> None:
        self._over = self._over + 1 if total > self.limit else 0
        if self._over >= STUBBORN:
            self._over = 0
            self._take_off(max((name for name in loads if self.parts[name].share), key=lambda name: loads[name].total,
                               default=""), loads, now)  # fmt: skip
        self._share_out(loads, now)
        parts = self.parts.values()
        untouched = all(part.share >= 1.0 for part in parts)
        if untouched and sum(part.demand for part in parts) <= RECOVERED * self.limit:
            self._calm += elapsed
        else:
            self._calm = 0.0
        if self._calm >= self._patience:
            self.phase, self._freed = Phase.FREE, now
            for part in parts:
                part.failures = 0
        for part in parts:
            if not part.share and now >= part.off_until:
                part.share, part.on_since = TRIAL_SHARE, now

    def _share_out(self, loads: Mapping[str, Load], now: float) -> None:
        """Cuts parts down to the level at which all together cost the target; takes off what cannot be."""
        target = TARGET * self.limit
        while True:
            on = {name: part for name, part in self.parts.items() if part.share}
            level = _level([part.demand for part in on.values()], target)
            beyond = [name for name, part in on.items() if part.fixed > level]
            if not beyond:
                break
            self._take_off(max(beyond, key=lambda name: on[name].fixed), loads, now)
        for part in on.values():
            wanted = part.wanted(level)
            if wanted == 1.0 or abs(wanted - part.share) > DEAD_BAND * part.share:
                part.share = min(wanted, part.share * GROWTH)

    def _take_off(self, name: str, loads: Mapping[str, Load], now: float) -> None:
        part = self.parts.get(name)
        if part is None:
            return
        part.failures += 1
        was_on = min(max(now - part.on_since, 0.0), COOL_SECONDS)
        others = sum(each.demand for each in self.parts.values() if each.share and each is not part)
        room = max(TARGET * self.limit - others, (1 - TARGET) * self.limit)  # the others are cut down to the target
        debt = was_on * loads[name].total / room
        grown = min(COOL_SECONDS * 2 ** min(part.failures - 1, 30), MOST_COOL_SECONDS)
        part.share, part.off_until = 0.0, now + max(grown, min(debt, MOST_DEBT_SECONDS))


def _level(demands: list[float], target: float) -> float:
    """The height to which demands are cut so that together they are the target; infinite where nothing need be cut."""
    rest = target
    for index, demand in enumerate(ordered := sorted(demands)):
        level = rest / (len(ordered) - index)
        if demand > level:
            return level
        rest -= demand
    return math.inf
