# SPDX-License-Identifier: Apache-2.0
"""What spans say of Java code is what the JVM itself says of the very call: function, file and line, of every frame.

Interpreted, compiled by either compiler, inlined, made invalid while on a stack; all collectors. Nothing may be wrong.
"""

from __future__ import annotations

import pytest

from tests.support import java_runs
from tests.support.java_runs import Outcome, needed, wanted_javas
from tests.support.truth import judge

pytestmark = pytest.mark.root
WAYS = {"interpreted": ["-Xint"], "simple": ["-XX:TieredStopAtLevel=1"], "usual": []}


def assert_all_right(outcome: Outcome, at_least: int) -> None:
    """Nothing is wrong, next to nothing missing, and enough was said for that to mean something."""
    verdict = judge(outcome.said, outcome.spans, allow_outer_missing=True)
    assert verdict.said >= at_least, (verdict, outcome.frames)
    assert not verdict.wrong, (verdict, outcome.frames)
    assert verdict.missed <= verdict.said / 200, (verdict, outcome.frames)
    assert verdict.truncated <= verdict.said / 200, (verdict, outcome.frames)
    assert outcome.accounting["unaccounted"] == 0
    assert not outcome.accounting["dropped"]


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("label", wanted_javas())
def test_every_frame_is_true(label: str, way: str) -> None:
    """Lambdas, reflection, method handles, constructors, static initialisers, inlined loops, threads one after another."""
    outcome = java_runs.traced(needed(label), "Kinds", "100", "100", options=WAYS[way])
    assert_all_right(outcome, 4000)
