# SPDX-License-Identifier: Apache-2.0
"""Operations on files: what a program says it did, call by call, is exactly what the spans say, in its order."""

from __future__ import annotations

from pathlib import Path

import pytest

from kernelspan_agent.probes.source import syscalls
from kernelspan_api.operations import Group
from tests.support import runs
from tests.support.runs import PROGRAMS, SYSTEM_PYTHON, Scenario

# openat2 and faccessat2 stand for what Python's own wrappers call besides.
CALLS = ["opens", "reads", "writes", "names", "looks", "lists"]
KINDS = [*CALLS, "no_files", "unreadable"]
PATHS = ["relative", "links", "moved", "reused", "unlinked", "memory", "proc_fd", "odd_names", "long_paths", "deep",
         "mounts", "changed_root"]  # fmt: skip


@pytest.fixture(scope="module")
def traced(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Scenario]:
    """Every scenario, in one run a program."""
    folder = tmp_path_factory.mktemp("files")
    profile = runs.profile(folder, files={})
    found: dict[str, Scenario] = {}
    for program in ("files.py", "paths.py"):
        (folder / program).mkdir()
        done = runs.run(folder, profile, SYSTEM_PYTHON, "-S", PROGRAMS / program, folder / program)
        assert done.balance["dropped"] == {}, done.report
        found |= runs.scenarios(done)
    return found


@pytest.mark.parametrize("name", KINDS + PATHS)
def test_scenario(traced: dict[str, Scenario], name: str) -> None:
    """As many spans as operations, each with its path, sizes, result and error."""
    found = traced[name]
    assert found.seen == found.said


def test_every_call(traced: dict[str, Scenario]) -> None:
    """No system call of the group is left untried."""
    tried = {call for name in CALLS for call in traced[name].more["calls"]}
    assert {call.name for call in syscalls(Group.FILES)} == tried


def test_nothing_else(traced: dict[str, Scenario], tmp_path: Path) -> None:
    """Scenarios are all there are: none was left out by this file."""
    assert set(traced) == {*KINDS, *PATHS}
    assert tmp_path.exists()
