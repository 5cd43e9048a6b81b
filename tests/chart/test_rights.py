# SPDX-License-Identifier: Apache-2.0
"""Least rights: the operator itself runs under the chart's roles, does all that it can do, and the audit log is read.

A call that was refused fails the test, and so does a right that was not used. The agents' account is asked what it may.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import grpc
import pytest
import yaml

from kernelspan_api.control import AUDIENCE
from tests.support.agents import Agent
from tests.support.cluster import Cluster
from tests.support.helm import NAMESPACE, RELEASE, Helm, Object, find, parse
from tests.support.operators import (
    AGENTS,
    CLUSTER_RULES,
    OPERATOR,
    OWN_RULES,
    SECRET_RULES,
    Kubernetes,
    Operator,
    eventually,
)

USER = f"system:serviceaccount:{NAMESPACE}:{OPERATOR}"
OWN = f"/api/v1/namespaces/{NAMESPACE}"
TEMPLATE = {"metadata": {"labels": {"app": "x"}}, "spec": {"containers": [{"name": "x", "image": "x"}]}}
SELECTOR = {"matchLabels": {"app": "x"}}
JOB = {"template": {**TEMPLATE, "spec": {**TEMPLATE["spec"], "restartPolicy": "Never"}}}
WORKLOADS: dict[str, tuple[str, dict[str, Any]]] = {
    "Deployment": ("apps/v1", {"selector": SELECTOR, "template": TEMPLATE}),
    "StatefulSet": ("apps/v1", {"selector": SELECTOR, "template": TEMPLATE, "serviceName": "x"}),
    "DaemonSet": ("apps/v1", {"selector": SELECTOR, "template": TEMPLATE}),
    "ReplicaSet": ("apps/v1", {"selector": SELECTOR, "template": TEMPLATE}),
    "Job": ("batch/v1", JOB),
    "CronJob": ("batch/v1", {"schedule": "0 0 1 1 *", "jobTemplate": {"spec": JOB}}),
}
Right = tuple[str, str, str]  # verb, group, resource


@pytest.fixture
def kubernetes(plane: Cluster) -> Kubernetes:
    """A test's own hand on it."""
    return Kubernetes(plane)


def released(installed: Helm) -> list[Object]:
    """The objects of the release."""
    return list(parse(installed.run("get", "manifest", RELEASE, f"--namespace={NAMESPACE}").stdout))


def options(objects: list[Object]) -> tuple[str, ...]:
    """What the chart gives the operator, but for the paths and ports that are others here than in a pod."""
    (container,) = find(objects, "Deployment", "-operator")["spec"]["template"]["spec"]["containers"]
    given = {option.partition("=")[0] for option in container["args"]}
    here = {"--listen", "--listen-http", "--policy"}
    assert here <= given
    return tuple(option for option in container["args"] if option.partition("=")[0] not in here)


def of(rules: list[dict[str, Any]]) -> set[Right]:
    """Rules, taken apart."""
    return {
        (verb, group, resource)
        for rule in rules
        for verb in rule["verbs"]
        for group in rule["apiGroups"]
        for resource in rule["resources"]
    }


def granted(objects: list[Object]) -> set[Right]:
    """What the roles bound to the operator allow, wherever."""
    roles = {one["roleRef"]["name"] for one in objects if one["kind"].endswith("Binding")}
    found = [one for one in objects if one["kind"] in {"Role", "ClusterRole"} and one["metadata"]["name"] in roles]
    return of([rule for one in found for rule in one["rules"]])


def used(events: list[Object]) -> set[Right]:
    """The calls as rights; what is of no object (discovery) is everybody's."""
    found = set()
    for event in events:
        if ref := event.get("objectRef"):
            resource = "/".join(filter(None, (ref["resource"], ref.get("subresource", ""))))
            found.add((event["verb"], ref.get("apiGroup", ""), resource))
    return found


