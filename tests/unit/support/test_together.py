# SPDX-License-Identifier: Apache-2.0
"""Which operations may say that their process's runtime is not known yet."""

from __future__ import annotations

import pytest

from kernelspan_api import semconv
from tests.support.otlp_json import ReceivedSpan
from tests.support.together import PENDING
from tests.support.truth import Said, assert_true, judge

Shown = tuple[int, int, bool]  # start, end, whether it is pending


def span(start_ns: int, end_ns: int, *, pending: bool) -> ReceivedSpan:
    code = {semconv.CODE_MISSING: PENDING} if pending else {semconv.CODE_STACKTRACE: "f (/f.py:1)"}
    return ReceivedSpan("", "", "", "file.read", "INTERNAL", start_ns, end_ns, "UNSET", "", code, (), ())


def said_of(*processes: list[Shown]) -> tuple[list[Said], dict[str, list[ReceivedSpan]]]:
    spans = {
        f"{process}/{number}": [span(start, end, pending=pending)]
        for process, shown in enumerate(processes)
        for number, (start, end, pending) in enumerate(shown)
    }
    return [Said(key, "", (("", "f", "/f.py", 1),), 1, {"/f.py": False}) for key in spans], spans


@pytest.mark.parametrize(
    "processes",
    [
        [[(0, 1, True), (2, 3, True), (4, 5, False), (6, 7, False)]],
        [[(0, 1, False), (2, 3, False)], [(4, 5, True), (6, 7, False)]],  # another process, or image of one
        [[(0, 5, False), (1, 6, True)]],  # of two threads at once: no telling
    ],
)
def test_before_it_is_known(processes: list[list[Shown]]) -> None:
    """The first ones of a process, while others follow that have frames."""
    assert_true(judge(*said_of(*processes)), 1)


@pytest.mark.parametrize(
    "processes",
    [
        [[(0, 1, False), (2, 3, True), (4, 5, False), (6, 7, False)]],
        [[(0, 1, True), (2, 3, False), (3, 4, True), (6, 7, False)]],
        [[(0, 1, True), (2, 3, True), (4, 5, True), (6, 7, True)]],
        [[(0, 1, True), (2, 3, True)], [(0, 1, True), (2, 3, False)]],
    ],
)
def test_afterwards_or_always(processes: list[list[Shown]]) -> None:
    """None after one whose runtime was known, and not most of them."""
    verdict = judge(*said_of(*processes))
    assert not verdict.wrong
    with pytest.raises(AssertionError, match=PENDING):
        assert_true(verdict, 1)
