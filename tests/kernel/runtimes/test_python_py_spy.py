# SPDX-License-Identifier: Apache-2.0
"""A second opinion: py-spy, which nobody here wrote, sees the same stacks in threads that wait: function, file and line.

Only in threads that stand still: py-spy looks from outside, at another moment than ours.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from kernelspan_api import semconv
from tests.support import pythons, runs, truth
from tests.support.pythons import SECONDS_TO_ANSWER, Interpreter
from tests.support.truth import Launch, Named, needed, wanted_pythons

pytestmark = pytest.mark.root
SLEEPS = truth.PROFILE.replace("files: {operations: [Read, Stat]}", "waits: {operations: [Sleep, Poll]}")
# Where the threads of targets/waiting.py end up: their innermost functions, without what these are in.
INNERMOST = ["<lambda>", "accept", "inside", "on_flock", "on_lock", "on_pipe", "on_sleep", "receive", "wait"]
Threads = dict[int, tuple[Named, ...]]


def one_of_each_minor() -> list[str]:
    """Labels of glibc's: in a root of musl's py-spy does not find libpython."""
    found: dict[str, str] = {}
    for label in pythons.labels():
        if label not in pythons.musl_labels():
            found.setdefault(label.split("-")[1].split(".")[1], label)
    return sorted(found.values())


def py_spy(pid: int, python: Interpreter) -> Threads:
    """Frames by the thread's id in its own namespace; before 3.11, where frames do not say that, by pthread_self()."""
    tool = shutil.which("py-spy", path=str(Path(sys.executable).parent)) or shutil.which("py-spy")
    assert tool, "py-spy is among the tests' requirements"
    done = subprocess.run([tool, "dump", "--pid", str(pid), "--json"], capture_output=True, check=True)
    key = "os_thread_id" if python.minor >= 11 else "thread_id"
    return {
        thread[key]: tuple((frame["name"], frame["filename"], frame["line"]) for frame in thread["frames"])
        for thread in json.loads(done.stdout)
    }


def ours(pid: int, python: Interpreter) -> Threads:
    """The same by `kernelspan explain`."""
    command = [str(runs.KERNELSPAN), "explain", "--json", "--pid", str(pid)]
    done = subprocess.run(command, capture_output=True, check=True, timeout=runs.TIMEOUT_SECONDS)
    found: Threads = {}
    for thread in json.loads(done.stdout)["threads"]:
        if thread["ofRuntime"]:
            assert thread["state"] == "Complete"
            key = _native(pid, thread["tid"]) if python.minor >= 11 else int(thread["name"].split()[-1], 16)
            found[key] = tuple((frame["function"], frame["file"], frame["line"]) for frame in thread["frames"])
    return found


def _native(pid: int, tid: int) -> int:
    status = Path(f"/proc/{pid}/task/{tid}/status").read_text()
    return int(next(line for line in status.splitlines() if line.startswith("NSpid:")).split()[-1])


def same(shown: Sequence[Named], seen: Sequence[Named]) -> bool:
    """Whether our frames are py-spy's, whose functions bear no module."""
    return [each[1:] for each in shown] == [each[1:] for each in seen] and all(
        function == name or function.endswith(f".{name}")
        for (function, *_), (name, *_) in zip(shown, seen, strict=True)
    )


@pytest.mark.parametrize("label", one_of_each_minor())
def test_threads_that_wait(label: str) -> None:
    """On a pipe, a lock, a queue, sockets, a file's lock, in select and in sleep, each below more functions: thread by thread."""
    python = needed(label)
    with truth.started(Launch(python, "waiting")) as (program, _):
        assert program.line() == str(len(INNERMOST))
        pid, deadline = program.pid, time.monotonic() + SECONDS_TO_ANSWER
        before: Threads = {}
        while True:  # until nothing moved from before our look until after it, and all are where they wait
            shown, after = ours(pid, python), py_spy(pid, python)
            innermost = sorted(frames[0][0].rpartition(".")[2] for frames in after.values())
            if before == after and innermost == INNERMOST:
                break
            assert time.monotonic() < deadline, (innermost, before, after)
            before = after
    assert shown.keys() == after.keys()
    assert {key: frames for key, frames in shown.items() if not same(frames, after[key])} == {}


def test_spans_of_threads_that_sleep(tmp_path: Path) -> None:
    """The stacks of sleeps are those that py-spy sees while the threads sleep."""
    python = next(python for python in map(needed, wanted_pythons()) if python.root is None)
    seconds = 3.0
    with truth.started(Launch(python, "parked", (str(seconds),))) as (program, _):
        assert program.line() == "ready"
        with truth.open_app(tmp_path / "spans.jsonl", SLEEPS) as app:
            app.select(program.pid, "target")
            program.go_on()
            assert program.line() == "asleep"
            seen = _asleep(program.pid, python)
            truth.run_until(app, lambda: program.started.poll() is not None)
            app.end(10.0)
    spans = truth.read_spans(tmp_path / "spans.jsonl")
    stacks: list[Any] = [span.attributes.get(semconv.CODE_STACKTRACE) for span in spans]
    shown = sorted((truth.parse_stack(stack) for stack in stacks if stack), key=_places)
    assert len(seen) == len(shown) == 6
    assert all(same(mine, theirs) for mine, theirs in zip(shown, seen, strict=True)), (shown, seen)


def _asleep(pid: int, python: Interpreter) -> list[tuple[Named, ...]]:
    while True:  # until all threads are in their sleep
        stacks = sorted(py_spy(pid, python).values(), key=_places)
        if len(stacks) == 6 and len(set(stacks)) == 6:
            return stacks


def _places(frames: Sequence[Named]) -> list[tuple[str, int]]:
    return [each[1:] for each in frames]