def test_operator_does_all_it_does_with_the_rights_of_the_chart(
    plane: Cluster, kubernetes: Kubernetes, installed: Helm, tmp_path: Path
) -> None:
    """Nothing is refused, nothing is granted in vain; a namespace that was not named keeps its Secrets."""
    objects = released(installed)
    expected = granted(objects)
    # The API server's authorizer hears of a new role a moment after it was made.
    for verb, resource, where in (
        ("list", "pods", "shop"),
        ("create", "secrets", NAMESPACE),
        ("list", "secrets", "shop"),
    ):
        eventually(lambda: _may(plane, USER, verb, resource, where, ""))  # noqa: B023 - asked before the next
    operator = Operator(kubernetes, tmp_path, options=options(objects))
    with operator:  # it makes its authority
        _make_work(kubernetes)
        with Agent(operator, "node-1") as agent:
            agent.until(lambda plan: {"pods", "all", "secret", "deployment"} <= {one.name for one in plan.profiles})
        # A token that names no node, as before Kubernetes 1.32: its pod is looked up, and is on none.
        pod = kubernetes.pod(NAMESPACE, "agent-nowhere", serviceAccountName=AGENTS)
        with Agent(operator, "node-1", kubernetes.token(NAMESPACE, AGENTS, pod, AUDIENCE)) as other:
            error = other.end()
            assert error is not None
            assert error.code() is grpc.StatusCode.UNAUTHENTICATED
        for namespace, name in (("shop", "pods"), ("", "all")):
            eventually(lambda: "status" in kubernetes.profile(namespace, name))  # noqa: B023 - asked before the next
        first = {right for right in expected if right[0] != "update"}
        eventually(lambda: first <= used(plane.audited(USER)))
        operator.process.stop()
        for kind in ("configmaps", "secrets"):  # of another authority, or of none
            kubernetes.patch(f"{OWN}/{kind}/kernelspan-ca", {"data": {"ca.crt": ""}})
        operator.process.start()
        events = plane.audited(USER)
    assert [one for one in events if one["responseStatus"]["code"] in {401, 403}] == []
    assert used(events) == expected
    assert _secrets_read(events) == {NAMESPACE: {"kernelspan-ca"}, "shop": {""}}


def _make_work(kubernetes: Kubernetes) -> None:
    """A profile for each way to select, one that needs a Secret, and a pod that they all select."""
    kubernetes.node("node-1")
    kubernetes.pod("shop", "x-0", "node-1", {"app": "x"})
    kubernetes.patch("/api/v1/namespaces/shop", {"metadata": {"labels": {"a": "b"}}})
    kubernetes.apply("shop", "pods")
    for kind, (version, spec) in WORKLOADS.items():
        ref = {"apiVersion": version, "kind": kind, "name": kind.lower()}
        body = {"apiVersion": version, "kind": kind, "metadata": {"name": kind.lower()}, "spec": spec}
        kubernetes.make(f"/apis/{version}/namespaces/shop/{kind.lower()}s", body)
        kubernetes.apply("shop", kind.lower(), workloadRef=ref)
    kubernetes.apply("", "all", podSelector={}, namespaceSelector={"matchLabels": {"a": "b"}})
    labels = {"kernelspan.io/exporter": "true"}
    secret = {"metadata": {"name": "headers", "labels": labels}, "stringData": {"x-tenant": "shop"}}
    kubernetes.make("/api/v1/namespaces/shop/secrets", secret)
    kubernetes.apply("shop", "secret", export={"otlp": {"headersSecretRef": {"name": "headers"}}})


def _secrets_read(events: list[Object]) -> dict[str, set[str]]:
    """By namespace the names of Secrets that were got; empty for a list, which must be one of the label."""
    found: dict[str, set[str]] = {}
    for event in events:
        ref = event.get("objectRef", {})
        if ref.get("resource") == "secrets" and event["verb"] in {"get", "list"}:
            labelled = "labelSelector=kernelspan.io/exporter=true" in unquote(event["requestURI"])
            assert labelled is (event["verb"] == "list"), event["requestURI"]
            found.setdefault(ref["namespace"], set()).add(ref.get("name", ""))
    return found


def test_helm_test_asks_the_operator(kubernetes: Kubernetes, installed: Helm, tmp_path: Path) -> None:
    """Its program, as the pod has it: ready is success, and what is not there is not."""
    pod = find(list(parse(installed.run("get", "hooks", RELEASE, f"--namespace={NAMESPACE}").stdout)), "Pod")
    (container,) = pod["spec"]["containers"]
    python, option, program, url = container["command"]
    assert (python, option, url) == ("python3", "-c", "http://kernelspan-operator.kernelspan.svc:8080/readyz")
    with Operator(kubernetes, tmp_path) as operator:
        here = [sys.executable, option, program, f"http://127.0.0.1:{operator.http_port}/readyz"]
        assert subprocess.run(here, check=False).returncode == 0
        operator.process.stop()
        gone = subprocess.run([*here, "0.1"], check=False, capture_output=True, text=True)
        assert (gone.returncode, "is not ready:" in gone.stderr) == (1, True)


def test_tests_of_the_operator_give_it_no_more_than_the_chart(installed: Helm) -> None:
    """What tests/cluster shows of it is shown with rights that a user gives it."""
    assert of(CLUSTER_RULES + OWN_RULES + SECRET_RULES) <= granted(released(installed))


