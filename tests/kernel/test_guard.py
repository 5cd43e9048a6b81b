# SPDX-License-Identifier: Apache-2.0
"""A profile that costs more than limits.cpuMillicores is cut down to it, says so, and recovers; others go on; all is counted."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kernelspan_agent.guard import traps
from kernelspan_agent.guard.control import Phase
from kernelspan_agent.guard.measured import OPERATIONS, Told
from kernelspan_agent.probes import bpf
from kernelspan_agent.probes.constants import Counter
from kernelspan_agent.profile_run import ProfileRun
from kernelspan_agent.resolve.tables import Taken
from tests.support import runs
from tests.support.engines import Made, Make, Program, engines, programs
from tests.support.generators import compiled
from tests.support.runs import UNLIMITED

LIMIT = 100
RECOVERY_SECONDS = 200.0
PROBE = "probe allocations"
READS: dict[str, Any] = {"files": {"operations": ["Read"]}, "code": {"stacks": "None"}}
STATS: dict[str, Any] = {"files": {"operations": ["Stat"]}}


def limited(spec: dict[str, Any], millicores: int = LIMIT, **limits: Any) -> dict[str, Any]:
    return {**spec, "limits": {**UNLIMITED, "cpuMillicores": millicores, **limits}}


def allocations(path: object) -> dict[str, Any]:
    """A probe on the allocator of a program that brings its own: no other process of the machine has it."""
    uprobe = {"path": str(path), "symbols": ["malloc"]}
    argument = {"index": 0, "type": "UInt64", "attribute": "size"}
    return {"probes": [{"name": "allocations", "mode": "Span", "uprobe": uprobe, "args": [argument]}]}


class Busy:
    """programs/busy.c, running: does nothing yet."""

    def __init__(self, what: str, *options: str) -> None:
        self.path = compiled("busy", *options)
        pipe = subprocess.PIPE
        self.process = subprocess.Popen([self.path, what], stdin=pipe, stdout=pipe, bufsize=0)
        assert self._answer() == "ready"

    @property
    def pid(self) -> int:
        return self.process.pid

    def _answer(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().decode().strip()

    def do(self, what: str) -> int:
        """How often it has done its thing when it is told this."""
        assert self.process.stdin is not None
        self.process.stdin.write(what.encode() + b"\n")
        return int(self._answer())

    def close(self) -> None:
        self.process.kill()
        self.process.communicate()


BeginBusy = Callable[..., Busy]


@pytest.fixture
def stack() -> Iterator[contextlib.ExitStack]:
    with contextlib.ExitStack() as stack:
        yield stack


@pytest.fixture
def engine(stack: contextlib.ExitStack) -> Make:
    return stack.enter_context(engines())


@pytest.fixture
def busy(stack: contextlib.ExitStack) -> BeginBusy:
    def begin(*arguments: str) -> Busy:
        made = Busy(*arguments)
        stack.callback(made.close)
        return made

    return begin


@pytest.fixture
def program(stack: contextlib.ExitStack) -> Program:
    return stack.enter_context(programs())()


def told(made: Made, uid: str = "a") -> Told:
    found = made.engine.guard.told(uid)
    assert found is not None
    return found


def trace(made: Made, process: Busy, *uids: str) -> None:
    made.engine.trace(process.pid, "busy", frozenset(uids))


def hits(made: Made) -> int:
    return made.engine.session.count(1, Counter.SEEN)[0]


def until(made: Made, condition: Callable[[], object], what: str) -> None:
    """A probe is put back only after a while that is the longer, the more it has cost."""
    end = time.monotonic() + RECOVERY_SECONDS
    while not condition():
        assert time.monotonic() < end, f"never: {what}"
        made.engine.step(0.01)


def pass_time(made: Made, seconds: float) -> float:
    """Lets it work for so long at least; gives how long."""
    began = time.monotonic()
    while time.monotonic() < began + seconds:
        made.engine.step(0.01)
    return time.monotonic() - began


def test_a_probe_on_malloc_of_a_busy_process_settles_says_so_and_recovers(
    engine: Make, busy: BeginBusy, program: Program
) -> None:
    """Its trap alone costs more than the limit, whatever the program decides: it is taken off. What else is traced goes on."""
    process = busy("malloc", "-static")
    spec = limited(allocations(process.path), 100)
    made = engine(spec, STATS)
    made.add("a", spec)
    made.engine.look_here("a")
    made.add("b", STATS)
    trace(made, process, "a")
    made.trace(program, "b")

    before = process.do("fast")
    made.until(lambda: told(made).phase is Phase.THROTTLED, "it is told that the limit is exceeded")
    made.until(lambda: told(made).shares == {PROBE: 0.0}, "the probe is taken off")
    assert "cpuMillicores 100" in told(made).message(PROBE)
    pass_time(made, 1.0)  # what it did until then has filled the ring
    for number in range(20):
        program.do(f"look during-{number}")
    passed, seen = process.do("fast"), hits(made)
    seconds = pass_time(made, 5.0)
    cost = (hits(made) - seen) * traps.measure().enter_ns / seconds / 1e6
    assert cost <= 100
    assert process.do("slow") > passed > before

    until(made, lambda: told(made).phase is Phase.FREE, "it has recovered")
    exported = made.engine.accounting_of("a").exported
    made.until(lambda: made.engine.accounting_of("a").exported > exported, "its calls are seen again")
    process.do("end")
    made.settle()
    made.end()
    assert told(made, "b").phase is Phase.FREE
    assert made.seen["b"].marks == [f"during-{number}" for number in range(20)]


def test_system_calls_of_a_busy_process_are_thrown_away_and_each_is_counted(
    engine: Make, busy: BeginBusy, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is exported are whole operations: an entry with its own return. While nothing is taken off, each is seen."""
    process = busy("read")
    made = engine(READS)
    made.add("a", limited(READS))
    given: list[np.ndarray] = []
    process_rows = ProfileRun.process

    def remember(run: ProfileRun, taken: Taken, count: int) -> None:
        given.append(taken.ops[["arg", "ret"]])
        process_rows(run, taken, count)

    monkeypatch.setattr(ProfileRun, "process", remember)
    trace(made, process, "a")
    began = process.do("fast")
    made.until(lambda: told(made).phase is Phase.THROTTLED, "it is told that the limit is exceeded")
    pass_time(made, 5.0)
    process.do("slow")
    until(made, lambda: told(made).phase is Phase.FREE, "it has recovered")
    assert told(made).least_share == 1.0
    ended = process.do("end")
    made.settle()
    made.end()
    found = made.engine.accounting_of("a")
    assert 0 < found.seen <= ended - began
    assert found.rate_limited > 0
    pairs = np.concatenate(given)
    assert len(pairs) == found.exported > 0
    assert (pairs["arg"] == pairs["ret"]).all()


