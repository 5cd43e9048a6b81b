# SPDX-License-Identifier: Apache-2.0
"""The definitions in a real API server: taken whole, and shown by kubectl as people will see them."""

from __future__ import annotations

import pytest

from kernelspan_api.resource import API_VERSION, GROUP, KINDS, VERSION
from tests.support.cluster import Cluster
from tests.support.profile_api import NAMESPACE, path, profile


@pytest.mark.parametrize("kind", KINDS)
def test_definition_is_in_order(cluster: Cluster, kind: str) -> None:
    """Established, its names accepted, its schema structural: nothing is left for the API server to complain about."""
    answer = cluster.request("GET", f"/apis/apiextensions.k8s.io/v1/customresourcedefinitions/{kind.lower()}s.{GROUP}")
    conditions = {one["type"]: one["status"] for one in answer.body["status"]["conditions"]}
    assert conditions["Established"] == conditions["NamesAccepted"] == "True"
    assert "NonStructuralSchema" not in conditions
    assert answer.body["status"]["storedVersions"] == [VERSION]


def test_definitions_can_be_applied_over_themselves(cluster: Cluster) -> None:
    """An upgrade applies them anew, by the server or by kubectl's own annotation, which has a greatest size."""
    for kind in KINDS:
        name = f"customresourcedefinitions/{kind.lower()}s.{GROUP}"
        answer = cluster.request("GET", f"/apis/apiextensions.k8s.io/v1/{name}")
        document = {key: answer.body[key] for key in ("apiVersion", "kind", "spec")}
        document["metadata"] = {"name": answer.body["metadata"]["name"]}
        cluster.kubectl("apply", "-f", "-", document=document)
        cluster.kubectl("apply", "--server-side", "--force-conflicts", "-f", "-", document=document)


def test_names(cluster: Cluster) -> None:
    """Short names, category and scope, as `kubectl api-resources` lists them."""
    listed = cluster.kubectl("api-resources", f"--api-group={GROUP}", "-o", "wide", "--no-headers").stdout
    rows = {row.split()[0]: row.split() for row in listed.splitlines()}
    assert rows["traceprofiles"][1:5] == ["tprof", API_VERSION, "true", "TraceProfile"]
    assert rows["clustertraceprofiles"][1:5] == ["ctprof", API_VERSION, "false", "ClusterTraceProfile"]
    assert all(row[-1] == "kernelspan" for row in rows.values())


def test_columns(cluster: Cluster) -> None:
    """`kubectl get tprof` shows what the operator reports; -o wide says why besides."""
    cluster.kubectl("create", "-f", "-", f"--namespace={NAMESPACE}", document=profile({"files": {}}, "columns"))
    summary = {"pods": 12, "nodesReady": 3, "nodesDesired": 4, "probesAttached": 9}
    ready = {
        "type": "Ready",
        "status": "False",
        "reason": "AgentUnreachable",
        "observedGeneration": 1,
        "lastTransitionTime": "2026-01-01T00:00:00Z",
    }
    answer = cluster.request(
        "PATCH",
        path("TraceProfile", "columns/status"),
        {"status": {"summary": summary, "conditions": [ready]}},
        "application/merge-patch+json",
    )
    assert answer.status == 200, answer
    rows = cluster.kubectl("get", "tprof", "columns", f"--namespace={NAMESPACE}").stdout.splitlines()
    assert rows[0].split() == ["NAME", "READY", "PODS", "NODES", "PROBES", "AGE"]
    assert rows[1].split()[:5] == ["columns", "False", "12", "3", "9"]
    wide = cluster.kubectl("get", "kernelspan", f"--namespace={NAMESPACE}", "-o", "wide").stdout
    assert "REASON" in wide
    assert "AgentUnreachable" in wide
    waited = cluster.kubectl(
        "wait", "--for=condition=Ready=False", "tprof/columns", f"--namespace={NAMESPACE}", "--timeout=20s"
    )
    assert "condition met" in waited.stdout


@pytest.mark.parametrize(
    ("field", "parts"),
    [
        ("tprof", ["What to trace in one namespace", "spec\t<Object> -required-", "status\t<Object>"]),
        ("ctprof.spec.namespaceSelector", ["Absent or {}: every namespace."]),
        ("tprof.spec.code.maxDepth", ["<integer>", "The most frames of a stack."]),
        ("tprof.spec.probes.mode", ["ENUM:", "Span", "From entry to return, or an instant."]),
    ],
)
def test_explain(cluster: Cluster, field: str, parts: list[str]) -> None:
    """`kubectl explain` has the descriptions of the types."""
    text = cluster.kubectl("explain", field).stdout
    assert [part for part in parts if part not in text] == [], text
