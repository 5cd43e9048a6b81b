# SPDX-License-Identifier: Apache-2.0
"""What a question to a name server says of itself in its span.

OpenTelemetry's conventions name the question's name and the addresses it is answered with, and no more: type and response
code are ours. A name is part of no span's name, as there are too many of them.
"""

from __future__ import annotations

import ipaddress

from kernelspan_agent.model import AttributeValue, Kind, Segment
from kernelspan_agent.protocols.dns import Lookup
from kernelspan_agent.protocols.dnswire import rcode_name, type_name
from kernelspan_agent.protocols.exchanges import Exchange
from kernelspan_agent.trace.ends import Ends, put_peer, put_server
from kernelspan_api import semconv
from kernelspan_api.subjects import Request

# What looks like DNS and asks no name server: NetBIOS' names, mDNS, LLMNR (IANA's registry of ports).
_NEIGHBOURS = {137, 5353, 5355}
_SERVERS_FAULT = {"SERVFAIL", "NOTIMP"}  # as 5xx of HTTP; a name that is not there is no failure of who says so


def is_ignored(exchange: Exchange, wanted: Request) -> bool:
    """Whether neighbours are asked, and no name server: unless the profile names the port."""
    assert isinstance(exchange, Lookup)
    if exchange.peer is None or wanted.ports:
        return False
    port, address = exchange.peer
    return port in _NEIGHBOURS or ipaddress.ip_address(address).is_multicast


def segment(
    exchange: Exchange, _wanted: Request, ends: Ends, correlation: str, _hidden: tuple[str, ...] = ()
) -> Segment:
    """All that the span says."""
    assert isinstance(exchange, Lookup)
    kind = type_name(exchange.type)
    found: dict[str, AttributeValue] = {
        semconv.DNS_QUESTION_NAME: exchange.name,
        semconv.DNS_QUESTION_TYPE: kind,
        semconv.NETWORK_PROTOCOL_NAME: "dns",
        semconv.NETWORK_TRANSPORT: "tcp" if exchange.is_stream else "udp",
    }
    put_server(found, ends[:2] if exchange.is_server else ends[2:])
    put_peer(found, ends, is_server=exchange.is_server)
    if exchange.is_server:
        found[semconv.CORRELATION] = correlation
    if exchange.sent > 1:
        found[semconv.DNS_QUESTION_SENT] = exchange.sent
    error = "" if exchange.rcode is None else _answer(found, exchange, exchange.rcode)
    return Segment(found, f"DNS {kind}", Kind.SERVER if exchange.is_server else Kind.CLIENT, error)


def _answer(found: dict[str, AttributeValue], exchange: Lookup, rcode: int) -> str:
    """Its attributes; and the error, if it is one."""
    code = rcode_name(rcode)
    found[semconv.DNS_RESPONSE_CODE] = code
    if exchange.addresses:
        found[semconv.DNS_ANSWERS] = exchange.addresses
    elif exchange.addresses is None:
        found[semconv.DNS_ANSWERS_MISSING] = "Truncated" if exchange.is_truncated else "Unseen"
    is_error = code in _SERVERS_FAULT if exchange.is_server else rcode != 0
    if is_error:
        found[semconv.ERROR_TYPE] = code
    return code if is_error else ""
