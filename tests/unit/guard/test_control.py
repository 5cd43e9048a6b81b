# SPDX-License-Identifier: Apache-2.0
"""The guard's decisions, against loads that are made up: what a program would do, at the share that it was given."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from kernelspan_agent.guard.control import (
    COOL_SECONDS,
    MOST_DEBT_SECONDS,
    RECOVERED,
    TARGET,
    Control,
    Load,
    Phase,
    _level,
)

BUSY, QUIET = 0.3, 0.6  # seconds from one sample to the next, as the guard takes them


@dataclass
class Machine:
    """Parts that cost so much: (for every hit, beside that for one that is not thrown away), in millicores."""

    control: Control
    parts: dict[str, tuple[float, float]]
    now: float = 100.0
    phases: list[Phase] = field(default_factory=list)
    spent: float = 0.0  # millicore seconds

    def run(self, seconds: float) -> float:
        """Gives the millicores that it cost on an average of that time."""
        began, before = self.now, self.spent
        while self.now < began + seconds:
            elapsed = QUIET if self.control.phase is Phase.FREE else BUSY
            shares = self.control.shares
            loads = {}
            for name, (fixed, rest) in self.parts.items():
                share = shares.get(name, 0.0 if self.control.phase is Phase.DETACHED else 1.0)
                loads[name] = Load(fixed + rest * share, fixed) if share else Load(0.0)
            self.now += elapsed
            self.spent += sum(load.total for load in loads.values()) * elapsed
            self.control.sample(loads, self.now, elapsed)
            if not self.phases or self.phases[-1] is not self.control.phase:
                self.phases.append(self.control.phase)
        return (self.spent - before) / (self.now - began)


_COST = st.floats(0, 5000)


@settings(max_examples=30, deadline=None)
@example(1.0, {"a": (0.0, 1.0), "b": (30.0, 1.0)})  # one that takes all, one that is tried
@given(st.floats(1, 64_000), st.dictionaries(st.sampled_from("abcdef"), st.tuples(_COST, _COST), min_size=1))
def test_whatever_it_costs_it_is_within_the_limit_soon_and_stays(
    limit: float, parts: dict[str, tuple[float, float]]
) -> None:
    """After two seconds; on an average of any time then that is longer than its trials are apart."""
    machine = Machine(Control(limit), parts)
    machine.run(2.0)
    assert machine.run(300.0) <= limit * 1.01  # what its trials cost besides
    for share in machine.control.shares.values():
        assert 0.0 <= share <= 1.0
    if sum(fixed + rest for fixed, rest in parts.values()) <= limit:
        assert machine.phases == [Phase.FREE]
        assert machine.control.least_share == 1.0


@settings(max_examples=30, deadline=None)
@given(st.floats(1, 1000), st.dictionaries(st.sampled_from("abc"), st.tuples(_COST, _COST), min_size=1))
def test_it_recovers_when_the_load_falls_and_for_good(limit: float, parts: dict[str, tuple[float, float]]) -> None:
    machine = Machine(Control(limit), parts)
    machine.run(10.0)
    machine.parts = dict.fromkeys(parts, (limit / 100, limit / 10))
    machine.run(2 * MOST_DEBT_SECONDS)
    assert machine.control.phase is Phase.FREE
    assert machine.control.least_share == 1.0
    machine.phases.clear()
    machine.run(120.0)
    assert machine.phases == [Phase.FREE]


@settings(max_examples=30, deadline=None)
@given(st.floats(RECOVERED + 0.01, 3.0), st.floats(0.0, 0.5))
def test_a_load_about_the_limit_does_not_flap(demand: float, fixed: float) -> None:
    """One that was thrown away from is not let go while it would be beyond the limit at once, or nearly."""
    machine = Machine(Control(100.0), {"a": (fixed * 100.0, 500.0)})
    machine.run(10.0)
    machine.parts = {"a": (fixed * 100.0, max(demand - fixed, 0.0) * 100.0)}
    machine.phases.clear()
    machine.run(60.0)
    if demand >= fixed:
        assert machine.phases == [Phase.THROTTLED]


def test_a_load_that_comes_and_goes_is_let_go_later_each_time() -> None:
    control = Control(100.0)
    machine = Machine(control, {"a": (0.0, 500.0)})
    waits = []
    for _ in range(4):
        machine.parts = {"a": (0.0, 500.0)}
        machine.run(3.0)
        assert control.phase is Phase.THROTTLED
        machine.parts = {"a": (0.0, 0.0)}
        began = machine.now
        while control.phase is Phase.THROTTLED:
            machine.run(BUSY)
        waits.append(machine.now - began)
    assert waits == sorted(waits)
    assert waits[-1] > 3 * waits[0]


def test_the_costly_part_alone_is_cut() -> None:
    machine = Machine(Control(100.0), {"hot": (5.0, 2000.0), "quiet": (1.0, 10.0)})
    machine.run(5.0)
    assert machine.control.shares["quiet"] == 1.0
    assert 0.01 < machine.control.shares["hot"] < 0.05


def test_most_of_the_limit_is_used() -> None:
    """What is thrown away is what must be."""
    machine = Machine(Control(100.0), {"hot": (10.0, 2000.0)})
    machine.run(5.0)
    assert TARGET * 80.0 <= machine.run(30.0) <= 100.0


def test_a_part_whose_hits_alone_cost_too_much_is_taken_off_at_once_and_tried_less_and_less() -> None:
    """10 us a trap, 100,000 hits a second."""
    machine = Machine(Control(100.0), {"malloc": (1000.0, 300.0), "quiet": (0.0, 5.0)})
    while machine.control.phase is Phase.FREE:
        machine.run(QUIET)
    assert machine.control.shares == {"malloc": 0.0, "quiet": 1.0}
    tries, on = [], False
    while machine.now < 600.0:
        machine.run(BUSY)
        share = machine.control.shares["malloc"]
        if share and not on:
            tries.append(machine.now)
        on = bool(share)
    apart = [round(after - before, 3) for before, after in itertools.pairwise(tries)]
    assert apart == sorted(apart)
    assert apart[0] >= COOL_SECONDS
    assert apart[-1] > 4 * apart[0]


def test_a_fixed_cost_that_was_not_known_takes_a_part_off_too() -> None:
    """Throwing away does not help, whatever was thought."""
    control = Control(100.0)
    now, cost = 0.0, 0.0
    for _ in range(30):
        now += BUSY
        cost = 400.0 if control.shares.get("a", 1.0) else 0.0
        control.sample({"a": Load(cost, 0.0)}, now, BUSY)
        if not cost:
            break
    assert not cost
    assert now < 3.0


def test_one_short_burst_is_let_pass_and_a_tenfold_one_is_not() -> None:
    for cost, phase in ((150.0, Phase.FREE), (1000.0, Phase.THROTTLED)):
        control = Control(100.0)
        control.sample({"a": Load(cost)}, 1.0, QUIET)
        assert control.phase is phase


def test_detach_is_for_good() -> None:
    machine = Machine(Control(100.0, detaches=True), {"a": (0.0, 500.0), "b": (0.0, 1.0)})
    machine.run(3.0)
    assert machine.control.phase is Phase.DETACHED
    assert machine.control.shares == {"a": 0.0, "b": 0.0}
    machine.parts = {"a": (0.0, 1.0), "b": (0.0, 1.0)}
    machine.run(600.0)
    assert machine.control.phase is Phase.DETACHED
    assert machine.control.exceeded == 1


def test_a_part_that_is_gone_is_forgotten() -> None:
    control = Control(100.0)
    control.sample({"a": Load(900.0)}, 1.0, QUIET)
    control.sample({"b": Load(1.0)}, 2.0, QUIET)
    assert set(control.shares) == {"b"}


@given(st.lists(st.floats(0, 1e6), max_size=8), st.floats(0.1, 1e6))
def test_the_level_uses_what_there_is(demands: list[float], target: float) -> None:
    level = _level(demands, target)
    had = sum(min(demand, level) for demand in demands)
    assert had == pytest.approx(min(sum(demands), target))
