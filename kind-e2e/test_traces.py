# SPDX-License-Identifier: Apache-2.0
"""A profile is applied to a real application in a real cluster, and its spans are read back from Jaeger.

What is right is known from the application's source, from the API's account of its pods, and from the locks. All nodes
share one kernel here: whose process a program saw is what an agent must find out.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from harness.cluster import KindCluster
from harness.product import Object, Product, Shop
from tests.support.otlp_json import ReceivedSpan

_APP = Path(__file__).parents[1] / "examples/demo/app/shop.py"
_LOCK = Path(__file__).parents[1] / "requirements/demo.txt"
_PROFILE = Path(__file__).parent / "app/traceprofile.yaml"
_OPERATIONS = ("file.", "tcp.", "udp.", "unix.")
# Operation, function, a piece of the line that calls, the library next to the kernel.
_TRUTH = (
    ("file.open", "shop.invoice", ".read_bytes()", None),
    ("file.open", "shop.write_report", '.open("w", newline="")', None),
    ("file.read", "shop.Orders.load", 'connection.execute("SELECT', None),
    ("file.open", "shop.price_of", "cents = cache.get(name)", "cachelib"),
    ("tcp.connect", "shop.price_of", "cents = requests.get(", "urllib3"),
    ("tcp.connect", "shop.ask", "asyncio.open_connection(", None),
)

_SECONDS = 120.0  # for both pods to come to every place: the visitor is slow where the machine is
_KEEP = """\
import os, time

def keep():
    open("/tmp/kept", "w").write("kept")

while not os.path.exists("/tmp/end"):
    keep()
    time.sleep(0.5)
"""


@pytest.fixture(scope="module")
def profile(product: Product, shop: Shop) -> Iterator[float]:
    """The example's profile on the shop's Deployment; when it was ready, in seconds of the epoch."""
    assert shop.pods()
    with product.profile(yaml.safe_load(_PROFILE.read_text("utf-8"))):
        yield time.time()


@pytest.fixture(scope="module")
def spans(product: Product, shop: Shop, profile: float) -> list[ReceivedSpan]:
    """What was seen of a time in which both of its pods came to every place that is asked for below."""
    wanted = {
        (name, operation, function, _line(piece)) for name in shop.pods() for operation, function, piece, _ in _TRUTH
    }
    deadline = time.time() + _SECONDS
    while True:
        found = product.spans("shop", profile)
        missing = wanted - {
            (
                span.resource.get("k8s.pod.name"),
                span.name,
                span.attributes.get("code.function.name"),
                span.attributes.get("code.line.number"),
            )
            for span in found
        }
        if not missing:
            return found
        assert time.time() < deadline, (missing, len(found))
        time.sleep(1)


def _line(piece: str) -> int:
    (found,) = [number for number, line in enumerate(_APP.read_text("utf-8").splitlines(), 1) if piece in line]
    return found


def _version(library: str) -> str:
    found = re.search(rf"^{library}==(\S+)", _LOCK.read_text("utf-8"), re.MULTILINE)
    assert found
    return found[1]


@pytest.mark.parametrize(("operation", "function", "piece", "library"), _TRUTH)
def test_a_span_names_the_code(
    spans: list[ReceivedSpan], operation: str, function: str, piece: str, library: str | None
) -> None:
    """Function, file, line and library are those of the source; from every pod, and never another line."""
    wanted = [
        span for span in spans if span.name == operation and span.attributes.get("code.function.name") == function
    ]
    lines = [span for span in wanted if span.attributes["code.line.number"] == _line(piece)]
    assert {span.resource["k8s.pod.name"] for span in lines} == {span.resource["k8s.pod.name"] for span in spans}
    assert {span.attributes["code.file.path"] for span in wanted} == {"/app/shop.py"}
    assert {span.attributes.get("kernelspan.library.name") for span in lines} == {library}
    if library:
        assert {span.attributes["kernelspan.library.version"] for span in lines} == {_version(library)}


def test_the_resource_is_the_pod(spans: list[ReceivedSpan], shop: Shop) -> None:
    """Every span says the names and ids that the API has for its pod."""
    pods = shop.pods()
    assert {span.resource["k8s.pod.name"] for span in spans} == set(pods)
    for span in spans:
        pod = pods[str(span.resource["k8s.pod.name"])]
        status = pod["status"]["containerStatuses"][0]
        assert {name: span.resource.get(name) for name in _resource(pod, status)} == _resource(pod, status)


def _resource(pod: Object, status: Object) -> dict[str, object]:
    return {
        "k8s.namespace.name": "shop",
        "k8s.pod.uid": pod["metadata"]["uid"],
        "k8s.node.name": pod["spec"]["nodeName"],
        "host.name": pod["spec"]["nodeName"],
        "k8s.deployment.name": "shop",
        "k8s.container.name": "shop",
        "k8s.container.restart_count": status["restartCount"],
        "container.id": status["containerID"].rpartition("/")[2],
        "service.name": "shop",
        "process.runtime.name": "CPython",
    }


def test_an_agent_reports_its_own_nodes_pods_alone(product: Product, shop: Shop, spans: list[ReceivedSpan]) -> None:
    """Each operation comes once, from the agent of the pod's node; the agent of a node without such a pod traces nothing."""
    nodes = {pod["spec"]["nodeName"] for pod in shop.pods().values()}
    assert len(nodes) == 2
    seen: dict[tuple[object, ...], str] = {}
    for span in spans:
        key = (span.start_ns, span.end_ns, span.name, span.attributes.get("thread.name"), span.resource["k8s.pod.uid"])
        agent = str(span.resource["k8s.node.name"])
        assert seen.setdefault(key, agent) == agent
    traced = {
        node: product.metrics(pod).get("kernelspan_processes_traced", 0) for node, pod in product.agents().items()
    }
    assert {node for node, count in traced.items() if count} == nodes
    assert {traced[node] for node in nodes} == {3}  # the pod's own pause, gunicorn and its worker


