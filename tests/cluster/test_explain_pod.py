# SPDX-License-Identifier: Apache-2.0
"""`kernelspan explain --pod`: what it says of a real API server's pods, held against the plans of a real operator."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from kernelspan_api.control import control_pb2
from kernelspan_api.status import MAX_NODES
from tests.support.agents import Agent, well
from tests.support.explaining import asked, explain, objections, of, until
from tests.support.operators import Kubernetes, Operator, eventually, profile_path

SPACE = "explained"
PODS = f"/api/v1/namespaces/{SPACE}/pods"
APPS, BATCH = f"/apis/apps/v1/namespaces/{SPACE}", f"/apis/batch/v1/namespaces/{SPACE}"
POD = f"{SPACE}/a"
TEMPLATE = {"containers": [{"name": "web", "image": "x"}], "terminationGracePeriodSeconds": 0}


@pytest.fixture(scope="module")
def agent(kubernetes: Kubernetes, operator: Operator) -> Iterator[Agent]:
    """The agent of the node that the pods are on."""
    kubernetes.namespace(SPACE, team="shop")
    kubernetes.node("exp-1", disk="ssd")
    with Agent(operator, "exp-1") as running:
        yield running
    kubernetes.delete("/api/v1/nodes/exp-1")  # a dead node is no place for other modules' pods


@pytest.fixture(scope="module")
def config(kubernetes: Kubernetes) -> Path:
    """The administrator's kubeconfig."""
    return kubernetes.cluster.kubeconfig


@pytest.fixture(autouse=True)
def tidy(kubernetes: Kubernetes, operator: Operator, agent: Agent) -> Iterator[None]:
    """Each test begins with no pod and no profile, and an agent that does well."""
    yield
    if not operator.process.running:
        operator.process.start()
    agent.says = well
    for folder in (profile_path(""), profile_path(SPACE)):
        kubernetes.cluster.request("DELETE", folder)
    for folder in (f"{APPS}/deployments", f"{BATCH}/jobs", f"{BATCH}/cronjobs"):
        kubernetes.cluster.request("DELETE", folder, {"propagationPolicy": "Background"})
    kubernetes.cluster.request("DELETE", PODS, {"gracePeriodSeconds": 0})
    eventually(lambda: not kubernetes.ask("GET", PODS)["items"])


def test_its_advice_is_what_traces_the_pod(kubernetes: Kubernetes, agent: Agent, config: Path) -> None:
    """No profile: it says so and gives one; that one, applied as it stands, selects the pod and is traced."""
    kubernetes.pod(SPACE, "a", "exp-1", {"app": "checkout", "pod-template-hash": "5d9"})
    found = asked(POD, config)
    assert (found["traced"], found["profiles"], found["notRead"]) == (False, [], [])
    text = explain(POD, config).stdout
    assert "verdict     not traced: there is no profile" in text
    example = text[text.index("apiVersion:") :]
    assert "pod-template-hash" not in example
    kubernetes.cluster.kubectl("create", "-f", "-", document=yaml.safe_load(example))
    agent.until_names({"a": {"a"}})
    found = until(POD, config, lambda said: said["traced"])
    assert found["advice"] == []
    assert "verdict     traced, by 1 profile" in explain(POD, config).stdout


def test_traced(kubernetes: Kubernetes, agent: Agent, config: Path) -> None:
    """The node, the conditions that do not hold, the containers with their profiles, what processes are meant."""
    pod = kubernetes.pod(
        SPACE,
        "a",
        "exp-1",
        {"app": "checkout"},
        containers=[{"name": "web", "image": "x"}, {"name": "proxy", "image": "x"}],
    )
    kubernetes.kubelet(pod, web="1")
    kubernetes.apply(SPACE, "all", processSelector={"runtimes": ["Python"]})
    kubernetes.apply(SPACE, "web", containerSelector={"include": ["w*"]})
    agent.until_names({"a": {"all", "web"}})
    found = until(POD, config, lambda said: all(one["traced"] for one in said["profiles"]))
    assert (found["pod"]["node"], found["pod"]["phase"]) == ("exp-1", "Running")
    assert found["containers"] == [
        {"name": "web", "started": True, "profiles": ["TraceProfile all", "TraceProfile web"]},
        {"name": "proxy", "started": False, "profiles": ["TraceProfile all"]},
    ]
    node = of(found, "web")["node"]
    assert (node["node"], node["ready"], node["kernel"], node["agentVersion"]) == ("exp-1", True, "6.1.0-test", "0.0.1")
    text = explain(POD, config).stdout
    assert "verdict     traced, by 2 profiles" in text
    assert "container   proxy (not started yet): TraceProfile all" in text
    assert f"TraceProfile {SPACE}/web: selects the pod, traced" in text
    assert "node               exp-1: ready, kernel 6.1.0-test, agent 0.0.1" in text
    assert "Exporting          Unknown: No span has been delivered yet." in text
    assert "only processes of runtimes: Python" in text


