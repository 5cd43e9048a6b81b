# SPDX-License-Identifier: Apache-2.0
"""`kernelspan explain` against what each interpreter says about its own threads, and against processes it must refuse."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.support import python_targets, pythons
from tests.support.pythons import Interpreter
from tests.support.require import require

MAX_NAME_CHARS = 256  # longer names are cut

THREADS = """
import json, os, sys, threading
lock = threading.Lock()
def frames(frame):
    while frame is not None:
        code = frame.f_code
        yield [getattr(code, "co_qualname", code.co_name), frame.f_lineno]
        frame = frame.f_back
def say(frame):
    with lock:
        print(json.dumps({"native": threading.get_native_id(), "frames": list(frames(frame))}), flush=True)
    return True
def deep(n):
    if n: return deep(n - 1)
    say(sys._getframe()) and os.read(0, 1)
workers = [threading.Thread(target=deep, args=(n,)) for n in (1, 3, 40)]
for worker in workers: worker.start()
deep(0)
"""

SPIN = """
import threading, time
def inner(n):
    return n + 1
def spin():
    n = 0
    while True:
        n = inner(n)
def outer():
    spin()
threading.Thread(target=outer, daemon=True).start()
print("go", flush=True)
time.sleep(600)
"""


def kernelspan(*arguments: str) -> subprocess.CompletedProcess[str]:
    """The command in a process of its own."""
    return subprocess.run(
        [sys.executable, "-c", "from kernelspan_agent.cli import main; main()", *arguments],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def explained(pid: int, status: int = 0) -> dict[str, Any]:
    run = kernelspan("explain", "--pid", str(pid), "--json")
    assert run.returncode == status, run.stderr
    found: dict[str, Any] = json.loads(run.stdout)
    return found


@pytest.fixture(params=pythons.labels())
def python(request: pytest.FixtureRequest) -> Interpreter:
    """Each interpreter."""
    try:
        return pythons.interpreter(request.param)
    except pythons.PythonsError as error:
        require("kernel", False, str(error))
        raise


def native_of(pid: int, tid: int) -> int:
    """A thread's id in its own PID namespace."""
    text = Path(f"/proc/{pid}/task/{tid}/status").read_text()
    return int(re.search(r"^NSpid:.*\s(\d+)$", text, re.MULTILINE)[1])  # type: ignore[index]


def test_threads_and_stacks(python: Interpreter) -> None:
    """Every thread has the frames it says, from 3.11 on under the very thread id it says."""
    with python.script(THREADS) as script, python.running(script) as program:
        truth = [json.loads(program.line()) for _ in range(4)]
        program.parked(threads=4)
        found = explained(program.pid)
        assert found["runtime"]["layout"]["minor"] == python.minor
        threads = [thread for thread in found["threads"] if thread["ofRuntime"]]
        assert {thread["state"] for thread in threads} == {"Complete"}
        frames = [
            [[frame["function"].removeprefix("__main__."), frame["line"]] for frame in thread["frames"]]
            for thread in threads
        ]
        own = [[pair for pair in stack if pair[0] in {"deep", "<module>"}] for stack in frames]
        expected = [[pair for pair in each["frames"] if pair[0] in {"deep", "<module>"}] for each in truth]
        assert sorted(own) == sorted(expected)
        assert all(
            frame["origin"] == "App" for thread in threads for frame in thread["frames"] if frame["file"] == script
        )
        if python.minor >= 11:
            said = {each["native"]: len(each["frames"]) for each in truth}
            assert {native_of(program.pid, each["tid"]): len(each["frames"]) for each in threads} == said
        else:
            assert {thread["tid"] for thread in threads} == {None}


def test_frames_of_every_kind(python: Interpreter) -> None:
    """Generators, coroutines, odd names, made code: as the program says them."""
    with python.script(python_targets.STACKS) as script, python.running(script) as program:
        truth = [json.loads(program.line())["frames"], json.loads(program.line())["frames"]]
        program.parked(threads=2)
        found = explained(program.pid)
        stacks = [
            [(frame["function"], frame["line"]) for frame in thread["frames"]]
            for thread in found["threads"]
            if thread["ofRuntime"]
        ]
        said = [[(_cut(module, name), line) for module, name, _, line in frames] for frames in truth]
        assert sorted(stacks) == sorted(said)


def _cut(module: str, name: str) -> str:
    short = name if len(name) <= MAX_NAME_CHARS else name[: MAX_NAME_CHARS - 1] + "…"
    return f"{module}.{short}" if module else short


def test_a_thread_that_runs_shows_only_what_is_sure() -> None:
    """Nothing but its own functions, outermost last, in an order that can be; asked many times."""
    with pythons.own_interpreters()[-1].script(SPIN) as script, running(sys.executable, script) as process:
        for _ in range(5):
            found = explained(process.pid)
            spinning = next(each for each in found["threads"] if each["tid"] != process.pid and each["ofRuntime"])
            names = [frame["function"].removeprefix("__main__.") for frame in spinning["frames"]]
            assert spinning["state"] in {"Complete", "Running"}
            assert names[-2:] == ["threading.Thread._bootstrap_inner", "threading.Thread._bootstrap"]
            assert [name for name in names if "." not in name] in (
                ["inner", "spin", "outer"],
                ["spin", "outer"],
                ["outer"],
            )


