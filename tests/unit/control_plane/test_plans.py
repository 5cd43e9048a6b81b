# SPDX-License-Identifier: Apache-2.0
"""From profiles and pods to the plan of a node."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from kernelspan_operator.models.policy import Policy
from tests.support.apiserver import api_server, until
from tests.unit.control_plane.cluster import (
    NAMESPACES,
    NODES,
    PODS,
    Cluster,
    cluster_profile,
    hash_of,
    node,
    operator,
    pod,
    profile,
    run,
)

SHOP = PODS.format("shop")
DEPLOYMENTS = "/apis/apps/v1/namespaces/shop/deployments"
JOBS = "/apis/batch/v1/namespaces/shop/jobs"


def test_a_selected_pod_is_in_the_plan_of_its_node_alone() -> None:
    """With what an agent needs of it."""

    async def test(cluster: Cluster) -> None:
        owner = [{"kind": "ReplicaSet", "name": "checkout-5d4f", "uid": "r", "controller": True}]
        labels = {"app": "checkout", "pod-template-hash": "5d4f", "app.kubernetes.io/name": "checkout", "secret": "x"}
        cluster.server.put(SHOP, pod("a", metadata={"ownerReferences": owner, "labels": labels}))
        cluster.server.put(SHOP, pod("other", app="billing"))
        cluster.apply(profile())
        await until(lambda: cluster.names() == [("a", ["checkout"])])
        assert not cluster.plan("n2").pods
        (found,) = cluster.plan().pods
        assert (found.uid, found.namespace, found.name) == ("uid-a", "shop", "a")
        assert (found.workload.kind, found.workload.name) == ("Deployment", "checkout")
        assert [(one.name, one.id) for one in found.containers] == [("web", "web-a"), ("proxy", "")]
        assert dict(found.labels) == {"app.kubernetes.io/name": "checkout"}
        assert found.matches[0].all_containers
        assert cluster.plan().hash == hash_of(cluster.plan()) != cluster.plan("n2").hash

    run(test)


def test_profiles_with_one_selector_share_one_watch() -> None:
    """In whatever order they say it; the pod carries both."""

    async def test(cluster: Cluster) -> None:
        cluster.server.put(SHOP, pod("a"))
        for name in ("one", "two"):
            cluster.apply(profile(name, podSelector={"matchLabels": {"app": "checkout"}}))
        await until(lambda: cluster.names() == [("a", ["one", "two"])])
        await until(lambda: cluster.server.count("watch", SHOP))
        assert (cluster.server.count("list", SHOP), cluster.server.count("watch", SHOP)) == (1, 1)
        cluster.delete(profile("one"))
        await until(lambda: cluster.names() == [("a", ["two"])])
        assert len(list(cluster.system.pods.watches())) == 1
        cluster.delete(profile("two"))
        await until(lambda: cluster.names() == [] and not list(cluster.system.pods.watches()))
        assert len(cluster.system.pods) == 0

    run(test)


def test_overlapping_selectors_and_events_out_of_order() -> None:
    """A pod that two watches tell of: the newer form holds whichever comes last; one leaves, the other keeps it."""

    async def test(cluster: Cluster) -> None:
        cluster.server.put(SHOP, pod("a"))
        cluster.apply(profile("narrow"))
        cluster.apply(profile("wide", podSelector={}))
        await until(lambda: cluster.names() == [("a", ["narrow", "wide"])])
        narrow = next(one for key, one in cluster.system.pods._watched.items() if key.selector)
        cluster.server.put(
            SHOP, pod("a", status={"containerStatuses": [{"name": "web", "containerID": "cri-o://new"}]})
        )
        await until(lambda: cluster.plan().pods[0].containers[0].id == "new")
        old = pod("a") | {"metadata": pod("a")["metadata"] | {"resourceVersion": "1"}}
        import msgspec

        from kernelspan_api.objects import Pod
        from kernelspan_operator.services.watch import Upsert

        key = next(key for key in cluster.system.pods.watches() if key.selector)
        cluster.system.pods._take(key, narrow, Upsert(msgspec.convert(old, Pod)))
        assert cluster.plan().pods[0].containers[0].id == "new"
        cluster.server.put(SHOP, pod("a", app="renamed"))
        await until(lambda: cluster.names() == [("a", ["wide"])])

    run(test)


def test_a_new_selector_makes_no_gap() -> None:
    """The pods of the old one stay until those of the new one are known."""

    async def test(cluster: Cluster) -> None:
        cluster.server.put(SHOP, pod("a"))
        cluster.apply(profile())
        await until(cluster.names)
        seen: list[list[Any]] = []
        changed = cluster.system.plans._changed
        cluster.system.plans._changed = lambda name, uids: (seen.append(cluster.names(name)), changed(name, uids))
        cluster.apply(profile(generation=2, podSelector={}))
        await until(lambda: [str(key.selector) for key in cluster.system.pods.watches()] == [""])
        await until(lambda: seen)
        assert all(names == [("a", ["checkout"])] for names in seen)

    run(test)


def test_pods_that_end_move_or_go() -> None:
    """Succeeded and Failed are no targets; a pod without a node is of none; a deleted one leaves."""

    async def test(cluster: Cluster) -> None:
        cluster.apply(profile())
        cluster.server.put(SHOP, pod("waiting", node=""))
        cluster.server.put(SHOP, pod("done", status={"phase": "Succeeded"}))
        cluster.server.put(SHOP, pod("a"))
        await until(lambda: cluster.names() == [("a", ["checkout"])])
        cluster.server.put(SHOP, pod("waiting", node="n2"))
        await until(lambda: cluster.names("n2") == [("waiting", ["checkout"])])
        cluster.server.put(SHOP, pod("waiting", node="n2", status={"phase": "Failed"}))
        cluster.server.delete(SHOP, "a")
        await until(lambda: not cluster.names() and not cluster.names("n2"))

    run(test)


def test_containers_by_name() -> None:
    """Init and ephemeral ones count; a selector that excludes wins; one that matches none is an empty set."""

    async def test(cluster: Cluster) -> None:
        spec = {"initContainers": [{"name": "init"}], "ephemeralContainers": [{"name": "debug"}]}
        cluster.server.put(SHOP, pod("a", spec=spec))
        cluster.apply(profile("some", containerSelector={"include": ["w*", "init", "debug"], "exclude": ["i*"]}))
        cluster.apply(profile("none", containerSelector={"include": ["nothing"]}))
        await until(lambda: cluster.names() == [("a", ["none", "some"])])
        none, some = cluster.plan().pods[0].matches
        assert (list(none.containers), none.all_containers) == ([], False)
        assert (list(some.containers), some.all_containers) == (["web", "debug"], False)

    run(test)


def test_nodes_by_label() -> None:
    """A label that changes brings the profile to the node, or takes it away."""

    async def test(cluster: Cluster) -> None:
        cluster.server.put(SHOP, pod("a"))
        cluster.server.put(SHOP, pod("b", node="n2"))
        cluster.apply(profile(nodeSelector={"disk": "ssd"}))
        await until(lambda: cluster.system.plans.is_open and cluster.names())
        assert cluster.names("n2") == []
        before = cluster.plan("n2").hash
        cluster.server.put(NODES, node("n2", disk="ssd"))
        await until(lambda: cluster.names("n2") == [("b", ["checkout"])])
        assert cluster.plan("n2").hash != before

    run(test)


def test_paused_expired_and_refused_profiles_are_in_no_plan() -> None:
    """And come back when that ends; a refused one disturbs no other."""

    async def test(cluster: Cluster) -> None:
        cluster.server.put(SHOP, pod("a"))
        cluster.apply(profile("good"))
        cluster.apply(profile("paused", paused=True))
        cluster.apply(profile("expired", ttlSeconds=60))
        cluster.apply(profile("bad", files={"operations": ["Fly"]}))
        await until(lambda: cluster.system.plans.is_open)
        await until(lambda: cluster.names() == [("a", ["good"])])
        cluster.apply(profile("paused", generation=2, paused=False))
        cluster.apply(profile("bad", generation=2))
        cluster.apply(profile("expired", generation=2, ttlSeconds=31_000_000))
        await until(lambda: cluster.names() == [("a", ["bad", "expired", "good", "paused"])])

    run(test)


def test_a_ttl_ends_without_an_event() -> None:
    """By the API server's clock; whoever listens is told."""

    async def test(cluster: Cluster) -> None:
        cluster.server.put(SHOP, pod("a"))
        body = profile(ttlSeconds=1)
        from datetime import UTC, datetime

        body["metadata"]["creationTimestamp"] = datetime.fromtimestamp(cluster.kube.now(), UTC).isoformat()
        told: list[str] = []
        changed = cluster.system.plans._changed
        cluster.system.plans._changed = lambda name, uids: (told.append(name), changed(name, uids))
        cluster.apply(body)
        await until(lambda: told == ["n1"])
        await until(lambda: told == ["n1", "n1"] and not cluster.names())
        assert cluster.system.watches  # the pods are still known: raising the ttl needs no new list

    run(test)


