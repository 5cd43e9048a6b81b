# SPDX-License-Identifier: Apache-2.0
"""The agents' streams over TLS on loopback: who gets which plan, and who gets none."""

from __future__ import annotations

import asyncio
import base64
import json
import socket

import grpc
import pytest

from kernelspan_api.control import control_pb2
from kernelspan_operator.services import agents as agents_module
from tests.support.apiserver import until
from tests.unit.control_plane.cluster import FAR, PODS, Agent, Cluster, pod, profile, run, token

SHOP = PODS.format("shop")


async def traced(cluster: Cluster) -> None:
    """A pod on n1 with a profile."""
    cluster.server.put(SHOP, pod("a"))
    cluster.apply(profile())
    await until(lambda: cluster.system.plans.is_open and cluster.names())


def test_an_agent_gets_the_plan_of_its_node_and_each_new_one() -> None:
    """Once each; none where it holds the right one already."""

    async def test(cluster: Cluster) -> None:
        await traced(cluster)
        async with Agent(cluster, token("n1")) as agent:
            await agent.hello("n1")
            first = await agent.plan()
            assert first == cluster.plan()
            await agent.state(first)
            cluster.server.put(SHOP, pod("b"))
            second = await agent.plan()
            assert [one.name for one in second.pods] == ["a", "b"]
        await until(lambda: not cluster.system.agents.connected)
        async with Agent(cluster, token("n1")) as again:
            await again.hello("n1", second.hash)
            await until(lambda: cluster.system.agents.connected)
            cluster.delete(profile())
            third = await again.plan()  # not the second once more
            assert (list(third.pods), list(third.profiles)) == ([], [])

    run(test)


def test_a_node_whose_plan_is_as_before_is_sent_nothing() -> None:
    """Neither where its hash was made anew, nor where a change touches another node alone."""

    async def test(cluster: Cluster) -> None:
        cluster.server.put(SHOP, pod("b", node="n2"))
        await traced(cluster)
        sent = cluster.system.agents.plan_bytes
        async with Agent(cluster, token("n1")) as one, Agent(cluster, token("n2")) as other:
            for agent, name in ((one, "n1"), (other, "n2")):
                await agent.hello(name)
                await agent.state(await agent.plan())
            assert sent.count == 2
            reading = asyncio.ensure_future(other.plan())
            built = cluster.system.plans.built
            cluster.system.plans.touch(["n1", "n2"])
            await until(lambda: cluster.system.plans.built == built + 2)
            cluster.server.put(SHOP, pod("c"))
            assert [found.name for found in (await one.plan()).pods] == ["a", "c"]
            await asyncio.sleep(0.2)
            assert (sent.count, reading.done()) == (3, False)
            reading.cancel()

    run(test)


def test_an_agent_that_takes_nothing_holds_up_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    """Plans wait while others are on their way, but not for one whose agent does not read."""
    monkeypatch.setattr(agents_module, "PLANS_AT_ONCE", 1)

    async def test(cluster: Cluster) -> None:
        paths = [f"/{number:03}" + "x" * 200 for number in range(60)]
        narrow = [("grpc.http2.bdp_probe", 0), ("grpc.http2.lookahead_bytes", 1 << 16)]
        for number in range(60):  # 700 KB: what does not fit into that window is not sent before the agent reads
            cluster.apply(profile(f"p{number}", files={"paths": paths}, nodeSelector={"disk": "ssd"}))
        cluster.server.put(SHOP, pod("b", node="n2"))
        await traced(cluster)
        agents = cluster.system.agents
        async with Agent(cluster, token("n2")) as good, Agent(cluster, token("n1"), options=narrow) as bad:
            await good.hello("n2")
            await good.plan()
            await bad.hello("n1")
            await until(lambda: agents.plan_bytes.count == 2)
            cluster.server.put(SHOP, pod("c"))
            await until(agents.is_busy)
            cluster.server.put(SHOP, pod("d", node="n2"))
            assert [one.name for one in (await good.plan()).pods] == ["b", "d"]
            assert agents.connected == 2

    run(test)


def test_an_agent_that_came_before_the_plans() -> None:
    """Waits, and keeps what it has, until everything is known."""

    async def test(cluster: Cluster) -> None:
        await until(lambda: cluster.system.plans.is_open)
        cluster.system.plans._is_open = False
        async with Agent(cluster, token("n1")) as agent:
            await agent.hello("n1", "old")
            await until(lambda: cluster.system.agents.connected)
            reading = asyncio.ensure_future(agent.plan())
            await asyncio.sleep(0.1)
            assert not reading.done()
            cluster.system.plans.open()
            cluster.system.agents.plans_opened()
            assert (await reading).node == "n1"

    run(test)


