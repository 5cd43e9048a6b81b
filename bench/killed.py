# SPDX-License-Identifier: Apache-2.0
"""An agent killed under load, again and again: what its traced program pays in that moment, and afterwards.

Each time: a burst with nothing attached, one that an agent traces, one in the midst of which that agent is killed (SIGKILL),
one after. What is left behind, and what the program says, are tests' affair (tests/kernel/test_lifecycle.py).
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field

from bench.lines import Row, counted
from bench.processes import Agent, Worker
from bench.profiles import profile

_WORKLOAD, _COUNT = "write1", 50_000
_UNTIL_KILLED = 0.01  # seconds into a burst of some 20 ms
_WARM = 2  # bursts that are not counted
_SAY_EVERY = 10


@dataclass(slots=True)
class Killed:
    """Nanoseconds an operation, by kill: of the program's CPU before and after, of the clock while it was traced."""

    before: list[float] = field(default_factory=list)
    traced: list[float] = field(default_factory=list)
    meanwhile: list[float] = field(default_factory=list)
    after: list[float] = field(default_factory=list)


def measure(worker: Worker, endpoint: str, times: int, say: Callable[[str], None]) -> Killed:
    """Kills `times` agents that trace the worker. Raises BenchError."""
    found, wanted = Killed(), profile(files={}, network={})
    for number in range(times):
        found.before.append(_cpu(worker))
        with Agent(wanted, ["--pid", str(worker.pid), "--otlp", endpoint]) as agent:
            _cpu(worker)
            answer = worker.run(_WORKLOAD, _COUNT)
            found.traced.append(answer.wall_ns / answer.operations)
            agent.settle()
            worker.tell(_WORKLOAD, _COUNT)
            time.sleep(_UNTIL_KILLED)
            agent.process.kill()
            answer = worker.answer()
            found.meanwhile.append(answer.wall_ns / answer.operations)
            agent.process.wait()
        found.after.append(_cpu(worker))
        if (number + 1) % _SAY_EVERY == 0:
            say(f"killed {number + 1} of {times}")
    return found


def _cpu(worker: Worker) -> float:
    for _ in range(_WARM):
        answer = worker.run(_WORKLOAD, _COUNT)
    return answer.cpu_ns / answer.operations


def rows(found: Killed) -> list[Row]:
    """What it paid, against what it paid before and while it was traced."""
    where = f"C, {_WORKLOAD}, {len(found.before)} times"
    note = f"{max(found.meanwhile):,.0f} ns at most in the midst, {max(found.traced):,.0f} while traced"
    pairs = {
        "agent killed, an operation after : before": (found.after, found.before, "<= 1.05", ""),
        "agent killed, a burst in its midst : one that is traced whole": (
            found.meanwhile,
            found.traced,
            "<= 1.05",
            note,
        ),
    }
    return [
        counted(what, where, line, [high / low for high, low in zip(highs, lows, strict=True)], text)
        for what, (highs, lows, line, text) in pairs.items()
    ]
