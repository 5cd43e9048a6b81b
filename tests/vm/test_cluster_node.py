# SPDX-License-Identifier: Apache-2.0
"""From a profile to its spans on kernels that have kprobes: a real API server and the operator on this machine, a node in
a virtual machine. Its agent dials the operator by TLS with a token of its own and probes two functions of the kernel; a
pod's container, in a cgroup, a root and namespaces of its own, calls them; a real collector gets the spans; the status
says so. The test plays the kubelet, as in tests/cluster.

The API server is not in the guest: nothing of it depends on the node's kernel, and emulated it would only take longer.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import socket
import sys
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import IO, Any

import pytest

from tests.support import kernels, vm
from tests.support.cluster import BINARIES, with_definitions
from tests.support.collector import Collector
from tests.support.fixtures import built
from tests.support.operators import Kubernetes, Operator, eventually, profile_path
from tests.support.otlp_json import ReceivedSpan
from tests.support.runs import UNLIMITED
from tests.support.server import ServerError
from tests.vm import probing
from tests.vm.guests import run
from tests.vm.node import PROGRAM, PYTHON

SECONDS = 600.0  # emulated, and it compiles
NODE, SPACE = "guest", "shop"
PORTS = range(20_000, 20_011)
# Each line is a port: a connection to it, and an advice that long, which the kernel refuses where the port is odd.
APP = """
import os, socket, sys
def dial(port):
    with socket.create_server(("127.0.0.1", port)), socket.socket() as client:
        client.connect(("127.0.0.1", port))
def advise(length):
    with open("/srv/data", "wb") as file:
        os.posix_fadvise(file.fileno(), 7, length, 99 if length % 2 else os.POSIX_FADV_NORMAL)
def work(port):
    dial(port)
    try: advise(port)
    except OSError: pass
print("ready", flush=True)
for line in sys.stdin:
    work(int(line))
    print("done", flush=True)
"""
LINES = {
    name: next(number for number, text in enumerate(APP.splitlines(), start=1) if call in text)
    for name, call in (("dial", ".connect("), ("advise", ".posix_fadvise("))
}
CONNECT = {
    "name": "connect",
    "kprobe": {"call": "tcp_connect", "mechanism": "Kprobe"},
    "args": [{"index": 0, "type": "Sock", "attribute": "to"}],
}
ADVISE = {
    "name": "advise",
    "kprobe": {"call": "ksys_fadvise64_64"},
    "args": [
        {"index": 0, "type": "FD", "attribute": "file.path"},
        {"index": 1, "type": "Int64", "attribute": "advice.offset"},
        {"index": 2, "type": "Int64", "attribute": "advice.length"},
    ],
    "returns": {"type": "Int32", "attribute": "advice.result"},
    "errorWhen": {"operator": "LessThan", "values": ["0"]},
}
FORBIDDEN = {"name": "forbidden", "mode": "Event", "kprobe": {"call": probing.ENTRY_CODE}}


class Guest:
    """A node in a virtual machine, which does what it is told (tests.vm.node)."""

    def __init__(self, lines: IO[str], ended: Future[vm.Ran]) -> None:
        self._lines, self._ended = lines, ended

    def tell(self, do: str, **what: Any) -> Any:
        """What it gave. AssertionError with its words where it has ended."""
        self._lines.write(json.dumps({"do": do, **what}) + "\n")
        self._lines.flush()
        answer = self._lines.readline()
        assert answer, self._ended.result()
        return json.loads(answer)["gave"]


@pytest.fixture(scope="module")
def operator(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Operator]:
    """The operator on an API of its own, with a policy that allows probes."""
    binaries = {name: built(name, "cluster", request) for name in BINARIES}
    folder = tmp_path_factory.mktemp("cluster")
    with with_definitions(binaries, folder / "plane") as plane:
        kubernetes = Kubernetes(plane)
        kubernetes.namespace(SPACE)
        kubernetes.node(NODE)
        with Operator(kubernetes, folder / "operator", policy={"probes": True}) as running:
            yield running


LABELS = kernels.wanted_labels() if os.environ.get("KERNELSPAN_MATRIX") else [kernels.OLDEST]  # the quickest to boot


@pytest.fixture(params=LABELS)
def guest(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Guest]:
    """A node with this kernel; it ends with the test."""
    kernel = kernels.needed(request.param)
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        listener.settimeout(SECONDS)
        command = [sys.executable, "-m", "tests.vm.node", str(listener.getsockname()[1]), str(tmp_path)]
        pool = stack.enter_context(ThreadPoolExecutor(1))
        running = pool.submit(run, kernel, command, tmp_path, network=True)
        running.add_done_callback(lambda _: listener.shutdown(socket.SHUT_RDWR))  # nobody comes any more
        try:
            connection, _ = listener.accept()
        except OSError:
            raise AssertionError(running.result(0)) from None
        with connection, connection.makefile("rw", encoding="utf-8") as lines:
            node = Guest(lines, running)
            assert node.tell("release") == kernel.release
            yield node
        ran = running.result()
        assert ran.status == 0, ran.output


def pod(guest: Guest, kubernetes: Kubernetes, name: str) -> dict[str, Any]:
    """A pod of the API's on the guest's node: its container runs APP; its uid, and the container's id."""
    made = kubernetes.pod(SPACE, name, NODE, labels={"app": name})
    uid = made["metadata"]["uid"]
    identity = guest.tell("container", namespace=SPACE, pod=name, uid=uid, name="web", program=APP)
    kubernetes.kubelet(made, web=identity)
    return {"uid": uid, "id": identity}


