# SPDX-License-Identifier: Apache-2.0
"""The operator as a process of its own on a real API server, under a service account with no more rights than it needs.

The kubelets are played by the test: it writes the statuses of pods and nodes. Agents are `tests.support.agents`.
"""

from __future__ import annotations

import json
import re
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

import yaml
from prometheus_client.parser import text_string_to_metric_families

from kernelspan_api.control import AUDIENCE
from kernelspan_api.resource import API_VERSION
from tests.support.cluster import Answer, Cluster
from tests.support.ports import PortReservation
from tests.support.server import START_TIMEOUT_SECONDS, ServerProcess, answers_ok, http_get

T = TypeVar("T")

OWN = "kernelspan"  # the operator's namespace
AGENTS, OPERATOR = "kernelspan-agent", "kernelspan-operator"
_READ = ["list", "watch"]
CLUSTER_RULES: list[dict[str, Any]] = [
    {"apiGroups": ["kernelspan.io"], "resources": ["traceprofiles", "clustertraceprofiles"], "verbs": _READ},
    {
        "apiGroups": ["kernelspan.io"],
        "resources": ["traceprofiles/status", "clustertraceprofiles/status"],
        "verbs": ["patch"],
    },
    {"apiGroups": ["events.k8s.io"], "resources": ["events"], "verbs": ["create"]},
    {"apiGroups": [""], "resources": ["pods", "nodes", "namespaces"], "verbs": _READ},
    {
        "apiGroups": ["apps"],
        "resources": ["deployments", "statefulsets", "daemonsets", "replicasets"],
        "verbs": _READ,
    },
    {"apiGroups": ["batch"], "resources": ["jobs"], "verbs": _READ},
    {"apiGroups": ["authentication.k8s.io"], "resources": ["tokenreviews"], "verbs": ["create"]},
]
OWN_RULES: list[dict[str, Any]] = [
    {"apiGroups": [""], "resources": ["secrets", "configmaps"], "verbs": ["create"]},
    {
        "apiGroups": [""],
        "resources": ["secrets", "configmaps"],
        "resourceNames": ["kernelspan-ca"],
        "verbs": ["get", "update"],
    },
]
SECRET_RULES: list[dict[str, Any]] = [{"apiGroups": [""], "resources": ["secrets"], "verbs": _READ}]


