# SPDX-License-Identifier: Apache-2.0
"""Whether what spans say of Ruby's frames is what Ruby says itself: every version that can be had, every kind of frame."""

from __future__ import annotations

from unittest import mock

import pytest

from kernelspan_agent.runtimes.ruby.symbolise import RubySymboliser
from tests.support import rubies
from tests.support.ruby_runs import Outcome, Verdict, judge, needed, traced, wanted_rubies

pytestmark = pytest.mark.root
ROUNDS, DROPS = 3, 24
READ_ONLY = RubySymboliser._read_only
# Blocks that are the bodies of methods of another class than the one that they are written in.
NO_CLASS = {"block in made", "block (2 levels) in class_in_method", "block in one"}


def assert_true(verdict: Verdict, at_least: int, outcome: Outcome) -> None:
    """Nothing is wrong, next to nothing is missing, and enough was said for that to mean something."""
    where = (outcome.descriptions, outcome.accounting)
    assert verdict.said >= at_least, (str(verdict), where)
    assert not verdict.wrong, (str(verdict), where)
    assert verdict.missed <= verdict.said / 1000, (str(verdict), where)
    assert "None" not in verdict.missing, str(verdict)  # a reason for each
    assert set(verdict.bare) <= NO_CLASS, str(verdict)
    assert verdict.right > at_least * 0.99, str(verdict)


def pairs(labels: list[str]) -> list[tuple[str, ...]]:
    """Two versions side by side: there are two CPUs."""
    return [tuple(labels[at : at + 2]) for at in range(0, len(labels), 2)]


@pytest.mark.parametrize("labels", pairs(wanted_rubies()), ids=" ".join)
def test_every_kind_of_frame(labels: tuple[str, ...]) -> None:
    """Methods of every kind, blocks, C functions, eval, exceptions, threads, fibers: the function, its class, file, line."""
    for outcome in traced([(needed(label), ("kinds", str(ROUNDS))) for label in labels]):
        verdict = judge(outcome.said, outcome.spans, outcome.label)
        assert_true(verdict, 330 * ROUNDS, outcome)
        assert verdict.truncated == 1  # the deepest of all


@pytest.mark.parametrize("labels", pairs(wanted_rubies()), ids=" ".join)
def test_what_is_dropped_is_never_taken_for_what_follows(labels: tuple[str, ...]) -> None:
    """Methods, blocks, classes and code of eval that are made and dropped in a loop, while memory is collected and moved."""
    for outcome in traced([(needed(label), ("dropped", str(DROPS))) for label in labels]):
        verdict = judge(outcome.said, outcome.spans, outcome.label)
        assert_true(verdict, 50 * DROPS, outcome)
        assert verdict.truncated == 0


def test_with_the_compiler_of_3_1() -> None:
    """YJIT, which compiles a method at its second call: frames and lines are the same."""
    ruby = needed("bookworm-3.1")
    options = ("--yjit", "--yjit-call-threshold=2")
    for outcome in traced([(ruby, ("kinds", str(ROUNDS))), (ruby, ("dropped", "10"))], options=options):
        assert all("+YJIT" in each for each in outcome.descriptions)
        assert_true(judge(outcome.said, outcome.spans, outcome.label), 500, outcome)


@pytest.mark.parametrize("labels", pairs(rubies.labels()), ids=" ".join)
def test_forked_workers(labels: tuple[str, ...]) -> None:
    """Names that lie in pages which a child has not touched: they are read, and are those that they were."""
    read: list[bytes] = []

    def noted(self: RubySymboliser, address: int, size: int) -> bytes:
        read.append(READ_ONLY(self, address, size))
        return read[-1]

    with mock.patch.object(RubySymboliser, "_read_only", noted):
        outcomes = traced([(needed(label), ("forks", "4")) for label in labels])
    assert read  # else this shows nothing
    for outcome in outcomes:
        assert len({key.partition("/")[0] for key, _, _ in outcome.said}) == 5
        assert_true(judge(outcome.said, outcome.spans, outcome.label), 200, outcome)


@pytest.mark.parametrize("label", [each for each in wanted_rubies() if "2.7" not in each])
def test_ractors(label: str) -> None:
    """Several at once, each with threads of its own, which since 3.3 are not one native thread's for good."""
    (outcome,) = traced([(needed(label), ("ractors", "4"))])
    assert_true(judge(outcome.said, outcome.spans, outcome.label), 900, outcome)
