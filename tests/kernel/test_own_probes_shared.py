# SPDX-License-Identifier: Apache-2.0
"""Own probes of several profiles in one engine: shared where they are alike, attached later, taken away with the last."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from kernelspan_agent.probes.mechanisms import RAW_TRACEPOINT
from kernelspan_agent.probes.own.probe import OwnProbe, Standing
from kernelspan_agent.ring.records import MAX_OWN_PROBES
from tests.support.engines import Begin, Made, Make, engines, programs, wanted_of
from tests.support.runs import SYSTEM_PYTHON

STATS: dict[str, Any] = {"files": {"operations": ["Stat"]}}
LOOK = {
    "name": "look",
    "kprobe": {"call": "newfstatat", "syscall": True},
    "args": [{"index": 1, "type": "String", "attribute": "file.path"}],
    "match": [{"args": [{"index": 1, "operator": "Prefix", "values": ["/mark/"]}]}],
}
SLEEP = {"name": "sleep", "kprobe": {"call": "clock_nanosleep", "syscall": True}}
LIBRARY = "/usr/lib/x86_64-linux-gnu/libm.so.6"
ANOTHER = "/usr/lib/x86_64-linux-gnu/libc.so.6"
# Loads the library that a line names, and calls a function of it so often.
LOADER = """
import ctypes, sys
print("ready", flush=True)
for line in sys.stdin:
    path, count = line.split()
    library = ctypes.CDLL(path)
    for _ in range(int(count)): library.ilogb(ctypes.c_double(8.0))
    print("done", flush=True)
