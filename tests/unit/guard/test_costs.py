# SPDX-License-Identifier: Apache-2.0
"""Whose cost it is: nothing is lost, nobody pays for what others did."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kernelspan_agent.guard.control import Load
from kernelspan_agent.guard.costs import Counted, Groups, among

_COUNT = st.integers(0, 100_000)
_CLASSES = st.dictionaries(
    st.integers(1, 255), st.tuples(_COUNT, _COUNT).map(lambda pair: Counted(sum(pair), pair[1])), max_size=6
)


@given(_CLASSES, st.integers(0, 10**9), st.integers(0, 10**7), st.floats(10, 500))
def test_all_of_it_is_somebodys_or_nobodys(classes: dict[int, Counted], run_ns: int, others: int, idle: float) -> None:
    runs = others + 2 * sum(each.seen for each in classes.values())
    split, nobodys = Groups(idle).split(run_ns, runs, classes)
    assert sum(load.total for load in split.values()) + nobodys == pytest.approx(run_ns, abs=1.0)
    for load in split.values():
        assert -1e-6 <= load.fixed <= load.total * (1 + 1e-9) + 1e-6


def test_a_profile_does_not_pay_for_calls_of_others() -> None:
    """A million calls a second of processes that nobody wants, ten of one that somebody does."""
    groups = Groups()
    groups.split(45 * 1_000_000, 1_000_000, {})  # how long a run takes that finds nothing
    split, nobodys = groups.split(45 * 2_000_000 + 10 * 800, 2_000_020, {1: Counted(10, 0)})
    assert split[1].total < 20 * 1000
    assert nobodys > 0.99 * 45 * 2_000_000


def test_who_is_thrown_away_from_pays_for_that_and_not_for_the_others() -> None:
    """As measured: 44 ns for nothing, 193 for what is thrown away, 400 for an operation."""
    groups = Groups(44.0)
    classes = {1: Counted(500_000, 490_000), 2: Counted(20_000, 0)}
    whole = 490_000 * 193 + 30_000 * 400
    split, _ = groups.split(whole, 2 * 520_000, classes)
    assert split[2].total == pytest.approx(20_000 * 400, rel=0.1)
    assert split[1].fixed == pytest.approx(500_000 * 193, rel=0.1)


@given(
    st.floats(0, 1e6),
    st.floats(0, 1e6),
    st.dictionaries(st.sampled_from("abcde"), st.sampled_from([0.0, 0.001, 0.1, 0.5, 1.0]), max_size=5),
)
def test_profiles_share_what_they_let_through(fixed: float, rest: float, shares: dict[str, float]) -> None:
    split = among(Load(fixed + rest, fixed), shares)
    assert set(split) == {name for name, share in shares.items() if share}
    if split:
        assert sum(load.total for load in split.values()) == pytest.approx(fixed + rest)
    for one, load in split.items():
        for other, more in split.items():
            assert shares[one] > shares[other] or load.total <= more.total * (1 + 1e-9) + 1e-9


def test_who_has_less_let_through_costs_less_although_another_has_it_all() -> None:
    split = among(Load(1000.0, 0.0), {"little": 0.1, "all": 1.0})
    assert split["little"].total == pytest.approx(50.0)
    assert split["all"].total == pytest.approx(950.0)
