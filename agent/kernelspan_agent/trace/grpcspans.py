# SPDX-License-Identifier: Apache-2.0
"""What a request of HTTP/2 says of itself in its span: one of gRPC by OpenTelemetry's conventions for remote calls.

Service and method are told where the path is of their form; a server may be asked for anything, and what it does not know it
answers with `UNIMPLEMENTED`: then the method is `_OTHER`, as the conventions have it. The message of a status stays out.
"""

from __future__ import annotations

import re

from kernelspan_agent.model import AttributeValue, Kind, Segment
from kernelspan_agent.protocols.exchanges import Exchange
from kernelspan_agent.protocols.http1 import Head
from kernelspan_agent.protocols.http2talk import Http2Exchange
from kernelspan_agent.trace import httpspans
from kernelspan_agent.trace.ends import Ends, put_peer, put_server
from kernelspan_api import semconv
from kernelspan_api.subjects import Request

_METHOD = re.compile(r"/([A-Za-z_][\w.]{0,254}/[A-Za-z_]\w{0,254})", re.ASCII)
_OTHER = "_OTHER"
_CODES = (
    "OK",
    "CANCELLED",
    "UNKNOWN",
    "INVALID_ARGUMENT",
    "DEADLINE_EXCEEDED",
    "NOT_FOUND",
    "ALREADY_EXISTS",
    "PERMISSION_DENIED",
    "RESOURCE_EXHAUSTED",
    "FAILED_PRECONDITION",
    "ABORTED",
    "OUT_OF_RANGE",
    "UNIMPLEMENTED",
    "INTERNAL",
    "UNAVAILABLE",
    "DATA_LOSS",
    "UNAUTHENTICATED",
)  # by their numbers, of gRPC's documentation
_SERVER_ERRORS = {"UNKNOWN", "DEADLINE_EXCEEDED", "UNIMPLEMENTED", "INTERNAL", "UNAVAILABLE", "DATA_LOSS"}
_OK = 200


def segment(exchange: Exchange, wanted: Request, ends: Ends, correlation: str, hidden: tuple[str, ...] = ()) -> Segment:
    """All that the span says. `hidden`: globs of headers that are never shown."""
    assert isinstance(exchange, Http2Exchange)
    if not exchange.is_grpc:
        return httpspans.segment(exchange, wanted, ends, correlation, hidden)
    request, is_server = exchange.request, exchange.is_server
    code, error = _status(exchange), ""
    matched = _METHOD.fullmatch(request.target)
    method = matched[1] if matched is not None and code != "UNIMPLEMENTED" else _OTHER
    found: dict[str, AttributeValue] = {
        semconv.RPC_SYSTEM_NAME: "grpc",
        semconv.RPC_METHOD: method,
        semconv.NETWORK_PROTOCOL_NAME: "http",
        semconv.NETWORK_PROTOCOL_VERSION: request.version,
    }
    address, port = ends[:2] if is_server else ends[2:]
    put_server(found, httpspans.host_of(request, address, port))
    put_peer(found, ends, is_server=is_server)
    if is_server:
        found[semconv.CORRELATION] = correlation
    httpspans.put_headers(found, semconv.RPC_METADATA[0], request, wanted, hidden)
    for head in (exchange.response, exchange.trailers):
        if head is not None:
            httpspans.put_headers(found, semconv.RPC_METADATA[1], head, wanted, hidden)
    if code:
        found[semconv.RPC_RESPONSE_STATUS_CODE] = code
        if code in _SERVER_ERRORS or (code != _CODES[0] and not is_server):
            error = code
    elif exchange.reset:
        error = exchange.reset
    elif exchange.response is not None and exchange.response.status != _OK:
        error = str(exchange.response.status)
    if error:
        found[semconv.ERROR_TYPE] = error
    name = method if method != _OTHER else "grpc"
    return Segment(found, name, Kind.SERVER if is_server else Kind.CLIENT, error)


def _status(exchange: Http2Exchange) -> str:
    """By its name; of one that has no name the number; empty: not seen."""
    for head in (exchange.trailers, exchange.response):
        said = _said(head)
        if said:
            return _CODES[int(said)] if int(said) < len(_CODES) else said
    return ""


def _said(head: Head | None) -> str:
    found = re.fullmatch("0*([0-9]{1,4})", head.headers.get("grpc-status", ""), re.ASCII) if head is not None else None
    return found[1] if found is not None else ""
