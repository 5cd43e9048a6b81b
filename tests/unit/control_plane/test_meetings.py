# SPDX-License-Identifier: Apache-2.0
"""Agents that ask about others: who they are, whose an address is, and who is told nothing."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import grpc
import pytest
from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID
from hypothesis import given
from hypothesis import strategies as st

from kernelspan_agent.control.meeting import Meeting
from kernelspan_api.control import MAX_ADDRESSES, MEET, control_pb2, peer_name
from kernelspan_operator.models.addresses import Addresses
from kernelspan_operator.services import agents, meetings
from kernelspan_operator.services.meetings import is_endpoint
from tests.support.apiserver import until
from tests.unit.control_plane.cluster import PODS, Agent, Cluster, pod, profile, run, token

SHOP = PODS.format("shop")
Meet = Callable[[control_pb2.Enquiry], Awaitable[control_pb2.Introduction]]


def placed(name: str, node: str, *addresses: str, host: str, **more: Any) -> dict[str, Any]:
    """A pod with addresses."""
    status = {"podIPs": [{"ip": each} for each in addresses], "hostIP": host, "hostIPs": [{"ip": host}]}
    return pod(name, node, status=status, **more)


@asynccontextmanager
async def meeting(cluster: Cluster, bearer: str) -> AsyncIterator[Meet]:
    """The call Meet, as often as one likes."""
    bundle = cluster.server.objects["/api/v1/namespaces/kernelspan/configmaps"]["kernelspan-ca"]["data"]["ca.crt"]
    credentials = grpc.ssl_channel_credentials(bundle.encode())
    async with grpc.aio.secure_channel(f"localhost:{cluster.system.port}", credentials) as channel:
        method = channel.unary_unary(
            MEET,
            request_serializer=control_pb2.Enquiry.SerializeToString,
            response_deserializer=control_pb2.Introduction.FromString,
        )
        yield partial(method, metadata=(("authorization", f"Bearer {bearer}"),), timeout=10)


async def met(call: Meet, endpoint: str) -> control_pb2.Identity:
    return (await call(control_pb2.Enquiry(endpoint=endpoint))).identity


async def whose(call: Meet, *addresses: str) -> list[tuple[str, str]]:
    """Node and endpoint for each; empty: none."""
    answer = await call(control_pb2.Enquiry(addresses=addresses))
    assert not answer.HasField("identity")
    assert [one.address for one in answer.locations] == list(addresses)
    return [(one.neighbour.node, one.neighbour.endpoint) for one in answer.locations]


def test_each_is_told_who_it_is_and_whose_addresses_are() -> None:
    """Of selected pods and of their nodes, as they are now; where several have one, or no agent is there, nobody's."""

    async def test(cluster: Cluster) -> None:
        cluster.server.put(SHOP, placed("a", "n1", "10.1.0.1", "fd00:0::1", host="192.168.0.1"))
        cluster.server.put(SHOP, placed("b", "n2", "10.2.0.1", host="192.168.0.2"))
        cluster.server.put(SHOP, placed("c", "n3", "10.3.0.1", host="192.168.0.3"))
        cluster.server.put(SHOP, placed("other", "n2", "10.2.0.9", host="192.168.0.2", app="other"))
        cluster.apply(profile())
        await until(lambda: cluster.system.plans.is_open and len(cluster.system.pods) == 3)
        async with meeting(cluster, token("n1")) as one, meeting(cluster, token("n2")) as other:
            identity = await met(one, "10.1.0.100:9466")
            await met(other, "[fd00::100]:9466")
            certificate = x509.load_pem_x509_certificate(identity.certificate)
            names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
            assert names.get_values_for_type(x509.DNSName) == [peer_name("n1")]
            usage = certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
            assert set(usage) == {ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH}
            assert (certificate.not_valid_after_utc - certificate.not_valid_before_utc).days <= 2
            first, second, nobody = ("n1", "10.1.0.100:9466"), ("n2", "[fd00::100]:9466"), ("", "")
            asked = ("10.1.0.1", "fd00::1", "10.2.0.1", "192.168.0.2", "10.3.0.1", "10.2.0.9", "8.8.8.8", "what")
            assert await whose(one, *asked) == [first, first, second, second, nobody, nobody, nobody, nobody]
            cluster.server.put(SHOP, placed("d", "n1", "10.2.0.1", host="192.168.0.1"))
            await until(lambda: len(cluster.system.pods) == 4)
            assert await whose(one, "10.2.0.1", "192.168.0.1") == [nobody, first]
            cluster.server.delete(SHOP, "b")
            await until(lambda: len(cluster.system.pods) == 3)
            assert await whose(other, "10.2.0.1", "192.168.0.2") == [first, nobody]

    run(test)


