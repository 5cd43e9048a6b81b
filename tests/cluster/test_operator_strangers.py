# SPDX-License-Identifier: Apache-2.0
"""Who is not an agent, or not the one that it says: refused, counted, and the agents notice nothing."""

from __future__ import annotations

import contextlib
import resource
import selectors
import socket
import ssl
import time
from collections.abc import Iterator

import grpc
import pytest
import trustme

from kernelspan_api.control import AUDIENCE, MAX_REPORT_BYTES, SYNC, control_pb2
from tests.support.agents import Agent
from tests.support.operators import AGENTS, OWN, Kubernetes, Operator, eventually, profile_path
from tests.support.require import require
from tests.support.tokens import resigned

SPACE = "strangers"
PODS = f"/api/v1/namespaces/{SPACE}/pods"
REFUSED = grpc.StatusCode.UNAUTHENTICATED


@pytest.fixture(scope="module")
def agent(kubernetes: Kubernetes, operator: Operator) -> Iterator[Agent]:
    """One that is good; a pod and a profile are there for it."""
    kubernetes.namespace(SPACE)
    for name in ("str-1", "str-2", "str-3"):
        kubernetes.node(name)
    kubernetes.pod(SPACE, "a", "str-1")
    kubernetes.apply(SPACE, "p")
    with Agent(operator, "str-1") as good:
        good.until_names({"a": {"p"}})
        yield good
    kubernetes.cluster.request("DELETE", profile_path(SPACE))
    kubernetes.cluster.request("DELETE", PODS, {"gracePeriodSeconds": 0})


@pytest.fixture(autouse=True)
def goes_on(kubernetes: Kubernetes, operator: Operator, agent: Agent) -> Iterator[None]:
    """After each test the good agent's stream is the same one, and plans come on it; a new one can begin."""
    yield
    kubernetes.pod(SPACE, "later", "str-1")
    agent.until_names({"a": {"p"}, "later": {"p"}})
    kubernetes.delete(f"{PODS}/later")
    agent.until_names({"a": {"p"}})
    with Agent(operator, "str-2") as other:
        other.until_names({})


def refusal(operator: Operator, token: str, node: str = "str-3", **more: str) -> tuple[grpc.StatusCode, str]:
    """How a stream with that token ends."""
    with Agent(operator, node, token or "none", **more) as stranger:  # type: ignore[arg-type]
        error = stranger.end()
        assert isinstance(error, grpc.Call)
        assert stranger.plans == []
        return error.code(), error.details() or ""


def other_account(kubernetes: Kubernetes) -> str:
    """Of a pod in the operator's own namespace that is no agent."""
    pod = kubernetes.pod(OWN, "other", "str-3")
    token = kubernetes.token(OWN, "default", pod, AUDIENCE)
    kubernetes.delete(f"/api/v1/namespaces/{OWN}/pods/other")
    return token


def of_a_deleted_pod(kubernetes: Kubernetes) -> str:
    """The pod that it is bound to is gone."""
    token = kubernetes.agent_token("str-3")
    kubernetes.delete(f"/api/v1/namespaces/{OWN}/pods/agent-str-3")
    return token


def signed(kubernetes: Kubernetes, by: str, **claims: int) -> str:
    """By the cluster's own key, or another."""
    key = getattr(kubernetes.cluster._pki, by).key
    return resigned(kubernetes.agent_token("str-3"), key, **claims)


TOKENS = {  # what it is, the node that it says it is on, the reason, the token
    "garbage": ("str-3", "BadToken", lambda _: "a.b.c"),
    "blank": ("str-3", "NoToken", lambda _: " "),
    "wrong audience": ("str-3", "BadToken", lambda it: it.agent_token("str-3", audience="somebody-else")),
    "of the API server": ("str-3", "BadToken", lambda it: it.agent_token("str-3", audience="")),
    "expired": ("str-3", "BadToken", lambda it: signed(it, "service_accounts", exp=int(time.time()) - 60)),
    "other key": ("str-3", "BadToken", lambda it: signed(it, "admin")),
    "another pod, deleted": ("str-3", "BadToken", other_account),
    "other node": ("str-1", "OtherNode", lambda it: it.agent_token("str-3")),
    "no pod": ("str-3", "NoNode", lambda it: it.token(OWN, AGENTS, None, AUDIENCE)),
    "deleted pod": ("str-3", "BadToken", of_a_deleted_pod),
}


