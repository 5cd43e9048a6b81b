# SPDX-License-Identifier: Apache-2.0
"""Agents that other agents may ask: each is told who it is to them, and whose the addresses are that it asks about.

Nothing of what agents say to one another comes here, and nothing is told that was not asked: the work follows the
addresses that programs talk to, not the pods that come and go.
"""

from __future__ import annotations

import asyncio
import ipaddress
import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import grpc

from kernelspan_api.control import MAX_ADDRESSES, MAX_ENQUIRY_BYTES
from kernelspan_api.control.control_pb2 import Enquiry, Identity, Introduction, Location, Neighbour
from kernelspan_operator.errors import ApiError, RefusedError
from kernelspan_operator.models.addresses import Addresses

from .auth import Agent, Auth
from .authority import Pair

FIRST_SECONDS = 10.0
GRACE_SECONDS = 30.0  # an agent whose stream ends comes again; meanwhile it is found where it was
ADDRESSES_PER_SECOND = 1000.0  # of one agent: it keeps what it was told for a minute
_SERVICE, _METHOD = "kernelspan.v1alpha1.Control", "Meet"
_log = logging.getLogger(__name__)


@dataclass(slots=True, eq=False)
class _Met:
    endpoint: str


class Meetings:
    """All of them. `identify`: a certificate for the agent of a node."""

    def __init__(
        self, auth: Auth, addresses: Addresses, identify: Callable[[str], Pair], now: Callable[[], float]
    ) -> None:
        self._auth, self._addresses, self._identify, self._now = auth, addresses, identify, now
        self._met: dict[str, _Met] = {}  # by node
        self._opened = asyncio.Event()
        self.connected = self.located = 0
        self.unlocated = 0

    def handler(self) -> grpc.GenericRpcHandler:
        """What a server serves."""
        method: grpc.RpcMethodHandler[Enquiry, Introduction] = grpc.stream_stream_rpc_method_handler(
            self.meet, request_deserializer=_read, response_serializer=Introduction.SerializeToString
        )
        return grpc.method_handlers_generic_handler(_SERVICE, {_METHOD: method})

    def open(self) -> None:
        """All pods are known: whose an address is can be said."""
        self._opened.set()

    async def meet(self, enquiries: Any, context: Any) -> None:
        """The call Meet. It ends with the agent's token; the next one brings a new certificate."""
        agent = await self._greet(context)
        try:
            async with asyncio.timeout(FIRST_SECONDS):
                first = await anext(aiter(enquiries))
        except (TimeoutError, StopAsyncIteration):
            await context.abort(grpc.StatusCode.DEADLINE_EXCEEDED, "NoEnquiry")
        if not is_endpoint(first.endpoint):
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, "BadEndpoint")
        await self._opened.wait()
        mine = self._met[agent.node] = _Met(first.endpoint)
        self.connected += 1
        try:
            async with asyncio.timeout(max(agent.expires - self._now(), 0.0)):
                await context.write(self._introduce(agent.node))
                async for enquiry in enquiries:
                    some = list(enquiry.addresses)[:MAX_ADDRESSES]
                    await context.write(Introduction(locations=[self._locate(address) for address in some]))
                    await asyncio.sleep(len(some) / ADDRESSES_PER_SECOND)
        except TimeoutError:
            _log.info("meeting.ended node=%s why=%s", agent.node, "the token has expired")
        finally:
            self.connected -= 1
            asyncio.get_running_loop().call_later(GRACE_SECONDS, self._forget, agent.node, mine)

    async def _greet(self, context: Any) -> Agent:
        sent = {key: value for key, value in context.invocation_metadata() or () if isinstance(value, str)}
        try:
            return await self._auth.agent(sent.get("authorization", ""))
        except RefusedError as error:
            _log.warning("agent.refused reason=%s peer=%s", error.reason, context.peer())
            await context.abort(grpc.StatusCode.UNAUTHENTICATED, error.reason)
        except ApiError as error:
            _log.warning("agent.unreviewed message=%s", error)
            await context.abort(grpc.StatusCode.UNAVAILABLE, "the API server cannot review the token now")
        raise AssertionError("not reached: abort raises")

    def _introduce(self, node: str) -> Introduction:
        pair = self._identify(node)
        return Introduction(identity=Identity(certificate=pair.certificate, key=pair.key))

    def _locate(self, address: str) -> Location:
        node = self._addresses.node(address)
        met = self._met.get(node)
        if met is None:
            self.unlocated += 1
            return Location(address=address)
        self.located += 1
        return Location(address=address, neighbour=Neighbour(node=node, endpoint=met.endpoint))

    def _forget(self, node: str, met: _Met) -> None:
        if self._met.get(node) is met:
            del self._met[node]


def _read(data: bytes) -> Enquiry:
    if len(data) > MAX_ENQUIRY_BYTES:
        raise ValueError(f"an enquiry of more than {MAX_ENQUIRY_BYTES} bytes")
    return Enquiry.FromString(data)


def is_endpoint(text: str) -> bool:
    """Whether it is an address and a port."""
    host, separator, port = text.rpartition(":")
    try:
        ipaddress.ip_address(host.removeprefix("[").removesuffix("]"))
    except ValueError:
        return False
    return bool(separator) and port.isascii() and port.isdigit() and len(port) <= 5 and 0 < int(port) <= 65535