PROBE = {"name": "send", "kprobe": {"call": "tcp_sendmsg"}, "span": {"name": "x"}}


@pytest.mark.parametrize(
    ("spec", "part", "words"),
    [
        ({"podSelector": {"matchLabels": {"app": "web"}}}, "podSelector", "label app is checkout, must be web"),
        ({"podSelector": {"matchLabels": {"zone": "a"}}}, "podSelector", "label zone is absent, must be a"),
        (
            {"podSelector": {"matchExpressions": [{"key": "app", "operator": "NotIn", "values": ["checkout", "b"]}]}},
            "podSelector",
            "label app is checkout, must be none of checkout, b",
        ),
        (
            {"workloadRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": "none"}},
            "workloadRef",
            f"Deployment none is not in namespace {SPACE}; the pod belongs to no workload",
        ),
        (
            {"workloadRef": {"apiVersion": "batch/v1", "kind": "CronJob", "name": "none"}},
            "workloadRef",
            "CronJob none has no Job; the pod belongs to no workload",
        ),
        (
            {"containerSelector": {"include": ["side*"]}},
            "containerSelector",
            "leaves out every container: web",
        ),
        ({"nodeSelector": {"disk": "hdd"}}, "nodeSelector", "node exp-1: label disk is ssd, must be hdd"),
        ({"paused": True}, "paused", "Set spec.paused to false."),
        ({"probes": [PROBE]}, "Accepted", "ForbiddenByPolicy: spec.probes is not allowed"),
    ],
    ids=lambda value: value if isinstance(value, str) and " " not in value else "",
)
def test_part_that_says_no(
    kubernetes: Kubernetes, agent: Agent, config: Path, spec: dict[str, Any], part: str, words: str
) -> None:
    """Each is named with what differs, and nothing else is; the operator agrees: the plan has the other profile alone."""
    kubernetes.pod(SPACE, "a", "exp-1", {"app": "checkout"})
    kubernetes.apply(SPACE, "no", **spec)
    kubernetes.apply(SPACE, "yes")
    found = until(POD, config, lambda said: of(said, "yes")["traced"] and objections(said, "no"))
    assert set(objections(found, "no")) == {part}
    assert words in objections(found, "no")[part][0]
    assert (of(found, "no")["selected"], of(found, "no")["traced"]) == (False, False)
    plan = agent.until(lambda _: "yes" in agent.names().get("a", ()))
    (pod,) = plan.pods
    uids = {one.name: one.uid for one in plan.profiles}
    meant = {one.profile_uid for one in pod.matches if one.all_containers or one.containers}
    assert meant == {uids["yes"]}
    text = explain(POD, config).stdout
    assert f"TraceProfile {SPACE}/no: does not select the pod\n  {part:<18} " in text


def test_every_part_is_told_at_once(kubernetes: Kubernetes, config: Path) -> None:
    """Who mends one need not come back for the next."""
    kubernetes.pod(SPACE, "a", "exp-1", {"app": "checkout"})
    kubernetes.apply(
        SPACE, "no", podSelector={"matchLabels": {"app": "x", "b": "y"}}, nodeSelector={"disk": "hdd"}, paused=True
    )
    found = asked(POD, config)
    assert {part: len(said) for part, said in objections(found, "no").items()} == {
        "podSelector": 2,
        "nodeSelector": 1,
        "paused": 1,
    }
    assert found["advice"][0].startswith("Mend what says no")
    assert "verdict     not traced: none of 1 profile selects it" in explain(POD, config).stdout


def test_ttl(kubernetes: Kubernetes, agent: Agent, config: Path) -> None:
    """By the API server's clock."""
    kubernetes.pod(SPACE, "a", "exp-1")
    kubernetes.apply(SPACE, "p", ttlSeconds=2)
    found = until(POD, config, lambda said: not of(said, "p")["selected"])
    assert set(objections(found, "p")) == {"ttlSeconds"}
    agent.until_names({})


