# SPDX-License-Identifier: Apache-2.0
"""What a cluster of the benchmark consists of, as bodies for the API server: nodes, agents, pods, workloads, profiles.

Every pod is selected by the profile `everywhere`, which is the most that an operator can have to hold. Of the others one
selects the pods of one node, the rest an application each, by its labels or by its Deployment, in turns. Pods go round
the nodes and the applications, so that an application runs on many nodes and a node runs many applications.
"""

from __future__ import annotations

import hashlib
import ipaddress
import uuid
from dataclasses import dataclass
from typing import Any

from kernelspan_api.resource import API_VERSION

Body = dict[str, Any]
EVERYWHERE, ONE_NODE = "everywhere", "one-node"
PIN = "example.com/pinned"  # label of the pods that `one-node` selects
_APPS_IN_A_NAMESPACE = 10
_NODES_ADDRESSES, _PODS_ADDRESSES = ipaddress.IPv4Address("172.16.0.1"), ipaddress.IPv4Address("10.0.0.1")


@dataclass(frozen=True, slots=True)
class Sizes:
    """How much of each there is."""

    nodes: int
    pods: int
    profiles: int

    @property
    def apps(self) -> int:
        """Applications: one for each profile that is neither `everywhere` nor `one-node`."""
        return self.profiles - 2

    def node(self, pod: int) -> int:
        """The node of a pod: one after the other."""
        return pod % self.nodes

    def app(self, pod: int) -> int:
        """The application of a pod. Shifted each time round the nodes, so that no node has one application alone."""
        return (pod + pod // self.nodes) % self.apps


def node_name(index: int) -> str:
    """A node's name."""
    return f"node-{index:05d}"


def node_address(index: int) -> str:
    """A node's address."""
    return str(_NODES_ADDRESSES + index)


def pod_address(index: int) -> str:
    """A pod's address, another for each."""
    return str(_PODS_ADDRESSES + index)


def app_name(index: int) -> str:
    """An application's name, which is that of its Deployment and of its profile."""
    return f"app-{index:03d}"


def namespace(app: int) -> str:
    """Where an application is."""
    return f"team-{app // _APPS_IN_A_NAMESPACE:02d}"


def namespaces(sizes: Sizes) -> list[str]:
    """All of them."""
    return sorted({namespace(app) for app in range(sizes.apps)})


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def node(index: int) -> Body:
    """A node."""
    name = node_name(index)
    labels = {"kubernetes.io/hostname": name, "kubernetes.io/os": "linux", "kubernetes.io/arch": "amd64"}
    return {"apiVersion": "v1", "kind": "Node", "metadata": {"name": name, "labels": labels}}


def node_like(first: Body, index: int) -> Body:
    """A node as the API server keeps it, made of another one."""
    name = node_name(index)
    labels = first["metadata"]["labels"] | {"kubernetes.io/hostname": name}
    return {"apiVersion": "v1", "kind": "Node"} | first | {"metadata": _meta(first, name, labels=labels)}


def _meta(first: Body, name: str, **more: Any) -> Body:
    meta = {key: value for key, value in first["metadata"].items() if key != "resourceVersion"}
    return meta | {"name": name, "uid": _uid(f"{meta.get('namespace', '')}/{name}")} | more


def _uid(text: str) -> str:
    return str(uuid.UUID(_digest(text)[:32], version=4))


def deployment(app: int) -> Body:
    """A workload. No controller runs that would look at it: its pods are made by hand."""
    name = app_name(app)
    labels = {"app": name}
    template = {"metadata": {"labels": labels}, "spec": {"containers": [{"name": "web", "image": "web:1"}]}}
    return {"metadata": {"name": name}, "spec": {"selector": {"matchLabels": labels}, "template": template}}


def pod(sizes: Sizes, index: int, *, bound: bool = True, name: str = "") -> Body:
    """A pod as a Deployment's ReplicaSet makes it, on its node already, or (not `bound`) yet to be scheduled."""
    app, pinned = app_name(sizes.app(index)), sizes.node(index) == 0
    template = _digest(app)[:10]
    labels = {
        "app": app,
        "app.kubernetes.io/name": app,
        "app.kubernetes.io/component": "web",
        "app.kubernetes.io/version": "1.4.2",
        "pod-template-hash": template,
    } | ({PIN: "true"} if pinned else {})
    owner = {
        "apiVersion": "apps/v1",
        "kind": "ReplicaSet",
        "name": f"{app}-{template}",
        "uid": _uid(app),
        "controller": True,
        "blockOwnerDeletion": True,
    }
    environment = [{"name": f"SETTING_{number}", "value": "x" * 40} for number in range(8)]
    resources = {"requests": {"cpu": "100m", "memory": "128Mi"}, "limits": {"memory": "256Mi"}}
    containers = [
        {"name": name, "image": f"registry.example/{app}/{name}:1.4.2", "env": environment, "resources": resources}
        for name in ("web", "proxy")
    ]
    spec: Body = {"containers": containers, "terminationGracePeriodSeconds": 0}
    if bound:
        spec["nodeName"] = node_name(sizes.node(index))
    metadata = {
        "name": name or f"{app}-{template}-{index:06d}",
        "namespace": namespace(sizes.app(index)),
        "labels": labels,
        "ownerReferences": [owner],
    }
    return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec}


