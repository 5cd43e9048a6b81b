# SPDX-License-Identifier: Apache-2.0
"""Agents of several nodes that can ask one another, with an operator's certificates; whose addresses are whose says the test."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime

from kernelspan_agent.control.peering import Peering
from kernelspan_api.control.control_pb2 import Identity, Introduction, Location, Neighbour
from kernelspan_operator.services.authority import Pair, advanced, peer_pair

WAIT_SECONDS = 30.0


def identity(authority: Pair, node: str) -> Identity:
    """What the operator gives a node's agent."""
    pair = peer_pair(authority, node, datetime.now(UTC))
    return Identity(certificate=pair.certificate, key=pair.key)


@dataclass
class Nodes:
    """What agents of nodes have of one another, by the nodes' names."""

    authority: Pair = field(default_factory=lambda: advanced(None, datetime.now(UTC)).current)
    peerings: dict[str, Peering] = field(default_factory=dict)

    def endpoint(self, node: str) -> str:
        return f"127.0.0.1:{self.peerings[node].port.result(WAIT_SECONDS)}"

    def place(self, node: str, address: str, of: str, *, called: str = "") -> None:
        """An agent learns whose an address is. `called`: by another name than it has."""
        neighbour = Neighbour(node=called or of, endpoint=self.endpoint(of) if of in self.peerings else of)
        self.peerings[node].introduced(Introduction(locations=[Location(address=address, neighbour=neighbour)]))


@contextlib.contextmanager
def nodes(*names: str) -> Iterator[Nodes]:
    """Agents of these nodes, at addresses of this machine; all know who they are."""
    made = Nodes()
    try:
        for name in names:
            peering = made.peerings[name] = Peering(name, "127.0.0.1:0", lambda: made.authority.certificate)
            peering.start()
            peering.introduced(Introduction(identity=identity(made.authority, name)))
        yield made
    finally:
        for each in made.peerings.values():
            each.close()


def wait_for(condition: Callable[[], object], what: str) -> None:
    end = time.monotonic() + WAIT_SECONDS
    while not condition():
        assert time.monotonic() < end, f"never: {what}"
        time.sleep(0.005)
