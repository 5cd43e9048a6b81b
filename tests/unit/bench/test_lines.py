# SPDX-License-Identifier: Apache-2.0
"""Verdicts of the benchmark: what is judged, what is not, and what a plot shows; no time is measured here."""

from __future__ import annotations

from xml.etree import ElementTree as ET

import pytest

from bench.lines import Judge, Verdict, counted, meets, unjudged
from bench.matrix import Cell, Matrix, Workload
from bench.stats import Estimate, estimate
from bench.svg import Bar, bars, series
from bench.variants import MICRO

WRITE = Workload("C", "write1", 10, MICRO)


def matrix(**figures: list[float]) -> Matrix:
    """A matrix of one workload: variant (spaces as underscores) to its rounds."""
    made = Matrix([], [WRITE], 3)
    for variant, values in figures.items():
        made.cells[variant.replace("_", " ")][WRITE.key] = Cell({}, dict(enumerate(values)))
    return made


def test_an_estimate_holds_its_median_and_is_the_same_every_time() -> None:
    """The bootstrap has a fixed seed, so that a result can be computed again."""
    values = [1.0, 2.0, 3.0, 10.0, 2.5]
    found = estimate(values)
    assert found == estimate(values)
    assert found.low <= found.median == 2.5 <= found.high


def test_nothing_measured_is_an_error_and_no_figure() -> None:
    """A row without rounds must not look like a row with a result."""
    with pytest.raises(ValueError, match="nothing was measured"):
        estimate([])


@pytest.mark.parametrize(
    ("value", "line", "verdict"),
    [(2.5, "<= 2.5", True), (2.6, "<= 2.5", False), (5, ">= 5", True), (50_000, ">= 50,000", True), (80, "< 80", False), (0, "= 0", True)],
)  # fmt: skip
def test_which_side_of_a_line_a_value_is_on(value: float, line: str, verdict: bool) -> None:
    assert meets(value, line) is verdict


def test_added_time_is_compared_and_not_whole_time() -> None:
    """100 -> 300 against 100 -> 1100: five times as much is added, whatever the whole times are."""
    judge = Judge(matrix(none=[100, 100, 100], none_again=[100, 100, 100], ours=[300] * 3, user_probes=[1100] * 3))
    row = judge.added_ratio("equal data", "user probes", "ours", WRITE, ">= 5")
    assert row is not None
    assert row.measured.median == pytest.approx(5)
    assert row.verdict is Verdict.HELD


def test_a_row_below_its_line_is_not_held() -> None:
    """The check must be able to fail."""
    judge = Judge(matrix(none=[100] * 3, none_again=[100] * 3, ours=[300] * 3, user_probes=[500] * 3))
    row = judge.added_ratio("equal data", "user probes", "ours", WRITE, ">= 5")
    assert row is not None
    assert row.verdict is Verdict.NOT_HELD


def test_noise_of_more_than_a_third_of_the_margin_is_not_judged() -> None:
    """Same against same moves by 4 %: that is nothing against 200 % added and too much against a line of 1.02."""
    noisy = matrix(none=[100, 100, 100], none_again=[98, 100, 102], ours=[300] * 3, empty=[200] * 3)
    judge = Judge(noisy)
    plain = judge.plain_ratio("neighbour", "ours", "none", WRITE, "<= 1.02")
    added = judge.added_ratio("added", "ours", "empty", WRITE, "<= 2.5")
    assert plain is not None
    assert added is not None
    assert (plain.verdict, added.verdict) == (Verdict.NOT_JUDGED, Verdict.HELD)


def test_a_workload_whose_noise_is_off_centre_is_void() -> None:
    """Same against same at 1.1: something else ran."""
    judge = Judge(matrix(none=[100] * 3, none_again=[110] * 3, ours=[300] * 3, empty=[200] * 3))
    row = judge.added_ratio("added", "ours", "empty", WRITE, "<= 2.5")
    assert row is not None
    assert row.verdict is Verdict.NOT_JUDGED
    assert "void" in row.note


def test_a_variant_that_was_not_measured_gives_no_row() -> None:
    """No row rather than an invented one."""
    judge = Judge(matrix(none=[100] * 3, none_again=[100] * 3))
    assert judge.added_ratio("added", "ours", "empty", WRITE, "<= 2.5") is None
    assert judge.plain_ratio("plain", "ours", "none", WRITE, "<= 5") is None


def test_an_unjudged_row_says_why() -> None:
    row = unjudged(counted("loss", "here", "= 0", [0], "seen 5"), "the rate was not reached")
    assert (row.verdict, row.note) == (Verdict.NOT_JUDGED, "the rate was not reached; seen 5")


def test_plots_are_well_formed_whatever_the_labels() -> None:
    """Labels come from variants' names and must not break the file."""
    text = bars(
        "a < b & c",
        "x",
        [Bar('"<ours>"', Estimate(1200, 1000, 1500, 3), True), Bar("none", Estimate(-3, -5, 1, 3))],
        "ns",
    )
    root = ET.fromstring(text)
    assert '"<ours>"' in "".join(root.itertext())
    assert "none" not in "".join(root.itertext())
    ET.fromstring(series("m", "s", [0, 1, 2], [10, 20, 15], 80))
    ET.fromstring(series("m", "s", [], [], 80))
    ET.fromstring(bars("empty", "", [], "ns"))
