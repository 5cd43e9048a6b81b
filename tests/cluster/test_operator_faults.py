# SPDX-License-Identifier: Apache-2.0
"""What breaks between the operator and the API server, and the operator itself: killed, cut off, left in silence.

Each test says what must be so in the end, whatever happened in between: the plans are those of what the API server
holds, and nothing that was well is said to be otherwise on the way.
"""

from __future__ import annotations

import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from kernelspan_api.control import REVISION, control_pb2
from tests.support.agents import Agent, well
from tests.support.operators import Kubernetes, Operator, eventually, profile_path
from tests.support.tcp_proxy import TcpProxy

SPACE = "faults"
PODS = f"/api/v1/namespaces/{SPACE}/pods"


@pytest.fixture(scope="module")
def proxy(kubernetes: Kubernetes) -> Iterator[TcpProxy]:
    """Between the operator and the API server."""
    with TcpProxy(int(kubernetes.cluster.url.rpartition(":")[2])) as running:
        yield running


@pytest.fixture(scope="module")
def operator(kubernetes: Kubernetes, proxy: TcpProxy, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Operator]:
    """One that reaches the API server by the proxy, and soon takes a silent watch for dead."""
    kubernetes.namespace(SPACE)
    for name in ("flt-1", "flt-2"):
        kubernetes.node(name)
    folder = tmp_path_factory.mktemp("operator")
    url = f"https://127.0.0.1:{proxy.port}"
    with Operator(kubernetes, folder, server=url, options=("--watch-silence=3",)) as running:
        yield running


@pytest.fixture(autouse=True)
def tidy(kubernetes: Kubernetes, operator: Operator) -> Iterator[None]:
    """Each test begins with an operator that runs, no pod and no profile."""
    yield
    if not operator.process.running:
        operator.process.stop()
        operator.process.start()
    kubernetes.cluster.request("DELETE", profile_path(SPACE))
    kubernetes.cluster.request("DELETE", PODS, {"gracePeriodSeconds": 0})
    eventually(lambda: operator.metric("selected_pods") == 0)


def conditions(kubernetes: Kubernetes, name: str = "p") -> dict[str, Any]:
    """The whole status but for what counts."""
    return {one["type"]: one for one in kubernetes.profile(SPACE, name)["status"]["conditions"]}


def ready_nodes(kubernetes: Kubernetes, name: str) -> dict[str, bool]:
    """The nodes of a profile's status, and whether each is ready."""
    return {one["node"]: one["ready"] for one in kubernetes.profile(SPACE, name)["status"].get("nodes", [])}


def test_deletion_with_the_operator_dead(kubernetes: Kubernetes, operator: Operator) -> None:
    """Nothing holds the object back; whoever comes later knows nothing of it."""
    kubernetes.pod(SPACE, "a", "flt-1")
    kubernetes.apply(SPACE, "p")
    kubernetes.apply(SPACE, "stays")
    with Agent(operator, "flt-1") as agent:
        agent.until_names({"a": {"p", "stays"}})
        kubernetes.says(SPACE, "p", "True", "Ready")
        operator.process.kill()
        kubernetes.cluster.kubectl("delete", "tprof/p", f"--namespace={SPACE}", "--timeout=60s")
    operator.process.start()
    with Agent(operator, "flt-1", plan_hash=agent.plan.hash) as again:
        again.until_names({"a": {"stays"}})


def test_restart_changes_nothing(kubernetes: Kubernetes, operator: Operator) -> None:
    """After a kill the same plan has the same hash: an agent that holds it is sent none, and no status moves."""
    kubernetes.pod(SPACE, "a", "flt-1")
    kubernetes.apply(SPACE, "p")
    with Agent(operator, "flt-1") as agent:
        plan = agent.until_names({"a": {"p"}})
        kubernetes.says(SPACE, "p", "True", "Ready")
    before, version = conditions(kubernetes), kubernetes.profile(SPACE, "p")["metadata"]["resourceVersion"]
    for _ in range(3):
        operator.process.kill()
        operator.process.start()
        with Agent(operator, "flt-1", plan_hash=plan.hash) as again:
            again.say(
                control_pb2.NodeReport(state=control_pb2.State(plan_hash=plan.hash, profiles=[well(plan.profiles[0])]))
            )
            eventually(lambda: operator.metric("streams") == 1)
            kubernetes.apply(SPACE, "marker", paused=True)  # written after all that came before it
            kubernetes.says(SPACE, "marker", "False", "Paused")
            assert again.plans == []
    assert conditions(kubernetes) == before
    assert kubernetes.profile(SPACE, "p")["metadata"]["resourceVersion"] == version


