# SPDX-License-Identifier: Apache-2.0
"""A class's number is given away only when nothing that bears it is on the way, whenever the ring is drained."""

from __future__ import annotations

from collections import Counter as Sums
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest

from kernelspan_agent import classes
from kernelspan_agent.classes import Classes
from kernelspan_agent.errors import BudgetError
from kernelspan_agent.probes.constants import MAX_CLASSES, Counter
from kernelspan_api.plan import Wanted

SENT = 17
NOTHING = Wanted("none", frozenset(), {}, (), (), (), 64, 10_000, 10_000, 20_000)


class Intake:
    """Drains the ring before the call of this number."""

    def __init__(self, drains_at: int) -> None:
        self.calls, self.drains_at = 0, drains_at

    def counts(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        drained = np.full(MAX_CLASSES, SENT if self.calls >= self.drains_at else 0)
        self.calls += 1
        return drained, drained, np.zeros(MAX_CLASSES, int)


@pytest.mark.parametrize("drains_at", range(6))
def test_a_number_that_operations_bear_is_kept(drains_at: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """They are in the ring, or wait for the stages, wherever between two looks that changes."""
    monkeypatch.setattr(classes, "MAX_CLASSES", 2)
    session = SimpleNamespace(
        own=SimpleNamespace(cut_off=[0] * MAX_CLASSES),
        counts=lambda _: Sums({Counter.SEEN: SENT, Counter.SENT: SENT}),
        set_class=lambda *_, **__: None,
        procs=SimpleNamespace(classes=set[int]),
        forget_verdicts=lambda: None,
    )
    intake = Intake(1 << 30)
    made = Classes(cast("Any", session), cast("Any", intake), cast("Any", SimpleNamespace(dropped={})))
    made.make(frozenset({"one"}), [NOTHING])
    made.retire("one")
    intake.calls, intake.drains_at = 0, drains_at
    with pytest.raises(BudgetError):
        made.make(frozenset({"two"}), [NOTHING])
