# SPDX-License-Identifier: Apache-2.0
"""The benchmark of scale: what it makes, what it judges and what it says; nothing is measured here."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

from bench.scale.measure import spread
from bench.scale.report import ANEW, BOUND, EVERYWHERE, ONE, keep, lines, page
from bench.scale.sizes import PIN, Sizes, pod, pod_like, profiles
from bench.scale.watched import writes
from kernelspan_api.profile import validate

SIZES = Sizes(nodes=10, pods=300, profiles=12)


def run(nodes: int = 1000, seconds: float = 1.0, megabytes: float = 250.0, idle_writes: int = 0) -> dict[str, Any]:
    """A run with these figures."""
    phase = {"seconds": 1.0, "operator_most_resident_mb": megabytes, "api_calls": {}, "api_writes": 0}
    delay = {"delay": {"p50": seconds, "p95": seconds, "max": seconds}}
    facts = {"kernel": "6.1", "cpu": "x", "cores": 2, "virtual": False, "python": "3.11", "load1": 1.0}
    figures = dict.fromkeys((EVERYWHERE, ONE, BOUND, ANEW), phase | delay)
    figures["idle"] = phase | {"api_writes": idle_writes}
    return {
        "nodes": nodes,
        "pods": nodes * 30,
        "profiles": 100,
        "facts": facts | {"versions": {"grpcio": "1"}},
        "figures": figures,
    }


def test_pods_are_spread_over_nodes_and_applications() -> None:
    """As many on each node, of several applications; the pinned ones on one node."""
    made = [pod(SIZES, index) for index in range(SIZES.pods)]
    assert set(Counter(one["spec"]["nodeName"] for one in made).values()) == {30}
    apps = {one["metadata"]["labels"]["app"] for one in made if one["spec"]["nodeName"] == "node-00000"}
    assert len(apps) == SIZES.apps
    assert {one["spec"]["nodeName"] for one in made if PIN in one["metadata"]["labels"]} == {"node-00000"}


def test_copies_of_a_pod_are_pods_of_their_own() -> None:
    """Another name, uid, node and container ids; the application's own labels."""
    first = pod(SIZES, 0)
    first["metadata"] |= {"uid": "u", "creationTimestamp": "2026-01-01T00:00:00Z", "resourceVersion": "7"}
    one, two = pod_like(first, SIZES, 11), pod_like(first, SIZES, 12)
    for part in (
        lambda it: it["metadata"]["name"],
        lambda it: it["metadata"]["uid"],
        lambda it: it["spec"]["nodeName"],
        lambda it: it.get("status", {}).get("podIP"),
        lambda it: it.get("status", {}).get("hostIP"),
    ):
        assert len({part(first), part(one), part(two)}) == 3
    assert one["status"]["containerStatuses"][0]["containerID"] != two["status"]["containerStatuses"][0]["containerID"]
    assert "resourceVersion" not in one["metadata"]


def test_profiles_are_valid() -> None:
    """By our own rules; as many as were asked for."""
    made = profiles(SIZES)
    assert len(made) == SIZES.profiles
    for one in made:
        validate(one)


def test_lines_are_judged_at_their_own_size() -> None:
    """1,000 nodes; of others only that nothing is written while idle."""
    assert [one.held for one in lines(run())] == [True, True, True]
    assert [one.held for one in lines(run(seconds=2.5))] == [False, True, True]
    assert [one.held for one in lines(run(megabytes=301))] == [True, False, True]
    assert [one.held for one in lines(run(idle_writes=1))] == [True, True, False]
    assert [one.held for one in lines(run(nodes=5000, seconds=9, megabytes=900))] == [True, True, True]


def test_the_newest_run_of_each_size_is_kept(tmp_path: Path) -> None:
    """And the page has a column for each."""
    path = tmp_path / "scale.json"
    for one in (run(5000), run(seconds=3), run(seconds=1.5)):
        runs = keep(path, one)
    assert [one["nodes"] for one in runs] == [1000, 5000]
    assert "1.50 / 1.50 / 1.50 s" in page(runs)
    assert "| what | 1,000 nodes, 30,000 pods, 100 profiles | 5,000 nodes" in page(runs)


def test_what_counts_as_a_write() -> None:
    """Reviews are created, and nothing of them is stored."""
    made = Counter({"create tokenreviews": 9, "watch pods": 3, "patch traceprofiles/status": 2, "update secrets": 1})
    assert writes(made) == 3


def test_spread_is_by_nearest_rank() -> None:
    """Of 20 values the 95th percentile is the 19th."""
    assert spread(range(1, 21)) == {"p50": 10, "p95": 19, "max": 20}
    assert spread([7.0]) == {"p50": 7.0, "p95": 7.0, "max": 7.0}