def test_nobody_else_is_traced(product: Product, profile: float, spans: list[ReceivedSpan]) -> None:
    """The visitor and the price service run the same Python in the same namespace, and no profile selects them."""
    assert spans
    ours = {"kernelspan-operator", "kernelspan-agent"}  # they trace themselves since test_rollout.py
    others = product.jaeger.services() - {"shop"} - ours
    assert [span for service in others for span in product.spans(service, profile)] == []


def test_the_columns(product: Product, profile: float) -> None:
    """`kubectl get tprof` says what there is."""
    assert profile
    heading, row = product.cluster.kubectl("-n", "shop", "get", "tprof").splitlines()
    assert heading.split() == ["NAME", "READY", "PODS", "NODES", "PROBES", "AGE"]
    assert row.split()[:5] == ["shop", "True", "2", "2", "4"]


def test_the_status(product: Product, spans: list[ReceivedSpan]) -> None:
    """Conditions with their reasons, nodes by name, what was counted."""
    assert spans

    def counted() -> Object:
        status: Object = product.cluster.get("-n", "shop", "tprof/shop")["status"]
        runs = {"runtime": "Python", "processes": 4, "unwinding": 4} in status.get("runtimes", ())
        return status if runs and status.get("events", {}).get("exported", 0) > 0 else {}

    status = product.cluster.wait("counters in the status", counted, 240.0)  # they are told once a minute
    assert {one["type"]: (one["status"], one["reason"]) for one in status["conditions"]} == {
        kind: ("True", kind) for kind in ("Accepted", "Attached", "Exporting", "Ready")
    }
    assert [node["ready"] for node in status["nodes"]] == [True, True]
    assert {probe["state"] for node in status["nodes"] for probe in node["probes"]} == {"Attached"}
    assert {"runtime": "Python", "processes": 4, "unwinding": 4} in status["runtimes"]  # besides what holds the pods
    assert status["events"]["dropped"] == 0


