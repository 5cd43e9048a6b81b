# SPDX-License-Identifier: Apache-2.0
"""The agent's stream against a real gRPC server over TLS on loopback: plans, loss, restarts, skew."""

from __future__ import annotations

import contextlib
import queue
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import pytest

from kernelspan_agent.control.plans import PlanFile
from kernelspan_agent.control.stream import Operator, Stream
from kernelspan_api.control import REVISION
from kernelspan_api.control.control_pb2 import Hello, NodePlan, NodeReport, ProfilePlan, ProfileState
from tests.support.tls import TlsFiles, make_tls


def until(condition: Callable[[], object], seconds: float = 10.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.005)


class FakeOperator:
    """Sends what a test puts into `plans`, keeps what it hears."""

    def __init__(self, tls: TlsFiles, port: int = 0) -> None:
        self.plans: queue.Queue[NodePlan | None] = queue.Queue()
        self.heard: list[NodeReport] = []
        self.tokens: list[str] = []
        self.server = grpc.server(ThreadPoolExecutor(8), options=[("grpc.so_reuseport", 0)])
        method = grpc.stream_stream_rpc_method_handler(
            self.sync, request_deserializer=NodeReport.FromString, response_serializer=NodePlan.SerializeToString
        )
        handler = grpc.method_handlers_generic_handler("kernelspan.v1alpha1.Control", {"Sync": method})
        self.server.add_generic_rpc_handlers((handler,))
        pair = (tls.server_key.read_bytes(), tls.server_certificate.read_bytes())
        self.port = self.server.add_secure_port(f"127.0.0.1:{port}", grpc.ssl_server_credentials([pair]))
        self.server.start()

    def sync(self, reports: Iterator[NodeReport], context: Any) -> Iterator[NodePlan]:
        self.tokens.append(dict(context.invocation_metadata())["authorization"])
        threading.Thread(target=self.hear, args=(reports,), daemon=True).start()
        while (plan := self.plans.get()) is not None:
            yield plan

    def hear(self, reports: Iterator[NodeReport]) -> None:
        with contextlib.suppress(grpc.RpcError):
            for report in reports:
                self.heard.append(report)

    def kinds(self) -> list[str]:
        return [str(one.WhichOneof("body")) for one in self.heard]

    def close(self) -> None:
        self.plans.put(None)
        self.server.stop(0).wait()


@pytest.fixture
def tls(tmp_path: Path) -> TlsFiles:
    """One authority for all operators of a test."""
    return make_tls(tmp_path / "tls")


def made(tls: TlsFiles, folder: Path, port: int, **more: Any) -> Stream:
    operator = Operator(f"localhost:{port}", tls.ca.read_bytes, lambda: "secret\n")
    return Stream(operator, Hello(node="n1"), PlanFile(folder / "plan"), **({"backoff_seconds": (0.01, 0.05)} | more))


PLAN = NodePlan(hash="h1", node="n1", revision=1, profiles=[ProfilePlan(uid="p", generation=1)])
STATE = ProfileState(uid="p", generation=1)


def test_a_plan_is_taken_kept_and_answered(tls: TlsFiles, tmp_path: Path) -> None:
    """Hello first, with the token; then the state, once for each change."""
    server = FakeOperator(tls)
    stream = made(tls, tmp_path, server.port)
    stream.start()
    try:
        server.plans.put(PLAN)
        until(lambda: stream.plan == PLAN)
        stream.report([STATE])
        stream.report([STATE])
        until(lambda: len(server.heard) >= 3)
        assert server.kinds() == ["hello", "state", "state"]
        assert (server.heard[0].hello.node, server.heard[0].hello.plan_hash) == ("n1", "")
        assert (server.heard[2].state.plan_hash, list(server.heard[2].state.profiles)) == ("h1", [STATE])
        assert server.tokens == ["Bearer secret"]
        assert PlanFile(tmp_path / "plan").read() == PLAN
    finally:
        stream.close()
        server.close()


