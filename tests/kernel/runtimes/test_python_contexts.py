# SPDX-License-Identifier: Apache-2.0
"""Every operation belongs to its own thread, task or greenlet: no activity holds operations of two.

The targets are traced while they run, so each context is a trace of its own. A context may be split into several where
nothing tells that they are one; how many is reported.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from typing import Any

import pytest

from tests.support import venvs
from tests.support.pythons import Interpreter
from tests.support.require import require
from tests.support.together import contexts
from tests.support.truth import (
    TARGETS,
    Launch,
    Outcome,
    assert_true,
    judge,
    needed,
    traced,
    traced_together,
    wanted_pythons,
)

pytestmark = pytest.mark.root
SERIAL = "3400" if os.environ.get("KERNELSPAN_MATRIX") else "1000"  # in each of three threads' loops
WIDE = "100"
Record = Callable[[str, object], None]


@pytest.fixture(scope="module")
def venv() -> Interpreter:
    """An interpreter with the loops of others."""
    try:
        folder = venvs.library_venv(TARGETS.with_name("loops_venv.txt"))
    except subprocess.CalledProcessError as error:
        require("kernel", False, f"the virtual environment cannot be made: {str(error.stderr)[-300:]}")
        raise
    return Interpreter("venv", 11, str(folder / "bin" / "python"))


def assert_apart(outcome: Outcome, at_least: int, record: Record) -> dict[str, int]:
    """All is true and nothing mixed; gives how many traces each context was split into."""
    verdict = judge(outcome.said, outcome.spans)
    assert_true(verdict, at_least, outcome)
    mixed, split, nowhere = contexts(outcome.said, outcome.spans)
    assert not mixed, f"{outcome.launch.label}: {len(mixed)} mixed: {mixed[:5]}"
    assert nowhere <= verdict.missed
    record(f"{outcome.launch.label}: contexts, their traces, the most of one", _summary(split))
    return split


def _summary(split: dict[str, int]) -> Any:
    return len(split), sum(split.values()), max(split.values())


def test_asyncio_tasks(record_property: Record) -> None:
    """Tasks one after another and side by side, named or not, nested, cancelled, in groups, in three threads' loops."""
    launches = [Launch(needed(label), "tasks", (SERIAL, WIDE)) for label in wanted_pythons()]
    for outcome in traced(launches):
        split = assert_apart(outcome, 8000, record_property)
        assert sum("serial" in name for name in split) == 3 * int(SERIAL)
        numbered = [count for name, count in split.items() if "serial" in name or "/shielded" in name]
        assert max(numbered) == 1  # what asyncio numbers is one context from its beginning to its end
        threads = [count for name, count in split.items() if name.endswith(" thread")]
        assert threads == [1, 1, 1]  # generators outside of tasks are the thread's


def test_greenlets(venv: Interpreter, record_property: Record) -> None:
    """gevent's and bare greenlets, one after another and side by side, in three threads' hubs."""
    (outcome,) = traced_together([Launch(venv, "greenlets", (SERIAL, WIDE))], greenlets=True)
    split = assert_apart(outcome, 5000, record_property)
    assert sum("serial" in name for name in split) > 3 * int(SERIAL)


def test_greenlets_at_once(venv: Interpreter, record_property: Record) -> None:
    """A program that is traced already loads their library, and begins with the first in the same moment."""
    (outcome,) = traced_together([Launch(venv, "greenlets", ("100", WIDE, "late"))])
    assert_apart(outcome, 1000, record_property)


@pytest.mark.parametrize(
    ("target", "arguments"), [("groups", ("200", WIDE)), ("tasks", ("200", WIDE, "uvloop"))], ids=["groups", "uvloop"]
)
def test_other_loops(target: str, arguments: tuple[str, ...], venv: Interpreter, record_property: Record) -> None:
    """trio, anyio on trio and on asyncio, uvloop."""
    (outcome,) = traced_together([Launch(venv, target, arguments)])
    assert_apart(outcome, 1000, record_property)
