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
from datetime import UTC, datetime
from pathlib import Path

import pytest

from kernelspan_agent.control import peerlines
from kernelspan_agent.export.jsonfile import JsonFileExporter
from kernelspan_agent.resolve.resource import ResourceSettings
from kernelspan_agent.trace import joins, peers
from kernelspan_api.control.control_pb2 import Neighbour
from kernelspan_operator.services.authority import advanced
from tests.kernel.test_joins import APP, SPEC, Found, begun, go, proxy, python, read
from tests.support import runs
from tests.support.collector import Collector
from tests.support.engines import Made, engines, profile
from tests.support.networks import connected, translated
from tests.support.node_agents import profile as profile_plan
from tests.support.node_agents import starting
from tests.support.otlp_json import ReceivedSpan
from tests.support.peers import Nodes, identity, nodes
from tests.support.pods import Pod, every_container
from tests.support.ports import PortReservation
from tests.support.tls import TlsFiles

ROUNDS = 60.0
# Both agents of a test take turns in one thread, on a machine that may have else to do: what is known within seconds counts.
HOLDS = {
    (joins, "HOLD_NS"): 4, (peers, "QUESTION_NS"): 3, (joins, "LONG_HOLD_NS"): 16, (peers, "PENDING_NS"): 15,
    (joins, "KEPT_NS"): 20, (peerlines, "UNANSWERED_NS"): 20,
}  # fmt: skip


@dataclass
class Node:
    """An agent and what it traces."""

    name: str
    made: Made
    spans_at: Path

    def spans(self) -> list[ReceivedSpan]:
        return runs.read_spans(self.spans_at)


