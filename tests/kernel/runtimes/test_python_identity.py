# SPDX-License-Identifier: Apache-2.0
"""No frame is ever named by what had its address before: code, name spaces, modules and threads that come and go."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence

import pytest

from tests.support.pythons import is_static
from tests.support.truth import Launch, Outcome, assert_true, judge, needed, traced, wanted_pythons

pytestmark = pytest.mark.root
ROUNDS = "300" if os.environ.get("KERNELSPAN_MATRIX") else "60"
WITH_CTYPES = [label for label in wanted_pythons() if not is_static(label)]


def outcomes(target: str, *arguments: str, labels: Sequence[str] = wanted_pythons()) -> Iterator[Outcome]:
    yield from traced([Launch(needed(label), target, arguments) for label in labels])


def test_code_that_is_made_and_dropped() -> None:
    """Lambdas, functions, generated and reloaded modules of one address and other names, lines, files and name spaces."""
    for outcome in outcomes("remade", ROUNDS):
        verdict = judge(outcome.said, outcome.spans, label=outcome.launch.python.label)
        assert_true(verdict, 3000, outcome)
        # What has no name as its first entry, in four of the lines of targets/remade.py, has a function without module.
        assert verdict.no_module < verdict.said / 5, verdict


@pytest.mark.parametrize("reads", ["Auto", "Helpers"])
def test_memory_that_moves(reads: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pages that are copied, gathered, given back and taken again under the reader: by plain loads, and by the helpers."""
    monkeypatch.setenv("KERNELSPAN_READS", reads)
    for outcome in outcomes("moved", ROUNDS, labels=WITH_CTYPES):
        assert_true(judge(outcome.said, outcome.spans, label=outcome.launch.python.label), 1200, outcome)


def test_threads_that_python_did_not_make() -> None:
    """Each call-back from a thread of C's has a thread state of its own, often where the one before was."""
    for outcome in outcomes("foreign", "60", labels=WITH_CTYPES):
        assert_true(judge(outcome.said, outcome.spans, label=outcome.launch.python.label), 1000, outcome)


def test_sub_interpreters() -> None:
    """A thread in a sub-interpreter has the right frames or an honest reason, and the right ones after that again."""
    for outcome in outcomes("interpreters"):
        mains = [each for each in outcome.said if each.context == "main"]
        verdict = judge(outcome.said, outcome.spans, label=outcome.launch.python.label)
        assert verdict.said > len(mains) > 20, verdict
        assert not verdict.wrong, verdict
        assert set(verdict.missing) <= {"AmbiguousInterpreter"}, verdict
        assert_true(judge(mains, outcome.spans), 20)
