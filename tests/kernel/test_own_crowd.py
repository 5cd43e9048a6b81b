# SPDX-License-Identifier: Apache-2.0
"""Calls that are easily taken for another's: of processes that take each other's CPU while our programs run for them, of a coroutine
that goes from thread to thread, ended by what an interrupt does.

Programs of user probes may be preempted, where the kernel is (Debian's 7.2 was seen to be). Since 6.13 a program's stack may be its CPU's and not its thread's: the next process on that CPU would write
over it.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from tests.support import own
from tests.support.generators import compiled
from tests.support.own import argument, function, returned

PROCESSES, CALLS = 6, 1500


@pytest.mark.parametrize("mode", ["Span", "Event"])
def test_nobody_writes_over_what_is_anothers(mode: str, tmp_path: Path) -> None:
    """Each call once, with its own arguments and, of spans, its own result."""
    more: dict[str, Any] = {"returns": returned()} if mode == "Span" else {"mode": mode}
    program = compiled("own_crowd")
    probe = function("crowd", program, argument(0, "Int64"), argument(1, "Int64"), **more)
    ran = own.run(tmp_path, [probe], program, str(PROCESSES), str(CALLS))
    assert ran.status == 0, ran.stderr
    balance = ran.balance
    assert (balance["seen"], balance["exported"], balance["dropped"]) == (PROCESSES * CALLS, PROCESSES * CALLS, {})
    names = ("a0", "a1", "r") if mode == "Span" else ("a0", "a1")
    found = Counter(own.values(own.by_probe(ran)["crowd"], *names))
    calls = [(who, n, who * 1_000_000 + n) for who in range(1, PROCESSES + 1) for n in range(CALLS)]
    assert found == Counter(call[: len(names)] for call in calls)


def test_calls_that_go_on_in_another_thread(tmp_path: Path) -> None:
    """Each begins in one thread and returns in the other: none is lost, and none has another's arguments."""
    calls = 97
    program = compiled("own_migrating")
    probe = function("moves", program, argument(0, "Int64"), returns=returned())
    ran = own.run(tmp_path, [probe], program, str(calls))
    assert ran.status == 0, ran.stderr
    assert own.values(own.by_probe(ran)["moves"], "a0", "r") == [(n, n * 1000) for n in range(calls)]
    assert (ran.balance["seen"], ran.balance["dropped"]) == (calls, {})


TIMERS = """
import ctypes, time
libc = ctypes.CDLL(None)
timer = libc.timerfd_create(1, 0)
for number in range(50):
    libc.timerfd_settime(timer, 0, (ctypes.c_long * 4)(0, 0, 0, 1_000_000), None)
    end = time.perf_counter() + 0.002
    while time.perf_counter() < end:
        pass
"""


def test_an_interrupt_ends_nothing(tmp_path: Path) -> None:
    """Timers that a program starts expire while it computes: it is there, and what happens is not its doing."""
    events = {"category": "timer", "event": "hrtimer_start", "exitEvent": "hrtimer_expire_exit"}
    ran = own.run(tmp_path, [{"name": "timer", "tracepoint": events}], "/usr/bin/python3", "-S", "-c", TIMERS)
    assert ran.status == 0, ran.stderr
    assert ran.balance["seen"] >= 50
    assert ran.balance["exported"] == 0
    assert own.by_probe(ran) == {}


def test_an_interrupt_is_nobodys_act(tmp_path: Path) -> None:
    """Told of nobody, whether it takes the CPU from the kernel or from the program."""
    events = {"category": "timer", "event": "hrtimer_expire_exit"}
    probe = {"name": "timer", "tracepoint": events, "mode": "Event"}
    ran = own.run(tmp_path, [probe], "/usr/bin/python3", "-S", "-c", TIMERS)
    assert ran.status == 0, ran.stderr
    assert own.by_probe(ran) == {}
    assert ran.balance["seen"] == 0


def test_an_end_that_is_an_interrupts(tmp_path: Path) -> None:
    """Refused like a beginning."""
    events = {"category": "timer", "event": "hrtimer_start", "exitEvent": "hrtimer_expire_entry"}
    ran = own.run(tmp_path, [{"name": "timer", "tracepoint": events}], "/bin/true")
    assert ran.status == 3
    assert "SoftirqContext" in ran.stderr
    assert "timer:hrtimer_expire_entry" in ran.stderr
