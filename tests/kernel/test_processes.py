# SPDX-License-Identifier: Apache-2.0
"""Operations on processes: what programs say they and their children did is exactly what the spans say."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from kernelspan_agent.probes.source import syscalls
from kernelspan_api.operations import Group
from tests.support import runs
from tests.support.generators import compiled
from tests.support.runs import PROGRAMS, SYSTEM_PYTHON, Scenario

NAMES = ["execs", "exec_by_thread", "forks", "vforks", "of_32_bits", "in_a_pid_namespace", "exits", "signals", "identities", "traces",
         "mounts", "modules"]  # fmt: skip

NO_LIBRARY = ("-nostdlib", "-static")


def _run(folder: Path, *names: str, **spec: object) -> dict[str, Scenario]:
    (folder / "at").mkdir()
    profile = runs.profile(folder, **spec)
    small = compiled("small32", "-m32", *NO_LIBRARY)
    environment = {
        **os.environ,
        "VFORK": str(compiled("vfork")),
        "OLD_CALLS": str(compiled("old_calls", *NO_LIBRARY)),
        "SMALL32": str(small),
    }
    command = (SYSTEM_PYTHON, "-S", PROGRAMS / "processes.py", folder / "at", *names)
    done = runs.run(folder, profile, *command, env=environment)
    assert done.balance["dropped"] == {}, done.report
    assert done.balance["inFlight"] == 0, done.report
    return runs.scenarios(done)


@pytest.fixture(scope="module")
def traced(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Scenario]:
    """Every scenario, in one run."""
    return _run(tmp_path_factory.mktemp("processes"), processes={})


@pytest.mark.parametrize("name", NAMES)
def test_scenario(traced: dict[str, Scenario], name: str) -> None:
    """As many spans as operations of the process and of each child, each with its path, argument, result and error."""
    found = traced[name]
    assert found.seen == found.said
    assert [each.seen for each in found.others] == [each.said for each in found.others]


def test_every_call(traced: dict[str, Scenario]) -> None:
    """No system call of the group is left untried, no scenario untested."""
    tried = {call for found in traced.values() for call in found.more.get("calls", [])}
    assert {call.name for call in syscalls(Group.PROCESSES)} == tried
    assert set(traced) == set(NAMES)


def test_32_bit_calls_under_every_group(tmp_path: Path) -> None:
    """No 32-bit call is taken for another of any group."""
    waits = {"operations": ["Lock", "Sleep", "Poll"]}
    found = _run(tmp_path, "of_32_bits", files={}, network={}, processes={}, waits=waits)["of_32_bits"]
    assert [each.seen for each in found.others] == [each.said for each in found.others]
    assert len(found.others) == 14
