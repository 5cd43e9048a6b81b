# SPDX-License-Identifier: Apache-2.0
"""Own probes against bpftrace: what is asked of both, and what is not judged; nothing is measured here."""

from __future__ import annotations

from typing import Any

import pytest

from bench.lines import Verdict
from bench.matrix import Cell, Matrix, Workload
from bench.own import BURSTS, COUNT, KINDS, counted, difference, rows, variants
from bench.profiles import own_probe
from kernelspan_api.profile import validate


def report(seen: int = COUNT * BURSTS, **dropped: int) -> dict[str, Any]:
    """What an agent, or bpftrace, says of a round."""
    return {"operations": {"seen": seen, "dropped": dropped}}


def measured(ours: float, bpftrace: float) -> Matrix:
    """Three rounds of every kind at 100 ns, with so much added."""
    todo = [Workload("C", kind.workload, COUNT, kind.name, BURSTS) for kind in KINDS]
    made = Matrix([], todo, 3)
    for kind, workload in zip(KINDS, todo, strict=True):
        figures = {"none": 100.0, "none again": 100.0}
        figures |= {f"ours, {kind.name}": 100 + ours, f"bpftrace, {kind.name}": 100 + bpftrace}
        for name, value in figures.items():
            made.cells[name][workload.key] = Cell({}, dict.fromkeys(range(3), value))
        made.reports[f"ours, {kind.name}"] = [report()] * 3
        made.reports[f"bpftrace, {kind.name}"] = [report()] * 3
    return made


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_every_probe_is_one_that_a_profile_can_have(kind: Any) -> None:
    """As a user would write it, by the rules of `check`."""
    ours = next(each for each in variants("/work") if each.name == f"ours, {kind.name}")
    assert ours.covers == (kind.name,)
    user = ("uprobe", "usdt")
    probe = {key: {**value, "path": "/work"} if key in user else value for key, value in kind.probe.items()}
    assert validate(own_probe(probe), standalone=True).spec.probes


def test_less_is_held_and_more_is_not() -> None:
    """A row for each kind, on added time: 300 against 400 holds, though the whole times would as well at 400 against 300.

    Where bpftrace's probe is another one there is no verdict.
    """
    for figures, verdict in ((measured(300, 400), Verdict.HELD), (measured(400, 300), Verdict.NOT_HELD)):
        assert [row.verdict for row in rows(figures)] == [
            Verdict.NOT_JUDGED if kind.other else verdict for kind in KINDS
        ]
    assert [row.measured.median for row in rows(measured(300, 400))] == [0.75] * len(KINDS)


def test_other_data_is_not_judged() -> None:
    """One that lost an event, or saw others, has done less."""
    found = measured(300, 400)
    found.reports["bpftrace, uprobe"] = [report(COUNT * BURSTS - 1)] * 3
    found.reports["ours, usdt"] = [report(RingFull=2), report()]
    found.reports["ours, tracepoint"] = [report(COUNT * BURSTS + 5)] * 3
    wrong = {row.what.split(", ")[1] for row in rows(found) if row.verdict is Verdict.NOT_JUDGED}
    assert wrong == {"uprobe", "usdt", "tracepoint", "uprobe against uretprobe"}


def test_what_both_saw_besides_is_no_difference() -> None:
    """The worker's own answers are writes too."""
    both = [report(COUNT * BURSTS + BURSTS)]
    assert difference(both, both, COUNT * BURSTS) == ""


def test_what_bpftrace_says_is_counted() -> None:
    """Lines of events, and the events that it says it lost."""
    assert counted("attached\n1 2 3\n4 5 6 a text\n@call: 1\n", "Attaching 2 probes...\n") == report(2)
    assert counted("1 2\n", "Lost 17 events\nLost 3 events\n") == report(1, Lost=20)
