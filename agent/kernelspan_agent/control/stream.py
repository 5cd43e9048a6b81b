# SPDX-License-Identifier: Apache-2.0
"""The agent's side of the stream: dial, say who we are, take each plan, report; again and again, for ever.

Fail-static: the plan in effect stays in effect whatever happens to the stream, also over a restart of the agent (`kept`).
A plan of a newer revision than ours is not taken: the one in effect goes on, and each profile of it says AgentOutdated.
One thread; whoever traces takes the plan from `plan` and gives its states to `report`, at its own time.
"""

from __future__ import annotations

import contextlib
import logging
import queue
import random
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any

import grpc

from kernelspan_agent.control.kept import KeptPlan
from kernelspan_api.control import HEARTBEAT_SECONDS, MAX_PLAN_BYTES, REVISION, SYNC
from kernelspan_api.control.control_pb2 import Heartbeat, Hello, NodePlan, NodeReport, ProfileState, State
from kernelspan_api.reasons import Reason

BACKOFF_SECONDS = (0.5, 15.0)  # an operator that restarts is back in a few seconds, and 5,000 agents ask for it
_OPTIONS = (
    ("grpc.max_receive_message_length", MAX_PLAN_BYTES),
    ("grpc.keepalive_time_ms", 30_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.http2.ping_timeout_ms", 10_000),  # the one above alone leaves a ping a minute
    ("grpc.enable_retries", 0),
)
_log = logging.getLogger(__name__)

Beside = Callable[[grpc.Channel, tuple[tuple[str, str], ...]], AbstractContextManager[object]]


@dataclass(frozen=True, slots=True)
class Operator:
    """Where the operator is, and how we know each other. Both are read for each connection: they change on disk."""

    address: str
    authorities: Callable[[], bytes]  # PEM of whom we trust
    token: Callable[[], str]


@dataclass(slots=True)
class _Outbox:
    """What is to be said on one stream; only the last state counts."""

    wake: queue.SimpleQueue[bool] = field(default_factory=queue.SimpleQueue)
    ended: bool = False


class Stream:
    """The stream of one agent. `start` it, `close` it."""

    def __init__(
        self,
        operator: Operator,
        hello: Hello,
        kept: KeptPlan,
        *,
        heartbeat_seconds: float = HEARTBEAT_SECONDS,
        backoff_seconds: tuple[float, float] = BACKOFF_SECONDS,
        beside: Beside | None = None,
    ) -> None:
        """Reads the kept plan: it is in effect from now on. `hello` is what every connection begins with.

        `beside`: what it makes of each connection is held as long as that is; may make calls of its own on it, with the same metadata.
        """
        self._operator, self._hello, self._kept, self._beside = operator, hello, kept, beside
        self._heartbeat_seconds, self._backoff_seconds = heartbeat_seconds, backoff_seconds
        self._lock = threading.Lock()
        before = kept.read()
        self._plan = before if before is not None and before.revision <= REVISION else None
        self._states: tuple[ProfileState, ...] = ()
        self._outdated = False
        self._outbox: _Outbox | None = None
        self._closing = threading.Event()
        self._call: Any = None
        self._thread = threading.Thread(target=self._run, name="operator", daemon=True)
        self.connections = self.taken = 0

    def start(self) -> None:
        """Begins to dial."""
        self._thread.start()

    def close(self) -> None:
        """Ends the stream; the plan stays on disk."""
        self._closing.set()
        with self._lock:
            call = self._call
        if call is not None:
            call.cancel()
        self._say()
        self._thread.join()

    @property
    def plan(self) -> NodePlan | None:
        """The plan in effect; None: there never was one."""
        with self._lock:
            return self._plan

    def report(self, states: Iterable[ProfileState]) -> None:
        """How the profiles of the plan stand: all of them. Said at once, or when there is a stream again."""
        with self._lock:
            self._states = tuple(states)
        self._say()

    # --- the thread ---------------------------------------------------------------------------------------------------

    def _run(self) -> None:
        failures = 0
        while not self._closing.is_set():
            taken = self.taken
            try:
                self._connect()
                _log.info("operator.ended address=%s", self._operator.address)
            except grpc.RpcError as error:
                _log.warning("operator.lost address=%s message=%s", self._operator.address, _words(error))
            except (OSError, ValueError) as error:  # the token or the authorities cannot be read
                _log.warning("operator.unknown address=%s message=%s", self._operator.address, error)
            failures = 0 if self.taken != taken else failures + 1
            lowest, highest = self._backoff_seconds
            # Jitter over the whole interval: all agents lose their operator at the same moment.
            self._closing.wait(random.uniform(0.0, min(highest, lowest * 2 ** min(failures, 10))))  # noqa: S311

    def _connect(self) -> None:
        credentials = grpc.ssl_channel_credentials(self._operator.authorities())
        bearer = f"Bearer {self._operator.token().strip()}"
        with grpc.secure_channel(self._operator.address, credentials, _OPTIONS) as channel:
            method = channel.stream_stream(
                SYNC, request_serializer=NodeReport.SerializeToString, response_deserializer=NodePlan.FromString
            )
            outbox = _Outbox()
            metadata = (("authorization", bearer),)
            call = method(self._reports(outbox), metadata=metadata)
            with self._lock:
                self._call, self._outbox = call, outbox
            self.connections += 1
            try:
                if self._closing.is_set():
                    call.cancel()
                with self._beside(channel, metadata) if self._beside is not None else contextlib.nullcontext():
                    for plan in call:
                        self._take(plan)
            finally:
                outbox.ended = True
                outbox.wake.put(True)
                with self._lock:
                    self._call = self._outbox = None

    def _take(self, plan: NodePlan) -> None:
        self.taken += 1
        if plan.revision > REVISION:
            _log.warning("plan.newer revision=%d ours=%d hint=%s", plan.revision, REVISION, "update the agent")
            with self._lock:
                self._outdated = True
            self._say()
            return
        with self._lock:
            if plan == self._plan and not self._outdated:  # as it is in effect already: what is on disk is not worn out
                return
        self._kept.write(plan)
        with self._lock:
            # States of profiles that are in both plans hold until the tracer says others.
            uids = {one.uid for one in plan.profiles}
            self._plan, self._outdated = plan, False
            self._states = tuple(one for one in self._states if one.uid in uids)
        self._say()

    # --- what is said -------------------------------------------------------------------------------------------------

    def _say(self) -> None:
        with self._lock:
            outbox = self._outbox
        if outbox is not None:
            outbox.wake.put(True)

    def _reports(self, outbox: _Outbox) -> Iterator[NodeReport]:
        """gRPC's own thread asks: Hello, then a State whenever there is another one, else heartbeats."""
        hello = Hello()
        hello.CopyFrom(self._hello)
        hello.revision, hello.plan_hash = REVISION, self._hash()
        yield NodeReport(hello=hello)
        said: State | None = None
        due = time.monotonic() + self._heartbeat_seconds
        while not outbox.ended:
            state = self._state()
            if state != said and (said is not None or state.profiles or state.plan_hash):
                said = state
                yield NodeReport(state=state)
            elif time.monotonic() >= due:
                yield NodeReport(heartbeat=Heartbeat(plan_hash=self._hash()))
            else:
                # Woken for nothing, as by a report of the same states, it is due when it was.
                with contextlib.suppress(queue.Empty):
                    outbox.wake.get(timeout=max(due - time.monotonic(), 0.0))
                continue
            due = time.monotonic() + self._heartbeat_seconds

    def _hash(self) -> str:
        plan = self.plan
        return plan.hash if plan is not None else ""

    def _state(self) -> State:
        with self._lock:
            plan, states, outdated = self._plan, self._states, self._outdated
        if outdated:
            reason = Reason.AGENT_OUTDATED
            message = f"{reason.meaning} {reason.remedy}"
            states = tuple(_with(one, reason.value, message) for one in states)
        return State(plan_hash=plan.hash if plan is not None else "", profiles=states)


def _with(state: ProfileState, reason: str, message: str) -> ProfileState:
    found = ProfileState()
    found.CopyFrom(state)
    found.reason, found.message = reason, message
    return found


def _words(error: Any) -> str:
    return f"{error.code().name}: {error.details()}" if hasattr(error, "code") else str(error)