def eventually(found: Callable[[], T], seconds: float = 120.0) -> T:
    """What `found` gives once it is true; AssertionError with what it gave last where that does not come."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            value = found()
        except (OSError, KeyError, IndexError, StopIteration) as error:
            value, wrong = None, error  # type: ignore[assignment]
        else:
            wrong = None
        if value:
            return value
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {seconds:g} s; last: {value!r}") from wrong
        time.sleep(0.02)


class Kubernetes:
    """A test's own hand on the API server: makes and changes objects, and fails where that fails."""

    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster

    def ask(self, method: str, path: str, body: object = None, content_type: str = "application/json") -> Any:
        """The body of a call that must be answered with 2xx."""
        answer = self.cluster.request(method, path, body, content_type)
        assert 200 <= answer.status < 300, (method, path, answer)
        return answer.body

    def make(self, path: str, body: object) -> Any:
        """Makes the object; one that is there already is left as it is."""
        answer = self.cluster.request("POST", path, body)
        assert answer.status in {200, 201, 409}, (path, answer)
        return answer.body

    def patch(self, path: str, body: object) -> Any:
        """A merge patch."""
        return self.ask("PATCH", path, body, "application/merge-patch+json")

    def delete(self, path: str) -> Answer:
        """Deletes at once, whether there is something or not."""
        options = {"gracePeriodSeconds": 0, "propagationPolicy": "Background"}
        return self.cluster.request("DELETE", path, options)

    def namespace(self, name: str, **labels: str) -> None:
        """A namespace whose service account is there, without which there are no pods in it."""
        self.make("/api/v1/namespaces", {"metadata": {"name": name, "labels": labels}})
        path = f"/api/v1/namespaces/{name}/serviceaccounts/default"
        eventually(lambda: self.cluster.request("GET", path).status == 200)

    def node(self, name: str, **labels: str) -> None:
        """A node."""
        self.make("/api/v1/nodes", {"metadata": {"name": name, "labels": labels}})

    def pod(
        self, namespace: str, name: str, node: str = "", labels: Mapping[str, str] | None = None, **spec: Any
    ) -> dict[str, Any]:
        """A pod that its kubelet has not looked at yet."""
        body = {
            "metadata": {"name": name, "labels": dict(labels or {})},
            "spec": {"containers": [{"name": "web", "image": "x"}]} | ({"nodeName": node} if node else {}) | spec,
        }
        made: dict[str, Any] = self.ask("POST", f"/api/v1/namespaces/{namespace}/pods", body)
        return made

    def kubelet(self, pod: Mapping[str, Any], phase: str = "Running", **containers: str) -> None:
        """What a kubelet says: the phase, and the id of each container."""
        meta, spec = pod["metadata"], pod["spec"]
        places = {"initContainers": "initContainerStatuses", "containers": "containerStatuses"}
        places["ephemeralContainers"] = "ephemeralContainerStatuses"
        status: dict[str, Any] = {"phase": phase}
        for place, key in places.items():
            status[key] = [
                {
                    "name": one["name"],
                    "containerID": f"containerd://{containers[one['name']]}",
                    "image": "x",
                    "imageID": "x",
                    "ready": True,
                    "restartCount": 0,
                }
                for one in spec.get(place, ())
                if one["name"] in containers
            ]
        self.patch(f"/api/v1/namespaces/{meta['namespace']}/pods/{meta['name']}/status", {"status": status})

    def token(
        self,
        namespace: str,
        account: str,
        pod: Mapping[str, Any] | None = None,
        audience: str = "",
        seconds: int = 3600,
    ) -> str:
        """A token as the kubelet projects it into a pod; without a pod it is bound to none."""
        spec: dict[str, Any] = {"expirationSeconds": seconds} | ({"audiences": [audience]} if audience else {})
        if pod is not None:
            meta = pod["metadata"]
            spec["boundObjectRef"] = {"apiVersion": "v1", "kind": "Pod", "name": meta["name"], "uid": meta["uid"]}
        path = f"/api/v1/namespaces/{namespace}/serviceaccounts/{account}/token"
        body = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": spec}
        return str(self.ask("POST", path, body)["status"]["token"])

    def agent_token(self, node: str, *, seconds: int = 3600, audience: str = AUDIENCE) -> str:
        """That of the agent on a node; its pod is made if it is not there."""
        path = f"/api/v1/namespaces/{OWN}/pods"
        name = f"agent-{node}"[:253]
        body = {
            "metadata": {"name": name},
            "spec": {"nodeName": node, "serviceAccountName": AGENTS, "containers": [{"name": "agent", "image": "x"}]},
        }
        self.make(path, body)
        return self.token(OWN, AGENTS, self.ask("GET", f"{path}/{name}"), audience, seconds)

    # --- profiles -----------------------------------------------------------------------------------------------------

    def apply(self, namespace: str, name: str, **spec: Any) -> dict[str, Any]:
        """Makes a TraceProfile, or gives the one there is this spec. Without a selector it selects every pod."""
        if not {"podSelector", "workloadRef"} & spec.keys():
            spec["podSelector"] = {}
        if not {"files", "network", "processes", "waits", "probes", "requests"} & spec.keys():
            spec["files"] = {}
        folder = profile_path(namespace)
        body: dict[str, Any] = {
            "apiVersion": API_VERSION,
            "kind": "TraceProfile" if namespace else "ClusterTraceProfile",
            "metadata": {"name": name},
            "spec": spec,
        }
        while (there := self.cluster.request("GET", f"{folder}/{name}")).status == 200:
            body["metadata"]["resourceVersion"] = there.body["metadata"]["resourceVersion"]
            answer = self.cluster.request("PUT", f"{folder}/{name}", body)
            if answer.status != 409:  # else the operator has written its status in between
                assert answer.status == 200, answer
                changed: dict[str, Any] = answer.body
                return changed
        made: dict[str, Any] = self.ask("POST", folder, body)
        return made

    def profile(self, namespace: str, name: str) -> dict[str, Any]:
        """The object."""
        found: dict[str, Any] = self.ask("GET", f"{profile_path(namespace)}/{name}")
        return found

    def condition(self, namespace: str, name: str, kind: str = "Ready") -> tuple[str, str, str]:
        """Status, reason and message of a condition of what is written for the newest generation; empty: none yet."""
        found = self.profile(namespace, name)
        status = found.get("status", {})
        if status.get("observedGeneration") != found["metadata"]["generation"]:
            return "", "", ""
        all_ = {one["type"]: (one["status"], one["reason"], one.get("message", "")) for one in status["conditions"]}
        return all_.get(kind, ("", "", ""))

    def says(
        self,
        namespace: str,
        name: str,
        status: str,
        reason: str,
        kind: str = "Ready",
        seconds: float = 120,
    ) -> str:
        """Waits until a condition stands so; its message."""
        eventually(lambda: self.condition(namespace, name, kind)[:2] == (status, reason), seconds)
        return self.condition(namespace, name, kind)[2]


def profile_path(namespace: str) -> str:
    """Where profiles are; of an empty namespace, ClusterTraceProfiles."""
    if namespace:
        return f"/apis/{API_VERSION}/namespaces/{namespace}/traceprofiles"
    return f"/apis/{API_VERSION}/clustertraceprofiles"


