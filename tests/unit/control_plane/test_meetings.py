# SPDX-License-Identifier: Apache-2.0
"""Agents that ask about others: who they are, whose an address is, and who is told nothing."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import grpc
import pytest
from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID
from hypothesis import given
from hypothesis import strategies as st

from kernelspan_agent.control.meeting import Meeting
from kernelspan_api.control import MEET, control_pb2, peer_name
from kernelspan_operator.models.addresses import Addresses
from kernelspan_operator.services.meetings import is_endpoint
from tests.support.apiserver import until
from tests.unit.control_plane.cluster import PODS, Cluster, pod, profile, run, token

SHOP = PODS.format("shop")


def placed(name: str, node: str, *addresses: str, host: str, **more: Any) -> dict[str, Any]:
    """A pod with addresses."""
    status = {"podIPs": [{"ip": each} for each in addresses], "hostIP": host, "hostIPs": [{"ip": host}]}
    return pod(name, node, status=status, **more)


@asynccontextmanager
async def meeting(cluster: Cluster, bearer: str) -> AsyncIterator[Any]:
    """A call Meet."""
    bundle = cluster.server.objects["/api/v1/namespaces/kernelspan/configmaps"]["kernelspan-ca"]["data"]["ca.crt"]
    credentials = grpc.ssl_channel_credentials(bundle.encode())
    async with grpc.aio.secure_channel(f"localhost:{cluster.system.port}", credentials) as channel:
        method = channel.stream_stream(
            MEET,
            request_serializer=control_pb2.Enquiry.SerializeToString,
            response_deserializer=control_pb2.Introduction.FromString,
        )
        yield method(metadata=(("authorization", f"Bearer {bearer}"),))


async def met(call: Any, endpoint: str) -> control_pb2.Identity:
    await call.write(control_pb2.Enquiry(endpoint=endpoint))
    return (await read(call)).identity


async def read(call: Any) -> control_pb2.Introduction:
    async with asyncio.timeout(10):
        found = await call.read()
    assert isinstance(found, control_pb2.Introduction)
    return found


async def whose(call: Any, *addresses: str) -> list[tuple[str, str]]:
    """Node and endpoint for each; empty: none."""
    await call.write(control_pb2.Enquiry(addresses=addresses))
    found = (await read(call)).locations
    assert [one.address for one in found] == list(addresses)
    return [(one.neighbour.node, one.neighbour.endpoint) for one in found]


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
        await until(lambda: not cluster.system.meetings.connected)

    run(test)


def test_who_is_not_sure_is_told_nothing() -> None:
    """No token, another's word for an endpoint, too long a message; and each call ends with its token."""

    async def test(cluster: Cluster) -> None:
        await until(lambda: cluster.system.plans.is_open)
        refused = [
            ("", "10.0.0.1:1", grpc.StatusCode.UNAUTHENTICATED),
            (token("n1"), "host:1", grpc.StatusCode.INVALID_ARGUMENT),
            (token("n1"), "", grpc.StatusCode.INVALID_ARGUMENT),
        ]
        for bearer, endpoint, code in refused:
            async with meeting(cluster, bearer) as call:
                with contextlib.suppress(grpc.RpcError, asyncio.InvalidStateError):
                    await call.write(control_pb2.Enquiry(endpoint=endpoint))
                assert await call.code() is code
        async with meeting(cluster, token("n1")) as call:
            await met(call, "10.0.0.1:1")
            await call.write(control_pb2.Enquiry(addresses=["1" * 1000] * 100))
            assert await call.code() is not grpc.StatusCode.OK
        async with meeting(cluster, token("n1", time.time() + 1.0)) as call:
            await met(call, "10.0.0.1:1")
            async with asyncio.timeout(10):
                assert await call.code() is grpc.StatusCode.OK
        await until(lambda: not cluster.system.meetings.connected)

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
            mine.begin(channel, (("authorization", f"Bearer {token('n1')}"),))
            await until(lambda: len(told) == 1)
            assert told[0].identity.certificate
            await until(lambda: mine.enquire(["10.1.0.1"]))
            await until(lambda: len(told) == 2)
            (location,) = told[1].locations
            assert (location.address, location.neighbour.endpoint) == ("10.1.0.1", "10.9.9.9:1")
        await until(lambda: not mine.enquire(["10.1.0.1"]))
        mine.close()

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
