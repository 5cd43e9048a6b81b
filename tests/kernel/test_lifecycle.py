# SPDX-License-Identifier: Apache-2.0
"""From start to end: whom an agent traces, what it passes on, how it ends, and that nothing of it stays."""

from __future__ import annotations

import contextlib
import hashlib
import os
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support import leftovers, runs
from tests.support.generators import compiled
from tests.support.leftovers import descendants
from tests.support.runs import SYSTEM_PYTHON, app_of

KILLS = 50 if os.environ.get("KERNELSPAN_MATRIX") else 5
LINES = 30_000
STATS = {"files": {}}  # so many calls are seen by one pair of attachments, which ends sooner than one each
# Writes numbered lines and asks for the state of a file at each; some in threads and forked children.
WRITER = f"""
import hashlib, os, sys, threading
def part(number, lines, out):
    for index in range(lines):
        os.stat("/proc/self")
        out.append(hashlib.sha256(b"%d %d" % (number, index)).hexdigest()[:16])
found = [[] for _ in range(4)]
threads = [threading.Thread(target=part, args=(number, {LINES} // 4, found[number])) for number in range(4)]
for thread in threads: thread.start()
for thread in threads: thread.join()
for lines in found: sys.stdout.write("\\n".join(lines) + "\\n")
sys.stdout.flush()
for index in range(20):
    pid = os.fork()
    if not pid:
        os.stat("/proc/self"); os.write(1, b"child %d\\n" % index); os._exit(index)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == index
"""
LOOP = "import os, time\nwhile True: os.stat('/usr'); time.sleep(0.01)"


@contextlib.contextmanager
def program(text: str, *arguments: str, **popen: object) -> Iterator[subprocess.Popen[bytes]]:
    """A Python program; killed at the end."""
    command = [SYSTEM_PYTHON, "-S", "-c", text, *arguments]
    with subprocess.Popen(command, **popen) as process:  # type: ignore[call-overload]
        try:
            yield process
        finally:
            process.kill()


@pytest.fixture
def before() -> set[str]:
    """What is mounted before the test."""
    return leftovers.mounts()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("mechanism", ["Tracepoint", "RawTracepoint"])
def test_interrupted(tmp_path: Path, before: set[str], number: int, mechanism: str) -> None:
    """Ctrl-C ends it in order, with its report, and nothing stays; while it runs there is something that could."""
    spec = STATS if mechanism == "RawTracepoint" else {"files": {"operations": ["Sync"]}}
    with program(LOOP) as target:
        with runs.attached(tmp_path, runs.profile(tmp_path, **spec), "--pid", str(target.pid)) as agent:
            there = {thing.kind for thing in leftovers.left_behind(before)}
            assert there >= {"prog", "map", "link"}
            ran = agent.stop(number)
        assert (ran.status, ran.report["mechanism"]) == (0, mechanism)
        assert target.poll() is None
    leftovers.check(before)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1])
def test_signals_are_passed_on(tmp_path: Path, before: set[str], number: int) -> None:
    """The command gets what kernelspan is sent, and its end is kernelspan's."""
    text = (
        f"import signal, sys, time\nsignal.signal({int(number)}, lambda *_: sys.exit(41))\nprint('ready', flush=True)\n"
        "while True: time.sleep(1)"
    )
    with runs.agent(tmp_path, runs.profile(tmp_path, **STATS), SYSTEM_PYTHON, "-S", "-c", text) as agent:
        assert agent.process.stdout is not None
        assert agent.process.stdout.readline() == b"ready\n"
        assert agent.stop(number).status == 41
    leftovers.check(before)


@pytest.mark.parametrize(
    ("script", "status"),
    [
        ("exit 0", 0),
        ("exit 3", 3),
        ("exit 126", 126),
        ("exit 127", 127),
        ("kill -KILL $$", 137),
        ("kill -SEGV $$", 139),
    ],
)
def test_exit_status(tmp_path: Path, script: str, status: int) -> None:
    """The command's own; 128 and the number for a signal."""
    assert runs.run(tmp_path, runs.profile(tmp_path, **STATS), "/bin/sh", "-c", script).status == status


