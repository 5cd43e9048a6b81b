# SPDX-License-Identifier: Apache-2.0
"""What a handshake of TLS says of itself in its span.

OpenTelemetry has no convention for such a span; it has names for what TLS agreed upon, and calls the name that a client asks
for the server's address. Protocols that were offered, and may not have been chosen, are ours.
"""

from __future__ import annotations

from kernelspan_agent.model import AttributeValue, Kind, Segment
from kernelspan_agent.protocols.exchanges import Exchange
from kernelspan_agent.protocols.tls import Handshake
from kernelspan_agent.trace.ends import Ends, put_peer, put_server
from kernelspan_api import semconv
from kernelspan_api.subjects import Request


def segment(
    exchange: Exchange, _wanted: Request, ends: Ends, correlation: str, _hidden: tuple[str, ...] = ()
) -> Segment:
    """All that the span says."""
    assert isinstance(exchange, Handshake)
    found: dict[str, AttributeValue] = {semconv.NETWORK_PROTOCOL_NAME: "tls", semconv.NETWORK_TRANSPORT: "tcp"}
    address, port = ends[:2] if exchange.is_server else ends[2:]
    put_server(found, (exchange.hello.server_name or address, port))
    put_peer(found, ends, is_server=exchange.is_server)
    if exchange.is_server:
        found[semconv.CORRELATION] = correlation
    if exchange.hello.protocols:
        found[semconv.TLS_OFFERED_PROTOCOLS] = exchange.hello.protocols
    if exchange.answer is not None:
        name, _, version = exchange.answer.version.partition(" ")
        if version:
            found[semconv.TLS_PROTOCOL_NAME], found[semconv.TLS_PROTOCOL_VERSION] = name, version
        if exchange.answer.protocol:
            found[semconv.TLS_NEXT_PROTOCOL] = exchange.answer.protocol
    if exchange.alert:
        found[semconv.ERROR_TYPE] = exchange.alert
    return Segment(found, "TLS handshake", Kind.SERVER if exchange.is_server else Kind.CLIENT, exchange.alert)
