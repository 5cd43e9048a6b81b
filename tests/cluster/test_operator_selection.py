# SPDX-License-Identifier: Apache-2.0
"""Who is traced where: from profiles and pods of a real API server, by a real operator, to the plans that agents get."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import pytest

from tests.support.agents import Agent
from tests.support.operators import Kubernetes, Operator, eventually, profile_path

SPACE = "selection"
PODS = f"/api/v1/namespaces/{SPACE}/pods"
APPS = f"/apis/apps/v1/namespaces/{SPACE}"
BATCH = f"/apis/batch/v1/namespaces/{SPACE}"
# No kubelet is here to say that a pod has ended: its grace is none.
TEMPLATE = {"containers": [{"name": "web", "image": "x"}], "terminationGracePeriodSeconds": 0}


@pytest.fixture(scope="module")
def agents(kubernetes: Kubernetes, operator: Operator) -> Iterator[tuple[Agent, Agent]]:
    """Agents of two nodes."""
    kubernetes.namespace(SPACE, team="shop")
    kubernetes.node("sel-1", disk="ssd")
    kubernetes.node("sel-2", disk="hdd")
    with Agent(operator, "sel-1") as first, Agent(operator, "sel-2") as second:
        yield first, second


@pytest.fixture(autouse=True)
def tidy(kubernetes: Kubernetes, agents: tuple[Agent, Agent]) -> Iterator[None]:
    """Each test begins with no pod and no profile."""
    yield
    with ExitStack() as stack:
        for name in ("", SPACE):
            stack.callback(kubernetes.cluster.request, "DELETE", profile_path(name))
    kinds = ("deployments", "daemonsets", "statefulsets", "replicasets")
    for folder in (*(f"{APPS}/{kind}" for kind in kinds), f"{BATCH}/jobs", f"{BATCH}/cronjobs"):
        kubernetes.cluster.request("DELETE", folder, {"propagationPolicy": "Background"})
    for name in (SPACE, "other"):
        kubernetes.cluster.request("DELETE", f"/api/v1/namespaces/{name}/pods", {"gracePeriodSeconds": 0})
    for agent in agents:
        agent.until_names({})


def bind(kubernetes: Kubernetes, node: str, count: int, **labels: str) -> list[str]:
    """What a scheduler does with pods that a controller made; their names."""
    query = ",".join(f"{key}={value}" for key, value in labels.items())

    def found() -> list[str]:
        items = kubernetes.ask("GET", f"{PODS}?labelSelector={query}")["items"]
        return [one["metadata"]["name"] for one in items if "deletionTimestamp" not in one["metadata"]]

    eventually(lambda: len(found()) == count)
    for name in found():
        target = {"apiVersion": "v1", "kind": "Node", "name": node}
        kubernetes.cluster.request("POST", f"{PODS}/{name}/binding", {"metadata": {"name": name}, "target": target})
    return found()


def test_pod_selector(kubernetes: Kubernetes, agents: tuple[Agent, Agent]) -> None:
    """Labels and expressions; another namespace's pods are none; a label that changes decides anew."""
    first, second = agents
    kubernetes.namespace("other")
    kubernetes.pod("other", "a", "sel-1", {"app": "checkout", "tier": "front"})
    kubernetes.pod(SPACE, "a", "sel-1", {"app": "checkout", "tier": "front"})
    kubernetes.pod(SPACE, "b", "sel-2", {"app": "checkout", "tier": "back"})
    kubernetes.pod(SPACE, "c", "sel-2", {"app": "billing", "tier": "front"})
    chosen = {
        "matchLabels": {"app": "checkout"},
        "matchExpressions": [{"key": "tier", "operator": "NotIn", "values": ["back"]}],
    }
    kubernetes.apply(SPACE, "p", podSelector=chosen)
    plan = first.until_names({"a": {"p"}})
    assert [one.namespace for one in plan.pods] == [SPACE]
    kubernetes.patch(f"{PODS}/b", {"metadata": {"labels": {"tier": "front"}}})
    second.until_names({"b": {"p"}})
    kubernetes.patch(f"{PODS}/a", {"metadata": {"labels": {"app": "billing"}}})
    first.until_names({})
    kubernetes.apply(SPACE, "p", podSelector={"matchLabels": {"app": "billing"}})
    first.until_names({"a": {"p"}})
    second.until_names({"c": {"p"}})