@pytest.mark.parametrize("kind", TOKENS)
def test_token(kubernetes: Kubernetes, operator: Operator, kind: str) -> None:
    """Each is told one word, and counted under it; none of it is logged."""
    node, reason, make = TOKENS[kind]
    before = operator.metric("streams_refused", reason=reason)
    token = make(kubernetes)
    assert refusal(operator, token, node) == (REFUSED, reason)
    assert operator.metric("streams_refused", reason=reason) == before + 1
    assert token == " " or token not in operator.log()


def test_another_service_account(kubernetes: Kubernetes, operator: Operator) -> None:
    """A good token for this audience, of a pod that is no agent."""
    pod = kubernetes.pod(OWN, "other", "str-3")
    before = operator.metric("streams_refused", reason="OtherServiceAccount")
    assert refusal(operator, kubernetes.token(OWN, "default", pod, AUDIENCE)) == (REFUSED, "OtherServiceAccount")
    assert operator.metric("streams_refused", reason="OtherServiceAccount") == before + 1
    kubernetes.delete(f"/api/v1/namespaces/{OWN}/pods/other")


def test_no_authorization_at_all(operator: Operator) -> None:
    """A call without that metadata."""
    channel = grpc.secure_channel(f"localhost:{operator.port}", grpc.ssl_channel_credentials(operator.authority))
    with channel:
        call = channel.stream_stream(SYNC)(iter([control_pb2.NodeReport().SerializeToString()]))
        with pytest.raises(grpc.RpcError) as caught:
            next(call)
    assert caught.value.code() is REFUSED


def test_stream_ends_with_its_token(kubernetes: Kubernetes, operator: Operator) -> None:
    """Not later: whoever took it has nothing more of it; the next one begins where it ended."""
    key = kubernetes.cluster._pki.service_accounts.key
    token = resigned(kubernetes.agent_token("str-3"), key, exp=int(time.time()) + 15)
    with Agent(operator, "str-3", token) as short:
        short.until_names({})
        assert short.end() is None
    assert operator.metric("streams_ended", reason="the token has expired") >= 1
    with Agent(operator, "str-3") as again:
        again.until_names({})


def test_first_report_is_no_hello(kubernetes: Kubernetes, operator: Operator) -> None:
    """Refused; one that says nothing at all is not waited for."""
    bearer = (("authorization", f"Bearer {kubernetes.agent_token('str-3')}"),)
    channel = grpc.secure_channel(f"localhost:{operator.port}", grpc.ssl_channel_credentials(operator.authority))
    heartbeat = control_pb2.NodeReport(heartbeat=control_pb2.Heartbeat()).SerializeToString()
    with channel:
        with pytest.raises(grpc.RpcError) as caught:
            next(channel.stream_stream(SYNC)(iter([heartbeat]), metadata=bearer))
        assert (caught.value.code(), caught.value.details()) == (REFUSED, "NoHello")
        with pytest.raises(grpc.RpcError) as caught:
            next(channel.stream_stream(SYNC)(iter([b"\xff" * 100]), metadata=bearer))
        assert caught.value.code() in {REFUSED, grpc.StatusCode.INTERNAL, grpc.StatusCode.UNKNOWN}
        silent = channel.stream_stream(SYNC)(iter(lambda: time.sleep(3600), 0), metadata=bearer)
        with pytest.raises(grpc.RpcError) as caught:
            next(silent)
        assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED


def test_huge_report(operator: Operator) -> None:
    """Beyond the bound the stream ends, and only that one."""
    with Agent(operator, "str-3") as stranger:
        stranger.until_names({})
        state = control_pb2.ProfileState(uid="x", message="m" * (MAX_REPORT_BYTES + 1))
        stranger.say(control_pb2.NodeReport(state=control_pb2.State(profiles=[state])))
        stranger.end()


