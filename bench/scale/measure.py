# SPDX-License-Identifier: Apache-2.0
"""The measurement, one phase after the other, on a cluster that `seed` has filled.

Times run from just before the request that changes something to the moment at which the last agent concerned has the
plan: the API server, the watch, the operator, TLS and the agent's own reading are all in it. CPU seconds are those of the
operator's process: on a machine that others use they say more than times do.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from bench.processes import BenchError
from bench.scale import seed
from bench.scale import sizes as cluster_sizes
from bench.scale.api import Api
from bench.scale.fleets import Fleets
from bench.scale.seed import Say
from bench.scale.sizes import EVERYWHERE, ONE_NODE, Body, Sizes, namespace, node_name
from bench.scale.watched import Health, by_verb, calls, metric, usage, writes
from tests.support.cluster import Cluster
from tests.support.operators import Operator, profile_path

_WAIT_SECONDS = 300.0
_QUIET_SECONDS = 4.0  # statuses are written at most once a second; a write that failed comes again after two
_NODE_BEAT_SECONDS = 300.0  # kubelet: nodeStatusReportFrequency
ADDRESSES = 30  # that an agent asks about, as many as pods are on a node
Figures = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Effort:
    """How much is done of each."""

    changes: int = 20
    idle_seconds: float = 60.0


class Measurement:
    """One operator, its agents, and what they came to."""

    def __init__(self, cluster: Cluster, api: Api, operator: Operator, sizes: Sizes, effort: Effort, say: Say) -> None:
        self._cluster, self._api, self._operator = cluster, api, operator
        self._sizes, self._effort, self._say = sizes, effort, say
        self._fleets: Fleets
        self._health = Health(operator)
        self.figures: Figures = {}

    async def run(self, fleets: Fleets) -> Figures:
        """All phases. The operator runs, and no agent has connected before."""
        self._fleets = fleets
        health = asyncio.ensure_future(self._health.run())
        await self._phase("first", self._first)
        await self._phase("started again, agents without plans", self._anew)
        await self._phase("started again, agents with their plans", self._again)
        await self._phase("agents ask about addresses", self._asked)
        await self._phase("idle", self._idle)
        await self._phase("change on all nodes", lambda: self._changes(EVERYWHERE, self._sizes.nodes))
        await self._phase("change on one node", lambda: self._changes(ONE_NODE, 1))
        await self._phase("pod bound", self._pods)
        self.figures["agents"] = await fleets.state()
        mean = await metric(self._operator, "plan_size_bytes_sum") / await metric(
            self._operator, "plan_size_bytes_count"
        )
        self.figures["plan_kilobytes"] = round(mean / 1e3, 2)
        health.cancel()
        return self.figures

    async def _phase(self, name: str, do: Callable[[], Awaitable[Figures]]) -> None:
        """Runs it and notes what the operator used and asked for meanwhile."""
        before, made, fleet = usage(self._operator).cpu_seconds, calls(self._cluster), self._fleets.cpu_seconds()
        began, built = time.monotonic(), await metric(self._operator, "plans_built")
        self._health.reset()
        found = await do()
        await self._quiet()
        now, after = usage(self._operator), calls(self._cluster) - made
        restarted = now.cpu_seconds < before or "restart" in found
        found |= {
            "seconds": round(time.monotonic() - began, 2),
            "operator_cpu_seconds": round(now.cpu_seconds - (0 if restarted else before), 2),
            "operator_resident_mb": round(now.resident_mb, 1),
            "operator_most_resident_mb": round(now.most_resident_mb, 1),
            "healthz_most_seconds": round(self._health.most, 3),
            "agents_cpu_seconds": round(self._fleets.cpu_seconds() - fleet, 2),
            "plans_built": int(await metric(self._operator, "plans_built") - (0 if restarted else built)),
            "api_calls": dict(sorted(after.items())),
            "api_calls_by_verb": by_verb(after),
            "api_writes": writes(after),
        }
        self.figures[name] = found
        said = {key: value for key, value in found.items() if key not in ("api_calls", "times")}
        self._say(f"{name}: " + ", ".join(f"{key} {value}" for key, value in said.items()))
        seed.check_memory(name)

    async def _quiet(self) -> None:
        """Until the operator has written nothing for a while."""
        last, since = -1, time.monotonic()
        deadline = time.monotonic() + _WAIT_SECONDS
        while time.monotonic() - since < _QUIET_SECONDS:
            if (now := writes(calls(self._cluster))) != last:
                last, since = now, time.monotonic()
            if time.monotonic() > deadline:
                raise BenchError(f"the operator has not stopped writing after {_WAIT_SECONDS:g} s")
            await asyncio.sleep(0.5)

    # --- the phases ---------------------------------------------------------------------------------------------------

    async def _first(self) -> Figures:
        """Agents dial an operator that has been there for a while: a DaemonSet is installed."""
        began = time.monotonic()
        times = await self._fleets.until(self._sizes.nodes, _WAIT_SECONDS, plan=True)
        met = await self._fleets.met(_WAIT_SECONDS)
        return {"all plans after": round(times[-1] - began, 3), "all met after": round(met - began, 3)}

    async def _restart(self, *, forget: bool) -> tuple[float, Figures]:
        """Stops it and starts it anew: when that began. It is ready (plans are given) on return."""
        asked = time.monotonic()
        await asyncio.to_thread(self._operator.process.stop)
        if forget:
            await self._fleets.forget()
        began = time.monotonic()
        await asyncio.to_thread(self._operator.process.start)
        ready = time.monotonic() - began
        return began, {"restart": True, "stopped in": round(began - asked, 3), "ready after": round(ready, 3)}

    async def _anew(self) -> Figures:
        began, found = await self._restart(forget=True)
        times = await self._fleets.until(self._sizes.nodes, _WAIT_SECONDS, plan=True)
        met = await self._fleets.met(_WAIT_SECONDS)
        return found | {"all plans after": round(times[-1] - began, 3), "all met after": round(met - began, 3)}

    async def _again(self) -> Figures:
        """Agents come back with the hash of what they hold; nobody is sent what he has."""
        held = (await self._fleets.state())["counts"]["plans"]
        began, found = await self._restart(forget=False)
        while (there := await metric(self._operator, "streams")) < self._sizes.nodes:
            if time.monotonic() - began > _WAIT_SECONDS:
                raise BenchError(f"{there:g} of {self._sizes.nodes} agents came back")
            await asyncio.sleep(0.1)
        streams = time.monotonic() - began
        sent = (await self._fleets.state())["counts"]["plans"] - held
        met = await self._fleets.met(_WAIT_SECONDS)
        return found | {"all streams after": round(streams, 3), "all met after": round(met - began, 3), "plans": sent}

    async def _asked(self) -> Figures:
        """Every agent at once, about pods anywhere: whose requests they have just seen."""
        began = time.monotonic()
        sizes = self._sizes
        each = min(ADDRESSES, sizes.pods)
        ended, told, wrong = await self._fleets.ask(each, sizes.nodes, sizes.pods, _WAIT_SECONDS)
        if wrong or told < sizes.nodes * each:
            raise BenchError(f"of {sizes.nodes * each:,} addresses the node of {told:,} was told, of {wrong:,} wrongly")
        return {"all told after": round(ended - began, 3), "addresses": told}

    async def _idle(self) -> Figures:
        """Nothing happens, but for what always does: heartbeats of the agents, and kubelets that write their node."""
        beats = max(round(self._sizes.nodes * self._effort.idle_seconds / _NODE_BEAT_SECONDS), 1)
        began = time.monotonic()
        for index in range(beats):
            await asyncio.sleep(max(began + index * self._effort.idle_seconds / beats - time.monotonic(), 0))
            await seed.beat(self._api, index % self._sizes.nodes)
        await asyncio.sleep(max(began + self._effort.idle_seconds - time.monotonic(), 0))
        return {"window_seconds": round(time.monotonic() - began, 1), "node_writes_of_kubelets": beats}

    async def _changes(self, profile: str, count: int) -> Figures:
        """Its spec is changed; each time all agents concerned are waited for, and a while for what comes after."""
        path = f"{profile_path('')}/{profile}"
        uid, delays, cpu = "", [], []
        for number in range(self._effort.changes):
            # Another one each time, and never the default, which changes nothing.
            limits = {"limits": {"eventsPerSecond": 20_000 + number + int(time.time()) % 1000 * 10}}
            used, began = usage(self._operator).cpu_seconds, time.monotonic()
            changed = (await self._api.merge(path, {"spec": limits}))["metadata"]
            uid = changed["uid"]
            times = await self._fleets.until(count, _WAIT_SECONDS, profile=uid, generation=changed["generation"])
            delays.append(times[-1] - began)
            await asyncio.sleep(2)  # the agents' answers and the status belong to this change's CPU time
            cpu.append(usage(self._operator).cpu_seconds - used)
        return {"agents": count, "delay": spread(delays), "operator_cpu_seconds_each": spread(cpu)}

    async def _pods(self) -> Figures:
        """A pod is there and has no node; it gets one; its node's agent is waited for. Then it is deleted."""
        delays = []
        for number in range(self._effort.changes):
            index = self._sizes.pods + number * 7
            body = cluster_sizes.pod(self._sizes, index, bound=False, name=f"late-{number}-{int(time.time())}")
            where, name = namespace(self._sizes.app(index)), body["metadata"]["name"]
            made: Body = await self._api.call("POST", seed.pods_path(where), body)
            target = {"apiVersion": "v1", "kind": "Node", "name": node_name(self._sizes.node(index))}
            began = time.monotonic()
            binding = {"apiVersion": "v1", "kind": "Binding", "metadata": {"name": name}, "target": target}
            await self._api.call("POST", seed.pods_path(where, name) + "/binding", binding)
            times = await self._fleets.until(1, _WAIT_SECONDS, pod=made["metadata"]["uid"])
            delays.append(times[0] - began)
            await self._api.call("DELETE", seed.pods_path(where, name), {"gracePeriodSeconds": 0})
            await asyncio.sleep(0.3)
        return {"delay": spread(delays)}


def spread(values: Sequence[float]) -> dict[str, float]:
    """Median, 95th percentile (nearest rank) and the most."""
    ordered = sorted(values)
    at = {"p50": 0.5, "p95": 0.95, "max": 1.0}
    return {
        name: round(ordered[max(-(-len(ordered) * round(part * 100) // 100) - 1, 0)], 4) for name, part in at.items()
    }


@asynccontextmanager
async def agents_of(operator: Operator, tokens: dict[str, str]) -> AsyncIterator[Fleets]:
    """The agents of all nodes, dialling."""
    async with Fleets(operator.port, operator.authority, tokens, operator.process.log.parent) as fleets:
        yield fleets