@pytest.mark.usefixtures("installed")
@pytest.mark.parametrize("kind", ["secrets", "configmaps"])
def test_operator_may_not_touch_what_is_not_its_own(plane: Cluster, kind: str) -> None:
    """Neither another object of its namespace, nor one of another namespace; to delete nothing at all."""
    for namespace, name in ((NAMESPACE, "other"), ("pay", "kernelspan-ca"), ("pay", "other")):
        for verb in ("get", "update", "patch", "delete", "list", "watch"):
            assert not _may(plane, USER, verb, kind, namespace, name), (verb, namespace, name)
    assert _may(plane, USER, "get", kind, NAMESPACE, "kernelspan-ca")
    for verb in ("delete", "deletecollection", "patch"):
        assert not _may(plane, USER, verb, kind, NAMESPACE, "kernelspan-ca")


def _may(plane: Cluster, user: str, verb: str, resource: str, namespace: str, name: str) -> bool:
    attributes = {"resource": resource, "verb": verb, "namespace": namespace, "name": name}
    groups = ["system:serviceaccounts", f"system:serviceaccounts:{NAMESPACE}", "system:authenticated"]
    spec = {"user": user, "groups": groups, "resourceAttributes": attributes}
    body = {"apiVersion": "authorization.k8s.io/v1", "kind": "SubjectAccessReview", "spec": spec}
    answer = plane.request("POST", "/apis/authorization.k8s.io/v1/subjectaccessreviews", body)
    assert answer.status == 201, answer
    return bool(answer.body["status"]["allowed"])


@pytest.mark.usefixtures("installed")
def test_agents_account_may_do_what_any_account_may(kubernetes: Kubernetes, tmp_path: Path) -> None:
    """Asked by itself, with its own token: the rules of an account that nobody ever bound, and not one more."""
    kubernetes.make(f"{OWN}/serviceaccounts", {"metadata": {"name": "nobody"}})
    assert _rules(kubernetes, AGENTS, tmp_path) == _rules(kubernetes, "nobody", tmp_path)
    assert _rules(kubernetes, OPERATOR, tmp_path) != _rules(kubernetes, "nobody", tmp_path)
    for verb, resource, namespace in (
        ("list", "pods", "shop"),
        ("get", "secrets", NAMESPACE),
        ("get", "configmaps", NAMESPACE),
        ("list", "nodes", ""),
        ("list", "traceprofiles.kernelspan.io", "shop"),
        ("create", "tokenreviews.authentication.k8s.io", ""),
    ):
        assert not _may_itself(kubernetes, AGENTS, verb, resource, namespace, tmp_path), (verb, resource)
    assert _may_itself(kubernetes, OPERATOR, "list", "pods", "shop", tmp_path)


@pytest.mark.usefixtures("installed")
def test_agents_token_is_for_the_operator_alone(kubernetes: Kubernetes, tmp_path: Path) -> None:
    """It is of another audience: the API server does not know who asks."""
    config = _config(kubernetes, kubernetes.agent_token("node-1"), tmp_path)
    said = kubernetes.cluster.kubectl("get", "--raw=/version", f"--kubeconfig={config}", check=False)
    assert said.returncode != 0
    assert "Unauthorized" in said.stderr


def _config(kubernetes: Kubernetes, bearer: str, folder: Path) -> Path:
    config = yaml.safe_load(kubernetes.cluster.kubeconfig.read_text("utf-8"))
    config["users"][0]["user"] = {"token": bearer}
    path = folder / "as.kubeconfig"
    path.write_text(yaml.safe_dump(config), "utf-8")
    return path


def _rules(kubernetes: Kubernetes, account: str, folder: Path) -> str:
    """SelfSubjectRulesReview, in its own namespace and in another."""
    config = _config(kubernetes, kubernetes.token(NAMESPACE, account), folder)
    ask = ("auth", "can-i", "--list", f"--kubeconfig={config}")
    return "\n".join(kubernetes.cluster.kubectl(*ask, f"--namespace={one}").stdout for one in (NAMESPACE, "shop"))


def _may_itself(kubernetes: Kubernetes, account: str, verb: str, resource: str, namespace: str, folder: Path) -> bool:
    """SelfSubjectAccessReview."""
    config = _config(kubernetes, kubernetes.token(NAMESPACE, account), folder)
    where = [f"--namespace={namespace}"] if namespace else []
    ask = ("auth", "can-i", verb, resource, *where, f"--kubeconfig={config}")
    said = kubernetes.cluster.kubectl(*ask, check=False)
    assert said.stdout.strip() in {"yes", "no"}, said.stderr
    return said.stdout.strip() == "yes"
