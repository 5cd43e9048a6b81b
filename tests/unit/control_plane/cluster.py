# SPDX-License-Identifier: Apache-2.0
"""Objects of a small made-up cluster, and a System on an in-process API server."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Self

import grpc

from kernelspan_api.control import SYNC, control_pb2
from kernelspan_operator.models.policy import Policy
from kernelspan_operator.services.kube import Kube
from kernelspan_operator.services.system import Settings, System
from kernelspan_operator.services.watch import Timing
from tests.support.apiserver import ApiServer, api_server

PROFILES = "/apis/kernelspan.io/v1alpha1/traceprofiles"
CLUSTER_PROFILES = "/apis/kernelspan.io/v1alpha1/clustertraceprofiles"
PODS, NODES, NAMESPACES = "/api/v1/namespaces/{}/pods", "/api/v1/nodes", "/api/v1/namespaces"
FAST = Timing(watch=60, silence=5.0, backoff=(0.01, 0.05))
FAR = 4_000_000_000


def profile(name: str = "checkout", generation: int = 1, uid: str = "", **spec: Any) -> dict[str, Any]:
    """A TraceProfile of the namespace shop."""
    if not {"podSelector", "workloadRef"} & spec.keys():
        spec["podSelector"] = {"matchLabels": {"app": "checkout"}}
    return {
        "apiVersion": "kernelspan.io/v1alpha1",
        "kind": "TraceProfile",
        "metadata": {
            "name": name,
            "namespace": "shop",
            "uid": uid or f"uid-{name}",
            "generation": generation,
            "creationTimestamp": "2026-01-01T00:00:00Z",
        },
        "spec": {"files": {}} | spec,
    }


def cluster_profile(name: str = "all", **spec: Any) -> dict[str, Any]:
    """A ClusterTraceProfile."""
    found = profile(name, **({"podSelector": {}} | spec))
    found["kind"] = "ClusterTraceProfile"
    del found["metadata"]["namespace"]
    return found


def pod(name: str, node: str = "n1", namespace: str = "shop", app: str = "checkout", **more: Any) -> dict[str, Any]:
    """A running pod of two containers."""
    return {
        "metadata": {"name": name, "namespace": namespace, "uid": f"uid-{name}", "labels": {"app": app}}
        | more.pop("metadata", {}),
        "spec": {"nodeName": node, "containers": [{"name": "web"}, {"name": "proxy"}]} | more.pop("spec", {}),
        "status": {
            "phase": "Running",
            "containerStatuses": [{"name": "web", "containerID": f"containerd://web-{name}", "restartCount": 0}],
        }
        | more.pop("status", {}),
    }


def node(name: str, **labels: str) -> dict[str, Any]:
    """A node."""
    return {"metadata": {"name": name, "uid": f"uid-{name}", "labels": labels}}


def token(node_name: str, expires: float = FAR) -> str:
    """A token that the made-up TokenReview takes for one of that node."""
    payload = base64.urlsafe_b64encode(json.dumps({"exp": expires, "node": node_name}).encode()).decode().rstrip("=")
    return f"h.{payload}.s"


def review(body: Any) -> tuple[int, Any]:
    """TokenReview: who is in the token, taken on trust."""
    text = body["spec"]["token"]
    if text.count(".") != 2:
        return 201, {"status": {"authenticated": False, "error": "invalid"}}
    payload = text.split(".")[1]
    claims = json.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))
    extra = {"authentication.kubernetes.io/node-name": [claims["node"]]} if claims["node"] else {}
    user = {"username": claims.get("user", "system:serviceaccount:kernelspan:kernelspan-agent"), "extra": extra}
    return 201, {"status": {"authenticated": True, "audiences": body["spec"]["audiences"], "user": user}}


@dataclass
class Cluster:
    """An API server and an operator's services on it; kopf's part is played by `apply` and `delete`."""

    server: ApiServer
    kube: Kube
    system: System

    def apply(self, body: dict[str, Any]) -> None:
        """A profile is made or changed."""
        path = PROFILES if body["kind"] == "TraceProfile" else CLUSTER_PROFILES
        self.system.put(self.server.put(stored(body), body) if path else {})

    def delete(self, body: dict[str, Any]) -> None:
        """A profile is deleted."""
        self.server.delete(stored(body), body["metadata"]["name"])
        self.system.remove(body)

    def plan(self, name: str = "n1") -> control_pb2.NodePlan:
        """The plan of a node, as its agent would read it."""
        return control_pb2.NodePlan.FromString(self.system.plans.plan(name).data)

    def names(self, name: str = "n1") -> list[tuple[str, list[str]]]:
        """The pods of a plan with the names of the profiles that select them."""
        plan = self.plan(name)
        by_uid = {one.uid: one.name for one in plan.profiles}
        return [(one.name, [by_uid[match.profile_uid] for match in one.matches]) for one in plan.pods]

    def status(self, body: dict[str, Any]) -> dict[str, Any]:
        """What was written last."""
        found: dict[str, Any] = self.server.objects[stored(body)][body["metadata"]["name"]].get("status", {})
        return found

    def condition(self, body: dict[str, Any], kind: str) -> tuple[str, str]:
        """Status and reason of a condition."""
        all_ = {one["type"]: (one["status"], one["reason"]) for one in self.status(body).get("conditions", [])}
        return all_.get(kind, ("", ""))


def hash_of(plan: control_pb2.NodePlan) -> str:
    """What a plan's hash must be: that of the message which protobuf makes of all else, without the operator's version."""
    bare = control_pb2.NodePlan()
    bare.CopyFrom(plan)
    bare.ClearField("hash")
    bare.ClearField("operator_version")
    return hashlib.sha256(bare.SerializeToString(deterministic=True)).hexdigest()[:32]


def stored(body: dict[str, Any]) -> str:
    """Where a profile is."""
    if body["kind"] == "ClusterTraceProfile":
        return CLUSTER_PROFILES
    return f"/apis/kernelspan.io/v1alpha1/namespaces/{body['metadata']['namespace']}/traceprofiles"


@asynccontextmanager
async def operator(server: ApiServer, kube: Kube, policy: Policy | None = None) -> AsyncIterator[Cluster]:
    """An operator's services, started."""
    server.answers["POST", "/apis/authentication.k8s.io/v1/tokenreviews"] = review
    for path in (PROFILES, CLUSTER_PROFILES, NODES):
        server.objects.setdefault(path, {})
    settings = Settings(
        namespace="kernelspan",
        listen="127.0.0.1:0",
        server_names=("localhost", "127.0.0.1"),
        agent_service_account="kernelspan:kernelspan-agent",
        policy=policy or Policy(),
    )
    system = System(kube, settings, FAST)
    await system.start()
    try:
        yield Cluster(server, kube, system)
    finally:
        await system.close()