def test_a_deployment_and_its_rollout(kubernetes: Kubernetes, agents: tuple[Agent, Agent]) -> None:
    """Its pods are selected as they come and go, each with the workload's name; one made later is found then."""
    first, second = agents
    kubernetes.apply(SPACE, "p", workloadRef={"apiVersion": "apps/v1", "kind": "Deployment", "name": "web"})
    assert kubernetes.says(SPACE, "p", "False", "NoMatchingPods")
    labels = {"app": "rolled"}
    spec = {
        "replicas": 2,
        "selector": {"matchLabels": labels},
        "template": {"metadata": {"labels": labels}, "spec": TEMPLATE},
    }
    kubernetes.make(f"{APPS}/deployments", {"metadata": {"name": "web"}, "spec": spec})
    made = bind(kubernetes, "sel-1", 2, app="rolled")
    plan = first.until_names({name: {"p"} for name in made})
    assert {(one.workload.kind, one.workload.name) for one in plan.pods} == {("Deployment", "web")}
    kubernetes.patch(f"{APPS}/deployments/web", {"spec": {"replicas": 0}})
    first.until_names({})
    kubernetes.patch(f"{APPS}/deployments/web", {"spec": {"replicas": 1}})
    (again,) = bind(kubernetes, "sel-2", 1, app="rolled")
    second.until_names({again: {"p"}})


@pytest.mark.parametrize("kind", ["StatefulSet", "ReplicaSet"])
def test_a_set(kubernetes: Kubernetes, agents: tuple[Agent, Agent], kind: str) -> None:
    """Its pods alone, beside another set's and one that nobody owns; each names its workload; none is left with it."""
    first, second = agents
    kubernetes.apply(SPACE, "p", workloadRef={"apiVersion": "apps/v1", "kind": kind, "name": "db"})
    folder = f"{APPS}/{kind.lower()}s"
    for name in ("db", "other"):
        labels = {"app": f"{kind.lower()}-{name}"}
        template = {"metadata": {"labels": labels}, "spec": TEMPLATE}
        spec = {"replicas": 1, "selector": {"matchLabels": labels}, "template": template}
        kubernetes.make(folder, {"metadata": {"name": name}, "spec": spec})
    kubernetes.pod(SPACE, "alone", "sel-1", {"app": "alone"})
    (made,) = bind(kubernetes, "sel-1", 1, app=f"{kind.lower()}-db")
    bind(kubernetes, "sel-2", 1, app=f"{kind.lower()}-other")
    plan = first.until_names({made: {"p"}})
    assert [(one.workload.kind, one.workload.name) for one in plan.pods] == [(kind, "db")]
    kubernetes.says(SPACE, "p", "True", "Ready")
    assert second.names() == {}
    kubernetes.delete(f"{folder}/db")
    first.until_names({})
    kubernetes.says(SPACE, "p", "False", "NoMatchingPods")


def test_jobs_of_a_cron_job(kubernetes: Kubernetes, agents: tuple[Agent, Agent]) -> None:
    """Those that it made, and no other job; a job by its own name too."""
    first, second = agents
    job = {"template": {"spec": TEMPLATE | {"restartPolicy": "Never"}}}
    kubernetes.make(
        f"{BATCH}/cronjobs",
        {"metadata": {"name": "nightly"}, "spec": {"schedule": "0 0 1 1 *", "jobTemplate": {"spec": job}}},
    )
    kubernetes.make(f"{BATCH}/jobs", {"metadata": {"name": "alone"}, "spec": job})
    kubernetes.apply(SPACE, "cron", workloadRef={"apiVersion": "batch/v1", "kind": "CronJob", "name": "nightly"})
    kubernetes.apply(SPACE, "job", workloadRef={"apiVersion": "batch/v1", "kind": "Job", "name": "alone"})
    kubernetes.cluster.kubectl("create", "job", "run-1", "--from=cronjob/nightly", f"--namespace={SPACE}")
    (run,) = bind(kubernetes, "sel-1", 1, **{"batch.kubernetes.io/job-name": "run-1"})
    (alone,) = bind(kubernetes, "sel-2", 1, **{"batch.kubernetes.io/job-name": "alone"})
    first.until_names({run: {"cron"}})
    second.until_names({alone: {"job"}})