def test_another_hash_brings_the_whole_plan_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not at once, since what is on the way may be the answer; then until it agrees."""

    async def test(cluster: Cluster) -> None:
        await traced(cluster)
        async with Agent(cluster, token("n1")) as agent:
            await agent.hello("n1")
            first = await agent.plan()
            await agent.call.write(control_pb2.NodeReport(heartbeat=control_pb2.Heartbeat(plan_hash="lost")))
            reading = asyncio.ensure_future(agent.plan())
            await asyncio.sleep(0.1)
            assert not reading.done()
            monkeypatch.setattr(agents_module, "RESEND_SECONDS", 0.0)
            await agent.call.write(control_pb2.NodeReport(heartbeat=control_pb2.Heartbeat(plan_hash="lost")))
            assert await reading == first
            await agent.state(first)
            await until(lambda: cluster.system.agents.reported("n1").profiles)  # type: ignore[union-attr]

    run(test)


def jwt(**claims: object) -> str:
    """A token of other claims."""
    payload = base64.urlsafe_b64encode(json.dumps({"exp": FAR, "node": "n1"} | claims).encode()).decode().rstrip("=")
    return f"h.{payload}.s"


@pytest.mark.parametrize(
    ("bearer", "name", "reason"),
    [
        ("nonsense", "n1", "BadToken"),
        ("x" * 7_000, "n1", "BadToken"),  # gRPC itself refuses headers beyond 8 KiB
        (jwt(exp=1), "n1", "BadToken"),
        (jwt(node="n2"), "n1", "OtherNode"),
        (jwt(node=""), "n1", "NoNode"),
        (jwt(user="system:serviceaccount:shop:default"), "n1", "OtherServiceAccount"),
    ],
)
def test_bad_tokens_are_refused_and_counted(bearer: str, name: str, reason: str) -> None:
    """And others are served meanwhile."""

    async def test(cluster: Cluster) -> None:
        await traced(cluster)
        async with Agent(cluster, bearer) as bad, Agent(cluster, token("n1")) as good:
            await good.hello("n1")
            await good.plan()
            if reason == "OtherNode":  # all others are refused before they have spoken
                await bad.hello(name)
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await bad.plan()
            assert (caught.value.code(), caught.value.details()) == (grpc.StatusCode.UNAUTHENTICATED, reason)
            assert cluster.system.auth.refused == {reason: 1}
            cluster.server.put(SHOP, pod("b"))
            assert len((await good.plan()).pods) == 2

    run(test)


def test_a_token_without_a_node_claim_is_of_its_pod_s_node() -> None:
    """Before Kubernetes 1.32; the pod must still be the same."""

    async def test(cluster: Cluster) -> None:
        own = PODS.format("kernelspan")
        cluster.server.put(own, pod("agent-x", node="n1", namespace="kernelspan"))

        def review(uid: str) -> object:
            extra = {
                "authentication.kubernetes.io/pod-name": ["agent-x"],
                "authentication.kubernetes.io/pod-uid": [uid],
            }
            user = {"username": "system:serviceaccount:kernelspan:kernelspan-agent", "extra": extra}
            status = {"authenticated": True, "audiences": ["kernelspan-operator"], "user": user}
            return lambda _body: (201, {"status": status})

        path = ("POST", "/apis/authentication.k8s.io/v1/tokenreviews")
        cluster.server.answers[path] = review("uid-agent-x")  # type: ignore[assignment]
        assert (await cluster.system.auth.agent(f"Bearer {jwt()}")).node == "n1"
        cluster.server.answers[path] = review("another")  # type: ignore[assignment]
        with pytest.raises(Exception, match="another one"):
            await cluster.system.auth.agent(f"Bearer {jwt()}")

    run(test)


def test_a_token_of_another_audience_is_none() -> None:
    """An API server that knows nothing of audiences accepts it and names none: that is not enough."""

    async def test(cluster: Cluster) -> None:
        user = {"username": "system:serviceaccount:kernelspan:kernelspan-agent"}
        path = ("POST", "/apis/authentication.k8s.io/v1/tokenreviews")
        for audiences in ([], ["somebody-else"]):
            status = {"authenticated": True, "audiences": audiences, "user": user}
            cluster.server.answers[path] = lambda _body, status=status: (201, {"status": status})
            with pytest.raises(Exception, match="does not accept"):
                await cluster.system.auth.agent(f"Bearer {jwt()}")

    run(test)


def test_calls_of_one_token_share_a_review_that_is_under_way() -> None:
    """Those that come later have one of their own, and another token's are never shared; who leaves takes nothing from the others."""

    async def test(cluster: Cluster) -> None:
        auth, path = cluster.system.auth, "/apis/authentication.k8s.io/v1/tokenreviews"
        before = cluster.server.count("POST", path)
        one, other = f"Bearer {token('n1')}", f"Bearer {token('n2')}"
        calls = [asyncio.ensure_future(auth.agent(each)) for each in (one, one, other, one)]
        await asyncio.sleep(0)
        calls[0].cancel()
        found = await asyncio.gather(*calls, return_exceptions=True)
        assert isinstance(found[0], asyncio.CancelledError)
        assert [each.node for each in found[1:]] == ["n1", "n2", "n1"]  # type: ignore[union-attr]
        assert cluster.server.count("POST", path) == before + 2
        assert (await auth.agent(one)).node == "n1"
        assert cluster.server.count("POST", path) == before + 3
        left = asyncio.ensure_future(auth.agent(other))
        await asyncio.sleep(0)
        left.cancel()
        refused = await asyncio.gather(auth.agent("Bearer x"), auth.agent("Bearer x"), left, return_exceptions=True)
        assert [str(each) for each in refused[:2]] == ["the API server does not accept the token"] * 2
        assert auth.refused == {"BadToken": 2}

    run(test)