def test_each_that_is_thrown_away_is_counted(engine: Make, busy: BeginBusy) -> None:
    process = busy("read")
    made = engine(READS)
    made.add("a", READS)
    trace(made, process, "a")
    made.engine.session.set_class(1, made.engine.profiles["a"].wanted, keep=0.01, anew=False)
    began = process.do("fast")
    pass_time(made, 1.0)
    ended = process.do("end")
    made.settle()
    made.end()
    found = made.engine.accounting_of("a")
    assert found.seen == ended - began
    assert 0.9 < found.rate_limited / found.seen < 1.0


def test_another_profile_of_the_same_process_has_all_of_it(engine: Make, busy: BeginBusy) -> None:
    """The kernel keeps what one of them may have; the other's share is thinned in user space, and counted."""
    process = busy("read")
    made = engine(READS)
    made.add("a", limited(READS, 1))
    made.add("b", READS)
    trace(made, process, "a", "b")
    began = process.do("fast")
    made.until(lambda: told(made).phase is Phase.THROTTLED, "it is told that the limit is exceeded")
    process.do("stop")
    made.settle()
    before = made.engine.accounting_of("b")
    process.do("slow")
    pass_time(made, 2.0)
    ended = process.do("end")
    made.settle()
    made.end()
    a, b = made.engine.accounting_of("a"), made.engine.accounting_of("b")
    assert told(made, "b").phase is Phase.FREE
    assert b.seen == a.seen == ended - began  # b is without a limit: it is never off
    assert b.rate_limited == 0
    assert b.exported + sum(b.dropped.values()) == b.seen
    assert b.exported > before.exported
    assert a.exported + a.rate_limited + sum(a.dropped.values()) == a.seen
    assert a.rate_limited > 0