def test_who_is_not_sure_is_told_nothing() -> None:
    """No token, another's word for an endpoint, nobody's address to be asked at, too long a message."""

    async def test(cluster: Cluster) -> None:
        await until(lambda: cluster.system.plans.is_open)
        refused = [
            ("", "10.0.0.1:1", grpc.StatusCode.UNAUTHENTICATED),
            (token("n1", time.time() - 1.0), "10.0.0.1:1", grpc.StatusCode.UNAUTHENTICATED),
            (token("n1"), "host:1", grpc.StatusCode.INVALID_ARGUMENT),
            (token("n1"), "", grpc.StatusCode.FAILED_PRECONDITION),
        ]
        for bearer, endpoint, code in refused:
            async with meeting(cluster, bearer) as call:
                with pytest.raises(grpc.aio.AioRpcError) as caught:
                    await call(control_pb2.Enquiry(endpoint=endpoint))
                assert caught.value.code() is code
        async with meeting(cluster, token("n1")) as call:
            await met(call, "10.0.0.1:1")
            with pytest.raises(grpc.aio.AioRpcError):
                await call(control_pb2.Enquiry(addresses=["1" * 1000] * 100))

    run(test)


def test_an_agent_is_let_in_by_its_stream() -> None:
    """Its token is reviewed once; and when the stream has ended again."""

    async def test(cluster: Cluster) -> None:
        path, bearer = "/apis/authentication.k8s.io/v1/tokenreviews", token("n1")
        await until(lambda: cluster.system.plans.is_open)
        async with meeting(cluster, bearer) as call:
            async with Agent(cluster, bearer) as agent:
                await agent.hello("n1")
                await until(lambda: cluster.system.agents.connected)
                await met(call, "10.0.0.1:1")
                await whose(call, "10.1.0.1")
                assert cluster.server.count("POST", path) == 1
                async with meeting(cluster, token("n2")) as other:
                    await met(other, "10.0.0.2:1")
                assert cluster.server.count("POST", path) == 2
            await until(lambda: not cluster.system.agents.connected)
            await whose(call, "10.1.0.1")
            assert cluster.server.count("POST", path) == 3

    run(test)


def test_an_agent_that_is_away_is_not_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """For the time of a restart it is; a node that is gone has none."""

    async def test(cluster: Cluster) -> None:
        cluster.server.put(SHOP, placed("a", "n1", "10.1.0.1", host="192.168.0.1"))
        cluster.apply(profile())
        await until(lambda: cluster.system.plans.is_open and len(cluster.system.pods) == 1)
        async with meeting(cluster, token("n1")) as call:
            async with Agent(cluster, token("n1")) as agent:
                await agent.hello("n1")
                await until(lambda: cluster.system.agents.connected)
                await met(call, "10.0.0.1:1")
                monkeypatch.setattr(agents, "GRACE_SECONDS", -1.0)
                assert await whose(call, "10.1.0.1") == [("n1", "10.0.0.1:1")]
            await until(lambda: not cluster.system.agents.connected)
            assert await whose(call, "10.1.0.1") == [("", "")]
            assert len(cluster.system.meetings) == 0
            monkeypatch.undo()
            assert await whose(call, "10.1.0.1") == [("n1", "10.0.0.1:1")]
            assert len(cluster.system.meetings) == 1
            cluster.system.meetings.forget("n1")
            with pytest.raises(grpc.aio.AioRpcError, match="NoEndpoint"):
                await whose(call, "10.1.0.1")

    run(test)


