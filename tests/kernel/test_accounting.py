# SPDX-License-Identifier: Apache-2.0
"""seen = exported + filtered + sampled out + rate limited + in flight + dropped, exactly, whatever is done to the agent.

The programs say how many calls they made, so that `seen` is not taken on trust either.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from kernelspan_agent.app import App
from kernelspan_agent.export.jsonfile import JsonFileExporter
from kernelspan_agent.export.otlp import open_output
from kernelspan_agent.export.pipeline import Pipeline
from kernelspan_agent.export.queue import QueueLimits
from kernelspan_agent.export.settings import settings_from
from kernelspan_agent.intake import IDLE_WAIT_SECONDS, MAX_WAITING_OPERATIONS
from kernelspan_agent.probes import mechanisms
from kernelspan_agent.ring.records import SLOT
from kernelspan_agent.ring.size import RING_BYTES
from tests.support import leftovers, runs
from tests.support.generators import compiled
from tests.support.ports import PortReservation
from tests.support.runs import PROGRAMS, SYSTEM_PYTHON, UNLIMITED, accounting_of, app_of

THREADS, CALLS = 2, 150_000
PARTS = 20  # each fits into the ring
SMALL_RING = 64 << 10
STATS = {"files": {"operations": ["Open", "Stat"]}}


@contextlib.contextmanager
def flood(calls: int = CALLS, *files: str) -> Iterator[subprocess.Popen[bytes]]:
    """The C program, up to where it waits to be let loose."""
    command = [compiled("flood"), str(THREADS), str(calls), *files]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        while not Path(f"/proc/{process.pid}/syscall").read_text().startswith("0 0x0 "):
            time.sleep(0.002)
        try:
            yield process
        finally:
            process.kill()


def loose(process: subprocess.Popen[bytes]) -> None:
    """Lets it begin."""
    assert process.stdin is not None
    process.stdin.write(b".")
    process.stdin.flush()


def said(process: subprocess.Popen[bytes]) -> int:
    """How many calls it says it made."""
    assert process.stdout is not None
    return sum(int(line) for line in process.stdout)


def until_drained(app: App) -> None:
    """Waits until nothing is left in the ring."""
    deadline = time.monotonic() + runs.TIMEOUT_SECONDS
    while app.ring_fill():
        assert time.monotonic() < deadline
        time.sleep(0.005)


@pytest.mark.parametrize("mechanism", mechanisms.MECHANISMS, ids=lambda each: each.name)
def test_small_ring(tmp_path: Path, mechanism: mechanisms.Mechanism) -> None:
    """Two threads at full speed into a ring of 64 KiB: what did not fit is counted, and every call is seen."""
    with flood() as program, app_of(runs.profile(tmp_path, **STATS), ring_bytes=SMALL_RING, mechanism=mechanism) as app:
        app.select(program.pid, "flood")
        loose(program)
        app.run(lambda: program.poll() is not None)
        found = accounting_of(app)
        assert found["seen"] == said(program) == THREADS * CALLS
        assert found["dropped"]["RingFull"] > 0
        assert set(found["dropped"]) <= {"RingFull", "QueueFull"}
        assert found["exported"] > 0
        assert found["inFlight"] == 0


def test_nobody_works(tmp_path: Path) -> None:
    """The stages stand still while the ring is drained: beyond the bound operations are dropped and counted."""
    with contextlib.ExitStack() as stack, app_of(runs.profile(tmp_path, **STATS), ring_bytes=RING_BYTES) as app:
        programs = [stack.enter_context(flood(CALLS // PARTS)) for _ in range(PARTS)]
        for program in programs:
            app.select(program.pid, "flood")
            loose(program)
            assert program.wait() == 0
            until_drained(app)  # it is the queue that is to be full, and not the ring
        found = accounting_of(app)
        assert found["seen"] == sum(map(said, programs))
        assert found["dropped"]["QueueFull"] > 0
        assert found["exported"] <= MAX_WAITING_OPERATIONS
        assert found["dropped"]["QueueFull"] + found["dropped"].get("RingFull", 0) + found["exported"] == found["seen"]


def test_the_rate_limit_leaves_nothing_out(tmp_path: Path) -> None:
    """In-kernel limit, user-space limit and both sides of the sampling at once."""
    limits = {**UNLIMITED, "eventsPerSecond": 8_000, "spansPerSecond": 2_000}  # a burst fits into the ring
    profile = runs.profile(tmp_path, **STATS, limits=limits, sampling={"percent": 50}, correlation={"orphans": "Root"})
    with flood() as program, app_of(profile) as app:
        app.select(program.pid, "flood")
        loose(program)
        app.run(lambda: program.poll() is not None)
        found = accounting_of(app)
        assert found["seen"] == said(program)
        assert min(found["rateLimited"], found["sampledOut"], found["exported"]) > 0
        assert found["dropped"] == {}


@pytest.mark.parametrize("queue_spans", [100, 1_000_000])
def test_collector_down(tmp_path: Path, queue_spans: int) -> None:
    """Nobody listens: what is queued fails at the end, what finds no room is dropped at once."""
    limits = QueueLimits(max_queue_spans=queue_spans, max_batch_spans=min(queue_spans, 512), schedule_delay_s=0.01)
    with PortReservation(1) as reserved, flood(5_000) as program:
        settings = settings_from({}, f"127.0.0.1:{reserved.ports[0]}")
        pipeline = Pipeline([open_output(settings, limits)], limits)
        with app_of(runs.profile(tmp_path, **STATS), pipeline) as app:
            app.select(program.pid, "flood")
            loose(program)
            app.run(lambda: program.poll() is not None)
            found = accounting_of(app, timeout_seconds=0.3)
            assert found["seen"] == said(program) == THREADS * 5_000
    assert found["exported"] == 0
    assert found["dropped"]["ExportFailed"] > 0
    assert ("QueueFull" in found["dropped"]) == (queue_spans == 100)


@pytest.mark.parametrize("how", ["receive", "close"])
@pytest.mark.parametrize("end", ["exit", "kill"])
def test_threads_that_die_in_calls(tmp_path: Path, how: str, end: str) -> None:
    """A call that its thread never returns from is dropped for that reason, once; one that death cuts short returns."""
    count = 13
    operation = {"receive": "Receive", "close": "Close"}[how]
    profile = runs.profile(tmp_path, network={"operations": [operation]}, waits={"operations": ["OffCPU"]})
    command = [SYSTEM_PYTHON, "-S", PROGRAMS / "stuck.py", str(count), how]
    with runs.agent(tmp_path, profile, *command, stdin=subprocess.PIPE) as agent:
        assert agent.process.stdin is not None
        assert agent.process.stdout is not None
        assert agent.process.stdout.readline() == b"waiting\n"
        if end == "exit":
            agent.process.stdin.write(b".")
        else:
            (child,) = leftovers.descendants(agent.process.pid)
            os.kill(child, signal.SIGKILL)
        ran = agent.finish()
    assert ran.status == (0 if end == "exit" else 137)
    assert ran.balance["dropped"] == ({"TargetGone": count} if how == "receive" else {})
    assert sum(runs.operation_of(span) == operation for span in ran.spans) == (0 if how == "receive" else count)
    assert ran.balance["inFlight"] == 0


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_stopped_in_the_middle(tmp_path: Path, number: int) -> None:
    """The agent ends while the program goes on at full speed."""
    with (
        flood(0) as program,
        runs.attached(tmp_path, runs.profile(tmp_path, **STATS), "--pid", str(program.pid)) as agent,
    ):
        loose(program)
        agent.wait_until(lambda: agent.output.exists() and agent.output.stat().st_size > 1 << 20, "at work")
        ran = agent.stop(number)
        assert ran.status == 0
        assert program.poll() is None
    assert ran.balance["exported"] == len(ran.operations) >= 1000
    assert ran.balance["inFlight"] <= THREADS


def test_skipped_runs_are_told_apart(tmp_path: Path) -> None:
    """Runs that the kernel left out are what the kernel says of each program, and no part of the balance."""
    with flood(1000) as program, app_of(runs.profile(tmp_path, **STATS)) as app:
        app.select(program.pid, "flood")
        loose(program)
        app.run(lambda: program.poll() is not None)
        for name, fd in app.session._loader.programs.items():
            text = Path(f"/proc/self/fdinfo/{fd}").read_text()
            lines = dict(line.split(":", 1) for line in text.splitlines() if ":" in line)
            assert app.session.programs()[name]["skipped"] == int(lines["recursion_misses"])
        found = accounting_of(app)
    assert found["seen"] == found["exported"] == THREADS * 1000


@pytest.mark.parametrize("lives", ["on", "shortly"])
def test_lost_records_of_processes(tmp_path: Path, lives: str) -> None:
    """The ring is full while a child is forked: its operations are not lost for that."""
    text = (
        "import os, sys\nos.read(0, 1)\npid = os.fork()\nif pid: os.write(1, b'x'); os.waitpid(pid, 0); sys.exit()\n"
        "os.read(0, 1)\nfor _ in range(7): os.stat('/proc/self')\n"
        f"if {lives == 'on'}: os.read(0, 1)\n"
    )
    command, output = [SYSTEM_PYTHON, "-S", "-c", text], tmp_path / "spans.jsonl"
    exporter = Pipeline([JsonFileExporter(str(output))])
    with (
        flood(0) as noise,
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as target,
        app_of(runs.profile(tmp_path, **STATS), exporter, ring_bytes=SMALL_RING) as app,
    ):
        assert target.stdout is not None
        app.select(target.pid, "target")
        app.select(noise.pid, "flood")
        loose(noise)
        with app._intake._lock:  # the ring's thread waits for it, as soon as it has looked at the ring once more
            time.sleep(10 * IDLE_WAIT_SECONDS)
            while app.ring_fill() < 1 - SLOT / SMALL_RING:
                time.sleep(0.001)
            loose(target)
            assert target.stdout.read(1) == b"x"
            assert app.session.lost_processes() > 0
        noise.kill()
        noise.wait()
        while app.ring_fill() or app.waiting_operations:
            app.step(0.01)
        loose(target)
        if lives == "on":
            app.run(lambda: output.exists() and "/proc/self" in output.read_text())
            loose(target)
        app.run(lambda: target.poll() is not None)
        accounting_of(app)
    stats = [span for span in runs.read_spans(output) if span.attributes.get("file.path") == "/proc/self"]
    assert len(stats) == 7
    assert {span.resource["process.pid"] for span in stats} not in ({target.pid}, {noise.pid})
    assert all(str(span.resource["service.name"]).startswith("python3") for span in stats)
    if lives == "on":
        assert {span.resource["process.executable.path"] for span in stats} == {str(Path(SYSTEM_PYTHON).resolve())}
