# SPDX-License-Identifier: Apache-2.0
"""How long a pod ran unobserved: from what it is counted, and that it is said once."""

from __future__ import annotations

import pytest

from kernelspan_agent.node import unobserved as unobserved_module
from kernelspan_agent.node.unobserved import Unobserved
from kernelspan_api.control.control_pb2 import MatchSet, NodePlan, PodPlan, ProfilePlan

SECOND = 10**9


class Case:
    """One agent's measure, and a clock that is set; what it says is in milliseconds."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now, self.measure, self.lines = 0.0, Unobserved(), list[str]()
        # Not caplog: whether records reach it is decided by whoever has set up the command's log before.
        monkeypatch.setattr(unobserved_module._log, "info", lambda text, *parts: self.lines.append(text % parts))
        monkeypatch.setattr(unobserved_module.time, "clock_gettime_ns", lambda _clock: int(self.now * SECOND))

    def plan(self, at: float, *pods: str, profiles: tuple[tuple[str, int], ...] = (("p", 1),)) -> None:
        """A plan with these pods, each selected by each of the profiles (uid, generation)."""
        self.now = at
        matches = [MatchSet(profile_uid=uid, all_containers=True) for uid, _ in profiles]
        self.measure.planned(
            NodePlan(
                profiles=[ProfilePlan(uid=uid, generation=generation) for uid, generation in profiles if pods],
                pods=[PodPlan(uid=uid, namespace="n", name=uid, matches=matches) for uid in pods],
            )
        )

    def traced(self, pod: str, began: float, at: float) -> None:
        """A process of the pod that began then is traced from then on."""
        self.measure.began(PodPlan(uid=pod, namespace="n", name=pod), int(began * SECOND), int(at * SECOND))

    def said(self) -> list[tuple[str, int]]:
        """Pods with their milliseconds."""
        lines = [one.split() for one in self.lines]
        return [(words[1].removeprefix("pod=n/"), int(words[2].partition("=")[2])) for words in lines]


@pytest.fixture
def case(monkeypatch: pytest.MonkeyPatch) -> Case:
    """Nothing is planned yet."""
    return Case(monkeypatch)


def test_a_pod_that_is_known_before_it_runs(case: Case) -> None:
    """From the start of its program; of a pod once, whatever else it starts."""
    case.plan(10, "a")
    case.traced("a", 12, 12.004)
    case.traced("a", 13, 14)
    assert case.said() == [("a", 4)]


def test_a_pod_that_ran_before_anybody_asked(case: Case) -> None:
    """From when it was asked for: what was before is not missing."""
    case.plan(100, "a")
    case.traced("a", 12, 100.05)
    assert case.said() == [("a", 50)]


def test_a_pod_whose_plan_comes_late(case: Case) -> None:
    """Its profile was in effect here: the operator was slow or away, and what was missed for that is said."""
    case.plan(10, "a")
    case.plan(700, "a", "b")
    case.traced("b", 100, 700.05)
    assert case.said() == [("b", 600_050)]


def test_a_profile_is_in_effect_also_while_it_has_no_pod_here(case: Case) -> None:
    """Its last pod here goes, and one comes later."""
    case.plan(10, "a")
    case.plan(20)
    case.plan(32, "b")
    case.traced("b", 30, 32.01)
    assert case.said() == [("b", 2_010)]


def test_another_spec_is_another_wish(case: Case) -> None:
    """A profile that is changed may select whom it did not select before."""
    case.plan(10, "a")
    case.plan(20, "a", "b", profiles=(("p", 2),))
    case.traced("b", 1, 20.03)
    assert case.said() == [("b", 30)]


def test_the_profile_that_asked_first_counts(case: Case) -> None:
    """Of several that select a pod."""
    case.plan(10, "a")
    case.plan(20, "b", profiles=(("q", 1), ("p", 1)))
    case.traced("b", 15, 20.5)
    assert case.said() == [("b", 5_500)]


def test_what_is_remembered_is_bounded(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    """The oldest go first."""
    monkeypatch.setattr(unobserved_module, "MAX_PROFILES", 10)
    for number in range(100):
        case.plan(number, "a", profiles=((f"p{number}", 1),))
    assert list(case.measure._asked) == [(f"p{number}", 1) for number in range(90, 100)]


def test_the_histogram_has_all_of_them(case: Case) -> None:
    """Cumulative, with the sum."""
    case.plan(0, "a", "b", "c")
    for pod, seconds in (("a", 0.004), ("b", 0.15), ("c", 20.0)):
        case.traced(pod, 1, 1 + seconds)
    buckets, total = case.measure.histogram()
    counted = dict(buckets)
    assert (counted["0.01"], counted["0.1"], counted["0.2"], counted["10.0"], counted["+Inf"]) == (1, 1, 2, 2, 3)
    assert total == pytest.approx(20.154)
