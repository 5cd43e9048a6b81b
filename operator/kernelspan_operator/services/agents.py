# SPDX-License-Identifier: Apache-2.0
"""The agents' streams: each gets the plan of its own node whenever that changes, and says how it stands.

One stream a node: a newer one ends the older. A plan is sent again to an agent that keeps saying another hash. What an
agent reported stays known after its stream ends; only after a grace does it count as unreachable, so that neither a
restart of either side nor the end of a token's life shows.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from sys import intern
from typing import Any

import grpc

from kernelspan_api.control import MAX_REPORT_BYTES, REVISION, SILENCE_SECONDS, control_pb2
from kernelspan_operator.errors import ApiError, RefusedError
from kernelspan_operator.models.distribution import Distribution
from kernelspan_operator.models.spans import Spans, no_spans

from .auth import Agent, Auth
from .making import Plan
from .plans import Change, Plans

GRACE_SECONDS = 30.0  # three heartbeats; an agent reconnects within a few seconds
RESEND_SECONDS = 5.0  # an agent takes on a plan in milliseconds
HELLO_SECONDS = 10.0
# Plans on their way, beyond which no more are made: what is on its way is there twice and more. An agent that does not
# take what it is sent counts for a moment only, so that it holds up no other.
PLANS_AT_ONCE, STALLED_SECONDS = 48, 1.0
WAKE_SECONDS = 0.005  # between looks at whether streams that wait for their first plan may have it
MAX_STREAMS = 20_000  # one of an agent and a call beside it, of twice the nodes that Kubernetes is meant for
_SERVICE, _METHOD = "kernelspan.v1alpha1.Control", "Sync"
OPTIONS = (
    ("grpc.max_receive_message_length", MAX_REPORT_BYTES),
    ("grpc.max_concurrent_streams", 4),  # of one connection: an agent has one
    ("grpc.server_handshake_timeout_ms", 10_000),  # a connection that never speaks TLS; gRPC's own is two minutes
    ("grpc.keepalive_time_ms", 30_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.http2.min_ping_interval_without_data_ms", 10_000),
    ("grpc.so_reuseport", 0),
    ("grpc.tsi.max_frame_size", 4096),  # of its 16 KiB each connection keeps a buffer, and most plans are short
)
_log = logging.getLogger(__name__)


@dataclass(slots=True)
class Reported:
    """What is known of a node's agent."""

    hello: control_pb2.Hello = field(default_factory=control_pb2.Hello)
    said: bool = False  # how its profiles stand
    profiles: dict[str, bytes] = field(default_factory=dict)  # of its last State: each ProfileState, by uid
    connected: bool = False
    left: float = 0.0  # when its stream ended

    def profile(self, uid: str) -> control_pb2.ProfileState | None:
        """How a profile stands; None: the agent did not say."""
        found = self.profiles.get(uid)
        return None if found is None else control_pb2.ProfileState.FromString(found)


@dataclass(slots=True, eq=False)
class _Stream:
    """One stream. `sent`: the hash that the agent was sent last, or came with."""

    agent: Agent
    sent: str
    sent_at: float
    change: Change | None = None  # the one that the plan was sent for, until the agent says its hash
    sent_ns: int = 0
    woken_at: float = 0.0
    wake: asyncio.Event = field(default_factory=asyncio.Event)
    ended: str = ""  # why it is to end
    expiry: asyncio.TimerHandle | None = None  # the end of its token


