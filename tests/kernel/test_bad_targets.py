# SPDX-License-Identifier: Apache-2.0
"""Processes that cannot be traced, that go while they are looked at, or that are not where their names lead."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from kernelspan_agent.process.procfs import printable
from tests.support import leftovers, runs
from tests.support.otlp_json import ReceivedSpan
from tests.support.runs import SYSTEM_PYTHON, Run

FILES = {"files": {}, "code": {"functions": False}}  # with stacks
# Asks for the state of the file that it is told again and again, from a function of its own.
LOOP = """
import os, sys, time
def work():
    os.stat(sys.argv[1])
    time.sleep(0.005)
print("ready", flush=True)
while True:
    work()
"""


@pytest.fixture
def before() -> set[str]:
    """What is mounted before the test."""
    return leftovers.mounts()


@pytest.fixture
def loop(tmp_path: Path) -> Path:
    """The program LOOP."""
    path = tmp_path / "loop.py"
    path.write_text(LOOP)
    return path


@contextlib.contextmanager
def looping(*command: str | Path) -> Iterator[subprocess.Popen[bytes]]:
    """A program that has said that it is ready; killed at the end."""
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == b"ready\n"
            yield process
        finally:
            process.kill()


def named(span: ReceivedSpan) -> bool:
    """Whether it is the function of LOOP's that did it."""
    return span.attributes.get("code.function.name") == "__main__.work"


def attach(folder: Path, pid: int) -> Run:
    """Attaches to a process that does what LOOP does, until 20 operations have their function."""
    with runs.attached(folder, runs.profile(folder, **FILES), "--pid", str(pid)) as agent:
        agent.wait_for_spans(20, named)
        ran = agent.stop()
    others = {span.attributes.get("kernelspan.code.missing") for span in ran.operations if not named(span)}
    assert others <= {"RuntimePending"}  # from before the agent had looked at the program
    return ran


@pytest.mark.parametrize(
    ("which", "words"),
    [
        ("absent", "no such process"),
        ("kernel", "kernel thread"),
        ("thread", "is a thread of process"),
        ("zombie", "zombie"),
    ],
)
def test_pids_that_cannot_be_traced(tmp_path: Path, before: set[str], which: str, words: str) -> None:
    """Which, and why, with status 2 and a hint; nothing stays."""
    thread = threading.Thread(target=threading.Event().wait, daemon=True)
    thread.start()
    with subprocess.Popen(["/bin/true"]) as ended:
        os.waitid(os.P_PID, ended.pid, os.WEXITED | os.WNOWAIT)
        # pids end below pid_max, which is at most 1 << 22; kthreadd is 2
        pids = {"absent": 1 << 22, "kernel": 2, "thread": thread.native_id, "zombie": ended.pid}
        ran = runs.run(tmp_path, runs.profile(tmp_path, **FILES), options=["--pid", str(pids[which])])
    assert ran.status == 2
    first, hint, *rest = ran.stderr.splitlines()
    assert first.startswith(f"kernelspan: InvalidSpec: --pid {pids[which]}")
    assert words in first
    assert hint.startswith("  ")
    assert not rest
    leftovers.check(before)


def test_ends_during_attach(tmp_path: Path, before: set[str]) -> None:
    """Whenever it ends: either it was traced to its end, or it is said that there is none."""
    profile, statuses = runs.profile(tmp_path, processes={}), []
    for hundredths in (0, 10, 20, 30, 40, 50, 60, 80):
        with subprocess.Popen(["/bin/sleep", str(hundredths / 100)]) as target:
            reaper = threading.Thread(target=target.wait)
            reaper.start()
            ran = runs.run(tmp_path, profile, options=["--pid", str(target.pid)])
            reaper.join()
        statuses.append(ran.status)
        if ran.status == 2:
            assert f"--pid {target.pid}" in ran.stderr
        else:
            assert ran.status == 0, ran.stderr
            assert {span.name for span in ran.operations} <= {"process.exit"}
        assert "Traceback" not in ran.stderr
    assert statuses[0] == 2
    leftovers.check(before)


def test_other_namespaces(tmp_path: Path, loop: Path) -> None:
    """Attached to from outside its PID and mount namespace: both its pids, paths as it has them, frames."""
    root = tmp_path / "root"
    root.mkdir()
    inside = f"mount -t tmpfs none {root} && cp {loop} {root} && exec {SYSTEM_PYTHON} -S {root}/loop.py {root}"
    with looping("unshare", "-pfm", "--mount-proc", "--kill-child", "/bin/sh", "-c", inside) as outer:
        (pid,) = leftovers.descendants(outer.pid)
        ran = attach(tmp_path, pid)
    assert not (root / "loop.py").exists()
    assert {span.attributes["file.path"] for span in ran.operations} == {str(root)}
    assert {span.attributes["code.file.path"] for span in ran.operations if named(span)} == {f"{root}/loop.py"}
    assert {(span.resource["process.pid"], span.resource["process.vpid"]) for span in ran.operations} == {(pid, 1)}


@pytest.mark.parametrize("instead", ["nothing", "another"])
def test_deleted_executable(tmp_path: Path, loop: Path, instead: str) -> None:
    """A program whose file is gone, or whose name leads to another file by now: it is still what it is."""
    program = tmp_path / "python-that-goes"
    shutil.copy(Path(SYSTEM_PYTHON).resolve(), program)
    with looping(program, "-S", loop, "/usr") as target:
        program.unlink()
        if instead == "another":
            shutil.copy("/bin/true", program)
        ran = attach(tmp_path, target.pid)
    assert {span.resource["process.executable.path"] for span in ran.operations} == {str(program)}
    assert {span.resource["process.runtime.name"] for span in ran.operations} == {"CPython"}


def test_names_that_are_no_text(tmp_path: Path) -> None:
    """A program, its folder and its file with newlines and bytes that are no UTF-8: escaped in the end, never another's."""
    folder = os.fsencode(tmp_path) + b"/new\nline \xff\xfe"
    os.mkdir(folder)  # noqa: PTH102 - the path is bytes
    script = os.fsdecode(folder + b"/\xe9\n.py")
    Path(script).write_text("import os\ndef work():\n  os.stat(__file__)\nfor _ in range(101): work()\n")
    ran = runs.run(tmp_path, runs.profile(tmp_path, **FILES), SYSTEM_PYTHON, "-S", script)
    assert ran.status == 0
    path = printable(script)
    done = [span for span in ran.operations if named(span)]
    places = Counter((span.attributes["code.file.path"], span.attributes["code.line.number"]) for span in done)
    assert places == {(path, 3): 101}
    assert {span.attributes["file.path"] for span in done} == {path}
    assert "\\n" in path
    assert "\n" not in path


def test_a_program_whose_name_is_no_text(tmp_path: Path, loop: Path) -> None:
    """The executable itself, and the name that the kernel has of its thread."""
    program = Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xffpy\nthon"))
    shutil.copy(Path(SYSTEM_PYTHON).resolve(), program)
    with looping(program, "-S", loop, "/usr") as target:
        ran = attach(tmp_path, target.pid)
    assert {span.resource["process.executable.path"] for span in ran.operations} == {printable(str(program))}
    assert {span.attributes["thread.name"] for span in ran.operations} == {printable(program.name)}
    assert all("\n" not in str(value) for span in ran.operations for value in span.resource.values())
