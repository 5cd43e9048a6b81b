# SPDX-License-Identifier: Apache-2.0
"""Least rights: the operator itself runs under the chart's roles, does all that it can do, and the audit log is read.

A call that was refused fails the test, and so does a right that was not used. The agents' account is asked what it may.
"""

from __future__ import annotations

import queue
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import grpc
import pytest
import yaml

from kernelspan_api.control import AUDIENCE, control_pb2
from kernelspan_api.resource import API_VERSION
from tests.support.cluster import Cluster
from tests.support.helm import NAMESPACE, Helm, Object, find, parse
from tests.support.ports import PortReservation
from tests.support.server import ServerProcess, answers_ok

USER = f"system:serviceaccount:{NAMESPACE}:kernelspan-operator"
AGENT = f"system:serviceaccount:{NAMESPACE}:kernelspan-agent"
_OWN = f"/api/v1/namespaces/{NAMESPACE}"
_WAIT_SECONDS = 30.0
_POLL_SECONDS = 0.05
_TEMPLATE = {"metadata": {"labels": {"app": "x"}}, "spec": {"containers": [{"name": "x", "image": "x"}]}}
_SELECTOR = {"matchLabels": {"app": "x"}}
_JOB = {"template": {**_TEMPLATE, "spec": {**_TEMPLATE["spec"], "restartPolicy": "Never"}}}
WORKLOADS: dict[str, tuple[str, dict[str, Any]]] = {
    "Deployment": ("apps/v1", {"selector": _SELECTOR, "template": _TEMPLATE}),
    "StatefulSet": ("apps/v1", {"selector": _SELECTOR, "template": _TEMPLATE, "serviceName": "x"}),
    "DaemonSet": ("apps/v1", {"selector": _SELECTOR, "template": _TEMPLATE}),
    "ReplicaSet": ("apps/v1", {"selector": _SELECTOR, "template": _TEMPLATE}),
    "Job": ("batch/v1", _JOB),
    "CronJob": ("batch/v1", {"schedule": "0 0 1 1 *", "jobTemplate": {"spec": _JOB}}),
}
Right = tuple[str, str, str]  # verb, group, resource


def eventually(condition: Callable[[], object], what: object) -> None:
    """Waits until it holds; AssertionError with `what` where that does not come."""
    deadline = time.monotonic() + _WAIT_SECONDS
    while not condition():
        assert time.monotonic() < deadline, what() if callable(what) else what
        time.sleep(_POLL_SECONDS)


class RealOperator:
    """The operator as a process, with the options that the chart gives it and a token of the chart's account."""

    def __init__(self, plane: Cluster, installed: Helm, folder: Path) -> None:
        objects = list(parse(installed.run("get", "manifest", "kernelspan", f"--namespace={NAMESPACE}").stdout))
        self.ports = PortReservation(2)
        grpc_port, http = self.ports.ports
        self.address = f"localhost:{grpc_port}"
        policy = folder / "policy.yaml"
        policy.write_text(find(objects, "ConfigMap", "-policy")["data"]["policy.yaml"], "utf-8")
        config = yaml.safe_load(plane.kubeconfig.read_text("utf-8"))
        config["users"][0]["user"] = {"token": token(plane, "kernelspan-operator")}
        kubeconfig = folder / "kubeconfig"
        kubeconfig.write_text(yaml.safe_dump(config), "utf-8")
        (container,) = find(objects, "Deployment", "-operator")["spec"]["template"]["spec"]["containers"]
        here = {  # what is another path or port here than in a pod; every other option is the chart's
            "--listen": f"127.0.0.1:{grpc_port}",
            "--listen-http": f"127.0.0.1:{http}",
            "--policy": str(policy),
        }
        given = [option.partition("=") for option in container["args"]]
        assert here.keys() <= {name for name, _, _ in given}
        options = [f"{name}={here.get(name, value)}" for name, _, value in given]
        program = Path(sys.executable).parent / "kernelspan-operator"
        self.ready_url = f"http://127.0.0.1:{http}/readyz"
        self.process = ServerProcess(
            "kernelspan-operator",
            [program, f"--kubeconfig={kubeconfig}", *options],
            folder / "operator.log",
            lambda: answers_ok(http, "/readyz"),
            {"POD_NAMESPACE": NAMESPACE},
        )


def token(plane: Cluster, account: str, audience: str = "", pod: Object | None = None) -> str:
    """As the kubelet gets one for a pod."""
    spec: dict[str, Any] = {"audiences": [audience]} if audience else {}
    if pod is not None:
        meta = pod["metadata"]
        spec["boundObjectRef"] = {"apiVersion": "v1", "kind": "Pod", "name": meta["name"], "uid": meta["uid"]}
    body = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": spec}
    answer = plane.request("POST", f"{_OWN}/serviceaccounts/{account}/token", body)
    assert answer.status == 201, answer
    return str(answer.body["status"]["token"])


