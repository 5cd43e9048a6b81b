# SPDX-License-Identifier: Apache-2.0
"""Which file a process runs, by what the kernel tells of its exec: it may have ended before anybody could look."""

from __future__ import annotations

from pathlib import Path

import pytest

from kernelspan_agent.resolve.traced import TracedProcess
from kernelspan_agent.ring.records import PathFlag, ProcessEvent, RecordKind
from tests.unit.resolve.making import path_record, process_record
from tests.unit.resolve.test_resolver import Stage, resolver

SHOP = path_record(77, b"shop\0bin\0usr\0")
FORK, EXEC = ProcessEvent.FORK, ProcessEvent.EXEC


@pytest.fixture
def made(tmp_path: Path) -> Stage:
    """Tables of a machine that shows no process; 5 runs something since 50."""
    stage, _ = resolver(tmp_path)
    return stage


def _exec(tgid: int, start: int, executable: int) -> tuple[int, bytes]:
    return RecordKind.PROCESS, process_record(EXEC, tgid, start=start, time=start + 1, executable=executable)


def _now(made: Stage, tgid: int) -> TracedProcess:
    found = made.processes.find(tgid, 10_000)
    assert found is not None
    return found


def test_an_exec_tells_its_file(made: Stage) -> None:
    """Also where the path is given away again before anybody asks."""
    assert _now(made, 5).executable == ""
    made.learn([(RecordKind.PATH, SHOP), _exec(5, 70, 77)])
    assert _now(made, 5).executable == "/usr/bin/shop"
    made.tables.paths._texts.clear()  # others have taken its place
    assert _now(made, 5).executable == "/usr/bin/shop"


@pytest.mark.parametrize("flags", [PathFlag.UNREACHABLE, PathFlag.TRUNCATED])
def test_a_path_that_is_not_whole_is_none(made: Stage, flags: PathFlag) -> None:
    """A file without a place (memfd_create), or one so deep that the way to it was cut."""
    made.learn([(RecordKind.PATH, path_record(78, b"memfd:shop\0", flags=int(flags))), _exec(5, 70, 78)])
    assert _now(made, 5).executable == ""


def test_a_child_runs_its_parents_file(made: Stage) -> None:
    """Until it execs; what is told then is its own."""
    made.learn([(RecordKind.PATH, SHOP), _exec(5, 70, 77)])
    made.learn([(RecordKind.PROCESS, process_record(FORK, 6, parent=5, start=80, time=81))])
    assert _now(made, 6).executable == "/usr/bin/shop"
    made.learn([(RecordKind.PATH, path_record(79, b"true\0bin\0")), _exec(6, 90, 79)])
    assert _now(made, 6).executable == "/bin/true"
    assert _now(made, 5).executable == "/usr/bin/shop"


def test_an_image_that_was_caught_up_with(made: Stage) -> None:
    """It is known before its record is read, which tells its file."""
    made.processes.add(9, 70, name="shop", from_start=True, wanted_by=frozenset())
    made.learn([(RecordKind.PATH, SHOP), _exec(9, 70, 77)])
    assert _now(made, 9).executable == "/usr/bin/shop"
