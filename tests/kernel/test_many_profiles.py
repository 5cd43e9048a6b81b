# SPDX-License-Identifier: Apache-2.0
"""Several profiles in one engine, at moments when what the kernel knows and what the agent knows are not the same.

The engine is stepped by the test, so that each of these moments is one that the test has made, not one it hopes for.
"""

from __future__ import annotations

import contextlib
import os
import random
import subprocess
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from kernelspan_agent import classes
from kernelspan_agent.errors import BudgetError
from kernelspan_agent.probes.mechanisms import RAW_TRACEPOINT
from kernelspan_agent.profile_run import ProfileRun
from kernelspan_agent.resolve.tables import Taken
from kernelspan_agent.resolve.traced import TracedProcess
from tests.support.engines import Begin, Made, Make, engines, programs
from tests.support.generators import compiled
from tests.support.runs import SYSTEM_PYTHON

STATS: dict[str, Any] = {"files": {"operations": ["Stat"]}}


@pytest.fixture
def program() -> Iterator[Begin]:
    with programs() as begin:
        yield begin


@pytest.fixture
def engine() -> Iterator[Make]:
    with engines(mechanism=RAW_TRACEPOINT) as make:
        yield make


def test_who_wants_a_process_changes_while_it_execs_and_forks(program: Begin, engine: Make) -> None:
    """The kernel passes on who wanted it; the agent, which hears of it later, sets right who wants it now."""
    made = engine(STATS)
    made.add("a", STATS)
    made.add("b", STATS)
    execs, forks = program(), program()
    first, second = made.trace(execs, "a"), made.trace(forks, "a")
    execs.say("exec")
    assert execs.answer() == "ready"  # and the agent has not heard of it
    assert forks.do("fork").isdigit()
    made.engine.want(first, frozenset({"b"}))
    made.engine.want(second, frozenset({"b"}))
    made.settle()
    execs.do("look after-exec")
    forks.do("child look after-fork")
    made.settle()
    made.end()
    assert made.seen["a"].marks == []
    assert sorted(made.seen["b"].marks) == ["after-exec", "after-fork"]


def test_a_call_that_outlives_its_profile_is_nobody_elses(program: Begin, engine: Make) -> None:
    """It began for a profile that is no more when it ends: the one that is left has none of it."""
    waits = {"waits": {"operations": ["Sleep"]}}
    made = engine(waits)
    made.add("a", waits)
    made.add("b", waits)
    sleeps, other = program(), program()
    traced = made.trace(sleeps, "a")
    made.trace(other, "b")
    sleeps.say("sleep 0.6")
    made.settle()
    made.engine.want(traced, frozenset())
    made.remove("a")
    assert sleeps.answer() == "done"
    other.do("sleep 0.001")
    made.settle()
    made.end()
    assert len(made.seen["b"].spans) == 1


def test_a_process_that_has_ended_is_not_traced(program: Begin, engine: Make) -> None:
    """Its pid may be another's by then: the kernel must not be told of it, whether it is a zombie still or not."""
    made = engine(STATS)
    made.add("a", STATS)
    for reaped in (True, False):
        gone = program()
        gone.process.kill()
        if reaped:
            gone.process.wait()
        else:
            os.waitid(os.P_PID, gone.pid, os.WEXITED | os.WNOWAIT)
        made.engine.trace(gone.pid, "program", frozenset({"a"}))
        assert made.engine.session.process_start(gone.pid) is None
    # one that ended, whose end is not known yet, and who is wanted by others now
    late = program()
    traced = made.trace(late, "a")
    late.close()
    made.add("b", STATS)
    made.engine.want(traced, frozenset({"b"}))
    assert made.engine.session.process_start(late.pid) is None
    made.settle()
    assert made.engine.processes.alive() == []
    made.end()