def run(test: Callable[[Cluster], Awaitable[None]], policy: Policy | None = None) -> None:
    """A test on an operator whose cluster has two nodes and the namespace shop."""

    async def main() -> None:
        async with api_server() as (server, kube):
            server.put(NODES, node("n1", disk="ssd"))
            server.put(NODES, node("n2"))
            async with operator(server, kube, policy) as cluster:
                await test(cluster)

    asyncio.run(main())


class Agent:
    """An agent's side of a stream, as a test drives it."""

    def __init__(
        self, cluster: Cluster, bearer: str, *, trust: bytes | None = None, options: Sequence[tuple[str, int]] = ()
    ) -> None:
        bundle = cluster.server.objects["/api/v1/namespaces/kernelspan/configmaps"]["kernelspan-ca"]["data"]["ca.crt"]
        credentials = grpc.ssl_channel_credentials(trust or bundle.encode())
        self.channel = grpc.aio.secure_channel(f"localhost:{cluster.system.port}", credentials, options)
        method = self.channel.stream_stream(
            SYNC,
            request_serializer=control_pb2.NodeReport.SerializeToString,
            response_deserializer=control_pb2.NodePlan.FromString,
        )
        self.call = method(metadata=(("authorization", f"Bearer {bearer}"),))

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc: object) -> None:
        self.call.cancel()
        await self.channel.close()

    async def hello(self, name: str, plan_hash: str = "") -> None:
        """The first report."""
        hello = control_pb2.Hello(node=name, agent_version="1", revision=1, kernel="6.1", plan_hash=plan_hash)
        await self.call.write(control_pb2.NodeReport(hello=hello))

    async def state(self, plan: control_pb2.NodePlan, **more: Any) -> None:
        """All profiles of a plan are in effect, but for `more`."""
        states = [control_pb2.ProfileState(uid=one.uid, generation=one.generation, **more) for one in plan.profiles]
        await self.call.write(control_pb2.NodeReport(state=control_pb2.State(plan_hash=plan.hash, profiles=states)))

    async def plan(self) -> control_pb2.NodePlan:
        """The next plan. AssertionError where none comes; AioRpcError where the call has ended."""
        async with asyncio.timeout(10):
            found = await self.call.read()
        if found is grpc.aio.EOF:
            code, details = await self.call.code(), await self.call.details()
            raise grpc.aio.AioRpcError(code, grpc.aio.Metadata(), grpc.aio.Metadata(), details=details)
        assert isinstance(found, control_pb2.NodePlan)
        return found
