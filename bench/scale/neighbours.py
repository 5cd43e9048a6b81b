# SPDX-License-Identifier: Apache-2.0
"""What an agent asks the operator about others: who it is to them, and on which node addresses are."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from kernelspan_api.control import MEET
from kernelspan_api.control.control_pb2 import Enquiry, Introduction

_ENDPOINT = "172.16.0.1:4319"  # nobody dials it


@dataclass(slots=True, eq=False)
class Neighbours:
    """One agent's call Meet. `nodes`: what it was told of each address; empty: nobody's that can be asked."""

    identified: bool = False
    nodes: dict[str, str] = field(default_factory=dict)
    _call: Any = None
    _awaited: int = 0
    _reached: asyncio.Event = field(default_factory=asyncio.Event)

    async def hold(self, channel: Any, token: str) -> None:
        """Until the call ends. Raises grpc.RpcError."""
        method = channel.stream_stream(
            MEET, request_serializer=Enquiry.SerializeToString, response_deserializer=Introduction.FromString
        )
        try:
            self._call = method(metadata=(("authorization", f"Bearer {token}"),))
            await self._call.write(Enquiry(endpoint=_ENDPOINT))
            async for introduction in self._call:
                self.identified |= introduction.HasField("identity")
                self.nodes.update((one.address, one.neighbour.node) for one in introduction.locations)
                if len(self.nodes) >= self._awaited:
                    self._reached.set()
        finally:
            self._call, self.identified = None, False

    async def ask(self, addresses: Sequence[str]) -> None:
        """By one enquiry; returns when all are answered. Raises whatever a call that ended raises."""
        self.nodes.clear()
        self._reached.clear()
        self._awaited = len(addresses)
        await self._call.write(Enquiry(addresses=addresses))
        await self._reached.wait()