def test_an_api_server_that_cannot_review_is_no_refusal() -> None:
    """The agent is told to come again."""

    async def test(cluster: Cluster) -> None:
        cluster.server.refuse = lambda _verb, path: 500 if path.endswith("tokenreviews") else 0
        async with Agent(cluster, token("n1")) as agent:
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await agent.plan()
            assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
            assert not cluster.system.auth.refused

    run(test)


def test_a_newer_stream_ends_the_older() -> None:
    """An agent that came back before its old connection was known to be dead."""

    async def test(cluster: Cluster) -> None:
        await traced(cluster)
        async with Agent(cluster, token("n1")) as old, Agent(cluster, token("n1")) as new:
            await old.hello("n1")
            await old.plan()
            await new.hello("n1")
            await new.plan()
            assert await asyncio.wait_for(old.call.read(), 10) is grpc.aio.EOF
            assert cluster.system.agents.connected == 1
            assert cluster.system.agents.reported("n1").connected  # type: ignore[union-attr]

    run(test)


def test_a_stream_ends_with_its_token() -> None:
    """It comes again with a fresh one."""

    async def test(cluster: Cluster) -> None:
        await traced(cluster)
        async with Agent(cluster, token("n1", cluster.kube.now() + 1)) as agent:
            await agent.hello("n1")
            await agent.plan()
            assert await asyncio.wait_for(agent.call.read(), 10) is grpc.aio.EOF

    run(test)


def test_no_tls_garbage_and_another_authority() -> None:
    """Are refused; the next agent is served."""

    async def test(cluster: Cluster) -> None:
        await traced(cluster)
        from tests.support.tls import trustme

        held = []
        for data in (b"GET / HTTP/1.1\r\n\r\n", b"\0" * 1000, b"\x16\x03\x01\xff\xff" + b"x" * 100, b""):
            client = socket.create_connection(("127.0.0.1", cluster.system.port))
            client.sendall(data)
            held.append(client)
        plain = grpc.aio.insecure_channel(f"127.0.0.1:{cluster.system.port}")
        with pytest.raises(grpc.aio.AioRpcError):
            await plain.unary_unary("/kernelspan.v1alpha1.Control/Sync")(b"")
        await plain.close()
        async with Agent(cluster, token("n1"), trust=trustme.CA().cert_pem.bytes()) as other:
            with pytest.raises(grpc.aio.AioRpcError):
                await other.plan()
        async with Agent(cluster, token("n1")) as agent:
            await agent.hello("n1")
            assert (await agent.plan()).pods
        for client in held:
            client.close()

    run(test)


def test_silence_ends_a_stream(monkeypatch: pytest.MonkeyPatch) -> None:
    """A peer that is gone without a word."""
    monkeypatch.setattr(agents_module, "SILENCE_SECONDS", 0.2)

    async def test(cluster: Cluster) -> None:
        await traced(cluster)
        async with Agent(cluster, token("n1")) as agent:
            await agent.hello("n1")
            await agent.plan()
            assert await asyncio.wait_for(agent.call.read(), 10) is grpc.aio.EOF

    run(test)
