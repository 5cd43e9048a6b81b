# SPDX-License-Identifier: Apache-2.0
"""The agent's stream against a real gRPC server over TLS on loopback: plans, loss, restarts, skew."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from kernelspan_agent.control import stream as stream_module
from kernelspan_agent.control.kept import KeptPlan
from kernelspan_agent.control.plans import PlanFile
from kernelspan_agent.control.stream import Operator, Stream
from kernelspan_api.control import REVISION
from kernelspan_api.control.control_pb2 import Hello, NodePlan, ProfilePlan, ProfileState
from tests.support.plan_server import PlanServer
from tests.support.tcp_proxy import TcpProxy
from tests.support.tls import TlsFiles, make_tls


def until(condition: Callable[[], object], seconds: float = 10.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.005)


@pytest.fixture
def tls(tmp_path: Path) -> TlsFiles:
    """One authority for all operators of a test."""
    return make_tls(tmp_path / "tls")


def made(tls: TlsFiles, folder: Path, port: int, **more: Any) -> Stream:
    operator = Operator(f"localhost:{port}", tls.ca.read_bytes, lambda: "secret\n")
    return Stream(
        operator, Hello(node="n1"), KeptPlan(folder, folder / "memory"), **({"backoff_seconds": (0.01, 0.05)} | more)
    )


PLAN = NodePlan(hash="h1", node="n1", revision=1, profiles=[ProfilePlan(uid="p", generation=1)])
STATE = ProfileState(uid="p", generation=1)


def test_a_plan_is_taken_kept_and_answered(tls: TlsFiles, tmp_path: Path) -> None:
    """Hello first, with the token; then the state, once for each change."""
    server = PlanServer(tls)
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
        assert KeptPlan(tmp_path, tmp_path / "memory").read() == PLAN
    finally:
        stream.close()
        server.close()


def test_heartbeats_when_there_is_nothing_to_say(tls: TlsFiles, tmp_path: Path) -> None:
    """With the hash, so that an operator sees who lost what."""
    server = PlanServer(tls)
    stream = made(tls, tmp_path, server.port, heartbeat_seconds=0.05)
    stream.start()
    try:
        server.plans.put(PLAN)
        until(lambda: server.kinds().count("heartbeat") >= 3)
        until(lambda: server.heard[-1].heartbeat.plan_hash == "h1")
    finally:
        stream.close()
        server.close()


def test_heartbeats_also_of_one_that_reports_all_the_time(tls: TlsFiles, tmp_path: Path) -> None:
    """The same states again are nothing to say: an operator that hears nothing takes the agent for gone."""
    server = PlanServer(tls)
    stream = made(tls, tmp_path, server.port, heartbeat_seconds=0.2)
    stream.start()
    try:
        server.plans.put(PLAN)

        def heard() -> bool:
            stream.report([STATE])  # every few milliseconds
            return server.kinds().count("heartbeat") >= 3

        until(heard)
    finally:
        stream.close()
        server.close()


def test_the_operator_dies_and_comes_back(tls: TlsFiles, tmp_path: Path) -> None:
    """The plan stays; the next connection says which one it is, and how it stands."""
    first = PlanServer(tls)
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
        second = PlanServer(tls, first.port)
        try:
            until(lambda: "state" in second.kinds())
            assert second.heard[0].hello.plan_hash == "h1"
            assert list(second.heard[1].state.profiles) == [STATE]
        finally:
            second.close()
    finally:
        stream.close()


def test_a_connection_that_is_silent(tls: TlsFiles, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing ends and nothing comes, as behind a firewall that has forgotten: it is noticed, and another one is begun."""
    quick = {"grpc.keepalive_time_ms": 300, "grpc.http2.ping_timeout_ms": 300}
    assert quick.keys() <= dict(stream_module._OPTIONS).keys()
    monkeypatch.setattr(stream_module, "_OPTIONS", tuple((dict(stream_module._OPTIONS) | quick).items()))
    server = PlanServer(tls)
    with TcpProxy(server.port) as proxy:
        stream = made(tls, tmp_path, proxy.port, heartbeat_seconds=0.1)
        stream.start()
        try:
            server.plans.put(PLAN)
            until(lambda: stream.plan == PLAN)
            proxy.silence()
            until(lambda: server.kinds().count("hello") == 2)
            assert stream.plan == PLAN
            later = NodePlan(hash="h2", node="n1", revision=1)

            def taken() -> bool:
                server.plans.put(later)  # the server does not know that the old stream is none any more
                return stream.plan == later

            until(taken)
        finally:
            stream.close()
            server.close()


def test_a_restart_without_an_operator_goes_on_with_the_last_plan(tls: TlsFiles, tmp_path: Path) -> None:
    """Nobody answers; what was kept is in effect."""
    KeptPlan(tmp_path, tmp_path / "memory").write(PLAN)
    stream = made(tls, tmp_path, 1)
    stream.start()
    assert stream.plan == PLAN
    stream.close()


def test_secrets_are_in_memory_alone(tls: TlsFiles, tmp_path: Path) -> None:
    """The plan on disk has none; without them it is in effect all the same, and asked for again."""
    plan = NodePlan()
    plan.CopyFrom(PLAN)
    plan.secrets.add(profile_uid="p", headers={"key": "hush"}, key=b"hush")
    KeptPlan(tmp_path, tmp_path / "memory").write(plan)
    assert b"hush" not in (tmp_path / "plan").read_bytes()
    assert KeptPlan(tmp_path, tmp_path / "memory").read() == plan
    for hash_ in ("", "another"):
        beside = PlanFile(tmp_path / "memory" / "secrets")
        beside.write(NodePlan(hash=hash_))
        kept = KeptPlan(tmp_path, tmp_path / "memory").read()
        assert kept is not None
        assert (kept.hash, list(kept.profiles), list(kept.secrets)) == ("", list(PLAN.profiles), [])
    server = PlanServer(tls)
    stream = made(tls, tmp_path, server.port)
    stream.start()
    try:
        until(lambda: server.heard)
        assert server.heard[0].hello.plan_hash == ""
        assert stream.plan is not None
    finally:
        stream.close()
        server.close()


def test_a_plan_of_a_newer_revision_is_not_taken(tls: TlsFiles, tmp_path: Path) -> None:
    """The one in effect goes on, AgentOutdated is said, and the next that we know is taken again."""
    server = PlanServer(tls)
    stream = made(tls, tmp_path, server.port)
    stream.start()
    try:
        server.plans.put(PLAN)
        until(lambda: stream.plan is not None)
        stream.report([STATE])
        server.plans.put(NodePlan(hash="h2", revision=REVISION + 1))
        until(lambda: server.heard[-1].state.profiles and server.heard[-1].state.profiles[0].reason == "AgentOutdated")
        assert stream.plan == PLAN
        assert KeptPlan(tmp_path, tmp_path / "memory").read() == PLAN
        server.plans.put(NodePlan(hash="h3", revision=REVISION, profiles=PLAN.profiles))
        until(lambda: stream.plan is not None and stream.plan.hash == "h3")
        until(lambda: not server.heard[-1].state.profiles[0].reason)
    finally:
        stream.close()
        server.close()


def test_an_operator_of_another_authority_gets_no_token(tls: TlsFiles, tmp_path: Path) -> None:
    """TLS fails before anything is said."""
    server = PlanServer(make_tls(tmp_path / "other"))
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
