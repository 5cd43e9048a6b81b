# SPDX-License-Identifier: Apache-2.0
"""Fills a cluster: nodes, agents' pods and tokens, applications' pods with their statuses, profiles.

The first of each is made through the API, by the calls that a scheduler and a kubelet would make; of nodes and pods the
others are copies of what the API server made of it, put into its store. The API server reads them as it reads its own,
and that is all that an operator sees; to make 30,000 pods by 60,000 calls takes many minutes. No controllers run: nothing
is changed behind the benchmark's back.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import TextIO

from bench.processes import BenchError
from bench.scale import sizes as cluster
from bench.scale.api import Api
from bench.scale.sizes import Body, Sizes
from bench.scale.store import Store
from kernelspan_api.control import AUDIENCE
from tests.support.operators import AGENTS, OPERATOR, OWN, profile_path

Say = Callable[[str], None]
TOKEN_SECONDS = 4 * 3600
LEAST_FREE_BYTES = 4 << 30
_STEP = 5000
_READ_SECONDS = 300.0


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


async def nodes(api: Api, store: Store, sizes: Sizes) -> None:
    """All nodes, Ready."""
    await api.call("POST", "/api/v1/nodes", cluster.node(0))
    await beat(api, 0)
    first = await api.call("GET", f"/api/v1/nodes/{cluster.node_name(0)}")
    await store.put(
        ("minions/" + one["metadata"]["name"], one)
        for one in map(partial(cluster.node_like, first), range(1, sizes.nodes))
    )


async def beat(api: Api, index: int) -> None:
    """What a kubelet writes of its node every five minutes although nothing has changed."""
    now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    condition = {"type": "Ready", "status": "True", "reason": "KubeletReady", "lastHeartbeatTime": now}
    path = f"/api/v1/nodes/{cluster.node_name(index)}/status"
    await api.merge(path, {"status": {"conditions": [condition]}})


async def tokens(api: Api, store: Store, sizes: Sizes) -> dict[str, str]:
    """A token for the agent of each node, bound to its pod, as the kubelet projects it."""
    found: dict[str, str] = {}
    for account in (AGENTS, OPERATOR):
        await api.call("POST", f"/api/v1/namespaces/{OWN}/serviceaccounts", {"metadata": {"name": account}})
    first = await api.call("POST", pods_path(OWN), cluster.agent_pod(AGENTS))
    agents = [first, *(cluster.agent_pod_like(first, index) for index in range(1, sizes.nodes))]
    await store.put((f"pods/{OWN}/{one['metadata']['name']}", one) for one in agents[1:])

    async def one(agent: Body) -> None:
        meta = agent["metadata"]
        spec = {
            "audiences": [AUDIENCE],
            "expirationSeconds": TOKEN_SECONDS,
            "boundObjectRef": {"apiVersion": "v1", "kind": "Pod", "name": meta["name"], "uid": meta["uid"]},
        }
        body = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": spec}
        answer = await api.call("POST", f"/api/v1/namespaces/{OWN}/serviceaccounts/{AGENTS}/token", body)
        found[agent["spec"]["nodeName"]] = answer["status"]["token"]

    await api.each(agents, one)
    return found


def pods_path(where: str, name: str = "") -> str:
    """Of the pods of a namespace, or of one of them."""
    return f"/api/v1/namespaces/{where}/pods" + (f"/{name}" if name else "")


async def run_pod(api: Api, made: Body, sizes: Sizes, index: int) -> None:
    """What its kubelet says once it runs."""
    meta = made["metadata"]
    path = pods_path(meta["namespace"], meta["name"]) + "/status"
    await api.call("PUT", path, cluster.running(made, sizes, index))


async def pods(api: Api, store: Store, sizes: Sizes, say: Say) -> None:
    """All pods of the applications, on their nodes, running. Raises BenchError where memory gets short."""
    firsts: dict[int, Body] = {}
    for index in range(sizes.pods):
        if (app := sizes.app(index)) not in firsts:
            body = cluster.pod(sizes, index)
            path = pods_path(body["metadata"]["namespace"])
            await run_pod(api, await api.call("POST", path, body), sizes, index)
            firsts[app] = await api.call("GET", f"{path}/{body['metadata']['name']}")
        if len(firsts) == sizes.apps:
            break
    made = {one["metadata"]["name"] for one in firsts.values()}
    for start in range(0, sizes.pods, _STEP):
        step = [
            cluster.pod_like(firsts[sizes.app(index)], sizes, index)
            for index in range(start, min(start + _STEP, sizes.pods))
        ]
        places = ((f"pods/{one['metadata']['namespace']}/{one['metadata']['name']}", one) for one in step)
        await store.put((key, one) for key, one in places if one["metadata"]["name"] not in made)
        say(f"pods {start + len(step):,} of {sizes.pods:,}, {free_bytes() >> 20:,} MiB free")
        check_memory(f"at {start + len(step):,} pods")


async def deployments(api: Api, sizes: Sizes) -> None:
    """The workloads that profiles name."""

    async def one(app: int) -> None:
        await api.call(
            "POST", f"/apis/apps/v1/namespaces/{cluster.namespace(app)}/deployments", cluster.deployment(app)
        )

    await api.each(range(sizes.apps), one)


async def profiles(api: Api, sizes: Sizes) -> None:
    """All profiles."""
    await api.each(
        cluster.profiles(sizes), lambda one: api.call("POST", profile_path(one["metadata"].get("namespace", "")), one)
    )


async def fill(api: Api, store: Store, sizes: Sizes, say: Say) -> dict[str, str]:
    """All of it; the agents' tokens by node."""
    await namespaces(api, [OWN, *cluster.namespaces(sizes)])
    await nodes(api, store, sizes)
    say(f"nodes {sizes.nodes:,}")
    await deployments(api, sizes)
    await pods(api, store, sizes, say)
    found = await tokens(api, store, sizes)
    say(f"tokens {len(found):,}")
    await profiles(api, sizes)
    say(f"profiles {sizes.profiles:,}")
    await read(api, sizes)
    return found


async def read(api: Api, sizes: Sizes) -> None:
    """Until the API server has read what it did not write itself. Raises BenchError."""
    wanted = {"/api/v1/nodes": sizes.nodes, "/api/v1/pods": sizes.nodes + sizes.pods}
    for path, count in wanted.items():
        deadline = time.monotonic() + _READ_SECONDS
        while True:
            try:
                page = await api.call("GET", f"{path}?limit=1")
                found = 1 + page["metadata"].get("remainingItemCount", 0)
            except BenchError:  # it says so where it is far behind
                found = 0
            if found == count:
                break
            if time.monotonic() > deadline:
                raise BenchError(f"the API server has {found:,} at {path}, not {count:,}")
            await asyncio.sleep(1)