def make(plane: Cluster, path: str, body: object) -> Object:
    """An object that was not there."""
    answer = plane.request("POST", path, body)
    assert answer.status == 201, answer
    made: Object = answer.body
    return made


def agent_pod(plane: Cluster, name: str, node: str = "") -> Object:
    """As the DaemonSet's controller makes it."""
    spec: dict[str, Any] = {"serviceAccountName": "kernelspan-agent", "containers": [{"name": "a", "image": "x"}]}
    return make(plane, f"{_OWN}/pods", {"metadata": {"name": name}, "spec": spec | ({"nodeName": node} if node else {})})


def sync(plane: Cluster, address: str, bearer: str) -> control_pb2.NodePlan:
    """The first plan that an agent with that token gets. Raises grpc.RpcError where it gets none."""
    authority = plane.request("GET", f"{_OWN}/configmaps/kernelspan-ca").body["data"]["ca.crt"].encode()
    said: queue.Queue[control_pb2.NodeReport | None] = queue.Queue()
    said.put(control_pb2.NodeReport(hello=control_pb2.Hello(node="node-1", agent_version="0", revision=1)))
    with grpc.secure_channel(address, grpc.ssl_channel_credentials(authority)) as channel:
        method = channel.stream_stream(
            "/kernelspan.v1alpha1.Control/Sync",
            request_serializer=control_pb2.NodeReport.SerializeToString,
            response_deserializer=control_pb2.NodePlan.FromString,
        )
        reports: Iterator[control_pb2.NodeReport] = iter(said.get, None)
        call: Any = method(reports, metadata=(("authorization", f"Bearer {bearer}"),), timeout=_WAIT_SECONDS)
        try:
            plan: control_pb2.NodePlan = next(call)
            state = control_pb2.State(
                plan_hash=plan.hash,
                profiles=[control_pb2.ProfileState(uid=one.uid, generation=one.generation) for one in plan.profiles],
            )
            said.put(control_pb2.NodeReport(state=state))
            return plan
        finally:
            said.put(None)
            threading.Event().wait(0.2)  # what was said goes out before the call is gone
            call.cancel()


def rights(objects: list[Object]) -> set[Right]:
    """What the roles bound to the operator allow."""
    operator = [one for one in objects if one["metadata"]["name"].startswith("kernelspan-operator")]
    rules = [rule for one in operator if one["kind"] in {"Role", "ClusterRole"} for rule in one["rules"]]
    return {
        (verb, group, resource)
        for rule in rules
        for verb in rule["verbs"]
        for group in rule["apiGroups"]
        for resource in rule["resources"]
    }


def used(events: list[Object]) -> set[Right]:
    """The calls as rights; what is of no object (discovery) is everybody's."""
    found = set()
    for event in events:
        ref = event.get("objectRef")
        if ref:
            resource = "/".join(filter(None, (ref["resource"], ref.get("subresource", ""))))
            found.add((event["verb"], ref.get("apiGroup", ""), resource))
    return found


def profile(name: str, kind: str = "TraceProfile", **spec: Any) -> Object:
    """A profile."""
    return {"apiVersion": API_VERSION, "kind": kind, "metadata": {"name": name}, "spec": {"files": {}, **spec}}


def test_operator_does_all_it_does_with_the_rights_of_the_chart(
    plane: Cluster, installed: Helm, tmp_path: Path
) -> None:
    """Nothing is refused, nothing is granted in vain; a namespace that was not named keeps its Secrets."""
    make(plane, "/api/v1/nodes", {"metadata": {"name": "node-1"}})
    for kind, (version, spec) in WORKLOADS.items():
        body = {"apiVersion": version, "kind": kind, "metadata": {"name": kind.lower()}, "spec": spec}
        make(plane, f"/apis/{version}/namespaces/shop/{kind.lower()}s", body)
    operator = RealOperator(plane, installed, tmp_path)
    with operator.process:  # it makes its authority
        folder = f"/apis/{API_VERSION}/namespaces/shop/traceprofiles"
        make(plane, folder, profile("pods", podSelector={}))
        for kind, (version, _) in WORKLOADS.items():
            ref = {"apiVersion": version, "kind": kind, "name": kind.lower()}
            make(plane, folder, profile(kind.lower(), workloadRef=ref))
        everywhere = profile("all", "ClusterTraceProfile", podSelector={}, namespaceSelector={"matchLabels": {"a": "b"}})
        make(plane, f"/apis/{API_VERSION}/clustertraceprofiles", everywhere)
        secret = {"metadata": {"name": "headers", "labels": {"kernelspan.io/exporter": "true"}}}
        make(plane, "/api/v1/namespaces/shop/secrets", secret)
        otlp = {"headersSecretRef": {"name": "headers"}}
        make(plane, folder, profile("secret", podSelector={}, export={"otlp": otlp}))
        plan = sync(plane, operator.address, token(plane, "kernelspan-agent", AUDIENCE, agent_pod(plane, "a-1", "node-1")))
        assert plan.node == "node-1"
        # A token that names no node, as before Kubernetes 1.32: its pod is looked up.
        with pytest.raises(grpc.RpcError) as caught:
            sync(plane, operator.address, token(plane, "kernelspan-agent", AUDIENCE, agent_pod(plane, "a-2")))
        assert caught.value.code() is grpc.StatusCode.UNAUTHENTICATED
        for path in (f"{folder}/pods", f"/apis/{API_VERSION}/clustertraceprofiles/all"):
            eventually(lambda path=path: "status" in plane.request("GET", path).body, plane.request("GET", path))
        expected = rights(list(parse(installed.text("--set=policy.secretNamespaces={shop}"))))
        first = {right for right in expected if right[0] != "update"}
        eventually(lambda: first <= used(plane.audited(USER)), lambda: first - used(plane.audited(USER)))
    for kind in ("configmaps", "secrets"):  # of another authority, or of none
        path = f"{_OWN}/{kind}/kernelspan-ca"
        assert plane.request("PATCH", path, {"data": {"ca.crt": ""}}, "application/merge-patch+json").status == 200
    with operator.process:
        events = plane.audited(USER)
    refused = [one for one in events if one["responseStatus"]["code"] in {401, 403}]
    assert refused == []
    assert used(events) == expected
    assert _secrets_read(events) == {NAMESPACE: {"kernelspan-ca"}, "shop": {""}}