def test_a_daemon_set(kubernetes: Kubernetes, agents: tuple[Agent, Agent]) -> None:
    """One pod on each node; each agent gets its own."""
    labels = {"app": "daemon"}
    # A node whose kubelet has said nothing for 50 s is tainted.
    template = {"metadata": {"labels": labels}, "spec": TEMPLATE | {"tolerations": [{"operator": "Exists"}]}}
    spec = {"selector": {"matchLabels": labels}, "template": template}
    kubernetes.make(f"{APPS}/daemonsets", {"metadata": {"name": "each"}, "spec": spec})
    kubernetes.apply(SPACE, "p", workloadRef={"apiVersion": "apps/v1", "kind": "DaemonSet", "name": "each"})
    nodes = [one["metadata"]["name"] for one in kubernetes.ask("GET", "/api/v1/nodes")["items"]]

    def pods() -> list[dict[str, Any]]:
        items: list[dict[str, Any]] = kubernetes.ask("GET", f"{PODS}?labelSelector=app=daemon")["items"]
        return items

    eventually(lambda: len(pods()) == len(nodes))
    for one in pods():
        terms = one["spec"]["affinity"]["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]
        (node,) = terms["nodeSelectorTerms"][0]["matchFields"][0]["values"]
        name = one["metadata"]["name"]
        target = {"apiVersion": "v1", "kind": "Node", "name": node}
        kubernetes.cluster.request("POST", f"{PODS}/{name}/binding", {"metadata": {"name": name}, "target": target})
    for agent in agents:
        plan = agent.until(lambda plan: len(plan.pods) == 1)
        assert plan.pods[0].workload.kind == "DaemonSet"


def test_containers_by_name(kubernetes: Kubernetes, agents: tuple[Agent, Agent]) -> None:
    """Init, sidecar, main and ephemeral containers; ids as the kubelet says them; a profile for some of them."""
    first, _ = agents
    pod = kubernetes.pod(
        SPACE,
        "a",
        "sel-1",
        containers=[{"name": "web", "image": "x"}, {"name": "proxy", "image": "x"}],
        initContainers=[{"name": "setup", "image": "x"}, {"name": "side", "image": "x", "restartPolicy": "Always"}],
    )
    kubernetes.apply(SPACE, "all")
    kubernetes.apply(SPACE, "some", containerSelector={"include": ["web", "s*", "debug-*"], "exclude": ["setup"]})
    plan = first.until_names({"a": {"all", "some"}})
    assert [(one.name, one.id) for one in plan.pods[0].containers] == [
        ("setup", ""),
        ("side", ""),
        ("web", ""),
        ("proxy", ""),
    ]
    kubernetes.kubelet(pod, setup="1", side="2", web="3", proxy="4")
    first.until(lambda plan: [one.id for one in plan.pods[0].containers] == ["1", "2", "3", "4"])
    debug = {"spec": {"ephemeralContainers": [{"name": "debug-1", "image": "x"}]}}
    path = f"{PODS}/a/ephemeralcontainers"
    pod = kubernetes.ask("PATCH", path, debug, "application/strategic-merge-patch+json")
    kubernetes.kubelet(pod, setup="1", side="2", web="3", proxy="4", **{"debug-1": "5"})
    plan = first.until(lambda plan: [one.id for one in plan.pods[0].containers] == ["1", "2", "3", "4", "5"])
    uids = {one.name: one.uid for one in plan.profiles}
    matches = {one.profile_uid: one for one in plan.pods[0].matches}
    assert matches[uids["all"]].all_containers
    assert not matches[uids["some"]].all_containers
    assert list(matches[uids["some"]].containers) == ["side", "web", "debug-1"]


def test_restarted_container(kubernetes: Kubernetes, agents: tuple[Agent, Agent]) -> None:
    """A new id is a new plan, and nothing else of the pod's status is."""
    first, _ = agents
    pod = kubernetes.pod(SPACE, "a", "sel-1")
    kubernetes.apply(SPACE, "p")
    kubernetes.kubelet(pod, web="1")
    first.until(lambda plan: plan.pods and plan.pods[0].containers[0].id == "1")
    kubernetes.kubelet(pod, web="2")
    first.until(lambda plan: plan.pods[0].containers[0].id == "2")
    known = len(first.plans)
    kubernetes.patch(f"{PODS}/a/status", {"status": {"message": "of no interest", "podIP": "10.0.0.1"}})
    kubernetes.kubelet(pod, web="3")
    first.until(lambda plan: plan.pods[0].containers[0].id == "3")
    assert len(first.plans) == known + 1


@pytest.mark.parametrize("phase", ["Succeeded", "Failed"])
def test_pod_that_ends(kubernetes: Kubernetes, agents: tuple[Agent, Agent], phase: str) -> None:
    """One that has completed, or was evicted by its kubelet, is out of the plan though the object stays."""
    first, _ = agents
    pod = kubernetes.pod(SPACE, "a", "sel-1")
    kubernetes.apply(SPACE, "p")
    first.until_names({"a": {"p"}})
    kubernetes.kubelet(pod, phase, web="1")
    first.until_names({})
    assert kubernetes.says(SPACE, "p", "False", "NoMatchingPods")


def test_evicted_pod_that_moves(kubernetes: Kubernetes, agents: tuple[Agent, Agent]) -> None:
    """By the API's eviction; the one that takes its name on another node is another pod, and only there."""
    first, second = agents
    kubernetes.pod(SPACE, "db-0", "sel-1")
    kubernetes.apply(SPACE, "p")
    before = first.until_names({"db-0": {"p"}})
    eviction = {"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": "db-0"}}
    kubernetes.ask("POST", f"{PODS}/db-0/eviction", eviction | {"deleteOptions": {"gracePeriodSeconds": 0}})
    first.until_names({})
    kubernetes.pod(SPACE, "db-0", "sel-2")
    assert second.until_names({"db-0": {"p"}}).pods[0].uid != before.pods[0].uid
    assert first.names() == {}


