# SPDX-License-Identifier: Apache-2.0
"""What begins slowly is found all the same, and soon; what has nothing to be found is left alone."""

from __future__ import annotations

import pytest

from kernelspan_agent.resolve.looks import RETRY_NS, pause_ns

SECOND_NS = 1_000_000_000


@pytest.mark.parametrize("begun_ns", [SECOND_NS // 1000, SECOND_NS // 2, 2 * SECOND_NS, 7 * SECOND_NS, 60 * SECOND_NS])
def test_a_runtime_that_takes_its_time(begun_ns: int) -> None:
    """Whenever it is there, it is found within an eighth of that time; on the way there are few looks."""
    now_ns = tries = 0
    while now_ns < begun_ns:
        pause = pause_ns(tries, now_ns, waits=True)
        assert pause is not None
        now_ns += pause
        tries += 1
    assert now_ns - begun_ns <= max(SECOND_NS // 5, min(begun_ns // 8, RETRY_NS[-1]))
    assert tries < 60


def test_what_waits_for_nothing() -> None:
    """Is looked at as often as there are pauses."""
    pauses = [pause_ns(tries, 0, waits=False) for tries in range(20)]
    assert pauses == [*RETRY_NS, *[None] * (20 - len(RETRY_NS))]