def _secrets_read(events: list[Object]) -> dict[str, set[str]]:
    """By namespace the names of Secrets that were got; empty for a list."""
    found: dict[str, set[str]] = {}
    for event in events:
        ref = event.get("objectRef", {})
        if ref.get("resource") == "secrets" and event["verb"] in {"get", "list"}:
            assert event["verb"] == "get" or "labelSelector=kernelspan.io/exporter=true" in unquote(event["requestURI"])
            found.setdefault(ref["namespace"], set()).add(ref.get("name", ""))
    return found


@pytest.mark.parametrize("kind", ["secrets", "configmaps"])
def test_operator_may_not_touch_what_is_not_its_own(plane: Cluster, installed: Helm, kind: str) -> None:
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


def test_agents_account_may_do_what_any_account_may(plane: Cluster, installed: Helm, tmp_path: Path) -> None:
    """Asked by itself, with its own token: the rules of an account that nobody ever bound, and not one more."""
    make(plane, f"{_OWN}/serviceaccounts", {"metadata": {"name": "nobody"}})
    assert _rules(plane, "kernelspan-agent", tmp_path) == _rules(plane, "nobody", tmp_path)
    assert _rules(plane, "kernelspan-operator", tmp_path) != _rules(plane, "nobody", tmp_path)
    for verb, resource, namespace in (
        ("list", "pods", "shop"),
        ("get", "secrets", NAMESPACE),
        ("get", "configmaps", NAMESPACE),
        ("list", "nodes", ""),
        ("list", "traceprofiles.kernelspan.io", "shop"),
        ("create", "tokenreviews.authentication.k8s.io", ""),
    ):
        assert not _may_itself(plane, "kernelspan-agent", verb, resource, namespace, tmp_path), (verb, resource)
    assert _may_itself(plane, "kernelspan-operator", "list", "pods", "shop", tmp_path)


def test_agents_token_opens_the_operator_and_nothing_else(plane: Cluster, installed: Helm, tmp_path: Path) -> None:
    """It is of another audience: the API server does not even know who asks."""
    bearer = token(plane, "kernelspan-agent", AUDIENCE, agent_pod(plane, "a-3", "node-1"))
    said = plane.kubectl("version", f"--kubeconfig={_config(plane, bearer, tmp_path)}", check=False)
    assert "Unauthorized" in said.stderr + said.stdout or "logged in" in said.stderr


def _config(plane: Cluster, bearer: str, folder: Path) -> Path:
    config = yaml.safe_load(plane.kubeconfig.read_text("utf-8"))
    config["users"][0]["user"] = {"token": bearer}
    path = folder / "as.kubeconfig"
    path.write_text(yaml.safe_dump(config), "utf-8")
    return path


def _rules(plane: Cluster, account: str, folder: Path) -> str:
    """SelfSubjectRulesReview, in its own namespace and in another."""
    config = _config(plane, token(plane, account), folder)
    ask = ("auth", "can-i", "--list", f"--kubeconfig={config}")
    return "\n".join(plane.kubectl(*ask, f"--namespace={one}").stdout for one in (NAMESPACE, "shop"))


def _may_itself(plane: Cluster, account: str, verb: str, resource: str, namespace: str, folder: Path) -> bool:
    """SelfSubjectAccessReview."""
    config = _config(plane, token(plane, account), folder)
    where = [f"--namespace={namespace}"] if namespace else []
    said = plane.kubectl("auth", "can-i", verb, resource, *where, f"--kubeconfig={config}", check=False)
    assert said.stdout.strip() in {"yes", "no"}, said.stderr
    return said.stdout.strip() == "yes"
