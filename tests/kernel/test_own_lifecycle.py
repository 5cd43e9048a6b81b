# SPDX-License-Identifier: Apache-2.0
"""What probes of one's own leave in the kernel: nothing, however the agent ends, and however many of them fail."""

from __future__ import annotations

import contextlib
import os
import shlex
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from kernelspan_agent.errors import KernelspanError
from kernelspan_agent.probes.mechanisms import RAW_TRACEPOINT
from tests.support import leftovers, runs
from tests.support.engines import Made, engines
from tests.support.own import argument, function, returned, targets

MANY, OF_ONE_PROFILE = 256, 32


@contextlib.contextmanager
def _for_ever() -> Iterator[subprocess.Popen[str]]:
    with subprocess.Popen([targets(), "for-ever"], stdout=subprocess.PIPE, text=True) as target:
        try:
            assert target.stdout is not None
            assert target.stdout.readline() == "ready\n"
            yield target
        finally:
            target.kill()


def _semaphore(target: subprocess.Popen[str]) -> int:
    assert target.stdout is not None
    target.send_signal(signal.SIGUSR2)
    return int(target.stdout.readline().split()[1])


@contextlib.contextmanager
def _engine(*specs: dict[str, Any]) -> Iterator[Made]:
    with engines(mechanism=RAW_TRACEPOINT) as make:
        made = make(*specs)
        for number, spec in enumerate(specs):
            made.add(f"p{number}", spec)
            made.engine.look_here(f"p{number}")
        yield made


def _trace_all(made: Made, *command: str | Path) -> None:
    """Runs a command that is traced from its start, by all profiles."""
    held = ["/bin/sh", "-c", f"read x; exec {shlex.join(map(str, command))}"]
    with subprocess.Popen(held, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL) as target:
        made.engine.trace(target.pid, "x", frozenset(made.engine.profiles))
        made.settle()
        target.communicate(b"\n")


def test_a_killed_agent_leaves_nothing(tmp_path: Path) -> None:
    """No program, map, breakpoint or raised semaphore: the program goes on as if nobody had ever looked."""
    before = leftovers.mounts()
    program = targets()
    order = {"path": str(program), "provider": "shop", "probe": "order"}
    probes: list[dict[str, Any]] = [
        function("hidden", program, argument(0, "Int32"), returns=returned("Int32")),
        {"name": "order", "usdt": order, "mode": "Event", "args": [argument(0, "Int64")]},
        {"name": "naps", "kprobe": {"call": "clock_nanosleep", "syscall": True}, "returns": returned()},
    ]
    with _for_ever() as target:
        assert _semaphore(target) == 0
        with runs.attached(tmp_path, runs.profile(tmp_path, probes=probes), "--pid", str(target.pid)) as agent:
            agent.wait_for_spans(len(probes), lambda span: span.name in {"hidden", "order", "naps"})
            assert _semaphore(target) > 0  # one for each place of the probe
            agent.process.kill()
            agent.process.wait()
        leftovers.check(before, {target.pid})
        assert _semaphore(target) == 0
        assert target.poll() is None