class Agents:
    """All agents. `changed(node, uids)` is told which profiles of a node stand otherwise than before; None: any."""

    def __init__(
        self,
        auth: Auth,
        plans: Plans,
        changed: Callable[[str, set[str] | None], object],
        now: Callable[[], float],
        spans: Spans = no_spans,
    ) -> None:
        self._auth, self._plans, self._changed, self._now = auth, plans, changed, now
        self._started, self._spans = now(), spans
        self.opened = self.acknowledged = 0
        self.ended: dict[str, int] = {}  # by why
        self.plan_seconds = Distribution(0.05, 0.06, 0.08, 0.1, 0.15, 0.2, 0.3, 0.5, 1, 2, 5, 10)
        self.plan_bytes = Distribution(*(float(1 << shift) for shift in range(8, 26, 2)))
        self._reported: dict[str, Reported] = {}
        self._streams: dict[str, _Stream] = {}
        self._newer: dict[str, int] = {}  # revisions of nodes' agents that were told of
        self._under_way: set[_Stream] = set()  # those that have been woken to send a plan and are not done
        self._waiting: deque[_Stream] = deque()  # those to be woken
        self._next: asyncio.TimerHandle | None = None

    def handler(self) -> grpc.GenericRpcHandler:
        """What a server serves."""
        method: grpc.RpcMethodHandler[control_pb2.NodeReport, bytes] = grpc.stream_stream_rpc_method_handler(
            self.sync,
            request_deserializer=control_pb2.NodeReport.FromString,
            response_serializer=None,  # a plan is bytes already
        )
        return grpc.method_handlers_generic_handler(_SERVICE, {_METHOD: method})

    # --- what others ask ----------------------------------------------------------------------------------------------

    def plan_changed(self, node: str) -> None:
        """The plan of the node has another hash."""
        if (stream := self._streams.get(node)) is not None:
            self._wake(stream)

    def is_busy(self) -> bool:
        """Whether so many plans are on their way that those to come had better wait."""
        if len(self._under_way) >= PLANS_AT_ONCE:
            oldest = time.monotonic() - STALLED_SECONDS
            self._under_way = {one for one in self._under_way if one.woken_at > oldest}
        return len(self._under_way) >= PLANS_AT_ONCE

    def _wake(self, stream: _Stream) -> None:
        if stream.ended:
            return
        stream.woken_at = time.monotonic()
        self._under_way.add(stream)
        stream.wake.set()

    def plans_opened(self) -> None:
        """Plans can be had from now on: agents that came before get theirs."""
        self._wait(self._streams.values())

    def _wait(self, streams: Iterable[_Stream]) -> None:
        """They get their plans one after the other, and not before others are done."""
        self._waiting.extend(streams)
        if self._next is None:
            self._wake_next()

    def _wake_next(self) -> None:
        self._next = None
        while self._waiting and not self.is_busy():
            self._wake(self._waiting.popleft())
        if self._waiting:
            self._next = asyncio.get_running_loop().call_later(WAKE_SECONDS, self._wake_next)

    def reported(self, node: str) -> Reported | None:
        """What its agent has said; None: nothing yet."""
        return self._reported.get(node)

    def is_unreachable(self, node: str) -> bool:
        """Whether its agent has been away for longer than a restart takes."""
        found = self._reported.get(node)
        if found is not None and found.connected:
            return False
        return self._now() - max(self._started, found.left if found else 0.0) > GRACE_SECONDS

    def is_settled(self, node: str) -> bool:
        """Whether something is to be said of the node: it has reported, or has had the time to."""
        found = self._reported.get(node)
        return (found is not None and found.said) or self.is_unreachable(node)

    def forget(self, node: str) -> None:
        """The node does not exist any more."""
        self._reported.pop(node, None)
        self._plans.take_change(node)
        if (stream := self._streams.get(node)) is not None:
            self._end(stream, "the node is gone")

    @property
    def connected(self) -> int:
        """Streams that are open."""
        return len(self._streams)

    # --- one stream ---------------------------------------------------------------------------------------------------

    async def sync(self, reports: Any, context: Any) -> None:
        """The call Sync. Plans are written, not yielded: gRPC keeps what was yielded until the next, 100 KB a stream."""
        stream, hello, bearer = await self._greet(reports, context)
        with self._auth.presence(bearer, stream.agent):
            await self._serve(stream, hello, reports, context)

    async def _serve(self, stream: _Stream, hello: control_pb2.Hello, reports: Any, context: Any) -> None:
        node = stream.agent.node
        if (older := self._streams.get(node)) is not None:
            self._end(older, "a newer stream of the node")
        self._streams[node] = stream
        self.opened += 1
        self._plans.take_change(node)  # of before: the time until somebody came says nothing of us
        found = self._reported.setdefault(node, Reported())
        found.hello, found.connected = hello, True
        self._changed(node, None)
        _log.info("agent.connected node=%s version=%s kernel=%s", node, hello.agent_version, hello.kernel)
        if hello.revision > REVISION and self._newer.get(node) != hello.revision:
            self._newer[node] = hello.revision
            hint = "it goes on with what this operator knows; update the operator"
            _log.warning("agent.newer node=%s revision=%d ours=%d hint=%s", node, hello.revision, REVISION, hint)
        reader = asyncio.ensure_future(self._read(reports, stream, found))
        reader.add_done_callback(lambda _: self._end(stream, "the agent has left"))
        self._watch_token(stream)
        self._wait([stream])
        try:
            while True:
                await stream.wake.wait()
                stream.wake.clear()
                if stream.ended:
                    break
                await self._give(stream, context)
                if not stream.wake.is_set():
                    self._under_way.discard(stream)
        finally:
            reader.cancel()
            self._left(stream, found)

    async def _give(self, stream: _Stream, context: Any) -> None:
        """The plan, if there is one that the agent does not have. Of a plan nothing stays here once it is sent."""
        plan = self._plans.take(stream.agent.node) if self._plans.is_open else None
        if plan is not None and plan.hash != stream.sent:
            stream.sent, stream.sent_at = plan.hash, self._now()
            self._sending(stream, plan)
            await context.write(plan.data)

    def _watch_token(self, stream: _Stream) -> None:
        """Ends the stream with its token, by the API server's clock."""
        if (left := stream.agent.expires - self._now()) <= 0:
            self._end(stream, "the token has expired")
        else:
            stream.expiry = asyncio.get_running_loop().call_later(left, self._watch_token, stream)

    async def _greet(self, reports: Any, context: Any) -> tuple[_Stream, control_pb2.Hello, str]:
        """Who calls, and by which header. Ends the call with a status where that is not sure."""
        bearer = bearer_of(context)
        try:
            agent = await self._auth.agent(bearer)
            async with asyncio.timeout(HELLO_SECONDS):
                first = await anext(aiter(reports))
            self._auth.check_hello(agent, first)
        except RefusedError as error:
            _log.warning("agent.refused reason=%s peer=%s", error.reason, context.peer())
            await context.abort(grpc.StatusCode.UNAUTHENTICATED, error.reason)
        except (TimeoutError, StopAsyncIteration):
            await context.abort(grpc.StatusCode.DEADLINE_EXCEEDED, "NoHello")
        except ApiError as error:
            _log.warning("agent.unreviewed message=%s", error)
            await context.abort(grpc.StatusCode.UNAVAILABLE, "the API server cannot review the token now")
        return _Stream(agent, first.hello.plan_hash, self._now()), first.hello, bearer

    async def _read(self, reports: Any, stream: _Stream, found: Reported) -> None:
        """Takes reports until there are no more, or none came for too long."""
        while not stream.ended:
            try:
                async with asyncio.timeout(SILENCE_SECONDS):
                    report = await anext(aiter(reports))
            except (TimeoutError, StopAsyncIteration, grpc.RpcError):
                return
            kind = report.WhichOneof("body")
            if kind == "state":
                self._hear(stream.agent.node, found, report.state)
                self._compare(stream, report.state.plan_hash)
            elif kind == "heartbeat":
                self._compare(stream, report.heartbeat.plan_hash)
            report = None  # a State as objects is 40 KB, and the next report may be long in coming

    def _hear(self, node: str, found: Reported, state: control_pb2.State) -> None:
        before, found.said = found.profiles, True
        found.profiles = {intern(one.uid): one.SerializeToString() for one in state.profiles}
        uids = before.keys() | found.profiles.keys()
        changed = {uid for uid in uids if before.get(uid) != found.profiles.get(uid)}
        if changed:
            self._changed(node, changed)

    def _sending(self, stream: _Stream, plan: Plan) -> None:
        """Counts a plan that is given to gRPC now."""
        node, size = stream.agent.node, len(plan.data)
        self.plan_bytes.observe(size)
        stream.change, stream.sent_ns = self._plans.take_change(node), time.time_ns()
        if stream.change is not None:
            self.plan_seconds.observe(time.monotonic() - stream.change.since)
            about: dict[str, str | int] = {"k8s.node.name": node, "kernelspan.plan.hash": plan.hash}
            about["kernelspan.plan.bytes"] = size
            self._spans("plan.send", stream.change.ns, stream.sent_ns, about, stream.change.parent)

    def _compare(self, stream: _Stream, said: str) -> None:
        """Sends the plan again where the agent still says another hash than it was sent."""
        if said == stream.sent and stream.sent_ns:
            self.acknowledged += 1
            if (change := stream.change) is not None:
                about = {"k8s.node.name": stream.agent.node, "kernelspan.plan.hash": said}
                self._spans("plan.acknowledge", stream.sent_ns, time.time_ns(), about, change.parent)
            stream.change, stream.sent_ns = None, 0
        if said != stream.sent and self._now() - stream.sent_at >= RESEND_SECONDS:
            stream.sent = ""
            stream.wake.set()

    def _end(self, stream: _Stream, why: str) -> None:
        stream.ended = stream.ended or why
        stream.wake.set()

    def _left(self, stream: _Stream, found: Reported) -> None:
        node = stream.agent.node
        stream.ended = stream.ended or "cancelled"
        self._under_way.discard(stream)
        if stream.expiry is not None:
            stream.expiry.cancel()
        why = stream.ended
        _log.info("agent.left node=%s why=%s", node, why)
        self.ended[why] = self.ended.get(why, 0) + 1
        if self._streams.get(node) is stream:
            del self._streams[node]
            found.connected, found.left = False, self._now()
            self._changed(node, None)


def bearer_of(context: Any) -> str:
    """The Authorization header of a call; empty: none."""
    return next((str(value) for key, value in context.invocation_metadata() or () if key == "authorization"), "")


def is_outdated(hello: control_pb2.Hello) -> bool:
    """Whether the agent does not know what plans mean by now."""
    return hello.revision < REVISION