def test_the_pods_of_a_workload() -> None:
    """By its selector, when it is there; another selector, another name, none."""

    async def test(cluster: Cluster) -> None:
        cluster.server.objects[DEPLOYMENTS] = {}
        cluster.server.put(SHOP, pod("a"))
        cluster.server.put(SHOP, pod("b", app="billing"))
        ref = {"apiVersion": "apps/v1", "kind": "Deployment", "name": "web"}
        cluster.apply(profile(workloadRef=ref))
        await until(lambda: cluster.system.plans.is_open)
        assert cluster.names() == []
        for name, app in (("web", "checkout"), ("other", "billing")):
            selector = {"selector": {"matchLabels": {"app": app}}}
            cluster.server.put(DEPLOYMENTS, {"metadata": {"name": name, "uid": name}, "spec": selector})
        await until(lambda: cluster.names() == [("a", ["checkout"])])
        assert [query["fieldSelector"] for verb, path, query, _ in cluster.server.requests
                if (verb, path) == ("watch", DEPLOYMENTS)] == ["metadata.name=web"]  # fmt: skip
        cluster.apply(profile(generation=2, workloadRef=ref | {"name": "other"}))
        await until(lambda: cluster.names() == [("b", ["checkout"])])
        cluster.server.delete(DEPLOYMENTS, "other")
        await until(lambda: cluster.names() == [])

    run(test)