def test_explain_knows_who_is_traced(cluster: KindCluster, shop: Shop, profile: float) -> None:
    """`kernelspan explain --pod`, with the rights of the administrator: one that is, and one that no profile selects."""
    assert profile
    command = [Path(sys.executable).with_name("kernelspan"), "explain", "--json", f"--kubeconfig={cluster.kubeconfig}"]
    for app, traced in (("shop", True), ("visitor", False)):
        name = next(iter(shop.pods(app)))
        said = subprocess.run([*command, f"--pod=shop/{name}"], capture_output=True, check=True).stdout
        assert json.loads(said)["traced"] is traced


def test_what_is_run_in_a_pod_is_seen(product: Product, shop: Shop, profile: float) -> None:
    """A program that `kubectl exec` starts is of the pod and of the container, with its own code."""
    assert profile
    name, pod = next(iter(shop.pods().items()))
    began = time.time()
    run = ["-n", "shop", "exec", name, "--", "sh", "-c"]
    script = f"rm -f /tmp/end; cat > /tmp/keep.py <<'END'\n{_KEEP}END\npython3 /tmp/keep.py >/dev/null 2>&1 &"
    product.cluster.kubectl(*run, script)

    def look() -> list[ReceivedSpan]:
        """Writes of which it is known by now what the program is, and whose."""
        return [
            span
            for span in product.spans("shop", began)
            if span.attributes.get("file.path") == "/tmp/kept"
            and span.name == "file.write"
            and "code.function.name" in span.attributes
            and "k8s.container.name" in span.resource
        ]

    try:
        span = product.cluster.wait("the write of a program that was run in a pod", look)[0]
    finally:
        product.cluster.kubectl(*run, "touch /tmp/end")
    assert span.resource["k8s.pod.name"] == name
    assert span.resource["k8s.node.name"] == pod["spec"]["nodeName"]
    assert span.resource["k8s.container.name"] == "shop"
    assert span.attributes["code.function.name"] == "__main__.keep"
    assert span.attributes["code.file.path"] == "/tmp/keep.py"
    assert span.attributes["code.line.number"] == 4


def test_a_new_pod_is_traced(product: Product, shop: Shop, profile: float) -> None:
    """One more pod of the Deployment, by itself; how long it ran unobserved is said by its node's agent."""
    assert profile
    before, began = set(shop.pods()), time.time()
    shop.scale(3)
    try:
        (name,) = set(shop.pods()) - before
        pod = shop.pods()[name]
        (span, *_) = product.wait_for_spans("shop", began, 1, k8s_pod_name=name)
        assert span.resource["k8s.node.name"] == pod["spec"]["nodeName"]
        agent = product.agents()[pod["spec"]["nodeName"]]["metadata"]["name"]
        said = product.kubectl("logs", agent, "--since=600s")
        (traced,) = [line for line in map(json.loads, said.splitlines()) if line.get("pod") == f"shop/{name}"]
        product.say(f"figure: a new pod ran unobserved {traced['unobserved_ms']} ms")
    finally:
        shop.scale(2)


@pytest.mark.usefixtures("shop")
def test_deletion_ends_it(product: Product) -> None:
    """Once its profile is gone, an application that goes on makes no span more, and its agents trace nothing."""
    began = time.time()
    with product.profile(
        {**yaml.safe_load(_PROFILE.read_text("utf-8")), "metadata": {"name": "ends", "namespace": "shop"}}
    ):
        product.wait_for_spans("shop", began, 100)
    product.cluster.kubectl("-n", "shop", "delete", "tprof", "--all")
    product.cluster.wait(
        "agents to trace nothing",
        lambda: all(not product.metrics(pod).get("kernelspan_processes_traced") for pod in product.agents().values()),
    )
    ended = time.time()
    time.sleep(5)  # what was queued has gone out, and several rounds of requests have come in
    assert product.spans("shop", ended) == []