def test_more_ports_than_the_kernel_can_hold(program: Begin, engine: Make) -> None:
    """Of one profile, and of two together: each sees its own ports, all of them, and no other."""
    first, second = list(range(101, 133)), list(range(201, 213))
    specs = {"a": {"network": {"operations": ["Connect"], "ports": first}}}
    specs["b"] = {"network": {"operations": ["Connect"], "ports": second}}
    specs["c"] = {"network": {"operations": ["Connect"], "ports": [101, *second]}}
    made = engine(*specs.values())
    for uid, spec in specs.items():
        made.add(uid, spec)
    alone, both = program(), program()
    made.trace(alone, "a")
    made.trace(both, "b", "c")
    ports = [80, *first, *second, 9999]
    for each in (alone, both):
        each.do("connect " + " ".join(map(str, ports)))
    made.settle()
    made.end()
    assert {uid: [int(port) for _, port in seen.spans] for uid, seen in made.seen.items()} == {
        "a": first,
        "b": second,
        "c": [101, *second],
    }


def test_numbers_of_sets_that_are_given_away_again(
    program: Begin, engine: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What one set was said to be (files it does not want, its limit) is not what the next one with its number is."""
    monkeypatch.setattr(classes, "MAX_CLASSES", 4)
    made = engine(STATS)
    runs = program()
    traced = made.trace(runs)
    for number in range(8):
        uid, other = f"a{number}", f"b{number}"
        made.add(uid, {"files": {"operations": ["Stat"], "paths": [f"/mark/{number % 2}/*"]}})
        made.add(other, {"files": {"operations": ["Stat"], "paths": [f"/mark/{number % 2}/*"]}})
        made.engine.want(traced, frozenset({uid, other}))
        for _ in range(3):  # the first time user space filters what is not wanted, then the kernel
            for which in range(2):
                runs.do(f"look {which}/{number}")
                runs.do(f"look {which}/same")
            made.settle()
        for each in (uid, other):
            expected = [f"{number % 2}/{number}", f"{number % 2}/same"] * 3
            assert made.seen[each].marks == expected, (number, each)
        made.engine.want(traced, frozenset())
        balance = made.engine.accounting_of(uid)
        assert (balance.unaccounted, balance.exported, balance.filtered) == (0, 6, balance.seen - 6), (number, balance)
        for each in (uid, other):
            made.remove(each)
    made.end()


def test_no_number_left(program: Begin, engine: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who cannot be traced for all that want it is traced for nobody, rather than for whom it is not any more."""
    monkeypatch.setattr(classes, "MAX_CLASSES", 3)
    made = engine(STATS)
    for uid in "abc":
        made.add(uid, STATS)
    programs = [program() for _ in range(3)]
    first, second, third = (made.trace(each, uid) for each, uid in zip(programs, "aba", strict=True))
    with pytest.raises(BudgetError):
        made.engine.want(third, frozenset("c"))
    programs[2].do("look lost")
    made.engine.want(first, frozenset("b"))  # nobody is of {a} any more
    made.remove("a")
    made.engine.want(third, frozenset("c"))
    for number, each in enumerate(programs):
        each.do(f"look {number}")
    made.settle()
    made.end()
    assert (made.seen["a"].marks, made.seen["b"].marks, made.seen["c"].marks) == ([], ["0", "1"], ["2"])
    assert second.wanted_by == {"b"}


STORM_PROFILES = 24
# Opens, reads and stats files, sleeps, starts others: for ever.
BUSY = """
import os, sys, time
print("ready", flush=True)
while True:
    for name in ("/etc/passwd", "/mark/x/1", "/mark/y/2"):
        try:
            with open(name, "rb") as file: file.read(10)
        except OSError: pass
    if sys.argv[1] == "forks":
        pid = os.fork()
        if not pid:
            os.stat("/")
            os.execv("/bin/true", ["/bin/true"]) if os.getpid() % 2 else os._exit(0)
        os.waitpid(pid, 0)
    else: time.sleep(0.0001)
"""
SPECS: list[dict[str, Any]] = [
    {"files": {}},
    {"files": {"operations": ["Open"], "paths": ["/mark/x/*"]}},
    {"files": {"operations": ["Read", "Stat"], "minDurationMicroseconds": 3}, "code": {"stacks": "None"}},
    {"processes": {}, "limits": {"eventsPerSecond": 300, "spansPerSecond": 200}},
    {"waits": {}},
    {"files": {}, "processes": {}, "waits": {"operations": ["Sleep", "OffCPU"]}, "sampling": {"percent": 50}},
]


class Storm:
    """Changes at random who wants whom, and remembers it of those that neither exec nor fork."""

    def __init__(self, made: Made, traced: list[TracedProcess], steady: set[int]) -> None:
        self.made, self.traced, self.steady = made, traced, steady
        self.since = dict.fromkeys(steady, time.monotonic_ns())
        self.wanted: dict[int, list[tuple[int, int, frozenset[str]]]] = {tgid: [] for tgid in steady}
        self.random = random.Random(4)
        self.profiles = self.changes = self.refused = 0

    def change(self) -> None:
        self.changes += 1
        engine = self.made.engine
        if len(engine.profiles) < 6 or self.random.random() < 0.2:
            self.made.add(f"p{self.profiles}", SPECS[self.profiles % len(SPECS)])
            self.profiles += 1
        uids = list(engine.profiles)
        for each in engine.processes.alive():
            if self.random.random() < 0.5:
                self._want(each, frozenset(self.random.sample(uids, self.random.randrange(min(4, len(uids))))))
        if len(uids) > 8:
            leaves = self.random.choice(uids)
            for each in engine.processes.alive():
                if leaves in each.wanted_by:
                    self._want(each, each.wanted_by - {leaves})
            self.made.remove(leaves)

    def _want(self, traced: TracedProcess, uids: frozenset[str]) -> None:
        before, when = traced.wanted_by, time.monotonic_ns()
        try:
            self.made.engine.want(traced, uids)
        except BudgetError:
            self.refused += 1
        if traced.tgid in self.steady and before != traced.wanted_by:
            self.wanted[traced.tgid].append((self.since[traced.tgid], when, before))
            self.since[traced.tgid] = time.monotonic_ns()

    def end(self) -> None:
        now = time.monotonic_ns()
        for each in self.traced:
            if each.tgid in self.steady:
                self.wanted[each.tgid].append((self.since[each.tgid], now, each.wanted_by))

    def check(self, uid: str, ops: np.ndarray) -> int:
        """Of how many operations it is known that the profile may have been given them; no one is one it may not."""
        assert len(np.unique(ops)) == len(ops), uid
        count = 0
        for tgid, times in self.wanted.items():
            starts = ops["start"][ops["tgid"] == tgid].astype(np.int64)
            count += len(starts)
            for began, ended, uids in times:
                assert uid in uids or not ((starts > began) & (starts < ended)).any(), (uid, tgid)
        return count


def test_profiles_come_and_go_under_load(engine: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each balance is exact; nobody is given an operation of a process that it did not select, none of them twice."""
    given: dict[str, list[np.ndarray]] = {}
    process = ProfileRun.process

    def remember(run: ProfileRun, taken: Taken, count: int) -> None:
        given.setdefault(run.uid, []).append(taken.ops[["tgid", "tid", "start", "time", "op"]])
        process(run, taken, count)

    monkeypatch.setattr(ProfileRun, "process", remember)
    monkeypatch.setattr(classes, "MAX_CLASSES", 24)  # numbers run out, and are given away again
    made = engine({"files": {}, "processes": {}, "waits": {}})
    with contextlib.ExitStack() as stack:
        forks, *others = (stack.enter_context(_busy(how)) for how in ("forks", "stays", "stays"))
        flood = stack.enter_context(subprocess.Popen([compiled("flood"), "2", "0"], stdin=subprocess.PIPE))
        stack.callback(flood.kill)
        steady = {each.pid for each in (*others, flood)}
        storm = Storm(made, [made.engine.trace(pid, "busy", frozenset()) for pid in (forks.pid, *steady)], steady)
        assert flood.stdin is not None
        flood.stdin.write(b"x")
        flood.stdin.flush()
        while storm.profiles < STORM_PROFILES:
            storm.change()
            made.engine.step(0.002)
        storm.end()
    made.end()
    assert storm.refused, "there were numbers for all"
    assert sum(storm.check(uid, np.concatenate(pieces)) for uid, pieces in given.items()) > 10_000


@contextlib.contextmanager
def _busy(how: str) -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen([SYSTEM_PYTHON, "-S", "-c", BUSY, how], stdout=subprocess.PIPE) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == b"ready\n"
            yield process
        finally:  # also where the test fails: else it would wait for ever
            process.kill()