def test_the_pods_of_a_cron_job_are_those_of_its_jobs() -> None:
    """By the uid that the job controller puts on them."""

    async def test(cluster: Cluster) -> None:
        owner = [{"kind": "CronJob", "name": "nightly", "uid": "c", "controller": True}]
        cluster.server.objects[JOBS] = {}
        cluster.server.put(JOBS, {"metadata": {"name": "nightly-1", "uid": "j1", "ownerReferences": owner}})
        cluster.server.put(JOBS, {"metadata": {"name": "other-1", "uid": "j2"}})
        cluster.apply(profile(workloadRef={"apiVersion": "batch/v1", "kind": "CronJob", "name": "nightly"}))
        await until(lambda: [key.selector for key in cluster.system.pods.watches()] ==
                    ["batch.kubernetes.io/controller-uid in (j1)"])  # fmt: skip

    # The made-up server has no set-based selectors: it is what is asked of a real one that is held.
    run(test)


def test_a_cluster_profile_by_namespace() -> None:
    """One watch for each namespace that matches, as labels change; without a selector one for all."""

    async def test(cluster: Cluster) -> None:
        cluster.server.put(SHOP, pod("a"))
        cluster.server.put(PODS.format("bank"), pod("b", namespace="bank"))
        for name in ("shop", "bank"):
            cluster.server.put(NAMESPACES, node(name, team="x" if name == "shop" else "y"))
        selector = {"matchLabels": {"team": "x"}}
        cluster.apply(cluster_profile(namespaceSelector=selector))
        await until(lambda: cluster.names() == [("a", ["all"])])
        assert [key.namespace for key in cluster.system.pods.watches()] == ["shop"]
        cluster.server.put(NAMESPACES, node("bank", team="x"))
        await until(lambda: cluster.names() == [("a", ["all"]), ("b", ["all"])])
        cluster.apply(cluster_profile() | {"metadata": cluster_profile()["metadata"] | {"generation": 2}})
        await until(lambda: [key.namespace for key in cluster.system.pods.watches()] == [""])
        assert cluster.names() == [("a", ["all"]), ("b", ["all"])]

    run(test)


def test_what_the_policy_forbids_is_refused() -> None:
    """By name, and only that."""

    async def test(cluster: Cluster) -> None:
        raw = [{"protocol": "PostgreSQL", "statement": "Raw"}]
        export = {"otlp": {"endpoint": "evil.example:4317"}}
        for body in (profile("raw", requests=raw), profile("out", export=export), cluster_profile("wide")):
            cluster.apply(body)
        found = {one.key.name: (one.reason, one.problem) for one in cluster.system.profiles}
        assert {reason for reason, _ in found.values()} == {"ForbiddenByPolicy"}
        assert "statement: Raw" in found["raw"][1]
        assert "endpoint" in found["out"][1]

    run(test, Policy(cluster_profiles=False))


