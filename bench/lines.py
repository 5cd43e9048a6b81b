# SPDX-License-Identifier: Apache-2.0
"""The lines to hold, judged: a ratio of medians of rounds' ratios, its interval, the noise of the same run, a verdict.

A line on a ratio is judged only where the interval of "none again : none" is at most a third of the line's margin: what
tracing adds in the denominator for ratios of added times, the distance of the line from 1 for plain ratios. A run whose
same-against-same median leaves 0.95-1.05 on a workload is void for that workload.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import Enum
from typing import Any

from bench.matrix import Matrix, Workload
from bench.stats import Estimate, estimate

NOISE_LOW, NOISE_HIGH = 0.95, 1.05
NONE, AGAIN = "none", "none again"


class Verdict(Enum):
    """Of one row."""

    HELD = "held"
    NOT_HELD = "NOT HELD"
    NOT_JUDGED = "not judged"


@dataclass(frozen=True, slots=True)
class Row:
    """One figure against one line. `line` is "<= 2.5" and the like; `note` says why it is not judged, or what to add."""

    what: str
    where: str
    line: str
    measured: Estimate
    verdict: Verdict
    note: str = ""

    def as_json(self) -> dict[str, Any]:
        """For a result file."""
        return {
            "what": self.what,
            "where": self.where,
            "line": self.line,
            "measured": self.measured.as_json(),
            "verdict": self.verdict.value,
            "note": self.note,
        }


def meets(value: float, line: str) -> bool:
    """Whether a value is on the right side of "<= x", ">= x", "< x" or "= x"."""
    sign, limit = line.split()
    number = float(limit.replace(",", ""))
    return {"<=": value <= number, ">=": value >= number, "<": value < number, "=": value == number}[sign]


def counted(what: str, where: str, line: str, values: Sequence[float], note: str = "") -> Row:
    """A line on figures that need no noise floor (counts, rates of the agent's own CPU time, memory)."""
    found = estimate(values)
    return Row(what, where, line, found, Verdict.HELD if meets(found.median, line) else Verdict.NOT_HELD, note)


def unjudged(row: Row, why: str) -> Row:
    """The same row without a verdict."""
    return replace(row, verdict=Verdict.NOT_JUDGED, note=f"{why}; {row.note}".rstrip("; "))


def judged(what: str, where: str, line: str, found: Estimate, noise: Estimate, note: str = "") -> Row:
    """A ratio of whole figures against a line, where the same against the same (`noise`) allows it."""
    return _judged(what, where, line, found, noise, noise.width, abs(float(line.split()[1]) - 1), note)


def added(
    what: str, where: str, line: str, pairs: Sequence[tuple[float, float]], same: Estimate, base: float, unit: str
) -> Row | None:
    """What one adds as a multiple of what another adds: `pairs` of both by round, `base` without either, all in `unit`.

    None where the other added nothing in any round.
    """
    values = [high / low for high, low in pairs if low > 0]
    if not values:
        return None
    margin = estimate([low for _, low in pairs]).median
    note = f"{estimate([high for high, _ in pairs]).median:,.0f} {unit} : {margin:,.0f} {unit} added"
    if len(values) < len(pairs):
        note += f"; {len(pairs) - len(values)} rounds in the noise"
    return _judged(what, where, line, estimate(values), same, same.width * base, margin, note)


def _judged(
    what: str, where: str, line: str, found: Estimate, same: Estimate, noise: float, margin: float, note: str
) -> Row:
    if not NOISE_LOW <= same.median <= NOISE_HIGH:
        note = f"void: same against same {same.median:.3f}; {note}".rstrip("; ")
        return Row(what, where, line, found, Verdict.NOT_JUDGED, note)
    if noise > margin / 3:
        note = f"noise {noise / margin:.0%} of the margin; {note}".rstrip("; ")
        return Row(what, where, line, found, Verdict.NOT_JUDGED, note)
    return Row(what, where, line, found, Verdict.HELD if meets(found.median, line) else Verdict.NOT_HELD, note)


class Judge:
    """Rows of a matrix."""

    def __init__(self, matrix: Matrix) -> None:
        self._matrix = matrix
        self._by_key = {workload.key: workload for workload in matrix.workloads}

    def workload(self, worker: str, name: str) -> Workload | None:
        """That workload, if this run had it."""
        return self._by_key.get((worker, name))

    def noise(self, workload: Workload) -> Estimate:
        """none again : none."""
        return estimate(self._ratios(AGAIN, NONE, workload))

    def _ratios(self, above: str, below: str, workload: Workload) -> list[float]:
        top, bottom = self._matrix.figures(above, workload), self._matrix.figures(below, workload)
        return [top[number] / bottom[number] for number in sorted(top.keys() & bottom.keys())]

    def _base(self, workload: Workload) -> dict[int, float]:
        first, second = self._matrix.figures(NONE, workload), self._matrix.figures(AGAIN, workload)
        return {number: (first[number] + second[number]) / 2 for number in first.keys() & second.keys()}

    def base_ns(self, workload: Workload) -> float:
        """What an operation takes with nothing attached."""
        return estimate(list(self._base(workload).values())).median

    def added_ns(self, variant: str, workload: Workload) -> Estimate | None:
        """What a variant adds to an operation; None where it was not measured there."""
        base, figures = self._base(workload), self._matrix.figures(variant, workload)
        numbers = sorted(base.keys() & figures.keys())
        return estimate([figures[number] - base[number] for number in numbers]) if numbers else None

    def ratio(self, variant: str, workload: Workload) -> Estimate | None:
        """A variant's time as a multiple of the same with nothing attached."""
        base, figures = self._base(workload), self._matrix.figures(variant, workload)
        numbers = sorted(base.keys() & figures.keys())
        return estimate([figures[number] / base[number] for number in numbers]) if numbers else None

    def added_ratio(self, what: str, above: str, below: str, workload: Workload, line: str) -> Row | None:
        """What `above` adds as a multiple of what `below` adds."""
        base = self._base(workload)
        top, bottom = self._matrix.figures(above, workload), self._matrix.figures(below, workload)
        numbers = sorted(base.keys() & top.keys() & bottom.keys())
        pairs = [(top[number] - base[number], bottom[number] - base[number]) for number in numbers]
        where, each = f"{workload.worker}, {workload.name}", estimate(list(base.values())).median if base else 0.0
        return added(what, where, line, pairs, self.noise(workload), each, "ns")

    def plain_ratio(self, what: str, above: str, below: str, workload: Workload, line: str) -> Row | None:
        """`above` : `below`, whole times."""
        values = self._ratios(above, below, workload)
        if not values:
            return None
        where = f"{workload.worker}, {workload.name}"
        return judged(what, where, line, estimate(values), self.noise(workload))
