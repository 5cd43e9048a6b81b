# SPDX-License-Identifier: Apache-2.0
"""Waits, and what signals do to calls that wait."""

from __future__ import annotations

import contextlib
import os
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest

from kernelspan_agent.probes import bpf, mechanisms
from kernelspan_agent.probes.source import syscalls
from kernelspan_agent.ring.records import OP_SIZE
from kernelspan_api.operations import Group
from tests.support import runs
from tests.support.engines import engines, programs
from tests.support.runs import PROGRAMS, SYSTEM_PYTHON, Run, Scenario

CALLS = ["locks", "sleeps", "polls"]
SIGNALS = ["stopped", "restarted", "interrupted"]
OFF_CPU_US = 60_000  # between what a thread waits for a processor and what `naps` sleeps


def _run(folder: Path, names: list[str], *, hidden: bool = False, **spec: object) -> Run:
    """`hidden`: the kernel may keep a thread's return to the CPU to itself."""
    (folder / "at").mkdir()
    profile = runs.profile(folder, **spec)
    done = runs.run(folder, profile, SYSTEM_PYTHON, "-S", PROGRAMS / "waits.py", folder / "at", *names)
    assert set(done.balance["dropped"]) <= ({"Skipped"} if hidden else set()), done.report
    assert done.balance["inFlight"] == 0, done.report
    return done


@pytest.fixture(scope="module")
def traced(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Scenario]:
    """Every scenario but those of time off the CPU, in one run."""
    spec = {"waits": {"operations": ["Lock", "Sleep", "Poll"]}, "network": {"operations": ["Receive"]}}
    return runs.scenarios(_run(tmp_path_factory.mktemp("waits"), CALLS + SIGNALS, **spec))


@pytest.mark.parametrize("name", CALLS + SIGNALS)
def test_scenario(traced: dict[str, Scenario], name: str) -> None:
    """One operation a call, also where the kernel begins it anew; two where the program makes it again."""
    found = traced[name]
    assert found.seen == found.said


def test_a_restarted_call_took_all_the_time(traced: dict[str, Scenario]) -> None:
    """An operation that a signal's handler stopped began before the handler's own and ended after them."""
    spans = traced["restarted"].spans
    receives = [span for span in spans if span.name == "unix.receive"]
    polls = [span for span in spans if span.name == "wait.poll"]
    assert len(polls) == 3 * len(receives)
    for index, receive in enumerate(receives):
        mine = polls[3 * index : 3 * index + 3]
        assert all(receive.start_ns < poll.start_ns and poll.end_ns < receive.end_ns for poll in mine)


def test_every_call(traced: dict[str, Scenario]) -> None:
    """No system call of the group is left untried."""
    tried = {call for name in CALLS for call in traced[name].more["calls"]}
    assert {call.name for call in syscalls(Group.WAITS)} == tried


def test_off_cpu(tmp_path: Path) -> None:
    """As many as the program slept, each as long as it slept; threads that end leave none behind."""
    waits = {"operations": ["OffCPU"], "minDurationMicroseconds": OFF_CPU_US}
    done = _run(tmp_path, ["naps", "threads_that_end"], hidden=True, waits=waits)
    naps = runs.scenarios(done)["naps"]
    assert 0 <= len(naps.said) - len(naps.seen) <= done.balance["dropped"].get("Skipped", 0)
    assert all(nap in naps.said for nap in naps.seen)
    assert all(span.end_ns - span.start_ns >= 120_000_000 for span in naps.spans)
    assert done.balance["filtered"] >= 101  # the threads' sleeps


def test_a_return_to_the_cpu_that_nobody_told_of() -> None:
    """A time off the CPU is kept for a thread that runs: it is counted as left out, and neither lost nor told.

    Some kernels hide what switches to and from a task of theirs; here the test keeps it, so the kernel never counted it.
    """
    spec = {"waits": {"operations": ["OffCPU"]}, "network": {"operations": ["Close"]}}
    with engines(mechanism=mechanisms.RAW_TRACEPOINT) as make, programs() as begin:
        made = make(spec)
        made.add("p", spec)
        program = begin()
        made.trace(program, "p")
        stash, thread = made.engine.session._loader.maps["ks_stash"], struct.pack("<I", program.pid)
        program.do("sleep 0.1")
        made.until(lambda: bpf.map_lookup(stash, thread, OP_SIZE), "it waits for a line")
        kept = bpf.map_lookup(stash, thread, OP_SIZE)
        assert kept is not None
        os.setpriority(os.PRIO_PROCESS, program.pid, -20)  # else it may be leaving the CPU as this is put there
        with apart(program.pid):
            program.say("spin 2")
            while not keep(stash, thread, kept):
                assert not program.answered(), "it never ran"
            program.answer()
        made.engine.finish()
        found = made.engine.accounting_of("p")
        assert found.dropped["Skipped"] >= 1
        assert found.unaccounted == -1


@contextlib.contextmanager
def apart(pid: int) -> Iterator[None]:
    """This thread on one CPU, a program on another, where there are several: neither waits for the other."""
    allowed = os.sched_getaffinity(0)
    one, *others = sorted(allowed)
    os.sched_setaffinity(pid, {one})
    os.sched_setaffinity(0, others or allowed)
    try:
        yield
    finally:
        os.sched_setaffinity(0, allowed)


def keep(stash: int, thread: bytes, kept: bytes) -> bool:
    """Whether it could be put there: nothing is kept for the thread by itself, which is on a CPU, then."""
    no_exist = 1
    try:
        bpf.map_update(stash, thread, kept, no_exist)
    except FileExistsError:
        return False
    return True


def test_few_calls(tmp_path: Path) -> None:
    """Calls attached one by one: stopped and begun anew they are one operation as well."""
    spec = {"waits": {"operations": ["Sleep"]}, "network": {"operations": ["Receive"]}}
    done = _run(tmp_path, ["stopped"], **spec)
    assert done.report["mechanism"] == mechanisms.one_by_one().name
    found = runs.scenarios(done)["stopped"]
    assert found.seen == found.said
