# SPDX-License-Identifier: Apache-2.0
"""Many agents in one process: each has its own connection over TLS, its own token, and says what an agent says.

`python -m bench.scale.fleet FILE` reads its agents from the file (and removes it: there are tokens in it), then a command
a line from standard input, each answered by a line of JSON. Times are of the monotonic clock, which the processes of a
machine share.

    {"profile": UID, "generation": N, "count": M}   once M agents hold a plan with that generation: when each got it
    {"pod": UID, "count": 1}                        once so many agents hold a plan with that pod
    {"plan": true, "count": M}                      once M agents hold a plan with pods
    {"forget": true}                                every agent ends its stream and holds no plan any more
    {"met": true, "count": M}                       once M agents have been told who they are to others: when
    {"ask": A, "nodes": N, "pods": P}               once each agent was told of A addresses of pods whose they are: when the
                                                    last was, how many it was told of, how many wrongly
    {"state": true}                                 streams, plans, bytes and failures so far
"""

from __future__ import annotations

import asyncio
import json
import random
import sys
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc

from bench.scale.neighbours import Neighbours
from bench.scale.sizes import Sizes, node_name, pod_address
from kernelspan_agent.control.meeting import BACKOFF_SECONDS as MEETING_BACKOFF_SECONDS
from kernelspan_agent.control.stream import BACKOFF_SECONDS
from kernelspan_api.control import HEARTBEAT_SECONDS, MAX_PLAN_BYTES, REVISION, SYNC
from kernelspan_api.control.control_pb2 import Heartbeat, Hello, NodePlan, NodeReport, ProbeState, ProfileState, State