def test_many_changes_make_one_plan() -> None:
    """What happens within the debounce is one rebuild of the nodes that it touches, and of no other."""

    async def test(cluster: Cluster) -> None:
        cluster.apply(profile())
        await until(lambda: cluster.system.plans.is_open)
        cluster.system.plans.flush()
        cluster.system.plans._debounce_seconds = 0.5
        built = cluster.system.plans.built
        told: list[str] = []
        cluster.system.plans._changed = lambda name, _uids: told.append(name)
        for number in range(50):
            cluster.server.put(SHOP, pod(f"p{number}"))
        await until(lambda: len(cluster.system.pods) == 50)
        await until(lambda: told)
        assert told == ["n1"]
        assert cluster.system.plans.built == built + 1
        cluster.server.put(SHOP, pod("p1", status={"conditions": [{"type": "Ready", "status": "True"}]}))
        version = str(cluster.server.version)
        await until(lambda: str(cluster.system.pods._pods["uid-p1"].version) == version)
        assert not cluster.system.plans._dirty  # nothing of it is in a plan

    run(test)


def test_no_plan_before_all_is_seen() -> None:
    """After a restart: a plan of half the profiles would stop the others. A profile deleted meanwhile holds up nothing."""

    async def main() -> None:
        async with api_server() as (server, kube):
            server.put(SHOP, pod("a"))
            async with operator(server, kube) as first:
                first.apply(profile("one"))
                first.apply(profile("two"))
                await until(lambda: first.names() == [("a", ["one", "two"])])
                whole = first.plan().hash
            from tests.unit.control_plane.cluster import PROFILES, stored

            for name in ("one", "two", "deleted"):
                body = server.put(stored(profile(name)), profile(name))
                server.put(PROFILES, body)
            async with operator(server, kube) as second:
                second.system.put(profile("one"))
                await until(lambda: second.names() == [("a", ["one"])])
                await asyncio.sleep(0.3)
                assert (second.system.plans.is_open, second.system.plans._told) == (False, {})
                second.system.put(profile("two"))
                server.delete(PROFILES, "deleted")  # with no event of it: kopf never knew it
                await until(lambda: second.system.plans.is_open)
                assert second.plan().hash == whole

    asyncio.run(main())


@pytest.mark.parametrize(
    ("spec", "status", "containers"),
    [
        ({"nodeName": "n1"}, {}, []),
        ({"nodeName": "n1", "containers": None, "initContainers": None}, {"containerStatuses": None}, []),
        ({"nodeName": "n1", "containers": []}, {"phase": "", "containerStatuses": []}, []),
        ({"nodeName": "n1", "containers": [{"name": "web"}]}, {}, [("web", "")]),
        ({"nodeName": "n1", "containers": [{"name": "web"}]}, {"containerStatuses": [{"name": "web"}]}, [("web", "")]),
        (
            {"nodeName": "n1", "containers": [{"name": "web"}]},
            {"containerStatuses": [{"name": "web", "containerID": "containerd://"}]},
            [("web", "")],
        ),
    ],
)
def test_pods_of_no_containers_and_containers_of_no_ids(
    spec: dict[str, Any], status: dict[str, Any], containers: list[tuple[str, str]]
) -> None:
    """An API server of another version may have them: they are selected as what they are, and others beside them."""

    async def test(cluster: Cluster) -> None:
        cluster.apply(profile())
        metadata = {"name": "odd", "namespace": "shop", "uid": "uid-odd", "labels": {"app": "checkout"}}
        cluster.server.put(SHOP, {"metadata": metadata, "spec": spec, "status": status})
        cluster.server.put(SHOP, pod("a"))
        await until(lambda: cluster.names() == [("a", ["checkout"]), ("odd", ["checkout"])])
        (odd,) = [one for one in cluster.plan().pods if one.name == "odd"]
        assert [(one.name, one.id) for one in odd.containers] == containers
        assert odd.matches[0].all_containers

    run(test)


@pytest.mark.parametrize(
    "body",
    [
        {"metadata": {"name": "x", "namespace": "shop", "uid": "u"}, "kind": "TraceProfile"},
        {"kind": "TraceProfile", "metadata": {"name": "x" * 253, "namespace": "shop", "uid": "u"}, "spec": None},
        profile("x", files={"paths": ["/" + "x" * 5000]}),
        profile("x", probes=[{"name": "p"}] * 500),
    ],
)
def test_bad_profiles_stop_nothing(body: dict[str, Any]) -> None:
    """They are refused, with a message of bounded length."""

    async def test(cluster: Cluster) -> None:
        cluster.server.put(SHOP, pod("a"))
        cluster.apply(body)
        cluster.apply(profile("good"))
        await until(lambda: cluster.names() == [("a", ["good"])])
        (bad,) = [one for one in cluster.system.profiles if one.spec is None]
        assert (bad.reason, 0 < len(bad.problem) <= 1000) == ("InvalidSpec", True)

    run(test)
