# SPDX-License-Identifier: Apache-2.0
"""Both ends of a request's connection."""

from __future__ import annotations

from kernelspan_agent.model import AttributeValue, ResolvedBatch
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


def put_server(found: dict[str, AttributeValue], server: tuple[str, int]) -> None:
    """Its address and port as attributes, as far as they are known."""
    if server[0]:
        found[semconv.SERVER_ADDRESS] = server[0]
        if server[1]:
            found[semconv.SERVER_PORT] = server[1]


def put_peer(found: dict[str, AttributeValue], ends: Ends, *, is_server: bool) -> None:
    """The other end's as attributes; it is the client where this is the server."""
    if ends[3]:
        found[semconv.NETWORK_PEER_ADDRESS], found[semconv.NETWORK_PEER_PORT] = ends[2:]
    if is_server and ends[2]:
        found[semconv.CLIENT_ADDRESS] = ends[2]
