# SPDX-License-Identifier: Apache-2.0
"""An agent as the operator sees it: a real stream over TLS with a real token; what it reports is the test's affair."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import Any, Self

import grpc

from kernelspan_api.control import MAX_PLAN_BYTES, REVISION, SYNC, control_pb2
from tests.support.operators import Operator

_HEARTBEAT_SECONDS = 5.0
_WAIT_SECONDS = 120.0

Says = Callable[[control_pb2.ProfilePlan], control_pb2.ProfileState]


def well(profile: control_pb2.ProfilePlan) -> control_pb2.ProfileState:
    """All that the profile wants is attached."""
    files = control_pb2.ProbeState(name="files", state="Attached", mechanism="Fentry")
    return control_pb2.ProfileState(uid=profile.uid, generation=profile.generation, probes=[files], processes=1)


class Agent:
    """A stream of one node; use with `with`. Each plan is answered by what `says` gives for each of its profiles."""

    def __init__(
        self,
        operator: Operator,
        node: str,
        token: str = "",
        *,
        says: Says | None = well,
        name: str | None = None,
        revision: int = REVISION,
        plan_hash: str = "",
        authority: bytes = b"",
        comes_back: bool = False,
    ) -> None:
        """`says` None: plans are not answered. `name`: what the agent calls its node. `comes_back`: whenever its stream ends."""
        self.node, self.says, self._comes_back = node, says, comes_back
        self.plans: list[control_pb2.NodePlan] = []
        self.error: grpc.RpcError | None = None
        self._news = threading.Condition()
        self._ended = self._closing = False
        self._hello = control_pb2.Hello(
            node=node if name is None else name,
            agent_version="0.0.1",
            revision=revision,
            kernel="6.1.0-test",
            plan_hash=plan_hash,
        )
        bearer = token or operator.kubernetes.agent_token(node)
        self._metadata = (("authorization", f"Bearer {bearer}"),)
        options = [("grpc.max_receive_message_length", MAX_PLAN_BYTES), ("grpc.enable_retries", 0)]
        credentials = grpc.ssl_channel_credentials(authority or operator.authority)
        self._channel = grpc.secure_channel(f"localhost:{operator.port}", credentials, options)
        self._open()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    @property
    def plan(self) -> control_pb2.NodePlan:
        """The newest."""
        return self.plans[-1]

    def say(self, report: control_pb2.NodeReport) -> None:
        """One report."""
        self._said.put(report)

    def say_again(self) -> None:
        """How the newest plan stands now."""
        self._answer(self.plan)

    def until(self, condition: Callable[[control_pb2.NodePlan], object]) -> control_pb2.NodePlan:
        """The newest plan once it is so. AssertionError with it where that does not come; or where the stream ends."""
        deadline = time.monotonic() + _WAIT_SECONDS
        with self._news:
            while not (self.plans and condition(self.plans[-1])):
                left = deadline - time.monotonic()
                assert left > 0, f"the newest of {len(self.plans)} plans is {self.plans[-1:]}"
                assert not self._ended, self.error
                self._news.wait(left)
            return self.plans[-1]

    def names(self) -> dict[str, set[str]]:
        """The pods of the newest plan, each with the names of the profiles that select it."""
        return names(self.plan)

    def until_names(self, expected: dict[str, set[str]]) -> control_pb2.NodePlan:
        """The plan once it has these pods with these profiles."""
        return self.until(lambda plan: names(plan) == expected)

    def end(self) -> grpc.RpcError | None:
        """What the operator ended the stream with; None: without an error."""
        self._reader.join(_WAIT_SECONDS)
        assert not self._reader.is_alive(), "the stream goes on"
        return self.error

    def close(self) -> None:
        """The agent is gone."""
        self._closing = True
        self._said.put(None)
        self._call.cancel()
        self._channel.close()
        self._reader.join(_WAIT_SECONDS)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _open(self) -> None:
        self._said: queue.Queue[control_pb2.NodeReport | None] = queue.Queue()
        self._said.put(control_pb2.NodeReport(hello=self._hello))
        method = self._channel.stream_stream(
            SYNC,
            request_serializer=control_pb2.NodeReport.SerializeToString,
            response_deserializer=control_pb2.NodePlan.FromString,
        )
        self._call: Any = method(self._reports(self._said), metadata=self._metadata, wait_for_ready=True)

    def _reports(self, said: queue.Queue[control_pb2.NodeReport | None]) -> Iterator[control_pb2.NodeReport]:
        while True:
            try:
                report = said.get(timeout=_HEARTBEAT_SECONDS)
            except queue.Empty:
                held = self.plans[-1].hash if self.plans else ""
                report = control_pb2.NodeReport(heartbeat=control_pb2.Heartbeat(plan_hash=held))
            if report is None:
                return
            yield report

    def _read(self) -> None:
        self._take()
        while self._comes_back and not self._closing:
            self._said.put(None)
            self._hello.plan_hash = self.plans[-1].hash if self.plans else ""
            try:
                self._open()
            except ValueError:  # closed meanwhile
                break
            self._take()
        with self._news:
            self._ended = True
            self._news.notify_all()

    def _take(self) -> None:
        try:
            for plan in self._call:
                with self._news:
                    self.plans.append(plan)
                    self._news.notify_all()
                self._answer(plan)
        except grpc.RpcError as error:
            self.error = error

    def _answer(self, plan: control_pb2.NodePlan) -> None:
        if self.says is not None:
            states = [self.says(one) for one in plan.profiles]
            self.say(control_pb2.NodeReport(state=control_pb2.State(plan_hash=plan.hash, profiles=states)))


def names(plan: control_pb2.NodePlan) -> dict[str, set[str]]:
    """The pods of a plan, each with the names of the profiles that select it."""
    by_uid = {one.uid: one.name for one in plan.profiles}
    return {one.name: {by_uid[match.profile_uid] for match in one.matches} for one in plan.pods}