def test_namespaces_of_a_cluster_profile(kubernetes: Kubernetes, agent: Agent, config: Path) -> None:
    """The namespace's label that differs; without a selector every namespace is meant."""
    kubernetes.pod(SPACE, "a", "exp-1", {"app": "checkout"})
    chosen = {"matchLabels": {"app": "checkout"}}  # the agent's own pod is on the node too
    kubernetes.apply("", "banks", podSelector=chosen, namespaceSelector={"matchLabels": {"team": "bank"}})
    kubernetes.apply("", "shops", podSelector=chosen, namespaceSelector={"matchLabels": {"team": "shop"}})
    kubernetes.apply("", "any", podSelector=chosen)
    agent.until_names({"a": {"shops", "any"}})
    found = until(POD, config, lambda said: of(said, "shops")["traced"] and of(said, "any")["traced"])
    assert objections(found, "banks") == {"namespaceSelector": [f"namespace {SPACE}: label team is shop, must be bank"]}
    assert "ClusterTraceProfile banks: does not select the pod" in explain(POD, config).stdout


def bound(kubernetes: Kubernetes, **labels: str) -> str:
    """The one pod that a controller has made, once it is on the node."""
    query = ",".join(f"{key}={value}" for key, value in labels.items())
    (made,) = eventually(lambda: kubernetes.ask("GET", f"{PODS}?labelSelector={query}")["items"])
    name = str(made["metadata"]["name"])
    target = {"apiVersion": "v1", "kind": "Node", "name": "exp-1"}
    kubernetes.ask("POST", f"{PODS}/{name}/binding", {"metadata": {"name": name}, "target": target})
    return name


def test_workloads_agree_with_the_plan(kubernetes: Kubernetes, agent: Agent, config: Path) -> None:
    """Of pods of Deployments, a Job and a CronJob's Job, each is traced by what the operator says, and by nothing else."""
    job = {"template": {"spec": TEMPLATE | {"restartPolicy": "Never"}}}
    for name in ("web", "other"):
        labels = {"app": name}
        spec = {"selector": {"matchLabels": labels}, "template": {"metadata": {"labels": labels}, "spec": TEMPLATE}}
        kubernetes.make(f"{APPS}/deployments", {"metadata": {"name": name}, "spec": spec})
    body = {"metadata": {"name": "nightly"}, "spec": {"schedule": "0 0 1 1 *", "jobTemplate": {"spec": job}}}
    kubernetes.make(f"{BATCH}/cronjobs", body)
    kubernetes.make(f"{BATCH}/jobs", {"metadata": {"name": "alone"}, "spec": job})
    kubernetes.cluster.kubectl("create", "job", "run-1", "--from=cronjob/nightly", f"--namespace={SPACE}")
    refs = {
        "web": ("apps/v1", "Deployment", "web"),
        "alone": ("batch/v1", "Job", "alone"),
        "nightly": ("batch/v1", "CronJob", "nightly"),
        "gone": ("apps/v1", "StatefulSet", "gone"),
    }
    for name, (version, kind, workload) in refs.items():
        kubernetes.apply(SPACE, name, workloadRef={"apiVersion": version, "kind": kind, "name": workload})
    chosen = [{"key": "app", "operator": "In", "values": ["web", "x"]}, {"key": "y", "operator": "DoesNotExist"}]
    kubernetes.apply(SPACE, "labels", podSelector={"matchExpressions": chosen})
    kubernetes.apply(SPACE, "all")
    pods = {name: bound(kubernetes, app=name) for name in ("web", "other")}
    for name in ("run-1", "alone"):
        pods[name] = bound(kubernetes, **{"batch.kubernetes.io/job-name": name})
    expected = {
        pods["web"]: {"all", "labels", "web"},
        pods["other"]: {"all"},
        pods["run-1"]: {"all", "nightly"},
        pods["alone"]: {"all", "alone"},
    }
    agent.until_names(expected)
    for pod, names in expected.items():
        found = until(f"{SPACE}/{pod}", config, lambda said: of(said, "all")["traced"])
        assert {one["name"] for one in found["profiles"] if one["selected"]} == names
    said = asked(f"{SPACE}/{pods['other']}", config)
    assert objections(said, "web")["workloadRef"] == [
        "Deployment web selects other pods: label app is other, must be web; the pod belongs to Deployment other"
    ]
    said = asked(f"{SPACE}/{pods['alone']}", config)
    assert objections(said, "nightly")["workloadRef"] == [
        "the pod belongs to Job alone, and to no Job of CronJob nightly"
    ]


# --- the pod's own state --------------------------------------------------------------------------------------------


def test_pod_without_a_node(kubernetes: Kubernetes, config: Path) -> None:
    """It is selected; where it will be traced is said."""
    kubernetes.pod(SPACE, "a")
    kubernetes.apply(SPACE, "p", nodeSelector={"disk": "ssd"})
    found = asked(POD, config)
    assert (found["traced"], of(found, "p")["selected"]) == (False, True)
    text = explain(POD, config).stdout
    assert "node        none yet" in text
    assert "once it is scheduled to a node with disk=ssd" in text


