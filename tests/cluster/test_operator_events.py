# SPDX-License-Identifier: Apache-2.0
"""The events of a profile, as `kubectl describe` shows them: what is wrong and what to do, once for each turn."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from kernelspan_api.control import control_pb2
from kernelspan_api.reasons import Reason
from tests.cluster.test_limits import LONG_NAME
from tests.support.agents import Agent
from tests.support.operators import Kubernetes, Operator, eventually, profile_path

SPACE = "events"
PODS = f"/api/v1/namespaces/{SPACE}/pods"
Said = tuple[str, str, str]  # type, reason, note


@pytest.fixture(autouse=True)
def tidy(kubernetes: Kubernetes, operator: Operator) -> Iterator[None]:
    """Each test begins with a node, no pod and no profile; events stay, so each profile has a name that no other test's has."""
    kubernetes.namespace(SPACE)
    kubernetes.node("evt-1")
    yield
    if not operator.process.running:
        operator.process.stop()
        operator.process.start()
    for path in (profile_path(SPACE), profile_path("")):
        kubernetes.cluster.request("DELETE", path)
    kubernetes.cluster.request("DELETE", PODS, {"gracePeriodSeconds": 0})
    eventually(lambda: operator.metric("selected_pods") == 0)


def events(kubernetes: Kubernetes, name: str, namespace: str = SPACE) -> list[Said]:
    """Those of a profile, in order; asked for as kubectl asks."""
    items = kubernetes.ask("GET", f"/apis/events.k8s.io/v1/namespaces/{namespace or 'default'}/events")["items"]
    ours = [one for one in items if one["regarding"]["name"] == name and one["regarding"]["kind"].endswith("Profile")]
    ours.sort(key=lambda one: str(one["eventTime"]))
    return [(one["type"], one["reason"], one["note"]) for one in ours]


def until_turned(kubernetes: Kubernetes, name: str, *reasons: str) -> list[Said]:
    """The events once they have these reasons, in this order."""
    eventually(lambda: [reason for _, reason, _ in events(kubernetes, name)] == list(reasons))
    return events(kubernetes, name)


def test_describe_says_what_to_do(kubernetes: Kubernetes, operator: Operator) -> None:
    """From a selector that selects nobody to a probe that cannot be, as a user reads it below the status."""
    kubernetes.apply(SPACE, "p", podSelector={"matchLabels": {"app": "a"}})
    until_turned(kubernetes, "p", "NoMatchingPods")
    failed = control_pb2.ProbeState(name="mine", state="Failed", reason="FunctionNotFound", message="no function f")

    def says(profile: control_pb2.ProfilePlan) -> control_pb2.ProfileState:
        probes = [failed] if profile.generation > 1 else []
        return control_pb2.ProfileState(uid=profile.uid, generation=profile.generation, probes=probes)

    kubernetes.pod(SPACE, "a", "evt-1", {"app": "a"})
    with Agent(operator, "evt-1", says=says):
        until_turned(kubernetes, "p", "NoMatchingPods", "Ready")
        kubernetes.apply(SPACE, "p", podSelector={"matchLabels": {"app": "a"}}, waits={})
        found = until_turned(kubernetes, "p", "NoMatchingPods", "Ready", "FunctionNotFound")
    assert [kind for kind, _, _ in found] == ["Warning", "Normal", "Warning"]
    assert Reason.NO_MATCHING_PODS.remedy in found[0][2]
    assert found[2][2] == f"evt-1: mine: no function f {Reason.FUNCTION_NOT_FOUND.remedy}"
    said = kubernetes.cluster.kubectl("describe", "tprof", "p", f"--namespace={SPACE}").stdout
    table = said.partition("\nEvents:\n")[2]
    for kind, reason, note in found:
        assert any(line.split()[:2] == [kind, reason] and note[:60] in line for line in table.splitlines()), said


def test_a_turn_is_told_once(kubernetes: Kubernetes, operator: Operator) -> None:
    """Not again by another operator, not for a pod more, not for what turns back and forth."""
    kubernetes.pod(SPACE, "a", "evt-1")
    kubernetes.apply(SPACE, "turns")
    with Agent(operator, "evt-1"):
        until_turned(kubernetes, "turns", "Ready")
        for number in range(3):
            kubernetes.apply(SPACE, "turns", paused=True)
            kubernetes.says(SPACE, "turns", "False", "Paused")
            kubernetes.apply(SPACE, "turns", paused=False)
            kubernetes.says(SPACE, "turns", "True", "Ready")
            kubernetes.pod(SPACE, f"more-{number}", "evt-1")
        found = until_turned(kubernetes, "turns", "Ready", "Paused")
        assert [kind for kind, _, _ in found] == ["Normal", "Normal"]  # what the user wishes is no warning
        assert operator.metric("events", result="Repeated") >= 4
    operator.process.kill()
    operator.process.start()
    with Agent(operator, "evt-1"):
        kubernetes.apply(SPACE, "turns", files={"operations": ["Read"]})
        kubernetes.says(SPACE, "turns", "True", "Ready")
        kubernetes.apply(SPACE, "marker", paused=True)  # its event comes after all of that
        until_turned(kubernetes, "marker", "Paused")
    assert events(kubernetes, "turns") == found


def test_names_at_their_limits_and_no_namespace(kubernetes: Kubernetes, operator: Operator) -> None:
    """A name of 253 characters leaves room for an event's own; a cluster's profile has its events in `default`."""
    kubernetes.apply(SPACE, LONG_NAME, paused=True)
    until_turned(kubernetes, LONG_NAME, "Paused")
    kubernetes.apply("", "told-everywhere", paused=True)
    eventually(lambda: [one[1] for one in events(kubernetes, "told-everywhere", "")] == ["Paused"])
    said = kubernetes.cluster.kubectl("describe", "ctprof", "told-everywhere").stdout
    assert "Paused" in said.partition("\nEvents:\n")[2]
    assert operator.metric("events", result="Failed") == 0
    assert operator.forbidden() == []