def running(made: Body, sizes: Sizes, index: int) -> Body:
    """The pod with the status that its kubelet would give it."""
    now = made["metadata"]["creationTimestamp"]
    own, host = pod_address(index), node_address(sizes.node(index))
    status = {
        "phase": "Running",
        "podIP": own,
        "podIPs": [{"ip": own}],
        "hostIP": host,
        "hostIPs": [{"ip": host}],
        "startTime": now,
        "conditions": [
            {"type": kind, "status": "True", "lastTransitionTime": now}
            for kind in ("Initialized", "Ready", "ContainersReady", "PodScheduled")
        ],
        "containerStatuses": [
            {
                "name": one["name"],
                "image": one["image"],
                "imageID": f"registry.example/{one['name']}@sha256:{_digest(one['image'])}",
                "containerID": f"containerd://{_digest(made['metadata']['uid'] + one['name'])}",
                "ready": True,
                "restartCount": 0,
                "state": {"running": {"startedAt": now}},
            }
            for one in made["spec"]["containers"]
        ],
    }
    return made | {"status": status}


def pod_like(first: Body, sizes: Sizes, index: int) -> Body:
    """A running pod as the API server keeps it, made of another one of its application."""
    body = pod(sizes, index)
    meta = _meta(first, body["metadata"]["name"], labels=body["metadata"]["labels"])
    found = {"apiVersion": "v1", "kind": "Pod"} | first | {"metadata": meta}
    found["spec"] = first["spec"] | {"nodeName": body["spec"]["nodeName"]}
    return running(found, sizes, index)


def agent_pod(account: str) -> Body:
    """The pod that the token of the first node's agent is bound to."""
    name = node_name(0)
    spec = {"nodeName": name, "serviceAccountName": account, "containers": [{"name": "agent", "image": "agent"}]}
    return {"metadata": {"name": f"agent-{name}", "labels": {"app": "kernelspan-agent"}}, "spec": spec}


def agent_pod_like(first: Body, index: int) -> Body:
    """That of another node, as the API server keeps it."""
    name = node_name(index)
    found = {"apiVersion": "v1", "kind": "Pod"} | first | {"metadata": _meta(first, f"agent-{name}")}
    return found | {"spec": first["spec"] | {"nodeName": name}}


def profiles(sizes: Sizes) -> list[Body]:
    """All profiles. A ClusterTraceProfile has no namespace."""
    found = [
        _profile("", EVERYWHERE, {"podSelector": {}, "files": {"paths": ["/var/lib/**"]}}),
        _profile("", ONE_NODE, {"podSelector": {"matchLabels": {PIN: "true"}}, "network": {}}),
    ]
    for app in range(sizes.apps):
        name = app_name(app)
        by_labels: Body = {"podSelector": {"matchLabels": {"app": name}}}
        by_workload: Body = {"workloadRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": name}}
        spec = by_workload if app % 2 else by_labels
        more = {"files": {"operations": ["Open", "Read", "Write"]}, "network": {"ports": [8080, 5432]}, "processes": {}}
        found.append(_profile(namespace(app), name, spec | more))
    return found


def _profile(where: str, name: str, spec: Body) -> Body:
    kind = "TraceProfile" if where else "ClusterTraceProfile"
    metadata = {"name": name} | ({"namespace": where} if where else {})
    return {"apiVersion": API_VERSION, "kind": kind, "metadata": metadata, "spec": spec}
