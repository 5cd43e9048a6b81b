# SPDX-License-Identifier: Apache-2.0
"""On which node an address is: of the selected pods, and of the nodes that they are on."""

from __future__ import annotations

import ipaddress
from collections import Counter
from collections.abc import Iterable


class Addresses:
    """Each address with the node that has it. That several have one, a moment long, is known; it is nobody's then."""

    def __init__(self) -> None:
        self._nodes: dict[str, str | Counter[str]] = {}  # most are of one pod, those of nodes of many

    def add(self, node: str, addresses: Iterable[str]) -> None:
        """A pod that has these has come to the node."""
        for address in addresses:
            before = self._nodes.get(address)
            if before is None:
                self._nodes[address] = node
                continue
            if isinstance(before, str):
                before = self._nodes[address] = Counter({before: 1})
            before[node] += 1

    def remove(self, node: str, addresses: Iterable[str]) -> None:
        """It is there no more."""
        for address in addresses:
            found = self._nodes.get(address)
            if found == node:
                del self._nodes[address]
            elif isinstance(found, Counter):
                found[node] -= 1
                if found[node] <= 0:
                    del found[node]
                if not found:
                    del self._nodes[address]

    def node(self, address: str) -> str:
        """The one that has it; empty: none, or several."""
        found = self._nodes.get(address, "")
        if isinstance(found, str):
            return found
        return next(iter(found)) if len(found) == 1 else ""

    def __len__(self) -> int:
        return len(self._nodes)


def canonical(address: str) -> str:
    """The one way to write it; as it is where it is none. IPv4 has no other that Kubernetes takes."""
    if ":" not in address:
        return address
    try:
        return str(ipaddress.ip_address(address))
    except ValueError:
        return address
