# SPDX-License-Identifier: Apache-2.0
"""What an agent asks the operator about others: who it is to them, and on which node addresses are."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from kernelspan_agent.control.meeting import CALL_SECONDS
from kernelspan_api.control import MEET
from kernelspan_api.control.control_pb2 import Enquiry, Introduction

_ENDPOINT = "172.16.0.1:4319"  # nobody dials it


@dataclass(slots=True, eq=False)
class Neighbours:
    """One agent's call Meet. `nodes`: what it was told of each address; empty: nobody's that can be asked."""

    identified: bool = False
    nodes: dict[str, str] = field(default_factory=dict)
    _call: Callable[[Enquiry], Awaitable[Introduction]] | None = None

    async def hold(self, channel: Any, token: str) -> None:
        """Until cancelled: what is asked goes over this channel. Raises grpc.RpcError where it is not told who it is."""
        method = channel.unary_unary(
            MEET, request_serializer=Enquiry.SerializeToString, response_deserializer=Introduction.FromString
        )
        metadata = (("authorization", f"Bearer {token}"),)
        self._call = partial(method, metadata=metadata, timeout=CALL_SECONDS)
        try:
            answer = await self._call(Enquiry(endpoint=_ENDPOINT))
            self.identified = answer.HasField("identity")
            await asyncio.Event().wait()
        finally:
            self._call, self.identified = None, False

    async def ask(self, addresses: Sequence[str]) -> None:
        """By one enquiry. Raises grpc.RpcError."""
        assert self._call is not None
        answer = await self._call(Enquiry(addresses=addresses))
        self.nodes = {one.address: one.neighbour.node for one in answer.locations}
