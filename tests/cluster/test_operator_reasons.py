# SPDX-License-Identifier: Apache-2.0
"""Every reason of a profile's status reaches its object: what the operator finds itself, and what agents say."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from kernelspan_api.control import REVISION, control_pb2
from kernelspan_api.reasons import Reason
from tests.support.agents import Agent
from tests.support.operators import Kubernetes, Operator, eventually, profile_path

SPACE = "reasons"
PODS = f"/api/v1/namespaces/{SPACE}/pods"
POLICY: dict[str, object] = {"clusterProfiles": False}
LABEL = {"podSelector": {"matchLabels": {"app": "a"}}}
# What the operator finds by itself, and the profile that makes it.
OWN: dict[str, dict[str, object]] = {
    "NoMatchingPods": {"podSelector": {"matchLabels": {"app": "nobody"}}},
    "InvalidSpec": {"redaction": {"paths": ["(a*)*b"]}},
    "ForbiddenByPolicy": {"export": {"otlp": {"endpoint": "evil.test:4317"}}},
    "SecretNotAllowed": {"export": {"otlp": {"headersSecretRef": {"name": "none"}}}},
    "Expired": {"ttlSeconds": 1},
    "Paused": {"paused": True},
}
BY_NODE = ("AgentOutdated", "AgentUnreachable")  # tests of their own: the operator finds these of a node
SAID = [one.value for one in Reason if one.value not in OWN]


def name_of(reason: str, way: str = "") -> str:
    return f"r-{reason.lower()}{way}"


def says(profile: control_pb2.ProfilePlan) -> control_pb2.ProfileState:
    """The reason that the profile is named after: of the whole, of a probe, or of the export."""
    _, word, *way = profile.name.split("-")
    reason = {one.value.lower(): one.value for one in Reason}[word]
    state = control_pb2.ProfileState(uid=profile.uid, generation=profile.generation)
    if way == ["probe"]:
        state.probes.add(name="mine", state="Failed", reason=reason, message="what the agent says")
    elif way == ["export"]:
        state.export_reason = reason
    else:
        state.reason, state.message = reason, "what the agent says"
    return state


@pytest.fixture(scope="module", autouse=True)
def profiles(kubernetes: Kubernetes, operator: Operator) -> Iterator[None]:
    """One for each reason and way, all at once, and an agent that says them."""
    kubernetes.namespace(SPACE)
    kubernetes.node("rsn-1")
    kubernetes.pod(SPACE, "a", "rsn-1", {"app": "a"})
    for reason, spec in OWN.items():
        kubernetes.apply(SPACE, name_of(reason), **(LABEL | spec))
    for reason in SAID:
        kubernetes.apply(SPACE, name_of(reason), **LABEL)
        kubernetes.apply(SPACE, name_of(reason, "-probe"), **LABEL)
    kubernetes.apply(SPACE, name_of("CollectorUnreachable", "-export"), **LABEL)
    kubernetes.node("rsn-2")
    kubernetes.pod(SPACE, "b", "rsn-2", {"app": "b"})
    kubernetes.apply(SPACE, "away", podSelector={"matchLabels": {"app": "b"}})
    with Agent(operator, "rsn-2"):
        kubernetes.says(SPACE, "away", "True", "Ready")
    with Agent(operator, "rsn-1", says=says):
        yield
    kubernetes.cluster.request("DELETE", profile_path(SPACE))
    kubernetes.cluster.request("DELETE", PODS, {"gracePeriodSeconds": 0})


@pytest.mark.parametrize("reason", OWN)
def test_found_by_the_operator(kubernetes: Kubernetes, reason: str) -> None:
    """In Ready, with a message that says what to do."""
    message = kubernetes.says(SPACE, name_of(reason), "False", reason)
    if reason not in {"InvalidSpec", "SecretNotAllowed"}:  # those name the field
        assert Reason(reason).remedy in message
    assert len(message) > 20


@pytest.mark.parametrize("way", ["", "-probe"])
@pytest.mark.parametrize("reason", SAID)
def test_said_by_an_agent(kubernetes: Kubernetes, reason: str, way: str) -> None:
    """Of the profile or of one of its probes, in the agent's words and with the node's name."""
    name = name_of(reason, way)
    message = kubernetes.says(SPACE, name, "False", reason)
    assert message.startswith("rsn-1: ")
    assert message.endswith("what the agent says")
    (node,) = kubernetes.profile(SPACE, name)["status"]["nodes"]
    assert (node["probes"][0] if way else node)["reason"] == reason


def test_export_that_fails(kubernetes: Kubernetes) -> None:
    """Attached, and not ready: what is traced reaches nobody."""
    name = name_of("CollectorUnreachable", "-export")
    assert Reason.COLLECTOR_UNREACHABLE.remedy in kubernetes.says(SPACE, name, "False", "CollectorUnreachable")
    assert kubernetes.condition(SPACE, name, "Attached")[0] == "True"
    assert kubernetes.condition(SPACE, name, "Exporting")[:2] == ("False", "CollectorUnreachable")


def test_there_is_no_other() -> None:
    """Each reason of the list stands in one of the tables above."""
    assert {*OWN, *SAID} == {one.value for one in Reason}
    assert {*BY_NODE} <= {*SAID}


def test_agent_that_is_older(kubernetes: Kubernetes, operator: Operator) -> None:
    """AgentOutdated, by the revision in its Hello, whatever it says of the profile."""
    kubernetes.node("rsn-3")
    kubernetes.pod(SPACE, "c", "rsn-3", {"app": "c"})
    kubernetes.apply(SPACE, "older", podSelector={"matchLabels": {"app": "c"}})
    with Agent(operator, "rsn-3", revision=REVISION - 1):
        assert Reason.AGENT_OUTDATED.remedy in kubernetes.says(SPACE, "older", "False", "AgentOutdated")
    kubernetes.delete(f"{profile_path(SPACE)}/older")


def test_policy_of_cluster_profiles(kubernetes: Kubernetes) -> None:
    """A ClusterTraceProfile can be forbidden as a whole."""
    kubernetes.apply("", "everywhere")
    assert "ClusterTraceProfile is not allowed" in kubernetes.says("", "everywhere", "False", "ForbiddenByPolicy")
    kubernetes.delete(f"{profile_path('')}/everywhere")


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ({"probes": [{"name": "a", "kprobe": {"call": "f"}}]}, "spec.probes is not allowed"),
        ({"requests": [{"protocol": "MySQL", "statement": "Raw"}]}, "statement: Raw is not allowed"),
        ({"requests": [{"protocol": "HTTP", "tls": "UserProbes"}]}, "tls: UserProbes is not allowed"),
    ],
)
def test_policy(kubernetes: Kubernetes, spec: dict[str, object], message: str) -> None:
    """What the administrator has not allowed is refused as a whole, with the field."""
    kubernetes.apply(SPACE, "forbidden", **spec)
    assert message in kubernetes.says(SPACE, "forbidden", "False", "ForbiddenByPolicy")
    kubernetes.delete(f"{profile_path(SPACE)}/forbidden")


def test_first_to_last_without_a_flap(kubernetes: Kubernetes, operator: Operator) -> None:
    """From NoMatchingPods to Ready each condition moves once; a pod more or less moves none of them."""
    kubernetes.node("rsn-4")
    kubernetes.apply(SPACE, "steady", podSelector={"matchLabels": {"app": "d"}})
    kubernetes.says(SPACE, "steady", "False", "NoMatchingPods")
    with Agent(operator, "rsn-4") as agent:
        kubernetes.pod(SPACE, "d", "rsn-4", {"app": "d"})
        kubernetes.says(SPACE, "steady", "True", "Ready")
        before = kubernetes.profile(SPACE, "steady")["status"]["conditions"]
        for number in range(3):
            kubernetes.pod(SPACE, f"d{number}", "rsn-4", {"app": "d"})
            agent.until(lambda plan, number=number: len(plan.pods) == number + 2)  # type: ignore[misc]
            counted: Callable[[], bool] = lambda number=number: (  # type: ignore[misc]  # noqa: E731
                kubernetes.profile(SPACE, "steady")["status"]["summary"]["pods"] == number + 2
            )
            eventually(counted)
            assert kubernetes.profile(SPACE, "steady")["status"]["conditions"] == before
    kubernetes.delete(f"{profile_path(SPACE)}/steady")


def test_agent_that_stays_away(kubernetes: Kubernetes, operator: Operator) -> None:
    """AgentUnreachable, once it has had the time to come back; not a moment longer than it stays away."""
    assert "rsn-2: " in kubernetes.says(SPACE, "away", "False", "AgentUnreachable")
    with Agent(operator, "rsn-2"):
        kubernetes.says(SPACE, "away", "True", "Ready")
