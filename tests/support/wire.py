# SPDX-License-Identifier: Apache-2.0
"""One connection as its calls are told of to a protocol's reader, of a client or of a server."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Generic, TypeVar, cast

from kernelspan_agent.model import Payload, WireProtocol
from kernelspan_agent.protocols.connections import Connections
from kernelspan_agent.protocols.exchanges import Exchange

SEEN = 2048  # bytes of a call's beginning that are copied, and of its end
STEP, TOOK = 10, 5  # ns between the ends of calls, and that each took
E = TypeVar("E", bound=Exchange)


@dataclass
class Wire(Generic[E]):
    """What began on it and what ended, in this order."""

    protocol: WireProtocol
    is_server: bool = False
    began: list[E] = field(default_factory=list)
    ended: list[E] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._connections, self._clock, self._moved = Connections({self.protocol}), 0, {True: 0, False: 0}

    def move(self, data: bytes, *, asks: bool, seen: bool = True, start: int | None = None) -> None:
        """One call. `asks`: of the client's direction. `seen`: its record has come. `start`: when it began, if not as usual."""
        sends = asks is not self.is_server
        self._clock += STEP
        self._moved[sends] += len(data)
        if not seen:
            return
        places = self._moved[sends], self._moved[not sends]
        payload = Payload(
            1, sends, len(data), data[:SEEN], data[SEEN:][-SEEN:], self.protocol, False, places[0], places[1]
        )
        told = self._connections.feed(payload, self._clock - TOOK if start is None else start, self._clock)
        if told is not None:
            self.began += cast("list[E]", told.began)
            self.ended += cast("list[E]", told.ended)
