# SPDX-License-Identifier: Apache-2.0
"""Agents of two nodes that find each other by what the operator tells them, with tokens, certificates and pods of a real API server.

The agents are their own code, but for what traces: that the test plays.
"""

from __future__ import annotations

import contextlib
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from kernelspan_agent.control import peering as peering_module
from kernelspan_agent.control.kept import KeptPlan
from kernelspan_agent.control.peering import Peering
from kernelspan_agent.control.stream import Operator as Dialled
from kernelspan_agent.control.stream import Stream
from kernelspan_agent.trace.peers import Outcome, Query, Sent
from kernelspan_api.control.control_pb2 import Hello
from tests.support.operators import Kubernetes, Operator, eventually, profile_path
from tests.support.ports import PortReservation

SPACE = "peers"
NODES = ("peer-1", "peer-2")
SENT = Sent(1, 2, 3, True, 4, 5)


@contextlib.contextmanager
def agent(operator: Operator, node: str, folder: Path, port: int) -> Iterator[Peering]:
    """An agent that other agents may ask."""
    token, authority = operator.kubernetes.agent_token(node), operator.authority
    peering = Peering(node, f"127.0.0.1:{port}", lambda: authority)
    dialled = Dialled(f"localhost:{operator.port}", lambda: authority, lambda: token)
    kept = KeptPlan(folder / node / "state", folder / node / "secrets")
    stream = Stream(dialled, Hello(node=node), kept, beside=peering.meeting.on)
    peering.start()
    peering.attach(time.time_ns)
    stream.start()
    try:
        yield peering
    finally:
        stream.close()
        peering.close()


def told(asks: Peering, asked: Peering, address: str, number: int) -> str:
    """What comes of one question: its outcome, or why it was not asked."""
    before = asks.counts.copy()
    asks.ask(Query(number, address, number, 5, "uid"))
    asks.flush()

    def step() -> Counter[str]:
        for question in asked.asked():
            question.reply(Outcome.FOUND, SENT)
        asked.flush()
        return asks.counts - before

    (found,) = eventually(step, 30)
    if found == "Found":
        ((key, outcome, origin),) = eventually(asks.heard)
        assert (key, outcome) == (number, Outcome.FOUND)
        assert origin is not None
        assert origin.sent == SENT
    return str(found)


@pytest.fixture(autouse=True)
def tidy(kubernetes: Kubernetes) -> Iterator[None]:
    """No profile is left."""
    yield
    kubernetes.cluster.request("DELETE", profile_path(SPACE))


def test_agents_find_and_believe_each_other(
    kubernetes: Kubernetes, operator: Operator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By a pod's address and by its node's; no other address is anybody's, and one that is gone is asked for anew."""
    monkeypatch.setattr(peering_module, "KNOWN_SECONDS", 0.5)
    kubernetes.namespace(SPACE)
    for number, node in enumerate(NODES, 1):
        kubernetes.node(node)
        made = kubernetes.pod(SPACE, f"web-{number}", node)
        kubernetes.patch(
            f"/api/v1/namespaces/{SPACE}/pods/web-{number}/status",
            {"status": {"phase": "Running", "podIP": f"10.9.{number}.1", "podIPs": [{"ip": f"10.9.{number}.1"}],
                        "hostIP": f"10.8.0.{number}", "hostIPs": [{"ip": f"10.8.0.{number}"}]}},
        )  # fmt: skip
        assert made["metadata"]["name"] == f"web-{number}"
    kubernetes.apply(SPACE, "all")
    eventually(lambda: operator.metric("selected_pods") == 2)
    with PortReservation(2) as reserved, agent(operator, NODES[1], tmp_path, reserved.ports[0]) as second:
        second.port.result(60)
        with agent(operator, NODES[0], tmp_path, reserved.ports[1]) as first:
            first.port.result(60)
            assert operator.metric("meetings") == 2
            assert told(first, second, "10.9.2.1", 1) == "Found"
            assert told(first, second, "10.8.0.2", 2) == "Found"
            assert told(second, first, "10.9.1.1", 3) == "Found"
            assert told(first, second, "10.9.1.1", 4) == "Here"
            assert told(first, second, "10.9.3.1", 5) == "Unlocated"
            kubernetes.delete(f"/api/v1/namespaces/{SPACE}/pods/web-2")
            eventually(lambda: operator.metric("selected_pods") == 1)
            eventually(lambda: told(first, second, "10.9.2.1", 6) == "Unlocated")
        eventually(lambda: operator.metric("meetings") == 1)
    assert operator.metric("addresses", result="Located") >= 4
    assert not operator.forbidden()