def test_a_call_that_is_begun_anew_is_not_thrown_away_in_its_midst(engine: Make, program: Program) -> None:
    """A signal's handler interrupts a receive that was kept; when it begins anew, all that begins is to be thrown away."""
    receives: dict[str, Any] = {"network": {"operations": ["Receive"]}}
    made = engine(receives)
    made.add("a", receives)
    made.trace(program, "a")
    program.say("receive")
    made.until(lambda: made.engine.session.in_flight()[1], "it waits")
    wanted = made.engine.profiles["a"].wanted
    made.engine.session.set_class(1, wanted, keep=1e-9, anew=False)
    os.kill(program.pid, signal.SIGUSR1)
    assert program.answer() == "done"
    program.do("receive-now")
    made.settle()
    made.end()
    found = made.engine.accounting_of("a")
    assert (found.seen, found.exported, found.rate_limited, found.in_flight) == (2, 1, 1, 0)


def test_what_began_before_a_probe_was_taken_off_is_not_what_ends_after_it_is_back(
    engine: Make, program: Program
) -> None:
    """The call may have ended unseen, and another begun: nothing is made of two halves."""
    tracepoint = {"category": "syscalls", "event": "sys_enter_clock_nanosleep", "exitEvent": "sys_exit_clock_nanosleep"}
    sleeps = {"probes": [{"name": "sleeps", "mode": "Span", "tracepoint": tracepoint}]}
    made = engine(sleeps)
    made.add("a", sleeps)
    made.trace(program, "a")
    program.say("sleep 1")
    made.until(lambda: made.engine.session.in_flight()[1], "it sleeps")
    (own,) = made.engine.session.own
    for each in made.engine.session.own.take_off(own):
        each.close()
    made.engine.session.own.put_back(own)
    assert own.problem is None
    assert program.answer() == "done"
    made.settle()
    assert made.engine.accounting_of("a").dropped == {"Skipped": 1}
    program.do("sleep 0.01")
    made.settle()
    made.end()
    found = made.engine.accounting_of("a")
    assert (found.seen, found.exported, found.in_flight) == (2, 1, 0)


def test_a_run_says_so_at_its_end(tmp_path: Path) -> None:
    limits = {**UNLIMITED, "cpuMillicores": 1}
    script = "end=$(($(date +%s)+3)); while [ $(date +%s) -lt $end ]; do read -r line < /etc/passwd; done"
    ran = runs.run(tmp_path, runs.profile(tmp_path, files={}, limits=limits), "/bin/bash", "-c", script)
    assert ran.report["guard"]["exceeded"] >= 1
    assert ran.report["guard"]["limitMillicores"] == 1
    assert "times beyond cpuMillicores 1," in ran.stderr


def test_detach_is_until_the_profile_is_another(engine: Make, busy: BeginBusy) -> None:
    process, allocates = busy("read"), busy("malloc", "-static")
    spec = limited({**READS, **allocations(allocates.path)}, 10, onExceed="Detach")
    made = engine(spec)
    made.add("a", spec)
    made.engine.look_here("a")
    trace(made, process, "a")
    trace(made, allocates, "a")
    process.do("fast")
    made.until(lambda: told(made).phase is Phase.DETACHED, "it is detached")
    assert "until the profile is changed" in told(made).message()
    assert set(told(made).shares.values()) == {0.0}
    process.do("slow")
    allocates.do("slow")
    made.settle()
    seen = hits(made)
    pass_time(made, 3.0)
    assert hits(made) == seen
    assert told(made).phase is Phase.DETACHED

    made.add("again", spec)  # before the other goes, with whom its probe would
    made.remove("a")
    for each in made.engine.processes.alive():
        made.engine.want(each, frozenset({"again"}))
    for what in ("Read", "allocations"):
        made.until(lambda what=what: any(what.lower() in name.lower() for name, _ in made.seen["again"].spans), what)
    process.do("end")
    allocates.do("end")
    made.settle()
    made.end()


def test_without_times_of_programs_it_goes_by_how_many_there_are(
    engine: Make, busy: BeginBusy, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The kernel times programs for CAP_SYS_ADMIN alone, which an agent need not have."""

    def refused() -> int:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(bpf, "enable_stats", refused)
    process = busy("read")
    made = engine(READS)
    made.add("a", limited(READS))
    trace(made, process, "a")
    process.do("fast")
    made.until(lambda: told(made).phase is Phase.THROTTLED, "it is told that the limit is exceeded")
    made.until(lambda: told(made).shares[OPERATIONS] < 1.0, "something is thrown away")
    process.do("end")
    made.settle()
    made.end()


def test_a_trap_is_measured() -> None:
    found = traps.measure()
    assert found.measured
    assert 50 < found.enter_ns < 1e6