def test_one_that_asks_too_much_waits_and_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """What it asks is told so many a second; what would be told too late is not."""
    monkeypatch.setattr(meetings, "MOST_BEHIND_SECONDS", 0.3)

    async def test(cluster: Cluster) -> None:
        await until(lambda: cluster.system.plans.is_open)
        async with meeting(cluster, token("n1")) as call:
            await met(call, "10.0.0.1:1")
            many = control_pb2.Enquiry(addresses=["10.1.0.1"] * MAX_ADDRESSES)
            answers = await asyncio.gather(*(call(many) for _ in range(4)), return_exceptions=True)
            codes = {answer.code() if isinstance(answer, grpc.aio.AioRpcError) else None for answer in answers}
            assert codes == {None, grpc.StatusCode.RESOURCE_EXHAUSTED}

    run(test)


def test_an_agents_own_call() -> None:
    """It meets on its stream's channel, asks, and says so where nobody can be asked."""

    async def test(cluster: Cluster) -> None:
        cluster.server.put(SHOP, placed("a", "n1", "10.1.0.1", host="192.168.0.1"))
        cluster.apply(profile())
        await until(lambda: cluster.system.plans.is_open and len(cluster.system.pods) == 1)
        bundle = cluster.server.objects["/api/v1/namespaces/kernelspan/configmaps"]["kernelspan-ca"]["data"]["ca.crt"]
        told: list[control_pb2.Introduction] = []
        mine = Meeting("10.9.9.9:1", told.append)
        assert not mine.enquire(["10.1.0.1"])
        credentials = grpc.ssl_channel_credentials(bundle.encode())
        with grpc.secure_channel(f"localhost:{cluster.system.port}", credentials) as channel:
            with mine.on(channel, (("authorization", f"Bearer {token('n1')}"),)):
                await until(lambda: len(told) == 1)
                assert told[0].identity.certificate
                await until(lambda: mine.enquire(["10.1.0.1"]))
                await until(lambda: len(told) == 2)
                (location,) = told[1].locations
                assert (location.address, location.neighbour.endpoint) == ("10.1.0.1", "10.9.9.9:1")
            await until(lambda: not mine.enquire(["10.1.0.1"]))
            assert told[2:] == [control_pb2.Introduction()]

    run(test)


@pytest.mark.parametrize(
    ("text", "found"),
    [("10.0.0.1:1", True), ("[::1]:65535", True), ("10.0.0.1", False), ("a:1", False), ("10.0.0.1:0", False),
     ("10.0.0.1:65536", False), ("10.0.0.1:٣", False), (":1", False), ("", False)],
)  # fmt: skip
def test_endpoints(text: str, *, found: bool) -> None:
    """An address and a port."""
    assert is_endpoint(text) == found


@given(
    st.lists(st.tuples(st.sampled_from("abc"), st.frozensets(st.sampled_from(["1", "2", "3"]))), max_size=12),
    st.randoms(use_true_random=False),
)
def test_addresses_are_those_of_the_pods_that_are_there(pods: list[tuple[str, frozenset[str]]], random: Any) -> None:
    """Whatever comes and goes, in whatever order."""
    found, there = Addresses(), []
    for each in pods:
        found.add(*each)
        there.append(each)
        if random.random() < 0.5:
            found.remove(*there.pop(random.randrange(len(there))))
        for address in "123":
            nodes = {node for node, addresses in there if address in addresses}
            assert found.node(address) == (nodes.pop() if len(nodes) == 1 else "")
    for each in there:
        found.remove(*each)
    assert len(found) == 0
