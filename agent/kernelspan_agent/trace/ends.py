# SPDX-License-Identifier: Apache-2.0
"""Both ends of a request's connection."""

from __future__ import annotations

from kernelspan_agent.model import ResolvedBatch
from kernelspan_api import semconv

Ends = tuple[str, int, str, int]
"""Of a connection: local address and port, the peer's address and port; empty and 0 where they are not known."""


def ends_of(batch: ResolvedBatch, row: int) -> Ends:
    """Those of the operation in this row."""
    found: dict[str, object] = {}
    for part in batch.segments[row]:
        if part is not None:
            found.update(part.attributes)
    return (
        str(found.get(semconv.NETWORK_LOCAL_ADDRESS, "")),
        int(str(found.get(semconv.NETWORK_LOCAL_PORT, 0))),
        str(found.get(semconv.NETWORK_PEER_ADDRESS, "")),
        int(str(found.get(semconv.NETWORK_PEER_PORT, 0))),
    )