def test_terminating_pod_is_traced_to_its_end(kubernetes: Kubernetes, agents: tuple[Agent, Agent]) -> None:
    """It runs until its containers have ended."""
    first, _ = agents
    kubernetes.pod(SPACE, "a", "sel-1")
    kubernetes.apply(SPACE, "p")
    first.until_names({"a": {"p"}})
    kubernetes.ask("DELETE", f"{PODS}/a", {"gracePeriodSeconds": 30})
    kubernetes.pod(SPACE, "b", "sel-1")
    first.until_names({"a": {"p"}, "b": {"p"}})


def test_paused(kubernetes: Kubernetes, agents: tuple[Agent, Agent]) -> None:
    """Nothing is traced, the status says so, and it goes on as if nothing had been."""
    first, _ = agents
    kubernetes.pod(SPACE, "a", "sel-1")
    kubernetes.apply(SPACE, "p")
    before = first.until_names({"a": {"p"}})
    kubernetes.apply(SPACE, "p", paused=True)
    first.until_names({})
    assert kubernetes.says(SPACE, "p", "False", "Paused")
    assert kubernetes.says(SPACE, "p", "True", "Paused", "Paused")
    kubernetes.apply(SPACE, "p", paused=False)
    assert first.until_names({"a": {"p"}}).pods == before.pods
    kubernetes.says(SPACE, "p", "True", "Ready")
    assert kubernetes.condition(SPACE, "p", "Paused") == ("", "", "")


def test_ttl(kubernetes: Kubernetes, agents: tuple[Agent, Agent]) -> None:
    """It ends by itself; a longer one brings it back."""
    first, _ = agents
    kubernetes.pod(SPACE, "a", "sel-1")
    kubernetes.apply(SPACE, "p", ttlSeconds=10)
    first.until_names({"a": {"p"}})
    first.until_names({})
    assert "ttlSeconds" in kubernetes.says(SPACE, "p", "False", "Expired")
    kubernetes.apply(SPACE, "p", ttlSeconds=600)
    first.until_names({"a": {"p"}})


