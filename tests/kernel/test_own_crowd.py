# SPDX-License-Identifier: Apache-2.0
"""Probes on a function of processes that take each other's CPU while our programs run for them.

Programs of user probes may be preempted, where the kernel is (PREEMPT_LAZY, the only choice since Linux 7.0, or
PREEMPT_FULL). Since 6.13 a program's stack may be its CPU's and not its thread's: the next process on that CPU would write
over it.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from tests.support import own
from tests.support.generators import compiled
from tests.support.own import argument, function, returned

PROCESSES, CALLS = 6, 1500


@pytest.mark.parametrize("mode", ["Span", "Event"])
def test_nobody_writes_over_what_is_anothers(mode: str, tmp_path: Path) -> None:
    """Each call once, with its own arguments and, of spans, its own result."""
    more: dict[str, Any] = {"returns": returned()} if mode == "Span" else {"mode": mode}
    program = compiled("own_crowd")
    probe = function("crowd", program, argument(0, "Int64"), argument(1, "Int64"), **more)
    ran = own.run(tmp_path, [probe], program, str(PROCESSES), str(CALLS))
    assert ran.status == 0, ran.stderr
    balance = ran.balance
    assert (balance["seen"], balance["exported"], balance["dropped"]) == (PROCESSES * CALLS, PROCESSES * CALLS, {})
    names = ("a0", "a1", "r") if mode == "Span" else ("a0", "a1")
    found = Counter(own.values(own.by_probe(ran)["crowd"], *names))
    calls = [(who, n, who * 1_000_000 + n) for who in range(1, PROCESSES + 1) for n in range(CALLS)]
    assert found == Counter(call[: len(names)] for call in calls)
