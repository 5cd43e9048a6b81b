# SPDX-License-Identifier: Apache-2.0
"""What follows from a pod, its profiles and their statuses; the rest, on a real API server, is tests/cluster's."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import msgspec
import pytest
import yaml

from kernelspan_agent.cli.cluster.advice import advice
from kernelspan_agent.cli.cluster.facts import Facts, Profile, split
from kernelspan_agent.cli.cluster.page import page
from kernelspan_agent.cli.cluster.verdict import Verdict, judge, overall
from kernelspan_agent.cli.explain_pod import as_object
from kernelspan_agent.cli.terminal import Painter
from kernelspan_agent.errors import UsageError
from kernelspan_api.objects import Pod
from kernelspan_api.profile import validate
from kernelspan_api.reasons import Reason
from kernelspan_api.resource import API_VERSION
from kernelspan_api.status import MAX_NODES, NodeStatus, ProbeState, ProbeStatus, Status, Summary, read_status

CREATED = datetime(2026, 1, 1, tzinfo=UTC)
ATTACHED = ProbeStatus(name="files", state=ProbeState.ATTACHED)
PENDING = ProbeStatus(name="network", state=ProbeState.PENDING)
FAILED = ProbeStatus(name="waits", state=ProbeState.FAILED)


def pod(**parts: Any) -> Pod:
    """One on the node n1."""
    found = {
        "metadata": {"namespace": "shop", "name": "a", "labels": {"app": "web"}} | parts.pop("metadata", {}),
        "spec": {"nodeName": "n1", "containers": [{"name": "web"}]},
        "status": {"phase": "Running"},
    }
    return msgspec.convert(found | parts, Pod)


def profile(status: Status | None = None, generation: int = 1, kind: str = "TraceProfile", **spec: Any) -> Profile:
    """One that selects every pod, unless it says otherwise."""
    if "workloadRef" not in spec:
        spec = {"podSelector": {}} | spec
    document = {"apiVersion": API_VERSION, "kind": kind, "metadata": {"name": "p"}, "spec": {"files": {}} | spec}
    namespace = "shop" if kind == "TraceProfile" else ""
    return Profile(kind, namespace, "p", generation, CREATED, validate(document).spec, "", status)


def status(*nodes: NodeStatus, generation: int = 1, **more: Any) -> Status:
    """One of these nodes."""
    return Status(observed_generation=generation, nodes=nodes, **more)


def verdict(found: Profile, **facts: Any) -> Verdict:
    """On a pod of the node n1."""
    facts.setdefault("pod", pod())
    (one,) = judge(Facts(profiles=[found], **facts))
    return one


@pytest.mark.parametrize(
    ("node", "traced", "words"),
    [
        (NodeStatus(node="n1", ready=True, probes=(ATTACHED, PENDING)), True, ""),
        (NodeStatus(node="n1", ready=True, probes=(FAILED, ATTACHED)), True, "1 of 2 probes failed"),
        (NodeStatus(node="n1", ready=True, probes=(FAILED,)), False, "every probe failed"),
        (NodeStatus(node="n1", ready=True, probes=(PENDING,)), None, "its agent has attached nothing yet"),
        (NodeStatus(node="n1"), None, "its agent has not answered yet"),
        (NodeStatus(node="n1", reason=Reason.BUDGET_EXCEEDED, message="m", probes=(ATTACHED,)), True, "BudgetExceeded: m"),
        (NodeStatus(node="n1", reason=Reason.KERNEL_TOO_OLD, message="m", probes=(FAILED,)), False, "KernelTooOld: m"),
        (NodeStatus(node="n1", reason=Reason.NO_MATCHING_PROCESSES, probes=(ATTACHED,)), False, "NoMatchingProcesses: "),
        (NodeStatus(node="n1", reason=Reason.AGENT_UNREACHABLE, probes=(ATTACHED,)), None, "AgentUnreachable: "),
        (NodeStatus(node="n2", ready=True, probes=(ATTACHED,)), None, "the status does not name n1 yet"),
    ],
)  # fmt: skip
def test_how_it_stands_on_the_node(node: NodeStatus, traced: bool | None, words: str) -> None:
    """Traced is what has a probe attached; an agent that is away may go on: not known."""
    found = verdict(profile(status(node)))
    assert (found.selected, found.traced) == (True, traced)
    assert found.message.startswith(words)
    assert bool(found.message) is bool(words)


def test_a_full_list_of_nodes() -> None:
    """A node that is not in it is not known; one short of full it has not been told yet."""
    nodes = [NodeStatus(node=f"m{number}") for number in range(MAX_NODES)]
    summary = Summary(nodes_ready=3, nodes_desired=60)
    found = verdict(profile(status(*nodes, summary=summary)))
    assert found.traced is None
    assert "lists 50 of its 60 nodes" in found.message
    assert "3 of 60 are ready" in found.message
    assert "does not name n1 yet" in verdict(profile(status(*nodes[1:], summary=summary))).message


def test_status_of_another_generation_says_nothing() -> None:
    """Neither that it is traced, nor that it is refused."""
    ready = NodeStatus(node="n1", ready=True, probes=(ATTACHED,))
    old = verdict(profile(status(ready, generation=1), generation=2))
    assert (old.selected, old.traced, old.node) == (True, None, None)
    refused = read_status(
        {
            "observedGeneration": 1,
            "conditions": [
                {
                    "type": "Accepted",
                    "status": "False",
                    "reason": "ForbiddenByPolicy",
                    "message": "m",
                    "lastTransitionTime": "2026-01-01T00:00:00Z",
                }
            ],
        }
    )
    assert verdict(profile(refused, generation=2)).selected is True
    now = verdict(profile(refused, generation=1))
    assert [(one.part, one.message) for one in now.objections] == [("Accepted", "ForbiddenByPolicy: m")]


def test_profile_that_is_not_understood() -> None:
    """Wrong, unless the operator takes it: then this program is the older one."""
    broken = Profile("TraceProfile", "shop", "p", 1, CREATED, None, "spec.new: unknown", None)
    assert (verdict(broken).selected, verdict(broken).traced) == (False, False)
    accepted = {
        "type": "Accepted",
        "status": "True",
        "reason": "Accepted",
        "lastTransitionTime": "2026-01-01T00:00:00Z",
    }
    taken = Profile(
        "TraceProfile", "shop", "p", 1, CREATED, None, "spec.new: unknown",
        read_status({"observedGeneration": 1, "conditions": [accepted]}),
    )  # fmt: skip
    assert (verdict(taken).selected, verdict(taken).traced) == (None, None)
    strange = Profile("TraceProfile", "shop", "p", 1, CREATED, profile().spec, "", None, strange_status=True)
    assert "does not understand" in verdict(strange).message


def test_what_may_not_be_read_is_not_known() -> None:
    """Not traced only where something else says no for certain."""
    asks = profile(kind="ClusterTraceProfile", namespaceSelector={"matchLabels": {"a": "b"}})
    assert verdict(asks).selected is None
    assert verdict(asks, namespace_labels={"a": "b"}).selected is True
    assert verdict(asks, namespace_labels={}).selected is False
    node = profile(nodeSelector={"a": "b"})
    assert verdict(node).selected is None
    assert verdict(node, node_labels={}).selected is False
    both = profile(nodeSelector={"a": "b"}, paused=True)
    assert (verdict(both).selected, verdict(both).traced) == (False, False)


def test_expiry_to_the_second() -> None:
    """By the time that is given."""
    ends = CREATED.timestamp() + 60
    assert verdict(profile(ttlSeconds=60), now_seconds=ends - 1).selected is True
    assert [one.part for one in verdict(profile(ttlSeconds=60), now_seconds=ends).objections] == ["ttlSeconds"]


def test_overall() -> None:
    """One that traces is enough; one that is not known leaves it open."""
    ready = NodeStatus(node="n1", ready=True, probes=(ATTACHED,))
    yes, unknown, no = profile(status(ready)), profile(), profile(paused=True)
    for profiles, expected in (([], False), ([no], False), ([no, unknown], None), ([unknown, yes, no], True)):
        assert overall(judge(Facts(pod(), profiles=profiles))) is expected


@pytest.mark.parametrize(
    ("metadata", "whom"),
    [
        ({}, {"podSelector": {"matchLabels": {"app": "web"}}}),
        ({"labels": {}}, {"podSelector": {}}),
        ({"labels": {"x": "y", "controller-revision-hash": "1"}}, {"podSelector": {"matchLabels": {"x": "y"}}}),
        (
            {
                "labels": {"pod-template-hash": "5d9"},
                "ownerReferences": [{"kind": "ReplicaSet", "name": "web-5d9", "controller": True}],
            },
            {"workloadRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": "web"}},
        ),
        (
            {"ownerReferences": [{"kind": "Job", "name": "run", "controller": True}]},
            {"workloadRef": {"apiVersion": "batch/v1", "kind": "Job", "name": "run"}},
        ),
        (
            {"ownerReferences": [{"kind": "Node", "name": "n1", "controller": True}]},
            {"podSelector": {"matchLabels": {"app": "web"}}},
        ),
    ],
)
def test_profile_that_is_advised(metadata: dict[str, Any], whom: dict[str, Any]) -> None:
    """It is a good one, for the pod's workload where that can be named."""
    _, *lines = advice(Facts(pod(metadata=metadata)), [])
    found = validate(yaml.safe_load("\n".join(lines)))
    plain = msgspec.to_builtins(found.spec)
    assert {key: plain[key] for key in ("podSelector", "workloadRef") if key in plain} == whom


def test_no_advice_where_it_would_be_wrong() -> None:
    """A profile that is meant for the pod, a pod that has ended, something that could not be read."""
    assert advice(Facts(pod()), judge(Facts(pod(), profiles=[profile(paused=True)]))) == []
    assert advice(Facts(pod(), not_read=[("TraceProfiles", "no")]), []) == []
    assert advice(Facts(pod(status={"phase": "Failed"})), []) == []
    assert "install kernelspan" in advice(Facts(pod(), installed=False), [])[0]


@pytest.mark.parametrize("text", ["", "a", "/a", "a/", "a/b/c"])
def test_name_of_a_pod(text: str) -> None:
    """NAMESPACE/NAME and nothing else."""
    with pytest.raises(UsageError, match="NAMESPACE/NAME"):
        split(text)


def test_page_of_hostile_names() -> None:
    """What others have written is shown without what a terminal would obey."""
    facts = Facts(pod(metadata={"labels": {"app": "web"}}), not_read=[("node \x1b[2J", "no\nverdict     traced")])
    lines = page(as_object(facts), Painter(color=False))
    assert not any(ord(letter) < 32 for line in lines for letter in line)