_OPTIONS = (
    ("grpc.max_receive_message_length", MAX_PLAN_BYTES),
    ("grpc.keepalive_time_ms", 30_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.enable_retries", 0),
    ("grpc.use_local_subchannel_pool", 1),  # else all agents would share one connection
)
_SAY_SECONDS, _LOOK_SECONDS = 10.0, 0.02
_PROBES = [ProbeState(name="files", state="Attached", mechanism="Fentry")]
Holds = Callable[[NodePlan], bool]


@dataclass(slots=True, eq=False)
class Agent:
    """The agent of a node. `plan` is what it holds, `at` when it got it."""

    node: str
    token: str
    plan: NodePlan | None = None
    at: float = 0.0
    call: Any = None
    said: float = 0.0
    neighbours: Neighbours = field(default_factory=Neighbours)
    speaking: asyncio.Lock = field(default_factory=asyncio.Lock)  # gRPC takes one message at a time

    @property
    def hash(self) -> str:
        """Of the plan it holds."""
        return self.plan.hash if self.plan is not None else ""

    async def say(self, report: NodeReport) -> None:
        """One report. Raises grpc.RpcError, TimeoutError: a call that ends may let a message wait for ever."""
        async with asyncio.timeout(_SAY_SECONDS), self.speaking:
            self.said = time.monotonic()
            await self.call.write(report)


@dataclass(slots=True, eq=False)
class Wish:
    """What somebody waits for: so many agents that hold such a plan."""

    holds: Holds
    count: int
    times: dict[str, float] = field(default_factory=dict)
    reached: asyncio.Event = field(default_factory=asyncio.Event)

    def look(self, agent: Agent) -> None:
        """At what the agent holds."""
        if agent.plan is not None and agent.node not in self.times and self.holds(agent.plan):
            self.times[agent.node] = agent.at
            if len(self.times) >= self.count:
                self.reached.set()


def wish(command: dict[str, Any]) -> Wish:
    """What a command waits for."""
    if uid := command.get("profile"):
        least = command["generation"]
        return Wish(
            lambda plan: any(one.uid == uid and one.generation >= least for one in plan.profiles), command["count"]
        )
    if uid := command.get("pod"):
        return Wish(lambda plan: any(one.uid == uid for one in plan.pods), command["count"])
    return Wish(lambda plan: bool(plan.pods), command["count"])


class Fleet:
    """All agents of the process."""

    def __init__(self, address: str, authority: bytes, tokens: dict[str, str]) -> None:
        self._address, self._credentials = address, grpc.ssl_channel_credentials(authority)
        self.agents = [Agent(node, token) for node, token in tokens.items()]
        self._wishes: list[Wish] = []
        self._counts: Counter[str] = Counter()
        self._failed: Counter[str] = Counter()

    async def run(self) -> None:
        """Until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._beat())
            for agent in self.agents:
                group.create_task(self._live(agent))

    async def answer(self, command: dict[str, Any]) -> dict[str, Any]:
        """What a command asks for."""
        if "state" in command:
            streams = sum(one.call is not None for one in self.agents)
            return {"streams": streams, "counts": self._counts, "failed": self._failed}
        if "forget" in command:
            for agent in self.agents:
                agent.plan = None
                if agent.call is not None:
                    agent.call.cancel()
            return {}
        if "met" in command:
            return await self._met(command["count"], command["seconds"])
        if "ask" in command:
            return await self._ask(command["ask"], Sizes(command["nodes"], command["pods"], 3), command["seconds"])
        wanted = wish(command)
        self._wishes.append(wanted)
        for agent in self.agents:
            wanted.look(agent)
        try:
            async with asyncio.timeout(command["seconds"]):
                await wanted.reached.wait()
        except TimeoutError:
            pass
        finally:
            self._wishes.remove(wanted)
        return {"times": sorted(wanted.times.values())}

    async def _met(self, count: int, seconds: float) -> dict[str, Any]:
        deadline, there = time.monotonic() + seconds, 0
        while there < count and time.monotonic() < deadline:
            await asyncio.sleep(_LOOK_SECONDS)
            there = sum(one.neighbours.identified for one in self.agents)
        return {"times": [time.monotonic()] * there}

    async def _ask(self, addresses: int, sizes: Sizes, seconds: float) -> dict[str, Any]:
        """Each agent about others, of the whole cluster; the same at each run."""
        known = {pod_address(index): node_name(sizes.node(index)) for index in range(sizes.pods)}
        chosen = random.Random(self.agents[0].node)
        asked = [(one, chosen.sample(list(known), addresses)) for one in self.agents]
        try:
            async with asyncio.timeout(seconds), asyncio.TaskGroup() as group:
                for one, some in asked:
                    group.create_task(one.neighbours.ask(some))
        except TimeoutError:
            pass
        ended = time.monotonic()
        told = [(address, node) for one in self.agents for address, node in one.neighbours.nodes.items()]
        wrong = sum(node not in ("", known[address]) for address, node in told)
        return {"ended": ended, "told": sum(bool(node) for _, node in told), "wrong": wrong}

    # --- one agent ----------------------------------------------------------------------------------------------------

    async def _live(self, agent: Agent) -> None:
        failures = 0
        while True:
            taken = agent.at
            try:
                await self._connect(agent)
            except grpc.RpcError as error:
                self._failed[f"{error.code().name}: {error.details()}"[:120]] += 1
            except TimeoutError:
                self._failed["nothing could be said"] += 1
            except asyncio.InvalidStateError:  # the call had ended when something was to be said
                self._failed["ended"] += 1
            except asyncio.CancelledError:
                if (task := asyncio.current_task()) is not None and task.cancelling():
                    raise  # else our own call was cancelled: by `forget`
                self._failed["cancelled"] += 1
            except Exception as error:  # noqa: BLE001 - one agent must not end the others
                self._failed[repr(error)[:120]] += 1
            finally:
                agent.call = None
            failures = 0 if agent.at != taken else failures + 1
            lowest, highest = BACKOFF_SECONDS
            await asyncio.sleep(random.uniform(0.0, min(highest, lowest * 2 ** min(failures, 10))))

    async def _connect(self, agent: Agent) -> None:
        async with grpc.aio.secure_channel(self._address, self._credentials, _OPTIONS) as channel:
            method = channel.stream_stream(
                SYNC, request_serializer=NodeReport.SerializeToString, response_deserializer=NodePlan.FromString
            )
            agent.speaking = asyncio.Lock()
            agent.call = method(metadata=(("authorization", f"Bearer {agent.token}"),))
            hello = Hello(
                node=agent.node, agent_version="0.0.1", revision=REVISION, kernel="6.1.0", plan_hash=agent.hash
            )
            await agent.say(NodeReport(hello=hello))
            self._counts["connections"] += 1
            meeting = asyncio.ensure_future(self._meet(agent, channel))
            try:
                async for plan in agent.call:
                    agent.plan, agent.at = plan, time.monotonic()
                    self._counts["plans"] += 1
                    self._counts["bytes"] += plan.ByteSize()
                    for one in self._wishes:
                        one.look(agent)
                    await agent.say(NodeReport(state=state_of(plan)))
            finally:
                meeting.cancel()

    async def _meet(self, agent: Agent, channel: grpc.aio.Channel) -> None:
        """As long as the channel is there, as an agent does."""
        lowest, highest = MEETING_BACKOFF_SECONDS
        failures = 0
        while True:
            try:
                await agent.neighbours.hold(channel, agent.token)
            except grpc.RpcError as error:
                self._failed[f"Meet: {error.code().name}: {error.details()}"[:120]] += 1
            failures += 1
            await asyncio.sleep(random.uniform(0.0, min(highest, lowest * 2 ** min(failures, 10))))

    async def _beat(self) -> None:
        while True:
            await asyncio.sleep(HEARTBEAT_SECONDS / 20)
            due = time.monotonic() - HEARTBEAT_SECONDS
            quiet = [one for one in self.agents if one.call is not None and 0 < one.said < due]
            await asyncio.gather(*(self._beat_one(one) for one in quiet))

    async def _beat_one(self, agent: Agent) -> None:
        try:
            await agent.say(NodeReport(heartbeat=Heartbeat(plan_hash=agent.hash)))
        except (Exception, asyncio.CancelledError):  # noqa: BLE001 - a call that is cancelled raises that here too
            self._counts["heartbeats lost"] += 1  # the stream ends; its own task says why


def state_of(plan: NodePlan) -> State:
    """All that the plan wants is attached, and nothing has been counted yet."""
    states = [
        ProfileState(uid=one.uid, generation=one.generation, probes=_PROBES, processes=1) for one in plan.profiles
    ]
    return State(plan_hash=plan.hash, profiles=states)


async def serve(fleet: Fleet) -> None:
    """Commands until there are no more."""
    loop, lines = asyncio.get_running_loop(), asyncio.StreamReader()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(lines), sys.stdin)
    living = asyncio.ensure_future(fleet.run())
    print(json.dumps({"ready": len(fleet.agents)}), flush=True)
    while line := await lines.readline():
        if living.done():
            living.result()
        print(json.dumps(await fleet.answer(json.loads(line))), flush=True)
    living.cancel()


def main() -> None:
    """The process."""
    path = Path(sys.argv[1])
    told = json.loads(path.read_bytes())
    path.unlink()
    asyncio.run(serve(Fleet(told["address"], told["authority"].encode(), told["tokens"])))


if __name__ == "__main__":
    main()