@contextmanager
def running(*command: str) -> Iterator[subprocess.Popen[str]]:
    """A program that has said something."""
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline()
            yield process
        finally:
            process.kill()


def test_libraries_and_sites() -> None:
    """A library in a stack and one that is mapped, with their versions, and where distributions lie."""
    from importlib import metadata

    script = (
        "import click, numpy, sys, time\n@click.command()\ndef go():\n print('go', flush=True)\n time.sleep(600)\ngo()"
    )
    with running(sys.executable, "-c", script) as process:
        found = explained(process.pid)
    by_name = {library["name"]: library for library in found["libraries"]}
    assert (by_name["click"]["version"], by_name["click"]["seen"]) == (metadata.version("click"), ["stack"])
    assert (by_name["numpy"]["version"], by_name["numpy"]["seen"]) == (metadata.version("numpy"), ["mapped"])
    site = str(Path(str(metadata.distribution("click").locate_file(""))).resolve())
    count = next(each["distributions"] for each in found["sites"] if each["directory"] == site)
    assert count == len(list(Path(site).glob("*.dist-info"))) + len(list(Path(site).glob("*.egg-info")))


def test_the_page_says_the_same() -> None:
    """For people: runtime, threads, frames with whose they are."""
    script = "import time\ndef wait():\n print('go', flush=True)\n time.sleep(600)\nwait()"
    with running(sys.executable, "-c", script) as process:
        run = kernelspan("explain", "--pid", str(process.pid))
    assert run.returncode == 0
    assert f"process     {process.pid}" in run.stdout
    assert f"CPython {sys.version.split()[0]}" in run.stdout
    assert re.search(r"^ +__main__\.wait +<string>:4 \[unknown\]$", run.stdout, re.MULTILINE)
    assert "\x1b" not in run.stdout


def test_a_native_program() -> None:
    """Said, and no failure: its operations are traced with frames, though none are shown."""
    with subprocess.Popen(["sleep", "60"]) as process:
        try:
            wait_for_exec(process.pid, "sleep")
            run = kernelspan("explain", "--pid", str(process.pid))
        finally:
            process.kill()
    assert run.returncode == 0
    assert "runtime     native, in /" in run.stdout
    assert "not one of the runtime" not in run.stdout


def wait_for_exec(pid: int, name: str) -> None:
    deadline = time.monotonic() + 20
    while Path(f"/proc/{pid}/exe").resolve().name not in {name, "coreutils"}:
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_processes_that_cannot_be_explained() -> None:
    """Gone, a kernel thread, a zombie, a thread of another: each is refused in its own words."""
    with subprocess.Popen(["true"]) as gone:
        zombie = kernelspan_of_zombie(gone.pid)
        gone.wait()
        after = kernelspan("explain", "--pid", str(gone.pid))
    kernel_thread = kernelspan("explain", "--pid", "2")
    assert (zombie.returncode, "zombie" in zombie.stderr) == (2, True)
    assert (after.returncode, "no such process" in after.stderr) == (2, True)
    assert (kernel_thread.returncode, "kernel thread" in kernel_thread.stderr) == (2, True)
    with running(sys.executable, "-c", "import threading as t, time\nx = t.Thread(target=time.sleep, args=(600,), daemon=True)\n"
                 "x.start()\nprint('go', flush=True)\ntime.sleep(600)") as process:  # fmt: skip
        thread = next(
            task.name for task in Path(f"/proc/{process.pid}/task").iterdir() if int(task.name) != process.pid
        )
        run = kernelspan("explain", "--pid", thread)
    assert (run.returncode, f"thread of process {process.pid}" in run.stderr) == (2, True)


def kernelspan_of_zombie(pid: int) -> subprocess.CompletedProcess[str]:
    deadline = time.monotonic() + 20
    while ") Z" not in Path(f"/proc/{pid}/stat").read_text():
        assert time.monotonic() < deadline
        time.sleep(0.01)
    return kernelspan("explain", "--pid", str(pid))


def test_without_the_capability() -> None:
    """Another user's process: which capability, and how to grant it."""
    caps = "-all,+dac_read_search"  # else that user could not read an interpreter below somebody's home
    with running(sys.executable, "-c", "import time; print('go', flush=True); time.sleep(600)") as process:
        run = subprocess.run(
            ["setpriv", "--bounding-set", caps, "--inh-caps", caps, "--ambient-caps", caps, "--reuid", "65534", "--clear-groups",
             sys.executable, "-c", "from kernelspan_agent.cli import main; main()", "explain", "--pid", str(process.pid)],
            capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip
    assert run.returncode == 3, run.stderr
    assert "PermissionDenied" in run.stderr
    assert "CAP_SYS_PTRACE" in run.stderr
    assert "Traceback" not in run.stderr


def test_a_process_of_another_pid_namespace() -> None:
    """Both of its pids are shown."""
    command = [
        "unshare",
        "-pf",
        "--kill-child",
        sys.executable,
        "-c",
        "import time; print('go', flush=True); time.sleep(600)",
    ]
    with running(*command) as process:
        child = int(Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()[0])
        found = explained(child)
    assert (found["pid"], found["namespacePid"]) == (child, 1)
    assert found["threads"][0]["tid"] == child