class Operator:
    """A running operator; use with `with`. May be killed and started again."""

    def __init__(
        self,
        kubernetes: Kubernetes,
        folder: Path,
        *,
        policy: Mapping[str, object] | None = None,
        server: str = "",
        options: tuple[str, ...] = (),
        environment: Mapping[str, str] | None = None,
        start_seconds: float = START_TIMEOUT_SECONDS,
    ) -> None:
        """`server`: another address of the API server, such as a proxy's."""
        folder.mkdir(parents=True, exist_ok=True)
        self._kubernetes = kubernetes
        self._ports = PortReservation(2)
        self.port, self.http_port = self._ports.ports
        prepare(kubernetes)
        config = yaml.safe_load(kubernetes.cluster.kubeconfig.read_text("utf-8"))
        config["users"][0]["user"] = {"token": kubernetes.token(OWN, OPERATOR)}
        if server:
            config["clusters"][0]["cluster"]["server"] = server
        (folder / "kubeconfig").write_text(yaml.safe_dump(config), "utf-8")
        (folder / "policy.json").write_text(json.dumps(policy or {}), "utf-8")
        self.process = ServerProcess(
            "kernelspan-operator",
            [
                Path(sys.executable).parent / "kernelspan-operator",
                f"--kubeconfig={folder / 'kubeconfig'}",
                f"--policy={folder / 'policy.json'}",
                f"--listen=127.0.0.1:{self.port}",
                f"--listen-http=127.0.0.1:{self.http_port}",
                *options,
            ],
            folder / "operator.log",
            lambda: answers_ok(self.http_port, "/readyz"),
            environment,
            start_seconds,
        )

    @property
    def authority(self) -> bytes:
        """What agents trust, as the ConfigMap that they mount has it."""
        path = f"/api/v1/namespaces/{OWN}/configmaps/kernelspan-ca"
        return str(self._kubernetes.ask("GET", path)["data"]["ca.crt"]).encode()

    @property
    def kubernetes(self) -> Kubernetes:
        """Where it runs."""
        return self._kubernetes

    def metric(self, name: str, **labels: str) -> float:
        """A metric's value, without the prefix; 0 where that series is not there. AssertionError: no such metric."""
        status, body = http_get(self.http_port, "/metrics")
        assert status == 200
        known = False
        for family in text_string_to_metric_families(body.decode()):
            for sample in family.samples:
                known = known or sample.name.removesuffix("_total") == f"kernelspan_operator_{name}"
                if sample.name.removesuffix("_total") == f"kernelspan_operator_{name}" and sample.labels == labels:
                    return float(sample.value)
            known = known or family.name == f"kernelspan_operator_{name}"
        assert known, f"no metric {name}"
        return 0.0

    def log(self) -> str:
        """All that it wrote."""
        return self.process.log.read_text("utf-8")

    def forbidden(self) -> list[str]:
        """The lines of its log that tell of a request refused for want of a right."""
        return [line for line in self.log().splitlines() if re.search(r"\b403\b", line)]

    def resident_bytes(self) -> int:
        """What of it is in memory."""
        return int(Path(f"/proc/{self.process.pid}/statm").read_text("ascii").split()[1]) * 4096

    def __enter__(self) -> Self:
        try:
            self.process.start()
        except BaseException:
            self._ports.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.process.stop()
        self._ports.close()


def prepare(kubernetes: Kubernetes) -> None:
    """The operator's namespace, both service accounts, and the operator's rights. The agents' account has none."""
    kubernetes.namespace(OWN)
    for name in (OPERATOR, AGENTS):
        kubernetes.make(f"/api/v1/namespaces/{OWN}/serviceaccounts", {"metadata": {"name": name}})
    subject = [{"kind": "ServiceAccount", "name": OPERATOR, "namespace": OWN}]
    rbac, group = "/apis/rbac.authorization.k8s.io/v1", "rbac.authorization.k8s.io"
    kubernetes.make(f"{rbac}/clusterroles", {"metadata": {"name": OPERATOR}, "rules": CLUSTER_RULES})
    ref = {"apiGroup": group, "kind": "ClusterRole", "name": OPERATOR}
    kubernetes.make(
        f"{rbac}/clusterrolebindings", {"metadata": {"name": OPERATOR}, "roleRef": ref, "subjects": subject}
    )
    grant(kubernetes, OWN, OPERATOR, OWN_RULES)


def grant(kubernetes: Kubernetes, namespace: str, name: str, rules: list[dict[str, Any]]) -> None:
    """Rights of the operator in one namespace."""
    folder, group = f"/apis/rbac.authorization.k8s.io/v1/namespaces/{namespace}", "rbac.authorization.k8s.io"
    kubernetes.make(f"{folder}/roles", {"metadata": {"name": name}, "rules": rules})
    subject = [{"kind": "ServiceAccount", "name": OPERATOR, "namespace": OWN}]
    ref = {"apiGroup": group, "kind": "Role", "name": name}
    kubernetes.make(f"{folder}/rolebindings", {"metadata": {"name": name}, "roleRef": ref, "subjects": subject})
