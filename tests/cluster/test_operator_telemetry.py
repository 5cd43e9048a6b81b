# SPDX-License-Identifier: Apache-2.0
"""What the operator says of itself: /metrics, /healthz, /readyz, and its own traces, read back from a collector."""

from __future__ import annotations

import socket
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from kernelspan_api.control import control_pb2
from tests.support.agents import Agent, well
from tests.support.collector import Collector
from tests.support.operators import Kubernetes, Operator, eventually, profile_path
from tests.support.server import http_get

SPACE = "telemetry"
PODS = f"/api/v1/namespaces/{SPACE}/pods"


@pytest.fixture(scope="module")
def operator(
    kubernetes: Kubernetes, otelcol_binary: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Operator]:
    """One that sends its own traces to a collector of its own, which is its attribute."""
    kubernetes.namespace(SPACE)
    kubernetes.node("tel-1")
    kubernetes.node("tel-2")
    folder = tmp_path_factory.mktemp("operator")
    with Collector(otelcol_binary, folder / "otelcol") as collector:
        environment = {
            "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://{collector.grpc_endpoint}",
            "OTEL_EXPORTER_OTLP_INSECURE": "true",
            "OTEL_RESOURCE_ATTRIBUTES": "k8s.cluster.name=test",
            "OTEL_BSP_SCHEDULE_DELAY": "200",
        }
        with Operator(kubernetes, folder, options=("--self-traces",), environment=environment) as running:
            running.collector = collector  # type: ignore[attr-defined]
            yield running


@pytest.fixture(autouse=True)
def tidy(kubernetes: Kubernetes, operator: Operator) -> Iterator[None]:
    """Each test begins with no pod and no profile."""
    yield
    kubernetes.cluster.request("DELETE", profile_path(SPACE))
    kubernetes.cluster.request("DELETE", PODS, {"gracePeriodSeconds": 0})
    eventually(lambda: operator.metric("selected_pods") == 0)


def test_every_metric_is_there_from_the_start(operator: Operator) -> None:
    """With help, in our name, and as Prometheus parses it: what an alert asks for exists before it happens."""
    _, body = http_get(operator.http_port, "/metrics")
    found = {one.name: one for one in text_string_to_metric_families(body.decode())}
    ours = {name.removeprefix("kernelspan_operator_") for name in found if name.startswith("kernelspan_operator")}
    assert {
        "profiles",
        "profiles_refused",
        "selected_pods",
        "plans_built",
        "plan_size_bytes",
        "plan_delay_seconds",
        "plans_acknowledged",
        "streams",
        "streams_opened",
        "streams_refused",
        "api_requests",
        "watches",
        "watch_restarts",
        "status_writes",
        "ready",
    } <= ours
    assert {name for name in found if not name.startswith("kernelspan_operator")} <= {
        name for name in found if name.startswith("process_")
    }
    assert all(one.documentation for one in found.values())


def test_counts(kubernetes: Kubernetes, operator: Operator) -> None:
    """What happens is counted where it belongs."""
    kubernetes.pod(SPACE, "a", "tel-1")
    before = {name: operator.metric(name) for name in ("plans_built", "plans_acknowledged", "plan_size_bytes_count")}
    delays = operator.metric("plan_delay_seconds_count")
    states = {state: operator.metric("profiles", state=state) for state in ("Active", "Paused", "Refused", "Expired")}
    with Agent(operator, "tel-1") as agent:
        agent.until_names({})
        eventually(lambda: operator.metric("streams") == 1)
        kubernetes.apply(SPACE, "p")
        agent.until_names({"a": {"p"}})
        kubernetes.apply(SPACE, "off", paused=True)
        kubernetes.apply(SPACE, "wrong", redaction={"paths": ["(a*)*b"]})
        kubernetes.says(SPACE, "p", "True", "Ready")
        kubernetes.says(SPACE, "wrong", "False", "InvalidSpec")
        kubernetes.says(SPACE, "off", "False", "Paused")
        for state, count in (("Active", 1), ("Paused", 1), ("Refused", 1), ("Expired", 0)):
            assert operator.metric("profiles", state=state) == states[state] + count
        assert operator.metric("profiles_refused", reason="InvalidSpec") == 1
        assert operator.metric("selected_pods") == 1
        assert operator.metric("plan_delay_seconds_count") == delays + 1
        eventually(lambda: operator.metric("plans_acknowledged") == before["plans_acknowledged"] + 2)
        assert operator.metric("plan_size_bytes_count") == before["plan_size_bytes_count"] + 2
        assert operator.metric("plans_built") > before["plans_built"]
        assert operator.metric("status_writes", result="Written") >= 3
        assert operator.metric("api_requests", verb="patch", code="200") >= 3
        assert operator.metric("api_requests", verb="create", code="201") >= 1  # the token's review
        with Agent(operator, "tel-2", "no.good.token") as stranger:
            stranger.end()
        assert operator.metric("streams_refused", reason="BadToken") == 1
    eventually(lambda: operator.metric("streams") == 0)