def test_no_such_command(tmp_path: Path, before: set[str]) -> None:
    """Nothing is traced, and it is said why; a file that cannot be run is said by the command's own process."""
    profile = runs.profile(tmp_path, **STATS)
    ran = runs.run(tmp_path, profile, tmp_path / "absent")
    assert (ran.status, "no such program" in ran.stderr) == (2, True)
    odd = tmp_path / "odd"
    odd.write_text("neither a program nor a script\n")
    odd.chmod(0o755)
    ran = runs.run(tmp_path, profile, odd)
    assert (ran.status, "Exec format error" in ran.stderr) == (126, True)
    leftovers.check(before)


def test_input_and_output_are_the_commands(tmp_path: Path) -> None:
    """Every byte goes through as it is, both ways, and nothing else."""
    data = bytes(range(256)) * 4099
    profile = runs.profile(tmp_path, files={}, network={}, processes={})
    with runs.agent(tmp_path, profile, "/bin/cat", stdin=subprocess.PIPE, options=["-q"]) as agent:
        stdout, _ = agent.process.communicate(data, timeout=60)
        assert stdout == data
        assert agent.process.returncode == 0
        assert agent.stderr() == ""


def test_duration(tmp_path: Path, before: set[str]) -> None:
    """It stops by itself; a command that lives on is left running."""
    profile = runs.profile(tmp_path, **STATS)
    with runs.agent(tmp_path, profile, SYSTEM_PYTHON, "-S", "-c", LOOP, options=["--duration", "1"]) as agent:
        agent.wait_until(lambda: descendants(agent.process.pid), "with a command")
        (child,) = descendants(agent.process.pid)
        try:
            ran = agent.process.wait(60)
            assert Path(f"/proc/{child}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
        finally:
            os.kill(child, signal.SIGKILL)
        assert ran == 0
    leftovers.check(before)


def test_a_process_with_children(tmp_path: Path) -> None:
    """The process that is named, its children from before, theirs, and those it has later; nobody else."""
    text = (
        "import os, sys, time\nfirst = os.getpid()\nif os.fork() or os.fork(): os.write(1, b'x')\n"
        "for index in range(3000):\n os.stat('/usr'); time.sleep(0.01)\n"
        " if os.getpid() == first and os.path.exists(sys.argv[1]): os.remove(sys.argv[1]); os.fork()\n"
    )
    mark = tmp_path / "mark"
    with program(LOOP) as other, program(text, str(mark), stdout=subprocess.PIPE) as target:
        assert target.stdout is not None
        assert target.stdout.read(2) == b"xx"
        old = {target.pid, *descendants(target.pid)}
        assert len(old) == 3
        with runs.attached(tmp_path, runs.profile(tmp_path, **STATS), "--pid", str(target.pid)) as agent:
            mark.touch()
            agent.wait_until(lambda: descendants(target.pid) - old, "with a new child")
            new = descendants(target.pid) - old
            time.sleep(0.5)
            ran = agent.stop()
        everybody = {target.pid, *descendants(target.pid)}
        for pid in everybody - {target.pid}:
            os.kill(pid, signal.SIGKILL)
    assert new
    assert {span.resource["process.pid"] for span in ran.operations} == everybody
    assert other.pid not in everybody


def test_the_process_ends(tmp_path: Path, before: set[str]) -> None:
    """With the last process that was named the agent ends, too."""
    with program("import time; time.sleep(2)") as first, program("import time; time.sleep(2.5)") as second:
        options = ["--pid", str(first.pid), "--pid", str(second.pid)]
        with runs.attached(tmp_path, runs.profile(tmp_path, processes={}), *options) as agent:
            ran = agent.finish()
            assert (first.poll(), second.poll(), ran.status) == (0, 0, 0)
    assert {span.resource["process.pid"] for span in ran.operations} == {first.pid, second.pid}
    leftovers.check(before)


def test_processes_that_match_and_live_shortly(tmp_path: Path) -> None:
    """A program the selector names is traced as soon as it begins, however briefly it lives; others are not."""
    wanted, other = compiled("flood"), tmp_path / "other"
    other.symlink_to("/bin/true")
    spec = {**STATS, "processSelector": {"executables": [str(wanted)]}}
    with runs.attached(tmp_path, runs.profile(tmp_path, **spec)) as agent:
        pids = []
        for _ in range(11):
            with subprocess.Popen([wanted, "1", "7"], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL) as process:
                pids.append(process.pid)
                time.sleep(0.15)
                process.communicate(b".")
            subprocess.run([other], check=True)
        ran = agent.stop()
    stats = [span for span in ran.operations if span.attributes.get("file.path") == "/"]
    assert sorted(span.resource["process.pid"] for span in stats) == sorted(pids * 7)
    assert {span.resource["process.pid"] for span in ran.operations} == set(pids)


def test_two_agents(tmp_path: Path, before: set[str]) -> None:
    """Two on one program see the same of it, and one's end is nothing to the other."""
    profile = runs.profile(tmp_path, **STATS)
    text = "import os, sys\nsys.stdin.read(1)\nfor index in range(503): os.stat('/usr')\nsys.stdin.read(1)"
    with program(text, stdin=subprocess.PIPE) as target:
        options = ["--pid", str(target.pid)]
        with runs.attached(tmp_path, profile, *options) as one, runs.attached(tmp_path, profile, *options) as two:
            assert target.stdin is not None
            target.stdin.write(b".")
            target.stdin.flush()
            for agent in (one, two):
                agent.wait_for_spans(503, lambda span: span.name == "file.stat")
            first = one.stop()
            target.stdin.write(b".")
            target.stdin.flush()
            second = two.finish()
    assert first.status == second.status == 0
    counts = [sum(span.attributes["file.path"] == "/usr" for span in ran.operations) for ran in (first, second)]
    assert counts == [503, 503]
    leftovers.check(before)


def test_killed_under_load(tmp_path: Path, before: set[str]) -> None:
    """kill -9 again and again: the program never knows, nothing stays attached, a new agent works at once."""
    text = f"for _ in range(1000):\n exec({WRITER!r}, {{}})\n if __import__('os').path.exists(__import__('sys').argv[1]): break"
    untraced = subprocess.run([SYSTEM_PYTHON, "-S", "-c", WRITER], capture_output=True, check=True).stdout
    profile, mark = runs.profile(tmp_path, files={}, processes={}), tmp_path / "mark"
    with program(text, str(mark), stdout=subprocess.PIPE) as target:
        rounds: list[bytes] = []
        reader = threading.Thread(target=_read_rounds, args=(target, len(untraced), rounds))
        reader.start()
        for index in range(KILLS):
            options = ["--pid", str(target.pid)]
            with runs.attached(tmp_path, profile, *options) as agent:
                agent.wait_until(lambda at=agent.output: at.exists() and at.stat().st_size > 100_000, "at work")
                time.sleep(0.01 * (index % 7))
                agent.process.kill()
            assert target.poll() is None
        leftovers.check(before, {target.pid, *descendants(target.pid)})
        mark.touch()
        assert target.wait(120) == 0
        reader.join()
    assert len(rounds) >= 1
    assert {hashlib.sha256(each).hexdigest() for each in rounds} == {hashlib.sha256(untraced).hexdigest()}


def _read_rounds(target: subprocess.Popen[bytes], size: int, rounds: list[bytes]) -> None:
    assert target.stdout is not None
    while data := target.stdout.read(size):
        rounds.append(data)


def test_nothing_is_seen_where_something_is(tmp_path: Path, before: set[str]) -> None:
    """The check for what is left behind finds what is there: it can fail."""
    with app_of(runs.profile(tmp_path, **STATS)):
        kinds = {thing.kind for thing in leftovers.left_behind(before)}
    assert kinds >= {"prog", "map", "link"}
    leftovers.check(before)