def of(collector: Collector, probe: str, attribute: str) -> dict[int, ReceivedSpan]:
    """A probe's spans by the port that their call was about; AssertionError where a call has two."""
    spans = [span for span in collector.spans() if span.name == probe]
    found = {int(str(span.attributes[attribute])): span for span in spans}
    assert len(found) == len(spans)
    return found


def test_a_node_in_a_virtual_machine(guest: Guest, operator: Operator, collector: Collector) -> None:
    """Each call of the pod that the profile selects, with arguments, result, frames, pod and container; no other's."""
    kubernetes = operator.kubernetes
    guest.tell(
        "agent",
        name=NODE,
        token=kubernetes.agent_token(NODE),
        authority=operator.authority.decode(),
        operator=operator.port,
        collector=int(collector.grpc_endpoint.rpartition(":")[2]),
    )
    pods = {name: pod(guest, kubernetes, name) for name in ("web-1", "idle-1")}
    selector = {"matchLabels": {"app": "web-1"}}
    kubernetes.apply(SPACE, "web", podSelector=selector, probes=[CONNECT, ADVISE], limits=UNLIMITED)
    kubernetes.says(SPACE, "web", "True", "Ready", seconds=SECONDS)
    kubernetes.apply(SPACE, "odd", podSelector=selector, probes=[FORBIDDEN])
    assert probing.ENTRY_CODE in kubernetes.says(SPACE, "odd", "False", "FunctionBlacklisted", seconds=SECONDS)
    kubernetes.delete(f"{profile_path(SPACE)}/odd")
    warm = itertools.count(PORTS.stop)
    eventually(lambda: _with_frames(guest, collector, next(warm)), SECONDS)

    for port in PORTS:
        for name in ("web-1", "idle-1"):
            assert guest.tell("say", pod=name, text=str(port)) == "done"
    collector.wait_for_spans(len(PORTS), lambda span: span.attributes.get("advice.length") in PORTS, SECONDS)
    status = eventually(lambda: _told(kubernetes), SECONDS)
    assert guest.tell("end") == 0
    connected, advised = (
        {port: span for port, span in of(collector, probe, attribute).items() if port in PORTS}
        for probe, attribute in (("connect", "to.peer.port"), ("advise", "advice.length"))
    )
    assert connected.keys() == advised.keys() == set(PORTS)

    for port in PORTS:
        connect, advise = connected[port], advised[port]
        assert connect.attributes["to.peer.address"] == "127.0.0.1"
        told = ("file.path", "advice.offset", "advice.result", "error.type")
        result = (-22, "EINVAL") if port % 2 else (0, None)
        assert tuple(advise.attributes.get(name) for name in told) == ("/srv/data", 7, *result)
        for span, function in ((connect, "dial"), (advise, "advise")):
            code = [span.attributes.get(f"code.{name}") for name in ("function.name", "file.path", "line.number")]
            assert code == [f"__main__.{function}", PROGRAM, LINES[function]]
            names = ("k8s.pod.uid", "container.id", "k8s.pod.name", "k8s.container.name", "k8s.node.name")
            assert [span.resource.get(name) for name in (*names, "k8s.namespace.name", "process.executable.path")] == [
                pods["web-1"]["uid"], pods["web-1"]["id"], "web-1", "web", NODE, SPACE, os.path.realpath(PYTHON),
            ]  # fmt: skip
    parents = {span.span_id: span for span in collector.spans()}
    callers = {parents[parents[span.parent_span_id].parent_span_id].name for span in connected.values()}
    assert callers == {"__main__.work"}
    assert {span.resource.get("k8s.pod.name") for span in collector.spans()} == {"web-1"}
    for name in pods:
        kubernetes.delete(f"/api/v1/namespaces/{SPACE}/pods/{name}")
    kubernetes.delete(f"{profile_path(SPACE)}/web")
    assert status == {"connect": ("Attached", "Kprobe"), "advise": ("Attached", "Fentry")}


def _with_frames(guest: Guest, collector: Collector, port: int) -> bool:
    """Whether one of the calls so far was seen with its function: the first ones of a program nobody knows are not."""
    guest.tell("say", pod="web-1", text=str(port))

    def is_one(span: ReceivedSpan) -> bool:
        return (
            int(str(span.attributes.get("advice.length", 0))) >= PORTS.stop and "code.function.name" in span.attributes
        )

    with contextlib.suppress(ServerError):
        return bool(collector.wait_for_spans(1, is_one, 5))
    return False


def _told(kubernetes: Kubernetes) -> dict[str, tuple[str, str]] | None:
    """Of each probe, once calls have been exported."""
    status = kubernetes.profile(SPACE, "web").get("status", {})
    if not status.get("events", {}).get("exported"):
        return None
    (node,) = status["nodes"]
    return {probe["name"]: (probe["state"], probe["mechanism"]) for probe in node["probes"]}