"""


@pytest.fixture
def program() -> Iterator[Begin]:
    with programs() as begin:
        yield begin


@pytest.fixture
def engine() -> Iterator[Make]:
    with engines(mechanism=RAW_TRACEPOINT) as make:
        yield make


class Loader:
    """LOADER, running."""

    def __init__(self) -> None:
        pipe = subprocess.PIPE
        self.process = subprocess.Popen([SYSTEM_PYTHON, "-S", "-c", LOADER], stdin=pipe, stdout=pipe, bufsize=0)
        assert self._answer() == b"ready\n"

    @property
    def pid(self) -> int:
        return self.process.pid

    def call(self, library: Path | str, times: int) -> None:
        """Has it load a library, and call its function."""
        assert self.process.stdin is not None
        self.process.stdin.write(f"{library} {times}\n".encode())
        assert self._answer() == b"done\n"

    def close(self) -> None:
        self.process.communicate()

    def _answer(self) -> bytes:
        assert self.process.stdout is not None
        return self.process.stdout.readline()


def own(made: Made) -> list[OwnProbe]:
    return list(made.engine.session.own)


def extend(made: Made, *specs: dict[str, Any]) -> None:
    """As the agent does it when a plan wants more than is attached."""
    wanted = wanted_of(*specs)
    session = made.engine.session
    assert session.lacks(wanted)
    assert session.can_see(wanted)
    session.extend(wanted, session.build_more(wanted, {**os.environ}))
    assert not session.lacks(wanted)


def test_alike_probes_are_one(program: Begin, engine: Make) -> None:
    """Attached once, seen by both; with the one profile gone it goes on for the other, with both it is detached."""
    spec = {"probes": [LOOK]}
    made = engine(spec, {"probes": [LOOK, SLEEP]})
    made.add("a", spec)
    made.add("b", {"probes": [LOOK, SLEEP]})
    assert [each.spec.name for each in own(made)] == ["look", "sleep"]
    looks = own(made)[0]
    runs = program()
    made.trace(runs, "a", "b")
    runs.do("look both")
    made.settle()
    assert (made.seen["a"].marks, made.seen["b"].marks) == (["both"], ["both"])
    attachments = [each for part in looks.parts for each in part.attachments]
    assert len(attachments) == 2

    made.remove("b")
    assert own(made) == [looks]
    assert [each for part in looks.parts for each in part.attachments] == attachments
    runs.do("look one")
    made.settle()
    assert (made.seen["a"].marks, made.seen["b"].marks) == (["both", "one"], ["both"])

    made.remove("a")
    assert own(made) == []
    assert not looks.is_attached
    made.settle()  # what was detached is given back
    assert [name for name in made.engine.session.programs() if name.endswith(".0")] == []
    runs.do("look none")
    made.settle()
    assert made.seen["a"].marks == ["both", "one"]


def test_a_probe_that_comes_later(program: Begin, engine: Make) -> None:
    """A process that is traced already is seen by a probe from when its profile is there; the rest goes on."""
    made = engine(STATS)
    made.add("a", STATS)
    runs = program()
    traced = made.trace(runs, "a")
    runs.do("look before")
    made.settle()
    extend(made, STATS, {"probes": [LOOK]})
    made.add("b", {"probes": [LOOK]})
    made.engine.want(traced, frozenset({"a", "b"}))
    runs.do("look after")
    made.settle()
    assert made.seen["a"].marks == ["before", "after"]
    assert made.seen["b"].marks == ["after"]
    made.end()


def test_the_next_probe_is_another(program: Begin, engine: Make) -> None:
    """What the profile before wanted is nothing to the next one."""
    made = engine({"probes": [LOOK]})
    made.add("a", {"probes": [LOOK]})
    runs = program()
    traced = made.trace(runs, "a")
    runs.do("look first")
    made.settle()
    (before,) = own(made)
    made.remove("a")
    made.settle()
    extend(made, {"probes": [SLEEP]})
    made.add("b", {"probes": [SLEEP]})
    (after,) = own(made)
    assert after.number != before.number  # what still bears it is read before it means something else
    made.engine.want(traced, frozenset({"b"}))
    runs.do("look second")
    runs.do("sleep 0.01")
    made.settle()
    assert [name for name, _ in made.seen["b"].spans] == ["sleep"]
    made.end()


def test_a_call_under_way_when_its_probe_goes(program: Begin, engine: Make) -> None:
    """It is counted as lost for it, with those who have the process beside: nothing stays in flight for ever."""
    both = {**STATS, "probes": [SLEEP]}
    made = engine(both)
    made.add("a", both)
    made.add("b", STATS)
    runs = program()
    made.trace(runs, "a", "b")
    runs.do("look before")
    made.settle()
    runs.say("sleep 1")
    made.until(made.engine.session.own.in_flight, "the sleep has begun")
    made.remove("a")
    assert runs.answer() == "done"
    runs.do("look after")
    made.settle()
    made.engine.finish()
    found = made.engine.accounting_of("b")
    assert (found.unaccounted, found.in_flight, found.dropped) == (0, 0, {"ProbeRemoved": 1})
    assert made.seen["b"].marks == ["before", "after"]


def test_more_probes_than_there_are_numbers(engine: Make) -> None:
    """Those that there is no number for say so; the others are attached."""
    uprobe = {"path": "Auto", "symbols": ["main"]}  # waits for a process: nothing is attached for it yet
    many = [{"name": f"p{number}", "uprobe": uprobe, "mode": "Event"} for number in range(MAX_OWN_PROBES)]
    made = engine({"probes": [LOOK]})
    wanted = wanted_of(*({"probes": many[at : at + 32]} for at in range(0, MAX_OWN_PROBES, 32)))
    made.engine.session.extend(wanted, made.engine.session.build_more(wanted, {**os.environ}))
    standings = [each.standing for each in own(made)]
    assert standings == [Standing.ATTACHED] + [Standing.PENDING] * (MAX_OWN_PROBES - 1) + [Standing.FAILED]
    problem = own(made)[-1].problem
    assert problem is not None
    assert problem.reason == "TooManyProbes"
    assert made.engine.session.own.mask(wanted.probes) == (1 << MAX_OWN_PROBES) - 2


@pytest.mark.parametrize("before", ["BinaryNotFound", "SymbolNotFound"])
def test_code_that_is_loaded_late(engine: Make, tmp_path: Path, before: str) -> None:
    """A library that is not there (or another) when the probe is opened, and not loaded when its process is: once it is,
    it is seen.
    """
    library = tmp_path / "libown.so"
    if before == "SymbolNotFound":
        shutil.copyfile(ANOTHER, library)
    spec = {"probes": [{"name": "ilogb", "uprobe": {"path": str(library), "symbols": ["ilogb"]}, "mode": "Event"}]}
    made = engine(spec)
    made.add("a", spec)
    made.engine.look_here("a")
    (probe,) = own(made)
    assert probe.standing is (Standing.PENDING if before == "BinaryNotFound" else Standing.FAILED)
    assert probe.trouble is not None
    assert probe.trouble.reason == before
    with contextlib.closing(Loader()) as runs:
        made.engine.trace(runs.pid, "program", frozenset({"a"}))
        made.settle()
        library.unlink(missing_ok=True)
        shutil.copyfile(LIBRARY, library)
        made.until(lambda: probe.is_attached, "attached")
        assert (probe.standing, probe.trouble) == (Standing.ATTACHED, None)
        runs.call(library, 3)
        made.settle()
        replaced = tmp_path / "next"
        shutil.copyfile(LIBRARY, replaced)
        replaced.rename(library)  # another file by the same name: of a process that starts now
        with contextlib.closing(Loader()) as second:
            made.engine.trace(second.pid, "program", frozenset({"a"}))
            made.until(lambda: len(probe.files) == 2, "attached to the new file too")
            second.call(library, 4)
    made.settle()
    assert len(made.seen["a"].spans) == 7
    made.end()


def test_user_code_of_a_process_that_is_traced_already(engine: Make) -> None:
    """A profile that comes later is looked at for the files of the processes that it is given."""
    probe = {"name": "ilogb", "uprobe": {"path": LIBRARY, "symbols": ["ilogb"]}, "mode": "Event"}
    made = engine(STATS)
    made.add("a", STATS)
    with contextlib.closing(Loader()) as runs:
        traced = made.engine.trace(runs.pid, "program", frozenset({"a"}))
        made.settle()
        extend(made, {"probes": [probe]})
        made.add("b", {"probes": [probe]})
        assert [each.standing for each in own(made)] == [Standing.PENDING]
        made.engine.want(traced, frozenset({"a", "b"}))
        made.until(lambda: own(made)[0].is_attached, "attached")
        runs.call(LIBRARY, 5)
    made.settle()
    assert [name for name, _ in made.seen["b"].spans] == ["ilogb"] * 5
    made.end()


def test_code_that_never_comes_fails_after_a_while(engine: Make, program: Begin) -> None:
    """Pending while it may be on its way, then said to be not there; as long as it is nowhere it holds nothing."""
    spec = {"probes": [{"name": "none", "uprobe": {"path": "/opt/none.so", "symbols": ["none"]}, "mode": "Event"}]}
    made = engine(spec)
    made.add("a", spec)
    (probe,) = own(made)
    assert (probe.standing, probe.trouble) == (Standing.PENDING, None)
    made.trace(program(), "a")
    end = time.monotonic() + 30
    while probe.standing is Standing.PENDING and time.monotonic() < end:
        made.settle()
    assert probe.standing is Standing.FAILED
    assert probe.problem is not None
    assert (probe.problem.reason, probe.parts) == ("BinaryNotFound", [])
