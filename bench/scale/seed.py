# SPDX-License-Identifier: Apache-2.0
"""Fills a cluster through its API: nodes, agents' pods and tokens, applications' pods with their statuses, profiles.

The scheduler and the kubelets are played here, by the same calls that they would make. No controllers run: nothing is
changed behind the benchmark's back, and what the operator is told is exactly what is written here.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TextIO

from bench.processes import BenchError
from bench.scale import sizes as cluster
from bench.scale.api import Api
from bench.scale.sizes import Body, Sizes
from kernelspan_api.control import AUDIENCE
from tests.support.operators import AGENTS, OPERATOR, OWN, profile_path

Say = Callable[[str], None]
TOKEN_SECONDS = 4 * 3600
LEAST_FREE_BYTES = 4 << 30
_STEP = 5000


def say_to(stream: TextIO) -> Say:
    """Progress with the seconds since the beginning."""
    began = time.monotonic()
    return lambda text: print(f"scale: {time.monotonic() - began:6.1f} s: {text}", file=stream, flush=True)


def free_bytes() -> int:
    """Memory that can be had without swapping."""
    for line in Path("/proc/meminfo").read_text("ascii").splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    return 0


def check_memory(what: str) -> None:
    """Raises BenchError where going on might take from others what they need."""
    if (left := free_bytes()) < LEAST_FREE_BYTES:
        raise BenchError(f"{what}: only {left >> 20} MiB of memory are left, and 4 GiB are to stay free")


async def namespaces(api: Api, names: Iterable[str]) -> None:
    """With the service account that pods want and a controller would make."""
    for name in names:
        await api.call("POST", "/api/v1/namespaces", {"metadata": {"name": name}})
        await api.call("POST", f"/api/v1/namespaces/{name}/serviceaccounts", {"metadata": {"name": "default"}})


async def nodes(api: Api, sizes: Sizes) -> None:
    """All nodes, Ready."""

    async def one(index: int) -> None:
        await api.call("POST", "/api/v1/nodes", cluster.node(index))
        await beat(api, index)

    await api.each(range(sizes.nodes), one)


async def beat(api: Api, index: int) -> None:
    """What a kubelet writes of its node every five minutes although nothing has changed."""
    now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    condition = {"type": "Ready", "status": "True", "reason": "KubeletReady", "lastHeartbeatTime": now}
    path = f"/api/v1/nodes/{cluster.node_name(index)}/status"
    await api.merge(path, {"status": {"conditions": [condition]}})


async def tokens(api: Api, sizes: Sizes) -> dict[str, str]:
    """A token for the agent of each node, bound to its pod, as the kubelet projects it."""
    found: dict[str, str] = {}
    for account in (AGENTS, OPERATOR):
        await api.call("POST", f"/api/v1/namespaces/{OWN}/serviceaccounts", {"metadata": {"name": account}})

    async def one(index: int) -> None:
        made = await api.call("POST", f"/api/v1/namespaces/{OWN}/pods", cluster.agent_pod(index, AGENTS))
        meta = made["metadata"]
        spec = {
            "audiences": [AUDIENCE],
            "expirationSeconds": TOKEN_SECONDS,
            "boundObjectRef": {"apiVersion": "v1", "kind": "Pod", "name": meta["name"], "uid": meta["uid"]},
        }
        body = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": spec}
        answer = await api.call("POST", f"/api/v1/namespaces/{OWN}/serviceaccounts/{AGENTS}/token", body)
        found[cluster.node_name(index)] = answer["status"]["token"]

    await api.each(range(sizes.nodes), one)
    return found


def pods_path(where: str, name: str = "") -> str:
    """Of the pods of a namespace, or of one of them."""
    return f"/api/v1/namespaces/{where}/pods" + (f"/{name}" if name else "")


async def run_pod(api: Api, made: Body) -> None:
    """What its kubelet says once it runs."""
    meta = made["metadata"]
    await api.call("PUT", pods_path(meta["namespace"], meta["name"]) + "/status", cluster.running(made))


async def pods(api: Api, sizes: Sizes, say: Say) -> None:
    """All pods of the applications, on their nodes, running. Raises BenchError where memory gets short."""

    async def one(index: int) -> None:
        body = cluster.pod(sizes, index)
        await run_pod(api, await api.call("POST", pods_path(body["metadata"]["namespace"]), body))

    began = time.monotonic()
    for start in range(0, sizes.pods, _STEP):
        await api.each(range(start, min(start + _STEP, sizes.pods)), one)
        done = min(start + _STEP, sizes.pods)
        say(f"pods {done:,} of {sizes.pods:,}, {time.monotonic() - began:.0f} s, {free_bytes() >> 20:,} MiB free")
        check_memory(f"at {done:,} pods")


async def deployments(api: Api, sizes: Sizes) -> None:
    """The workloads that profiles name."""

    async def one(app: int) -> None:
        await api.call("POST", f"/apis/apps/v1/namespaces/{cluster.namespace(app)}/deployments", cluster.deployment(app))

    await api.each(range(sizes.apps), one)


async def profiles(api: Api, sizes: Sizes) -> None:
    """All profiles."""
    await api.each(
        cluster.profiles(sizes), lambda one: api.call("POST", profile_path(one["metadata"].get("namespace", "")), one)
    )


async def fill(api: Api, sizes: Sizes, say: Say) -> dict[str, str]:
    """All of it; the agents' tokens by node."""
    await namespaces(api, [OWN, *cluster.namespaces(sizes)])
    await nodes(api, sizes)
    say(f"nodes {sizes.nodes:,}")
    found = await tokens(api, sizes)
    say(f"tokens {len(found):,}")
    await deployments(api, sizes)
    await pods(api, sizes, say)
    await profiles(api, sizes)
    say(f"profiles {sizes.profiles:,}")
    return found
