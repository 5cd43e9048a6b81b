# SPDX-License-Identifier: Apache-2.0
"""Profiles at their limits are stored, one step beyond is refused: names, labels, lists, the size of the whole."""

from __future__ import annotations

from typing import Any

import pytest

from kernelspan_api.profile import validate
from tests.support.cluster import Cluster
from tests.support.profile_api import complaints, dry_run, path, profile

LONG_NAME = ".".join(("a" * 62, "b" * 62, "c" * 62, "d" * 62, "e"))  # 253 characters in labels of at most 63
LABEL = "v" * 63
KEY = f"{LONG_NAME}/{'k' * 63}"
CONDITION = {"index": 11, "operator": "In", "values": [f"{number:0256}" for number in range(16)]}


def probe(number: int) -> dict[str, Any]:
    """A probe with as much in it as there may be."""
    return {
        "name": f"{number:063}",
        "kprobe": {"call": "f" * 511},
        "span": {"name": "n" * 128, "attributes": {f"{'k' * 120}.{one}": "v" * 256 for one in range(16)}},
        "args": [{"index": one, "type": "String", "attribute": "a" * 128, "maxBytes": 4096} for one in range(8)],
        "match": [{"args": [CONDITION] * 8} for _ in range(8)],
    }


def full(probes: int) -> dict[str, Any]:
    """A spec with its lists full but for the probes."""
    return {
        "podSelector": {
            "matchLabels": {f"{LONG_NAME}/{one:063}": LABEL for one in range(64)},
            "matchExpressions": [{"key": KEY, "operator": "In", "values": [LABEL] * 64}] * 64,
        },
        "nodeSelector": {KEY: LABEL},
        "files": {"paths": [f"/{one:01022}*" for one in range(64)]},
        "network": {"cidrs": [f"fd00:{one:x}::/32" for one in range(64)], "ports": list(range(1, 65))},
        "redaction": {"paths": ["x" * 256] * 32},
        "resourceAttributes": {f"{'k' * 120}.{one}": "v" * 256 for one in range(32)},
        "probes": [probe(one) for one in range(probes)],
    }


def test_name_of_253_characters(cluster: Cluster) -> None:
    """The longest name that Kubernetes takes works from creation to deletion; one more is refused."""
    assert len(LONG_NAME) == 253
    assert cluster.request("POST", path("TraceProfile"), profile({"files": {}}, LONG_NAME)).status == 201
    assert cluster.request("GET", path("TraceProfile", LONG_NAME)).body["metadata"]["name"] == LONG_NAME
    assert cluster.request("DELETE", path("TraceProfile", LONG_NAME)).status == 200
    (cause,) = complaints(dry_run(cluster, profile({"files": {}}, f"{LONG_NAME}e")))
    assert cause.field == "metadata.name"


def test_labels_at_their_limits(cluster: Cluster) -> None:
    """A key of 317 characters and a value of 63 can be selected by, as they can be given to a pod; longer ones not."""
    assert len(KEY) == 317
    spec = {"files": {}, "podSelector": {"matchLabels": {KEY: LABEL}}, "nodeSelector": {KEY: LABEL}}
    document = profile(spec)
    validate(document)
    document["metadata"]["labels"] = {KEY: LABEL}
    assert complaints(dry_run(cluster, document)) == []
    for labels in ({f"{KEY}k": "v"}, {"k" * 64: "v"}, {"k": f"{LABEL}v"}):
        causes = complaints(dry_run(cluster, profile({"files": {}, "podSelector": {"matchLabels": labels}})))
        assert causes
        assert all(one.field.startswith("spec.podSelector.matchLabels") for one in causes), causes


def test_huge_profile(cluster: Cluster) -> None:
    """A profile of a megabyte, every rule of which is worked out, is stored and read."""
    document = profile(full(2), "huge")
    answer = cluster.request("POST", path("TraceProfile"), document)
    assert answer.status == 201, answer.body["message"]
    assert cluster.request("GET", path("TraceProfile", "huge")).body["spec"]["probes"][1]["name"] == f"{1:063}"
    assert cluster.request("DELETE", path("TraceProfile", "huge")).status == 200


def test_profile_beyond_what_is_stored(cluster: Cluster) -> None:
    """More than 1.5 MiB, what etcd takes, is refused with a sentence; the next profile is served as ever."""
    answer = cluster.request("POST", path("TraceProfile"), profile(full(8), "beyond"))
    assert answer.status in {413, 500}, answer
    assert "larger than" in answer.body["message"] or "too large" in answer.body["message"]
    assert complaints(dry_run(cluster, profile({"files": {}}))) == []


@pytest.mark.parametrize(
    ("spec", "field"),
    [
        ({"probes": [{"name": f"p{one}", "kprobe": {"call": "f"}} for one in range(33)]}, "spec.probes"),
        ({"requests": [{"protocol": "HTTP"}] * 33}, "spec.requests"),
        ({"files": {"paths": ["/a"] * 65}}, "spec.files.paths"),
        ({"files": {"paths": ["/" + "a" * 1024]}}, "spec.files.paths[0]"),
        ({"files": {}, "nodeSelector": {f"k{one}": "v" for one in range(65)}}, "spec.nodeSelector"),
        ({"files": {}, "ttlSeconds": 31_536_001}, "spec.ttlSeconds"),
        ({"probes": [{"name": "p", "uprobe": {"path": "/a", "offsets": [2**63]}}]}, "spec.probes[0].uprobe.offsets[0]"),
        (
            {"probes": [{"name": "p", "kprobe": {"call": "f"}, "match": [{"args": [CONDITION] * 9}]}]},
            "spec.probes[0].match[0].args",
        ),
    ],
    ids=["probes", "requests", "paths", "path", "labels", "ttl", "offset", "conditions"],
)
def test_one_more_is_too_many(cluster: Cluster, spec: dict[str, Any], field: str) -> None:
    """Each bound of the schema is the bound of `kernelspan check`."""
    assert field in {one.field for one in complaints(dry_run(cluster, profile(spec)))}