@pytest.mark.parametrize("phase", ["Succeeded", "Failed"])
def test_pod_that_has_ended(kubernetes: Kubernetes, agent: Agent, config: Path, phase: str) -> None:
    """The operator has it in no plan any more."""
    pod = kubernetes.pod(SPACE, "a", "exp-1")
    kubernetes.apply(SPACE, "p")
    agent.until_names({"a": {"p"}})
    kubernetes.kubelet(pod, phase, web="1")
    agent.until_names({})
    found = asked(POD, config)
    assert (found["traced"], found["pod"]["ended"], found["advice"]) == (False, True, [])
    assert "verdict     not traced: the pod has ended" in explain(POD, config).stdout


def test_pod_that_is_being_deleted(kubernetes: Kubernetes, agent: Agent, config: Path) -> None:
    """It is traced to its end."""
    kubernetes.pod(SPACE, "a", "exp-1")
    kubernetes.apply(SPACE, "p")
    agent.until_names({"a": {"p"}})
    kubernetes.ask("DELETE", f"{PODS}/a", {"gracePeriodSeconds": 30})
    found = until(POD, config, lambda said: said["traced"])
    assert found["pod"]["deleting"]
    assert "being deleted: it is traced to its end" in explain(POD, config).stdout


# --- how it stands --------------------------------------------------------------------------------------------------


def failing(profile: control_pb2.ProfilePlan) -> control_pb2.ProfileState:
    """Nothing could be attached."""
    probe = control_pb2.ProbeState(name="files", state="Failed", reason="LockdownActive", message="lockdown=integrity")
    return control_pb2.ProfileState(
        uid=profile.uid, generation=profile.generation, reason="LockdownActive", message="ask the owner", probes=[probe]
    )


def test_node_that_cannot(kubernetes: Kubernetes, agent: Agent, config: Path) -> None:
    """Reason and message of the node, and of each probe that is not attached."""
    agent.says = failing
    kubernetes.pod(SPACE, "a", "exp-1")
    kubernetes.apply(SPACE, "p")
    found = until(POD, config, lambda said: of(said, "p")["node"] and of(said, "p")["node"].get("reason"))
    assert (found["traced"], of(found, "p")["selected"], found["advice"]) == (False, True, [])
    text = explain(POD, config).stdout
    assert "verdict     not traced, though 1 profile selects it" in text
    assert "why                LockdownActive: ask the owner" in text
    assert "probe files        Failed: LockdownActive: lockdown=integrity" in text


def test_status_older_than_the_spec(kubernetes: Kubernetes, operator: Operator, agent: Agent, config: Path) -> None:
    """With the operator away a change has no answer: nothing old is taken for it."""
    kubernetes.pod(SPACE, "a", "exp-1")
    kubernetes.apply(SPACE, "p")
    agent.until_names({"a": {"p"}})
    until(POD, config, lambda said: said["traced"])
    operator.process.stop()
    kubernetes.apply(SPACE, "p", network={})
    kubernetes.apply(SPACE, "new")
    found = asked(POD, config)
    assert (found["traced"], of(found, "p")["traced"], of(found, "p")["node"]) == (None, None, None)
    assert (of(found, "p")["statusGeneration"], of(found, "p")["generation"]) == (1, 2)
    text = explain(POD, config).stdout
    assert "its status is about generation 1, the spec is generation 2" in text
    assert "has no status yet: does the operator run?" in text
    assert "Exporting          Unknown (of generation 1)" in text


@pytest.fixture
def many(kubernetes: Kubernetes) -> Iterator[list[str]]:
    """More nodes than a status lists, each with a pod."""
    names = [f"exp-many-{number:02}" for number in range(MAX_NODES + 2)]
    for name in names:
        kubernetes.node(name)
        kubernetes.pod(SPACE, name, name)
    yield names
    for name in names:
        kubernetes.delete(f"/api/v1/nodes/{name}")


def test_node_beyond_those_that_a_status_lists(kubernetes: Kubernetes, many: list[str], config: Path) -> None:
    """It is not known how the profile stands there."""
    kubernetes.apply(SPACE, "p")
    found = until(f"{SPACE}/{many[-1]}", config, lambda said: "lists" in of(said, "p")["message"])
    assert (found["traced"], of(found, "p")["selected"]) == (None, True)
    assert f"the status lists {MAX_NODES} of its {len(many)} nodes" in of(found, "p")["message"]
    listed = asked(f"{SPACE}/{many[0]}", config)
    assert of(listed, "p")["node"]["node"] == many[0]
