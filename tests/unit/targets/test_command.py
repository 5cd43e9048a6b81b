# SPDX-License-Identifier: Apache-2.0
"""A command's process: held until it is released, its status as a shell tells it, ended if the agent gives up."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest

from kernelspan_agent.errors import UsageError
from kernelspan_agent.targets.command import Command


def wait(command: Command) -> int:
    """Its status."""
    while (status := command.poll()) is None:
        time.sleep(0.001)
    return status


@pytest.mark.parametrize(
    ("script", "status"),
    [("exit 0", 0), ("exit 3", 3), ("exit 255", 255), ("kill -TERM $$", 143), ("kill -KILL $$", 137)],
)
def test_status(script: str, status: int) -> None:
    """Its own, or 128 and the signal's number; asked again it is the same."""
    command = Command(["sh", "-c", script])
    command.release()
    assert (wait(command), command.poll()) == (status, status)


def test_held(tmp_path: Path) -> None:
    """Nothing of the command happens before it is released; it is another program only then."""
    mark = tmp_path / "mark"
    command = Command(["touch", str(mark)])
    before = Path(f"/proc/{command.pid}/exe").readlink()
    assert before == Path("/proc/self/exe").readlink()
    assert not mark.exists()
    command.release()
    assert wait(command) == 0
    assert mark.exists()


def test_abandoned(tmp_path: Path) -> None:
    """A command that was never released never runs, and is gone."""
    mark = tmp_path / "mark"
    command = Command(["touch", str(mark)])
    command.abandon()
    assert not mark.exists()
    with pytest.raises(ProcessLookupError):
        os.kill(command.pid, 0)


def test_abandoned_after_release() -> None:
    """A command that runs is left running, and no descriptor is closed that is somebody else's by then."""
    command = Command(["sleep", "100"])
    command.release()
    again = os.open("/dev/null", os.O_RDONLY)  # most likely the number that the command's pipe had
    try:
        command.abandon()
        os.fstat(again)
        os.kill(command.pid, 0)
    finally:
        os.close(again)
        os.kill(command.pid, signal.SIGKILL)
    assert wait(command) == 137


def test_no_program(tmp_path: Path) -> None:
    """Said before anything is forked; what cannot be executed ends with the status a shell gives."""
    with pytest.raises(UsageError, match="no such program"):
        Command([str(tmp_path / "absent")])
    odd = tmp_path / "odd"
    odd.write_text("no program")
    odd.chmod(0o755)
    command = Command([str(odd)])
    command.release()
    assert wait(command) == 126
