# SPDX-License-Identifier: Apache-2.0
"""The status is a subresource: the operator writes it without the spec, users write the spec without it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgspec
import pytest

from kernelspan_api.reasons import Reason
from kernelspan_api.selectors import Runtime
from kernelspan_api.status import (
    Condition,
    ConditionStatus,
    NodeStatus,
    ProbeState,
    ProbeStatus,
    RuntimeSummary,
    Status,
    Summary,
)
from tests.support.cluster import Answer, Cluster
from tests.support.profile_api import path, profile

NAME = "status"
KIND = "TraceProfile"
LONG = "x" * 253
FULL = Status(
    observed_generation=2**53,
    plan_hash="f" * 128,
    summary=Summary(pods=150_000, nodes_ready=4_999, nodes_desired=5_000),
    runtimes=tuple(RuntimeSummary(runtime=one, processes=1) for one in Runtime),
    conditions=tuple(
        Condition(
            type=f"Type{number}",
            status=ConditionStatus.FALSE,
            last_transition_time="2026-01-01T00:00:00Z",
            reason=Reason.AGENT_UNREACHABLE.value,
            message="m" * 1024,
        )
        for number in range(8)
    ),
    nodes=tuple(
        NodeStatus(
            node=f"node-{number}",
            kernel=LONG,
            agent_version=LONG,
            reason=Reason.VERIFIER_REJECTED,
            message="m" * 1024,
            probes=tuple(
                ProbeStatus(
                    name=f"p{probe}",
                    state=ProbeState.FAILED,
                    mechanism="Kprobe",
                    reason=Reason.COMPILE_FAILED,
                    message="m" * 64,
                )
                for probe in range(64)
            ),
        )
        for number in range(50)
    ),
)


@pytest.fixture(autouse=True)
def stored(cluster: Cluster) -> Iterator[dict[str, Any]]:
    """A profile for each test."""
    answer = cluster.request("POST", path(KIND), profile({"files": {}}, NAME))
    assert answer.status == 201, answer
    yield answer.body
    cluster.request("DELETE", path(KIND, NAME))


def write(cluster: Cluster, status: object) -> Answer:
    """The operator's way."""
    patch = {"status": status}
    return cluster.request("PATCH", path(KIND, f"{NAME}/status"), patch, "application/merge-patch+json")


def test_status_is_written_alone(cluster: Cluster, stored: dict[str, Any]) -> None:
    """A write of the status changes neither spec nor generation, whatever it says of them."""
    document = {**stored, "spec": {"podSelector": {}, "waits": {}}, "status": {"observedGeneration": 1}}
    answer = cluster.request("PUT", path(KIND, f"{NAME}/status"), document)
    assert answer.status == 200, answer
    assert answer.body["spec"] == stored["spec"]
    assert answer.body["metadata"]["generation"] == 1
    assert answer.body["status"]["observedGeneration"] == 1


def test_spec_is_written_alone(cluster: Cluster) -> None:
    """A write of the object leaves the status as it is and makes a new generation."""
    write(cluster, {"observedGeneration": 1, "planHash": "a"})
    current = cluster.request("GET", path(KIND, NAME)).body
    document = {**current, "spec": {**current["spec"], "paused": True}, "status": {"planHash": "forged"}}
    answer = cluster.request("PUT", path(KIND, NAME), document)
    assert answer.status == 200, answer
    assert answer.body["status"]["planHash"] == "a"
    assert answer.body["metadata"]["generation"] == 2


def test_status_of_a_new_profile_is_not_taken_from_its_author(cluster: Cluster) -> None:
    """A profile that brings a status has none."""
    document = {**profile({"files": {}}, "forged"), "status": {"planHash": "forged"}}
    answer = cluster.request("POST", path(KIND, options="dryRun=All"), document)
    assert answer.status == 201, answer
    assert "status" not in answer.body


def test_fullest_status_fits(cluster: Cluster) -> None:
    """50 failing nodes with 64 probes each and messages in full are stored and read back as they were."""
    answer = write(cluster, msgspec.to_builtins(FULL))
    assert answer.status == 200, answer.body
    read = cluster.request("GET", path(KIND, NAME)).body["status"]
    assert msgspec.convert(read, Status) == FULL


def test_zeros_are_shown(cluster: Cluster) -> None:
    """A count of nothing is 0 in `kubectl get`, not a gap, though the operator leaves defaults out."""
    answer = write(cluster, msgspec.to_builtins(Status(observed_generation=1)))
    assert answer.body["status"]["summary"]["pods"] == 0


def test_newer_operator_is_not_refused(cluster: Cluster) -> None:
    """A reason and a state that this definition does not know are kept; a field that it does not know is dropped."""
    probe = {"name": "a", "state": "Resting", "reason": "ReasonOfTheFuture"}
    answer = write(cluster, {"nodes": [{"node": "n", "probes": [probe]}], "later": 1})
    assert answer.status == 200, answer
    assert answer.body["status"]["nodes"][0]["probes"][0]["reason"] == "ReasonOfTheFuture"
    assert "later" not in answer.body["status"]


@pytest.mark.parametrize(
    ("status", "field"),
    [
        ({"planHash": "f" * 129}, "status.planHash"),
        ({"nodes": [{"node": f"n{number}"} for number in range(51)]}, "status.nodes"),
        ({"summary": {"pods": -1}}, "status.summary.pods"),
        ({"conditions": [{"type": "Ready"}]}, "status.conditions[0].reason"),
        ({"nodes": [{"node": "A"}]}, "status.nodes[0].node"),
    ],
    ids=["long-text", "long-list", "negative", "half-a-condition", "no-name"],
)
def test_bad_status_is_refused(cluster: Cluster, status: object, field: str) -> None:
    """Bounds hold for the operator too: a fault of ours must not fill etcd."""
    answer = write(cluster, status)
    assert answer.status == 422, answer
    assert field in {one["field"] for one in answer.body["details"]["causes"]}
