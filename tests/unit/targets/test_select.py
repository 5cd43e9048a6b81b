# SPDX-License-Identifier: Apache-2.0
"""Whom a run traces: what --pid refuses and why, who comes from whom, which executables match."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from kernelspan_agent.errors import UsageError
from kernelspan_agent.targets import select

STAT = "{pid} ({name}) {state} {parent} 0 0 0 0 {flags} 0 0 0 0 0 0 0 0 20 0 1 0 {start} 0 0"


def process(root: Path, pid: int, parent: int = 1, **fields: object) -> None:
    """A process in a /proc of the test's own."""
    folder = root / str(pid)
    folder.mkdir()
    values = {"name": "x", "state": "S", "flags": 0, "start": 100 + pid, **fields}
    (folder / "stat").write_text(STAT.format(pid=pid, parent=parent, **values) + " 0" * 28 + "\n")
    (folder / "status").write_text(f"Name:\tx\nTgid:\t{fields.get('leader', pid)}\nNSpid:\t{pid}\n")


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"flags": 0x00200000, "name": "kworker/0:1"}, ["kernel thread", "kworker/0:1"]),
        ({"state": "Z"}, ["zombie"]),
        ({"leader": 7}, ["thread of process 7"]),
    ],
)
def test_refused(tmp_path: Path, fields: dict[str, object], words: list[str]) -> None:
    """Each for its own reason, with what to do about it."""
    process(tmp_path, 9, **fields)
    with pytest.raises(UsageError) as caught:
        select.by_pid(9, str(tmp_path))
    assert all(word in str(caught.value) for word in ["--pid 9", *words])
    assert caught.value.hint


@pytest.mark.parametrize("pid", [1 << 22, 0, -1])
def test_no_such_process(pid: int) -> None:
    """A pid that nobody has."""
    with pytest.raises(UsageError, match="no such process"):
        select.by_pid(pid)


def test_really_refused() -> None:
    """The same from the real /proc: a thread of ours, a kernel thread, a zombie."""
    stop = threading.Event()
    thread = threading.Thread(target=stop.wait)
    thread.start()
    try:
        with pytest.raises(UsageError, match=f"thread of process {os.getpid()}"):
            select.by_pid(thread.native_id or 0)
    finally:
        stop.set()
        thread.join()
    with subprocess.Popen([sys.executable, "-c", "pass"]) as ended:
        os.waitid(os.P_PID, ended.pid, os.WEXITED | os.WNOWAIT)
        with pytest.raises(UsageError, match="zombie"):
            select.by_pid(ended.pid)
    assert select.by_pid(os.getpid()).pid == os.getpid()


def test_descendants(tmp_path: Path) -> None:
    """Children and theirs, in whatever order /proc has them; a broken entry is passed over."""
    for pid, parent in ((30, 10), (10, 1), (20, 10), (40, 30), (50, 2), (60, 40)):
        process(tmp_path, pid, parent)
    (tmp_path / "70").mkdir()
    (tmp_path / "80").mkdir()
    (tmp_path / "80" / "stat").write_bytes(b"\xff(")
    assert sorted(each.pid for each in select.descendants([10], str(tmp_path))) == [20, 30, 40, 60]
    assert sorted(each.pid for each in select.descendants([20, 40], str(tmp_path))) == [60]
    assert sorted(each.pid for each in select.all_processes(str(tmp_path))) == [10, 20, 30, 40, 50, 60]


def test_a_circle_ends(tmp_path: Path) -> None:
    """Pids that are given to others while /proc is read can make a circle."""
    process(tmp_path, 10, 11)
    process(tmp_path, 11, 10)
    assert sorted(each.pid for each in select.descendants([10], str(tmp_path))) == [10, 11]