def test_reports_of_what_was_never_asked(operator: Operator) -> None:
    """Profiles that there are not, in thousands, and texts without end: nothing of it is anywhere."""
    states = [control_pb2.ProfileState(uid=f"{one:036}", reason="x" * 500) for one in range(10_000)]
    with Agent(operator, "str-3") as stranger:
        plan = stranger.until_names({})
        for _ in range(5):
            stranger.say(control_pb2.NodeReport(state=control_pb2.State(plan_hash=plan.hash, profiles=states)))
        eventually(lambda: operator.metric("plans_acknowledged") > 0)


def test_another_authority(operator: Operator) -> None:
    """An agent that trusts somebody else does not take this operator for its own."""
    credentials = grpc.ssl_channel_credentials(trustme.CA().cert_pem.bytes())
    with (
        grpc.secure_channel(f"localhost:{operator.port}", credentials) as channel,
        pytest.raises(grpc.RpcError) as caught,
    ):
        next(channel.stream_stream(SYNC)(iter([b""]), timeout=30))
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"\x16\x03\x01\xff\xff" + b"\x00" * 4096,
        b"\xff" * 65536,
    ],
    ids=["nothing", "http", "http2", "tls", "garbage"],
)
def test_bytes_that_are_no_tls(operator: Operator, data: bytes) -> None:
    """At the port itself: the connection ends."""
    with socket.create_connection(("127.0.0.1", operator.port), timeout=60) as stranger:
        with contextlib.suppress(OSError):
            stranger.sendall(data)
        if not data:
            stranger.shutdown(socket.SHUT_WR)
        with contextlib.suppress(OSError):
            while stranger.recv(4096):
                pass


@pytest.mark.parametrize("data", [b"\xff" * 65536, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\xff" * 65536])
def test_bytes_that_are_no_grpc(operator: Operator, data: bytes) -> None:
    """Inside of TLS: the connection ends."""
    context = ssl.create_default_context(cadata=operator.authority.decode())
    context.set_alpn_protocols(["h2"])
    plain = socket.create_connection(("127.0.0.1", operator.port), timeout=60)
    with plain, contextlib.suppress(OSError), context.wrap_socket(plain, server_hostname="localhost") as stranger:
        stranger.sendall(data)
        while stranger.recv(4096):
            pass


def test_plain_grpc(operator: Operator) -> None:
    """Without TLS nothing is answered."""
    with grpc.insecure_channel(f"localhost:{operator.port}") as channel, pytest.raises(grpc.RpcError) as caught:
        next(channel.stream_stream(SYNC)(iter([b""]), timeout=10))
    assert caught.value.code() in {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED}


def test_many_connections_at_once(kubernetes: Kubernetes, operator: Operator, agent: Agent) -> None:
    """Ten thousand that say nothing: agents are served meanwhile, and it ends them itself."""
    count = 10_000
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    require(
        "cluster", hard >= count + 1_000, f"a process may have {hard} files open, and {count} connections are to be"
    )
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    before = operator.resident_bytes()
    with contextlib.ExitStack() as stack:
        waiting = stack.enter_context(selectors.DefaultSelector())
        for _ in range(count):
            one = stack.enter_context(socket.create_connection(("127.0.0.1", operator.port), timeout=60))
            waiting.register(one, selectors.EVENT_READ)
        kubernetes.pod(SPACE, "meanwhile", "str-1")
        agent.until_names({"a": {"p"}, "meanwhile": {"p"}})
        with Agent(operator, "str-2") as other:
            other.until_names({})
        grown = operator.resident_bytes() - before
        ended, deadline = 0, time.monotonic() + 120
        while ended < count and time.monotonic() < deadline:
            for key, _ in waiting.select(1):
                waiting.unregister(key.fileobj)
                ended += 1
        assert ended == count
    print(f"{count} connections: {grown >> 20} MiB more")
    kubernetes.delete(f"{PODS}/meanwhile")
    agent.until_names({"a": {"p"}})