def test_64_probes_that_all_fail(tmp_path: Path) -> None:
    """Each has its own reason, none stops the agent, nothing stays; and what can be seen besides them is."""
    before = leftovers.mounts()
    fifo, folder, text = tmp_path / "fifo", tmp_path / "folder", tmp_path / "text"
    os.mkfifo(fifo)
    folder.mkdir()
    text.write_text("no program")
    sparse = tmp_path / "sparse"
    with sparse.open("wb") as file:
        file.truncate(1 << 40)
    bad: list[dict[str, Any]] = []
    places = [
        fifo,
        folder,
        text,
        sparse,
        tmp_path / "absent",
        Path("/bin/sh"),
        Path("/dev/zero"),
        Path("/proc/self/mem"),
    ]
    for number, path in enumerate(places):
        bad += [
            function(f"function-{number}", path, symbols=(f"no_such_{number}",)),
            {"name": f"static-{number}", "mode": "Event", "usdt": {"path": str(path), "provider": "x", "probe": "y"}},
            {
                "name": f"event-{number}",
                "tracepoint": {"category": "sched", "event": f"no_such_{number}", "exitEvent": "no"},
            },
            {"name": f"raw-{number}", "mode": "Event", "tracepoint": {"category": "sched", "event": "no", "raw": True}},
            {"name": f"kernel-{number}", "kprobe": {"call": f"no_such_function_{number}"}},
            {"name": f"call-{number}", "kprobe": {"call": f"no_such_call_{number}", "syscall": True}},
            {
                "name": f"field-{number}",
                "mode": "Event",
                "tracepoint": {"category": "sched", "event": "sched_switch"},
                "args": [{"field": f"no_such_{number}", "type": "Int32", "attribute": "a"}],
            },
            {
                "name": f"number-{number}",
                "mode": "Event",
                "tracepoint": {"category": "sched", "event": "sched_switch"},
                "args": [argument(0, "Int64")],
                "match": [{"args": [{"index": 0, "operator": "Equal", "values": [f"no number {number}"]}]}],
            },
        ]
    with _engine({"probes": bad[:32]}, {"probes": bad[32:]}, {"files": {"operations": ["Stat"]}}) as made:
        problems: dict[str, KernelspanError | None] = {each.spec.name: each.trouble for each in made.engine.session.own}
        assert len(problems) == 64
        assert {name for name, problem in problems.items() if problem is None} == set()
        assert all(problem is not None and problem.reason for problem in problems.values())
        with _for_ever() as target:
            made.engine.trace(target.pid, "x", frozenset({"p0", "p1", "p2"}))
            made.settle()
        made.end()
    leftovers.check(before)


def test_256_probes_and_one_more() -> None:
    """As many as there are numbers, on one function: each sees every call; one more is refused with the reason."""
    before = leftovers.mounts()
    program = targets()
    specs = [
        {
            "probes": [
                function(f"hidden-{at + each}", program, symbols=("hidden",), mode="Event")
                for each in range(OF_ONE_PROFILE)
            ]
        }
        for at in range(0, MANY, OF_ONE_PROFILE)
    ]
    with _engine(*specs) as made:
        assert all(each.problem is None and each.is_attached for each in made.engine.session.own)
        subprocess.run([program, "in-order", "13"], stdout=subprocess.DEVNULL, check=True)  # nobody's
        _trace_all(made, program, "in-order", "13")
        made.settle()
        made.end()
        for seen in made.seen.values():
            assert len(seen.spans) == OF_ONE_PROFILE * 13
    leftovers.check(before)


def test_removed_while_it_is_hit() -> None:
    """A probe goes in the midst of calls, again and again: nothing breaks, and every call that was seen is accounted for."""
    before = leftovers.mounts()
    program = targets()
    spec = {"probes": [function("hidden", program, argument(0, "Int32"), returns=returned("Int32"))]}
    with _for_ever() as target, _engine(spec) as made:
        made.engine.trace(target.pid, "x", frozenset({"p0"}))
        (own_probe,) = made.engine.session.own
        made.until(lambda: len(made.seen["p0"].spans) > 100, "hits")
        made.engine.session.own.remove(own_probe)
        seen = -1
        end = time.monotonic() + 30
        while seen != len(made.seen["p0"].spans):  # what was on the way
            assert time.monotonic() < end
            seen = len(made.seen["p0"].spans)
            made.settle()
        assert target.poll() is None
        made.end()
    leftovers.check(before)


def test_calls_whose_thread_has_ended_are_given_back() -> None:
    """Without a new call at their place, within seconds, while the agent runs on."""
    program = targets()
    spec = {"probes": [function("ends", program, argument(0, "Int64"), symbols=("ends_inside",))]}
    with _engine(spec) as made:
        _trace_all(made, program, "all", "13")
        end = time.monotonic() + 60
        while made.engine.accounting_of("p0").dropped.get("TargetGone", 0) < 13 and time.monotonic() < end:
            made.engine.step(0.05)
        found = made.engine.accounting_of("p0")
        assert (found.seen, found.dropped, found.in_flight) == (13, {"TargetGone": 13}, 0)
        made.end()