def test_heartbeats_when_there_is_nothing_to_say(tls: TlsFiles, tmp_path: Path) -> None:
    """With the hash, so that an operator sees who lost what."""
    server = FakeOperator(tls)
    stream = made(tls, tmp_path, server.port, heartbeat_seconds=0.05)
    stream.start()
    try:
        server.plans.put(PLAN)
        until(lambda: server.kinds().count("heartbeat") >= 3)
        until(lambda: server.heard[-1].heartbeat.plan_hash == "h1")
    finally:
        stream.close()
        server.close()


def test_the_operator_dies_and_comes_back(tls: TlsFiles, tmp_path: Path) -> None:
    """The plan stays; the next connection says which one it is, and how it stands."""
    first = FakeOperator(tls)
    stream = made(tls, tmp_path, first.port)
    stream.start()
    try:
        first.plans.put(PLAN)
        until(lambda: stream.plan is not None)
        stream.report([STATE])
        first.close()
        connections = stream.connections
        until(lambda: stream.connections > connections + 2)
        assert stream.plan == PLAN
        second = FakeOperator(tls, first.port)
        try:
            until(lambda: "state" in second.kinds())
            assert second.heard[0].hello.plan_hash == "h1"
            assert list(second.heard[1].state.profiles) == [STATE]
        finally:
            second.close()
    finally:
        stream.close()


def test_a_restart_without_an_operator_goes_on_with_the_last_plan(tls: TlsFiles, tmp_path: Path) -> None:
    """Nobody answers; what was kept is in effect."""
    PlanFile(tmp_path / "plan").write(PLAN)
    stream = made(tls, tmp_path, 1)
    stream.start()
    assert stream.plan == PLAN
    stream.close()


def test_a_plan_of_a_newer_revision_is_not_taken(tls: TlsFiles, tmp_path: Path) -> None:
    """The one in effect goes on, AgentOutdated is said, and the next that we know is taken again."""
    server = FakeOperator(tls)
    stream = made(tls, tmp_path, server.port)
    stream.start()
    try:
        server.plans.put(PLAN)
        until(lambda: stream.plan is not None)
        stream.report([STATE])
        server.plans.put(NodePlan(hash="h2", revision=REVISION + 1))
        until(lambda: server.heard[-1].state.profiles and server.heard[-1].state.profiles[0].reason == "AgentOutdated")
        assert stream.plan == PLAN
        assert PlanFile(tmp_path / "plan").read() == PLAN
        server.plans.put(NodePlan(hash="h3", revision=REVISION, profiles=PLAN.profiles))
        until(lambda: stream.plan is not None and stream.plan.hash == "h3")
        until(lambda: not server.heard[-1].state.profiles[0].reason)
    finally:
        stream.close()
        server.close()


def test_an_operator_of_another_authority_gets_no_token(tls: TlsFiles, tmp_path: Path) -> None:
    """TLS fails before anything is said."""
    server = FakeOperator(make_tls(tmp_path / "other"))
    stream = made(tls, tmp_path, server.port)
    stream.start()
    try:
        until(lambda: stream.connections >= 3)
        assert (server.tokens, server.heard) == ([], [])
    finally:
        stream.close()
        server.close()


@pytest.mark.parametrize("data", [b"", b"short", b"\0" * 100, b"\xff" * 5000])
def test_a_file_that_is_no_plan(data: bytes, tmp_path: Path) -> None:
    """None, and no error."""
    (tmp_path / "plan").write_bytes(data)
    assert PlanFile(tmp_path / "plan").read() is None


def test_a_plan_file_is_whole_or_none(tmp_path: Path) -> None:
    """Cut anywhere it is no plan; a folder that takes nothing stops nothing."""
    file = PlanFile(tmp_path / "plan")
    file.write(PLAN)
    data = (tmp_path / "plan").read_bytes()
    for length in range(len(data)):
        (tmp_path / "plan").write_bytes(data[:length])
        assert file.read() is None
    PlanFile(tmp_path / "nowhere" / "plan").write(PLAN)
    assert oct((tmp_path / "plan").stat().st_mode)[-3:] == "600"