def test_an_idle_operator_writes_nothing(kubernetes: Kubernetes, operator: Operator) -> None:
    """With a pod, a profile and an agent that goes on saying that it lives."""
    kubernetes.pod(SPACE, "a", "tel-1")
    kubernetes.apply(SPACE, "p")
    with Agent(operator, "tel-1") as agent:
        agent.until_names({"a": {"p"}})
        kubernetes.says(SPACE, "p", "True", "Ready")
        eventually(lambda: operator.metric("status_writes", result="Written") >= 1)
        writes, patches = operator.metric("status_writes", result="Written"), version(kubernetes)
        for _ in range(20):
            agent.say_again()
        plan, opened = agent.plan, operator.metric("streams_opened")
    with Agent(operator, "tel-1", plan_hash=plan.hash) as again:  # everything about the profile is looked at anew
        again.say(
            control_pb2.NodeReport(state=control_pb2.State(plan_hash=plan.hash, profiles=[well(plan.profiles[0])]))
        )
        eventually(lambda: operator.metric("streams_opened") == opened + 1)
        kubernetes.apply(SPACE, "marker", paused=True)  # its status is written after all of that
        kubernetes.says(SPACE, "marker", "False", "Paused")
        assert again.plans[-1:] in ([], [plan])
        assert version(kubernetes) == patches
        eventually(lambda: operator.metric("status_writes", result="Written") >= writes + 1)
        assert operator.metric("status_writes", result="Written") == writes + 1


def version(kubernetes: Kubernetes) -> str:
    """Of the profile."""
    return str(kubernetes.profile(SPACE, "p")["metadata"]["resourceVersion"])


def test_health(operator: Operator) -> None:
    """Well and ready; what is no path of ours is not found."""
    assert http_get(operator.http_port, "/healthz") == (200, b"ok\n")
    assert http_get(operator.http_port, "/readyz") == (200, b"ok\n")
    assert http_get(operator.http_port, "/")[0] == 404


def test_strangers_at_the_http_port(operator: Operator) -> None:
    """Connections that say nothing or nonsense, and requests too large, keep nobody from being answered."""
    with ExitStack() as stack:
        for number in range(500):
            one = stack.enter_context(socket.create_connection(("127.0.0.1", operator.http_port), timeout=60))
            if number % 2:
                one.sendall(b"\xff" * 100)
        one = stack.enter_context(socket.create_connection(("127.0.0.1", operator.http_port), timeout=60))
        one.sendall(b"GET /" + b"a" * 100_000)
        assert http_get(operator.http_port, "/healthz")[0] == 200


@pytest.mark.parametrize("address", ["8080", "localhost", "1.2.3.4:5", "[::1:80", "127.0.0.1:99999", "127.0.0.1:x"])
def test_bad_address(operator: Operator, address: str) -> None:
    """One sentence and what to do, no traceback."""
    command = [one for one in operator.process._command if not one.startswith("--listen")]
    ended = subprocess.run(
        [*command, f"--listen-http={address}"], capture_output=True, text=True, check=False, timeout=60
    )
    assert ended.returncode == 1
    assert ended.stderr.startswith("kernelspan-operator: Configuration: --listen-http")
    assert "Traceback" not in ended.stderr


def test_own_traces(kubernetes: Kubernetes, operator: Operator) -> None:
    """A change, the plan sent to each node that it touches, and its acknowledgement, in one trace."""
    collector: Collector = operator.collector  # type: ignore[attr-defined]
    for node in ("tel-1", "tel-2"):
        kubernetes.pod(SPACE, f"on-{node}", node)
    with Agent(operator, "tel-1") as first, Agent(operator, "tel-2") as second:
        first.until_names({})
        second.until_names({})
        known = {span.trace_id for span in collector.spans()}
        kubernetes.apply(SPACE, "p")
        plans = {agent.node: agent.until(lambda plan: plan.pods) for agent in (first, second)}
        found = collector.wait_for_spans(2, lambda span: span.name == "plan.acknowledge" and span.trace_id not in known)
    spans = [span for span in collector.spans() if span.trace_id == found[0].trace_id]
    (root,) = [span for span in spans if not span.parent_span_id]
    assert (root.name, root.attributes["kernelspan.nodes"]) == ("plans.change", 2)
    for name in ("plan.send", "plan.acknowledge"):
        inner = {str(span.attributes["k8s.node.name"]): span for span in spans if span.name == name}
        assert {node: span.attributes["kernelspan.plan.hash"] for node, span in inner.items()} == {
            node: plan.hash for node, plan in plans.items()
        }
        assert all(span.parent_span_id == root.span_id for span in inner.values())
        assert all(root.start_ns <= root.end_ns <= span.start_ns <= span.end_ns for span in inner.values())
    assert root.resource["service.name"] == "kernelspan-operator"
    assert root.resource["k8s.cluster.name"] == "test"


def test_collector_that_goes_away(kubernetes: Kubernetes, operator: Operator) -> None:
    """Costs spans and nothing else: plans are sent as before, and the operator ends when it is asked to."""
    collector: Collector = operator.collector  # type: ignore[attr-defined]
    collector.kill()
    kubernetes.pod(SPACE, "a", "tel-1")
    with Agent(operator, "tel-1") as agent:
        for name in ("p", "q", "r"):
            kubernetes.apply(SPACE, name)
        agent.until_names({"a": {"p", "q", "r"}})
    assert operator.process.stop() == 0
    collector.restart()
    operator.process.start()