@pytest.mark.parametrize("seconds", [0, 0.03, 0.06, 0.2, 0.8])
def test_killed_in_the_middle_of_many_changes(kubernetes: Kubernetes, operator: Operator, seconds: float) -> None:
    """At whatever point: the next operator gives the plan of what is there, and no half of it before."""
    kubernetes.pod(SPACE, "a", "flt-1")
    kubernetes.pod(SPACE, "b", "flt-2")
    for number in range(12):
        kubernetes.apply(SPACE, f"p{number}")
    time.sleep(seconds)
    operator.process.kill()
    for number in range(0, 12, 2):
        kubernetes.delete(f"{profile_path(SPACE)}/p{number}")
    kubernetes.delete(f"{PODS}/b")
    operator.process.start()
    expected = {f"p{number}" for number in range(1, 12, 2)}
    with Agent(operator, "flt-1") as first, Agent(operator, "flt-2") as second:
        first.until_names({"a": expected})
        assert len(first.plans) == 1
        second.until_names({})
        for name in expected:
            kubernetes.says(SPACE, name, "True", "Ready")


def test_killed_while_it_starts(kubernetes: Kubernetes, operator: Operator) -> None:
    """At each stage of its start; an agent that holds a plan keeps it through all of that."""
    kubernetes.pod(SPACE, "a", "flt-1")
    kubernetes.apply(SPACE, "p")
    with Agent(operator, "flt-1") as agent:
        plan = agent.until_names({"a": {"p"}})
    operator.process.kill()
    for tenths in (2, 5, 8, 11, 14):
        begun = subprocess.Popen(operator.process._command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        time.sleep(tenths / 10)
        begun.send_signal(signal.SIGKILL)
        assert begun.wait() == -signal.SIGKILL
    operator.process.start()
    with Agent(operator, "flt-1", plan_hash=plan.hash) as again:
        kubernetes.pod(SPACE, "b", "flt-1")
        again.until_names({"a": {"p"}, "b": {"p"}})
        assert len(again.plans) == 1


def test_api_server_restarts(kubernetes: Kubernetes, operator: Operator) -> None:
    """Streams and plans go on meanwhile; what changes afterwards is seen, profiles as well as pods."""
    kubernetes.pod(SPACE, "a", "flt-1")
    kubernetes.apply(SPACE, "p")
    with Agent(operator, "flt-1") as agent:
        agent.until_names({"a": {"p"}})
        kubernetes.says(SPACE, "p", "True", "Ready")
        before = conditions(kubernetes)
        kubernetes.cluster.apiserver.kill()
        time.sleep(1)
        kubernetes.cluster.apiserver.start()
        eventually(lambda: kubernetes.cluster.request("GET", profile_path(SPACE)).status == 200)
        kubernetes.pod(SPACE, "b", "flt-1")
        agent.until_names({"a": {"p"}, "b": {"p"}})
        kubernetes.apply(SPACE, "q")
        agent.until_names({"a": {"p", "q"}, "b": {"p", "q"}})
        kubernetes.says(SPACE, "q", "True", "Ready")
        assert conditions(kubernetes) == before
        assert agent.error is None


def test_what_was_deleted_while_nobody_watched(kubernetes: Kubernetes, operator: Operator, proxy: TcpProxy) -> None:
    """The place where the watches would go on is gone as well (410): the lists after it yield the deletions."""
    for name in ("a", "b"):
        kubernetes.pod(SPACE, name, "flt-1")
        kubernetes.apply(SPACE, name)
    with Agent(operator, "flt-1") as agent:
        agent.until_names({"a": {"a", "b"}, "b": {"a", "b"}})
        gone = operator.metric("watch_restarts", reason="Gone")
        proxy.shut(True)
        kubernetes.delete(f"{PODS}/b")
        kubernetes.delete(f"{profile_path(SPACE)}/b")
        kubernetes.pod(SPACE, "c", "flt-1")
        kubernetes.apply(SPACE, "c")
        # A server that has just started knows nothing from before it: whoever asks for that is told 410.
        kubernetes.cluster.apiserver.kill()
        kubernetes.cluster.apiserver.start()
        eventually(lambda: kubernetes.cluster.request("GET", profile_path(SPACE)).status == 200)
        assert agent.names() == {"a": {"a", "b"}, "b": {"a", "b"}}
        proxy.shut(False)
        agent.until_names({"a": {"a", "c"}, "c": {"a", "c"}})
        assert operator.metric("watch_restarts", reason="Gone") > gone
        assert agent.error is None


def test_connections_that_are_silent(kubernetes: Kubernetes, operator: Operator, proxy: TcpProxy) -> None:
    """Nothing ends and nothing comes, as behind a firewall that has forgotten: it is noticed, and all is seen anew."""
    for name in ("a", "b"):
        kubernetes.pod(SPACE, name, "flt-1")
        kubernetes.apply(SPACE, name)
    with Agent(operator, "flt-1") as agent:
        agent.until_names({"a": {"a", "b"}, "b": {"a", "b"}})
        silent = operator.metric("watch_restarts", reason="Silent")
        proxy.silence()
        kubernetes.delete(f"{PODS}/b")
        kubernetes.delete(f"{profile_path(SPACE)}/b")
        kubernetes.pod(SPACE, "c", "flt-1")
        kubernetes.apply(SPACE, "c")
        agent.until_names({"a": {"a", "c"}, "c": {"a", "c"}})
        kubernetes.says(SPACE, "c", "True", "Ready")
        assert operator.metric("watch_restarts", reason="Silent") > silent
        assert agent.error is None


def test_older_agent(kubernetes: Kubernetes, operator: Operator) -> None:
    """It gets its plan, and the profile says that the node's agent is outdated; others are ready all the same."""
    kubernetes.pod(SPACE, "a", "flt-1")
    kubernetes.pod(SPACE, "b", "flt-2", {"app": "b"})
    kubernetes.apply(SPACE, "p")
    kubernetes.apply(SPACE, "q", podSelector={"matchLabels": {"app": "b"}})
    with Agent(operator, "flt-1", revision=REVISION - 1) as older, Agent(operator, "flt-2") as other:
        older.until_names({"a": {"p"}})
        other.until_names({"b": {"p", "q"}})
        assert "flt-1" in kubernetes.says(SPACE, "p", "False", "AgentOutdated")
        kubernetes.says(SPACE, "q", "True", "Ready")
        eventually(lambda: ready_nodes(kubernetes, "p") == {"flt-1": False, "flt-2": True})
        assert kubernetes.condition(SPACE, "p", "Ready")[:2] == ("False", "AgentOutdated")
        older.close()
        with Agent(operator, "flt-1") as newer:
            newer.until_names({"a": {"p"}})
            kubernetes.says(SPACE, "p", "True", "Ready")


def test_newer_agent(kubernetes: Kubernetes, operator: Operator) -> None:
    """States, reasons and fields that this operator has never heard of are taken for what they can be."""
    kubernetes.pod(SPACE, "a", "flt-1")
    kubernetes.apply(SPACE, "p")

    def says(profile: control_pb2.ProfilePlan) -> control_pb2.ProfileState:
        resting = control_pb2.ProbeState(name="files", state="Resting", reason="ReasonOfTheFuture", message="later")
        state = control_pb2.ProfileState(uid=profile.uid, generation=profile.generation, probes=[resting])
        state.MergeFromString(b"\xfa\x3f\x05later")  # field 1023
        return state

    with Agent(operator, "flt-1", revision=REVISION + 1, says=says) as agent:
        agent.until_names({"a": {"p"}})
        kubernetes.says(SPACE, "p", "True", "Ready")
        (probe,) = kubernetes.profile(SPACE, "p")["status"]["nodes"][0]["probes"]
        assert (probe["state"], probe["message"]) == ("Pending", "later")
    assert f"agent.newer node=flt-1 revision={REVISION + 1} ours={REVISION}" in operator.log()


def test_second_stream_of_a_node(kubernetes: Kubernetes, operator: Operator) -> None:
    """The newer one counts, as where a node has come back before its old connection has died."""
    kubernetes.pod(SPACE, "a", "flt-1")
    kubernetes.apply(SPACE, "p")
    with Agent(operator, "flt-1") as first:
        first.until_names({"a": {"p"}})
        with Agent(operator, "flt-1") as second:
            second.until_names({"a": {"p"}})
            assert first.end() is None
            kubernetes.pod(SPACE, "b", "flt-1")
            second.until_names({"a": {"p"}, "b": {"p"}})
            kubernetes.says(SPACE, "p", "True", "Ready")


def test_it_ends_when_asked(kubernetes: Kubernetes, operator: Operator) -> None:
    """By SIGTERM, with agents connected: in order, with status 0."""
    kubernetes.pod(SPACE, "a", "flt-1")
    kubernetes.apply(SPACE, "p")
    with Agent(operator, "flt-1") as agent:
        agent.until_names({"a": {"p"}})
        assert operator.process.stop() == 0, operator.process.log_tail()
        agent.end()
    assert "Traceback" not in Path(operator.process.log).read_text("utf-8")