@pytest.fixture(autouse=True)
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Agents of this process wait for longer."""
    for (module, name), seconds in HOLDS.items():
        monkeypatch.setattr(module, name, seconds * 1_000_000_000)


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
    """Until nothing waits, nor comes to."""
    end = time.monotonic() + 1.0
    step(found, lambda: time.monotonic() > end and not any(each.made.engine.joins.waiting for each in found), "settled")


def inside(namespace: str, *command: str) -> list[str]:
    return ["ip", "netns", "exec", namespace, *command]


def trace(node: Node, *processes: subprocess.Popen[bytes]) -> None:
    """These are the node's, and nobody else's."""
    for process in processes:
        node.made.engine.trace(process.pid, "service", frozenset("p"))


def asks(route: str, first: int, count: int, namespace: str) -> Callable[[], bool]:
    """Begins to ask, in a network; whether it is done."""
    command = inside(namespace, str(python()), str(APP), "ask", route, str(count), str(first))
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
        here = stack.enter_context(begun(*inside(first, *proxy(8001), "10.204.1.1")))
        there = stack.enter_context(begun(*inside(second, *proxy(8002), "10.204.1.2")))
        last = stack.enter_context(begun(*inside(second, *go(8003))))
        made.place("a", "10.204.1.2", "b")
        made.place("b", "10.204.1.1", "a")
        trace(found[0], here)
        trace(found[1], there, last)
        settle(found)
        for begin, (how, where) in enumerate([("kept", first), ("new", second)]):
            steps = ("10.204.1.1:8001", "10.204.1.2:8002", "10.204.1.1:8001", "10.204.1.2:8003")
            done = asks(",".join(f"{how}:{each}" for each in steps), 1000 * begin + 1, 50, where)
            step(found, done, "answered")
        settle(found)
        result = judge(found)
    asked = [number for begin in (1, 1001) for number in range(begin, begin + 50)]
    assert not result.wrong
    assert result.alone == {f"{number}.1" for number in asked}
    assert result.joined == {f"{number}.{depth}" for number in asked for depth in (2, 3, 4)}
    assert {
        span.attributes.get("kernelspan.joined") for hop, span in result.servers.items() if hop in result.joined
    } == {"Peer"}
    assert made.peerings["a"].counts["Found"] == 100
    assert made.peerings["b"].counts["Found"] == 200


def test_through_address_translation(tmp_path: Path) -> None:
    """The server's node sees no address of the client's, but one of its node's: as where a cluster's network hides its pods."""
    each, hows = 40, ("new", "kept", "requests")
    with (
        translated() as net,
        nodes("a", "b") as made,
        agents(tmp_path, made) as found,
        begun(*inside(net.server, *go(net.port))) as server,
        begun(*inside(net.client, *proxy(8001), "10.203.1.2")) as client,
    ):
        made.place("b", "10.203.2.1", "a")
        trace(found[0], client)
        trace(found[1], server)
        settle(found)
        for number, how in enumerate(hows):
            route = f"kept:10.203.1.2:8001,{how}:{net.address}"
            step(found, asks(route, 1000 * number + 1, each, net.client), "answered")
        settle(found)
        result = judge(found)
    asked = [1000 * number + count for number in range(len(hows)) for count in range(1, each + 1)]
    assert not result.wrong
    assert result.joined == {f"{number}.2" for number in asked}
    addresses = {
        span.attributes["network.peer.address"] for hop, span in result.servers.items() if hop in result.joined
    }
    assert addresses == {"10.203.2.1"}


def test_agents_that_do_not_answer(tmp_path: Path) -> None:
    """One that is gone, and one that takes no part: what it would have told of is a root, and all else is as ever."""
    with (
        connected() as (first, second),
        nodes("a", "b") as made,
        agents(tmp_path, made) as found,
        begun(*inside(first, *proxy(8001), "10.204.1.1")) as here,
        begun(*inside(second, *go(8003))) as there,
    ):
        made.place("b", "10.204.1.1", "127.0.0.1:9", called="a")
        trace(found[0], here)
        trace(found[1], there)
        settle(found)
        route = "kept:10.204.1.1:8001,kept:10.204.1.2:8003"
        step(found, asks(route, 1, 20, first), "answered")
        made.place("b", "10.204.1.1", "a")
        found[0].made.engine.joins.post = None
        made.peerings["a"].attach(None)
        step(found, asks(route, 1001, 20, first), "answered")
        settle(found)
        result = judge(found)
    assert not result.wrong
    assert not result.joined
    assert {hop for hop in result.alone if hop.endswith(".2")} == {
        f"{number}.2" for begin in (1, 1001) for number in range(begin, begin + 20)
    }
    assert made.peerings["b"].counts == {"Unreachable": 20, "Nobody": 20}


def test_agents_as_a_cluster_runs_them(tmp_path: Path, tls_files: TlsFiles, collector: Collector) -> None:
    """Two `kernelspan agent`, each with an operator's word for who the other is. With an older operator each is alone, and says so."""
    authority = advanced(None, datetime.now(UTC)).current
    tls_files.ca.write_bytes(tls_files.ca.read_bytes() + authority.certificate)
    routes = "kept:10.204.1.1:8001,kept:10.204.1.2:8003"
    with contextlib.ExitStack() as stack:
        first, second = stack.enter_context(connected())
        ports = stack.enter_context(PortReservation(2)).ports
        here, there = (stack.enter_context(Pod(name)) for name in ("here", "there"))
        here.run(*inside(first, *proxy(8001), "10.204.1.1"))
        there.run(*inside(second, *go(8003)))
        agents = {}
        for node, pod, port in zip("ab", (here, there), ports, strict=True):
            (tmp_path / node).mkdir()
            start = stack.enter_context(starting(tmp_path / node, tls_files, collector))
            agents[node] = agent = start("--node", node, "--peers", f"127.0.0.1:{port}")
            agent.until(lambda agent=agent: "peers.unknown" in agent.log.read_text(), "said")  # type: ignore[misc]
            agent.follow([profile_plan("p", requests=SPEC["requests"])], [pod.plan(every_container("p"))])
        done = asks(routes, 1, 10, first)
        agents["a"].until(done, "answered")
        agents["a"].until(lambda: len(read(collector.spans()).servers) == 20, "seen")
        assert not read(collector.spans()).joined
        for node, address, other in (("a", "10.204.1.2", "b"), ("b", "10.204.1.1", "a")):
            server = agents[node].server
            server.identity = identity(authority, node)
            server.neighbours[address] = Neighbour(node=other, endpoint=f"127.0.0.1:{ports['ab'.index(other)]}")
            server.plans.put(None)  # the stream ends, and the next one's connection meets
        for agent in agents.values():
            agent.until(lambda agent=agent: "peers.listen" in agent.log.read_text(), "met")  # type: ignore[misc]
        done = asks(routes, 1001, 30, first)
        agents["a"].until(done, "answered")
        agents["a"].until(lambda: len(read(collector.spans()).servers) == 80, "seen")
        found = read(collector.spans())
        for agent in agents.values():
            agent.stop()
    assert not found.wrong
    assert found.joined == {f"{number}.2" for number in range(1001, 1031)}