def test_node_labels(kubernetes: Kubernetes, agents: tuple[Agent, Agent]) -> None:
    """nodeSelector, and a label that changes."""
    first, second = agents
    for node in ("sel-1", "sel-2"):
        kubernetes.pod(SPACE, f"on-{node}", node)
    kubernetes.apply(SPACE, "p", nodeSelector={"disk": "ssd"})
    first.until_names({"on-sel-1": {"p"}})
    assert second.names() == {}
    kubernetes.patch("/api/v1/nodes/sel-2", {"metadata": {"labels": {"disk": "ssd"}}})
    second.until_names({"on-sel-2": {"p"}})
    kubernetes.patch("/api/v1/nodes/sel-2", {"metadata": {"labels": {"disk": "hdd"}}})
    second.until_names({})


def test_overlapping_profiles(kubernetes: Kubernetes, agents: tuple[Agent, Agent]) -> None:
    """A pod carries each that selects it, of the namespace and of the cluster; each goes without the others."""
    first, _ = agents
    kubernetes.namespace("other")
    kubernetes.pod(SPACE, "a", "sel-1", {"app": "checkout"})
    kubernetes.pod("other", "b", "sel-1", {"app": "checkout"})
    kubernetes.apply(SPACE, "one", podSelector={"matchLabels": {"app": "checkout"}})
    kubernetes.apply(SPACE, "two")
    kubernetes.apply("", "shops", namespaceSelector={"matchLabels": {"team": "shop"}})
    kubernetes.apply("", "everywhere", podSelector={"matchLabels": {"app": "checkout"}})
    first.until_names({"a": {"one", "two", "shops", "everywhere"}, "b": {"everywhere"}})
    kubernetes.patch("/api/v1/namespaces/other", {"metadata": {"labels": {"team": "shop"}}})
    first.until(lambda _: first.names().get("b") == {"everywhere", "shops"})
    kubernetes.patch("/api/v1/namespaces/other", {"metadata": {"labels": {"team": None}}})
    kubernetes.delete(f"{profile_path('')}/everywhere")
    first.until_names({"a": {"one", "two", "shops"}})
    kubernetes.delete(f"{profile_path(SPACE)}/one")
    first.until_names({"a": {"two", "shops"}})


@pytest.mark.usefixtures("agents")
def test_ready_as_kubectl_waits_for_it(kubernetes: Kubernetes) -> None:
    """`kubectl wait` ends, and `kubectl get` shows the columns."""
    kubernetes.pod(SPACE, "a", "sel-1")
    kubernetes.pod(SPACE, "b", "sel-2")
    kubernetes.apply(SPACE, "p")
    cluster = kubernetes.cluster
    cluster.kubectl("wait", "--for=condition=Ready", "tprof/p", f"--namespace={SPACE}", "--timeout=30s")
    header, row = cluster.kubectl("get", "tprof", "p", f"--namespace={SPACE}").stdout.splitlines()
    assert header.split()[:5] == ["NAME", "READY", "PODS", "NODES", "PROBES"]
    assert row.split()[:5] == ["p", "True", "2", "2", "2"]


@pytest.mark.usefixtures("agents")
def test_nothing_of_ours_is_on_the_users_objects(kubernetes: Kubernetes) -> None:
    """No annotation, no finalizer, no label, after all that can happen to a profile."""
    kubernetes.pod(SPACE, "a", "sel-1")
    kubernetes.apply(SPACE, "p")
    kubernetes.says(SPACE, "p", "True", "Ready")
    kubernetes.apply(SPACE, "p", paused=True)
    kubernetes.says(SPACE, "p", "False", "Paused")
    meta = kubernetes.profile(SPACE, "p")["metadata"]
    assert not {"annotations", "finalizers", "labels"} & meta.keys()


def test_what_the_operator_asked_for_it_may(operator: Operator) -> None:
    """No request of this module was refused: the rights in tests/support/operators.py are enough."""
    assert operator.metric("api_requests", verb="list", code="403") == 0
    assert operator.metric("api_requests", verb="list", code="200") > 0
    assert operator.metric("watch_restarts", reason="Refused") == 0
    assert operator.forbidden() == []
