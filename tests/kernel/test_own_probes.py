# SPDX-License-Identifier: Apache-2.0
"""Probes of one's own on programs that make calls and returns hard to tell.

N operations are N spans with what they were called with and gave, or are counted as lost with the reason; none is made of
one call's beginning and another one's end. N is prime: no buffer, batch or ring divides it.
"""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import pytest

from tests.support import own
from tests.support.otlp_json import ReceivedSpan
from tests.support.own import argument, function, returned
from tests.support.runs import Run

N = 101
N_THREADS = 1999
ALL = ("all", str(N))


def _call(name: str, **more: Any) -> dict[str, Any]:
    """A span of a system call, by its tracepoints' own fields."""
    events = {"category": "syscalls", "event": f"sys_enter_{name}", "exitEvent": f"sys_exit_{name}"}
    return {"name": name, "tracepoint": events, "returns": returned(), **more}


def _probes(program: Path) -> list[dict[str, Any]]:
    first, result = argument(0, "Int64"), {"returns": returned()}

    def static(name: str, *args: dict[str, Any], **more: Any) -> dict[str, Any]:
        return {"name": name, "usdt": {"path": str(program), "provider": "shop", **more}, "args": list(args)}

    return [
        function(
            "plain",
            program,
            argument(0, "Int32"),
            argument(1, "Int64"),
            argument(2, "String"),
            argument(3, "UInt32"),
            argument(4, "Int16"),
            argument(5, "Int8"),
            argument(6, "Int64"),
            argument(7, "Int32"),
            **result,
        ),
        function("instant", program, argument(0, "Int32"), symbols=("plain",), mode="Event"),
        function("hidden", program, argument(0, "Int32"), returns=returned("Int32")),
        function("parity", program, first, symbols=("even", "odd"), **result),
        function("deep", program, first, **result),
        function(
            "jumper",
            program,
            first,
            match=[{"args": [{"index": 0, "operator": "GreaterThan", "values": ["0"]}]}],
            **result,
        ),
        function("signalled", program, first, **result),
        function("ends-inside", program, first, symbols=("ends_inside",), **result),
        function("forks-inside", program, first, symbols=("forks_inside",), **result),
        function("allocates", program, first, **result),
        function("yields", program, first, **result),
        {
            **static(
                "order",
                argument(0, "Int64"),
                argument(1, "Int32"),
                argument(2, "String"),
                argument(3, "Int32"),
                probe="order",
            ),
            "mode": "Event",
        },
        static("transaction", argument(0, "Int64"), probe="begin", endProbe="end"),
        _call("getpriority", args=[argument(1, "Int32", "a0"), {"field": "who", "type": "Int32", "attribute": "who"}]),
        {
            "name": "getpgid",
            "kprobe": {"call": "getpgid", "syscall": True},
            "args": [argument(0, "Int32")],
            "returns": returned(),
            "errorWhen": {"operator": "LessThan", "values": ["0"]},
        },
        {
            "name": "raw",
            "tracepoint": {"category": "raw_syscalls", "event": "sys_enter", "raw": True},
            "mode": "Event",
            "args": [argument(1, "Int64")],
            "match": [{"args": [{"index": 1, "operator": "Equal", "values": ["121"]}]}],  # getpgid
        },
    ]


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> Run:
    program = own.targets()
    return own.run(tmp_path_factory.mktemp("own"), _probes(program), program, *ALL)


@pytest.fixture(scope="module")
def spans(ran: Run) -> dict[str, list[ReceivedSpan]]:
    assert ran.status == 0, ran.stderr
    return own.by_probe(ran)


def test_arguments_results_and_durations(ran: Run, spans: dict[str, list[ReceivedSpan]]) -> None:
    """Eight arguments of as many types, two of them on the stack; the time is at least what the function saw itself."""
    said = [[int(each) for each in line.split()[1:]] for line in ran.stdout.decode().splitlines() if "plain" in line]
    assert len(said) == len(spans["plain"]) == N
    for (i, inside, outside, result), span in zip(said, spans["plain"], strict=True):
        found = [span.attributes.get(f"a{index}") for index in range(8)]
        assert found == [-i, 1 << 40 | i, f"order {i}", 4000000000 + i, -i, -(i % 100), i * 11, -i * 2]
        assert span.attributes["r"] == result
        assert inside <= span.end_ns - span.start_ns <= outside


def test_an_event_is_an_instant(spans: dict[str, list[ReceivedSpan]]) -> None:
    """The same calls, seen where they begin alone."""
    assert own.values(spans["instant"], "a0") == [-i for i in range(N)]
    assert all(span.start_ns == span.end_ns for span in spans["instant"])


def test_a_static_function(spans: dict[str, list[ReceivedSpan]]) -> None:
    """One that only .symtab names."""
    assert own.values(spans["hidden"], "a0", "r") == [(i, i + 7) for i in range(N)]


def test_all_lie_in_the_threads_own_trace(spans: dict[str, list[ReceivedSpan]]) -> None:
    """What one thread did has one parent and one trace."""
    mine = [span for name in ("plain", "hidden", "parity", "allocates", "getpgid") for span in spans[name]]
    assert len({(span.trace_id, span.parent_span_id) for span in mine}) == 1


