# SPDX-License-Identifier: Apache-2.0
"""Agents that other agents may ask: each is told who it is to them, and whose the addresses are that it asks about.

Nothing of what agents say to one another comes here, and nothing is told that was not asked: the work follows the
addresses that programs talk to, not the pods that come and go. Each call is a short one: a stream that waits takes 25 KB.
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

from .agents import bearer_of
from .auth import Agent, Auth
from .authority import Pair

ADDRESSES_PER_SECOND = 1000.0  # of one agent: it keeps what it was told for a minute
MOST_BEHIND_SECONDS = 5.0
_SERVICE, _METHOD = "kernelspan.v1alpha1.Control", "Meet"
_log = logging.getLogger(__name__)


@dataclass(slots=True, eq=False)
class _Met:
    endpoint: str
    free_at: float = 0.0  # by the loop's time, when it may be told more


class Meetings:
    """All of them. `identify`: a certificate for the agent of a node. `is_away`: whether a node's agent is not there to be asked."""

    def __init__(
        self, auth: Auth, addresses: Addresses, identify: Callable[[str], Pair], is_away: Callable[[str], bool]
    ) -> None:
        self._auth, self._addresses, self._identify, self._is_away = auth, addresses, identify, is_away
        self._met: dict[str, _Met] = {}  # by node
        self._opened = asyncio.Event()
        self.located = self.unlocated = 0

    def __len__(self) -> int:
        """Agents that may be asked."""
        return sum(not self._is_away(node) for node in self._met)

    def handler(self) -> grpc.GenericRpcHandler:
        """What a server serves."""
        method: grpc.RpcMethodHandler[Enquiry, Introduction] = grpc.unary_unary_rpc_method_handler(
            self.meet, request_deserializer=_read, response_serializer=Introduction.SerializeToString
        )
        return grpc.method_handlers_generic_handler(_SERVICE, {_METHOD: method})

    def open(self) -> None:
        """All pods are known: whose an address is can be said."""
        self._opened.set()

    async def meet(self, enquiry: Enquiry, context: Any) -> Introduction:
        """The call Meet."""
        agent = await self._greet(context)
        if enquiry.endpoint and not is_endpoint(enquiry.endpoint):
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, "BadEndpoint")
        await self._opened.wait()
        answer = Introduction()
        if enquiry.endpoint:
            self._met.setdefault(agent.node, _Met("")).endpoint = enquiry.endpoint
            pair = self._identify(agent.node)
            answer.identity.CopyFrom(Identity(certificate=pair.certificate, key=pair.key))
        mine = self._met.get(agent.node)
        if mine is None:
            await context.abort(grpc.StatusCode.FAILED_PRECONDITION, "NoEndpoint")
            raise AssertionError("not reached: abort raises")
        some = list(enquiry.addresses)[:MAX_ADDRESSES]
        await self._wait_turn(mine, len(some), context)
        answer.locations.extend(self._locate(address) for address in some)
        return answer

    async def _greet(self, context: Any) -> Agent:
        try:
            return await self._auth.beside(bearer_of(context))
        except RefusedError as error:
            _log.warning("agent.refused reason=%s peer=%s", error.reason, context.peer())
            await context.abort(grpc.StatusCode.UNAUTHENTICATED, error.reason)
        except ApiError as error:
            _log.warning("agent.unreviewed message=%s", error)
            await context.abort(grpc.StatusCode.UNAVAILABLE, "the API server cannot review the token now")
        raise AssertionError("not reached: abort raises")

    async def _wait_turn(self, mine: _Met, count: int, context: Any) -> None:
        now = asyncio.get_running_loop().time()
        begin = max(now, mine.free_at)
        if begin - now > MOST_BEHIND_SECONDS:
            await context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "TooMany")
        mine.free_at = begin + count / ADDRESSES_PER_SECOND
        await asyncio.sleep(begin - now)

    def _locate(self, address: str) -> Location:
        node = self._addresses.node(address)
        met = self._met.get(node)
        if met is None or self._is_away(node):
            self.unlocated += 1
            return Location(address=address)
        self.located += 1
        return Location(address=address, neighbour=Neighbour(node=node, endpoint=met.endpoint))

    def forget(self, node: str) -> None:
        """The node does not exist any more."""
        self._met.pop(node, None)


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
