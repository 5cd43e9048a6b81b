# SPDX-License-Identifier: Apache-2.0
"""Services on two nodes that ask one another: the agents of both make one trace of each request.

The nodes are two networks of this machine, each with an agent that traces its own services and nothing else; the agents
speak as they do in a cluster. Of what asks first, the test, nobody traces anything. See test_joins for how it is judged.
"""

from __future__ import annotations

import contextlib
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from kernelspan_agent.export.jsonfile import JsonFileExporter
from kernelspan_agent.resolve.resource import ResourceSettings
from tests.kernel.test_joins import APP, SPEC, Found, go, proxy, python, read
from tests.support import runs
from tests.support.engines import Made, engines, profile
from tests.support.networks import connected
from tests.support.otlp_json import ReceivedSpan
from tests.support.peers import Nodes, nodes

ROUNDS = 30.0


@dataclass
class Node:
    """An agent and what it traces."""

    name: str
    made: Made
    spans_at: Path

    def spans(self) -> list[ReceivedSpan]:
        return runs.read_spans(self.spans_at)


@contextlib.contextmanager
def agents(folder: Path, made: Nodes) -> Iterator[list[Node]]:
    """One for each node, with the same profile."""
    with engines() as make:
        found = []
        for name, peering in made.peerings.items():
            one = Node(name, make(SPEC), folder / name)
            engine = one.made.engine
            engine.add("p", profile("p", SPEC), JsonFileExporter(str(one.spans_at)), ResourceSettings())
            engine.joins.post = peering
            peering.attach(engine.clock.now_ns)
            found.append(one)
        yield found


def step(found: list[Node], until: Callable[[], object], what: str) -> None:
    """All agents at work, one after the other."""
    end = time.monotonic() + ROUNDS
    while not until():
        assert time.monotonic() < end, f"never: {what}"
        for each in found:
            each.made.engine.step(0.005)


def settle(found: list[Node]) -> None:
    end = time.monotonic() + 1.0
    step(found, lambda: time.monotonic() > end, "settled")


@contextlib.contextmanager
def begun(*command: str) -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen(command, cwd=runs.PROGRAMS)
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def asks(route: str, first: int, count: int, namespace: str) -> Callable[[], bool]:
    """Begins to ask, in a network; whether it is done."""
    command = ["ip", "netns", "exec", namespace, str(python()), str(APP), "ask", route, str(count), str(first)]
    process = subprocess.Popen(command, cwd=runs.PROGRAMS)
    threading.Thread(target=process.wait, daemon=True).start()

    def done() -> bool:
        assert process.returncode in (None, 0)
        return process.returncode == 0

    return done


def judge(found: list[Node]) -> Found:
    for each in found:
        each.made.engine.finish()
        assert each.made.engine.accounting_of("p").unaccounted == 0
    return read([span for each in found for span in each.spans()])


def test_a_chain_between_two_nodes(tmp_path: Path) -> None:
    """There and back and there again, on kept and on new connections: one trace for each of the test's requests."""
    with (
        connected() as (first, second),
        nodes("a", "b") as made,
        agents(tmp_path, made) as found,
        contextlib.ExitStack() as stack,
    ):
        inside = lambda where, command, *more: ["ip", "netns", "exec", where, *command, *more]  # noqa: E731
        of_a = stack.enter_context(begun(*inside(first, proxy(8001), "10.204.1.1")))
        of_b = stack.enter_context(begun(*inside(second, proxy(8002), "10.204.1.2")))
        last = stack.enter_context(begun(*inside(second, go(8003))))
        made.place("a", "10.204.1.2", "b")
        made.place("b", "10.204.1.1", "a")
        for node, processes in zip(found, ([of_a], [of_b, last]), strict=True):
            for process in processes:
                node.made.engine.trace(process.pid, "service", frozenset("p"))
        settle(found)
        routes = [
            f"{how}:10.204.1.1:8001,{how}:10.204.1.2:8002,{how}:10.204.1.1:8001,{how}:10.204.1.2:8003"
            for how in ("kept", "new")
        ]
        for number, route in enumerate(routes):
            done = asks(route, 1000 * number + 1, 50, second if number else first)
            step(found, done, "answered")
        settle(found)
        result = judge(found)
    print({name: dict(each.counts) for name, each in made.peerings.items()}, len(result.joined), len(result.alone))
    assert not result.wrong