def test_recursion(spans: dict[str, list[ReceivedSpan]]) -> None:
    """Each call of two functions that call one another has its own result, and lies within the one it was called by."""
    found = spans["parity"]
    assert own.values(found, "a0") == [n for _ in range(3) for n in range(50, -1, -1)]
    for outer, inner in itertools.pairwise(found):
        n = outer.attributes["a0"]
        assert isinstance(n, int)
        assert outer.attributes["r"] == n * 1000
        assert n == 0 or outer.start_ns <= inner.start_ns <= inner.end_ns <= outer.end_ns


def test_deeper_than_a_uretprobe_follows(spans: dict[str, list[ReceivedSpan]]) -> None:
    """Where a uretprobe is needed, the kernel has no more than 64 returns open: what it leaves out is no wrong span."""
    found = own.values(spans["deep"], "a0", "r")
    assert all(r == n * 1000 for n, r in found)
    assert len(found) >= 64 + 41
    assert {n for n, _ in found} >= set(range(37, 101))


def test_left_by_longjmp(spans: dict[str, list[ReceivedSpan]]) -> None:
    """What was jumped out of is no span; a call at its place that is filtered ends as nobody's."""
    assert own.values(spans["jumper"], "a0", "r") == [(1000 + i, (1000 + i) * 1000) for i in range(N)]


def test_signals(spans: dict[str, list[ReceivedSpan]]) -> None:
    """A handler that calls what it interrupted, on that stack and on its own; some jump out of both."""
    handled = [(1000 + i, (1000 + i) * 1000) for i in range(N)]
    interrupted = [(i, i * 1000) for i in range(N) if i % 5 != 4]
    assert sorted(own.values(spans["signalled"], "a0", "r")) == sorted(handled + interrupted)


def test_processes_that_end_inside(spans: dict[str, list[ReceivedSpan]]) -> None:
    """By exit and by exec: no span."""
    assert spans["ends-inside"] == []


def test_forks_inside(spans: dict[str, list[ReceivedSpan]]) -> None:
    """The parent's return is the call's; the child's, on a copy of the same stack, is of no call."""
    assert own.values(spans["forks-inside"], "a0", "r") == [(i, i * 1000) for i in range(N)]


def test_stacks(spans: dict[str, list[ReceivedSpan]]) -> None:
    """Frames of all sizes, and seven stacks that one thread goes back and forth between."""
    assert own.values(spans["allocates"], "a0", "r") == [(i, i * 1000) for i in range(N)]
    expected = sorted((k * 100 + i, (k * 100 + i) * 1000) for k in range(7) for i in range(5))
    assert sorted(own.values(spans["yields"], "a0", "r")) == expected


def test_static_probes(spans: dict[str, list[ReceivedSpan]]) -> None:
    """With a semaphore, that only an attached probe raises; and a span from one to another, where there is another."""
    assert own.values(spans["order"], "a0", "a1", "a2", "a3") == [(i, -i, f"item {i}", 77) for i in range(N)]
    assert own.values(spans["transaction"], "a0") == [i for i in range(N) if i % 3 != 2]


def test_system_calls(spans: dict[str, list[ReceivedSpan]]) -> None:
    """By tracepoints of their own, by what stands for a kprobe, and by the raw tracepoint of all of them."""
    calls = own.values(spans["getpriority"], "a0", "who", "r")
    assert calls == [(0, 0, 20) if i % 2 else (99, 0, -22) for i in range(N)]
    assert own.values(spans["getpgid"], "a0") == [0 if i % 3 else 0x7FFFFFFF for i in range(N)]
    errors = [span.attributes.get("error.type") for span in spans["getpgid"]]
    assert errors == [None if i % 3 else "ESRCH" for i in range(N)]
    assert own.values(spans["raw"], "a1") == [121] * N


def test_every_call_is_accounted_for(ran: Run) -> None:
    """What was jumped out of was put out by the next call at its place, or with its thread; nothing is in flight."""
    balance = ran.balance
    assert set(balance["dropped"]) == {"Skipped", "TargetGone"}, balance
    assert balance["inFlight"] == balance["rateLimited"] == balance["sampledOut"] == 0
    jumper, signalled, others = 6 * N, 2 * N, 11 * N  # of the raw tracepoint only what is not filtered
    assert balance["seen"] - balance["filtered"] == 3 * 51 + (101 + 41) + 7 * 5 + jumper + signalled + others
    assert balance["exported"] == sum(len(each) for each in own.by_probe(ran).values())


def test_threads_that_end_inside(tmp_path: Path) -> None:
    """One thread after another with the same number and stack, each seventh of which ends in the midst of the function."""
    program = own.targets()
    probe = function("threaded", program, argument(0, "Int64"), returns=returned())
    ran = own.run(tmp_path, [probe], program, "threads", str(N_THREADS))
    assert ran.status == 0, ran.stderr
    found = own.values(own.by_probe(ran)["threaded"], "a0", "r")
    ended = len(range(3, N_THREADS, 7))
    assert found == [(i, i * 1000) for i in range(N_THREADS) if i % 7 != 3]
    assert ran.balance["seen"] == N_THREADS
    assert sum(ran.balance["dropped"].values()) == ended
    assert set(ran.balance["dropped"]) <= {"Skipped", "TargetGone"}
    assert int(ran.stdout.split()[-1]) > N_THREADS // 2
