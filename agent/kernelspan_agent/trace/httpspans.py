# SPDX-License-Identifier: Apache-2.0
"""What a request of HTTP says of itself in its span, by OpenTelemetry's conventions for HTTP spans.

A path is an attribute, a route is part of the name: one of those the profile gives, else the path with what looks like an
identifier replaced, which is a guess and so no `http.route`. Queries, user information and headers stay out unless asked
for.
"""

from __future__ import annotations

import fnmatch
import re
from dataclasses import dataclass
from urllib.parse import urlsplit

from kernelspan_agent.model import AttributeValue, Kind, Segment
from kernelspan_agent.protocols.exchanges import Exchange
from kernelspan_agent.protocols.http1 import Head
from kernelspan_api import semconv
from kernelspan_api.subjects import Request

MAX_VALUE = 1024  # characters of what the other end says
MAX_STEPS = 16  # of a path that a guess keeps
_TRACEPARENT = re.compile(r"(?!ff)[0-9a-f]{2}-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(?:-.*)?")
_IDENTIFIER = re.compile(r"\d+|[0-9a-fA-F-]{8,}|(?=.*\d)[\w.~%:@=+-]{6,}|.{25,}")
_SECRET = {"authorization", "proxy-authorization", "cookie", "set-cookie", "x-api-key", "x-auth-token"}
_HOST = re.compile(r"(\[[^\]]*\]|[^:]*)(?::(\d{1,5}))?")


@dataclass(frozen=True, slots=True)
class Parent:
    """Who asked, as the request says."""

    high: int
    low: int
    span_id: int
    sampled: bool


def parent_of(request: Head) -> Parent | None:
    """The span that `traceparent` names (W3C Trace Context); None: none, or none that can be one."""
    found = _TRACEPARENT.fullmatch(request.headers.get("traceparent", ""))
    if found is None or not int(found[1], 16) or not int(found[2], 16):
        return None
    return Parent(int(found[1][:16], 16), int(found[1][16:], 16), int(found[2], 16), bool(int(found[3], 16) & 1))


class HttpSpans:
    """Makes their Segments."""

    def is_ignored(self, exchange: Exchange, wanted: Request) -> bool:
        """Whether the profile wants nothing of requests to this path."""
        path = _path(exchange.request.target)
        return any(fnmatch.fnmatchcase(path, glob) for glob in wanted.ignore_paths)

    def segment(
        self, exchange: Exchange, wanted: Request, ends: tuple[str, int, str, int], correlation: str
    ) -> Segment:
        """All that the span says. `ends`: local address and port, the peer's address and port."""
        request, response = exchange.request, exchange.response
        local_address, local_port, peer_address, peer_port = ends
        path = _path(request.target)
        found: dict[str, AttributeValue] = {
            semconv.HTTP_REQUEST_METHOD: request.method,
            semconv.NETWORK_PROTOCOL_NAME: "http",
            semconv.NETWORK_PROTOCOL_VERSION: request.version,
        }
        if peer_port:
            found[semconv.NETWORK_PEER_ADDRESS], found[semconv.NETWORK_PEER_PORT] = peer_address, peer_port
        if exchange.is_server:
            found[semconv.URL_PATH], found[semconv.URL_SCHEME] = path[:MAX_VALUE], "http"
            found[semconv.CORRELATION] = correlation
            if peer_address:
                found[semconv.CLIENT_ADDRESS] = peer_address
            default = local_address, local_port
        else:
            found[semconv.URL_FULL] = _full(request, peer_address, peer_port, path, wanted)
            default = peer_address, peer_port
        host, port = _host(request.headers.get("host", ""), *default)
        if host:
            found[semconv.SERVER_ADDRESS] = host
            if port:
                found[semconv.SERVER_PORT] = port
        query = request.target.partition("?")[2]
        if wanted.capture_query and query and exchange.is_server:
            found[semconv.URL_QUERY] = query[:MAX_VALUE]
        route = _route(path, wanted.routes)
        if route and exchange.is_server:
            found[semconv.HTTP_ROUTE] = route
        error = ""
        if response is not None:
            found[semconv.HTTP_RESPONSE_STATUS_CODE] = response.status
            if response.status >= (500 if exchange.is_server else 400):
                error = str(response.status)
                found[semconv.ERROR_TYPE] = error
        _headers(found, "http.request.header.", request, wanted)
        if response is not None:
            _headers(found, "http.response.header.", response, wanted)
        name = request.method
        if exchange.is_server:
            name = f"{request.method} {route or guess(path)}"
        return Segment(found, name, Kind.SERVER if exchange.is_server else Kind.CLIENT, error)


def guess(path: str) -> str:
    """A path with identifiers replaced: low in cardinality, and no more than a guess."""
    steps = path.split("/")[: MAX_STEPS + 1]
    return "/".join("{id}" if _IDENTIFIER.fullmatch(step) else step for step in steps) or "/"


def _route(path: str, routes: tuple[str, ...]) -> str:
    steps = path.split("/")
    for route in routes:
        wanted = route.split("/")
        if len(wanted) == len(steps) and all(
            (one.startswith("{") and one.endswith("}")) or one == other
            for one, other in zip(wanted, steps, strict=True)
        ):
            return route
    return ""


def _path(target: str) -> str:
    path = target.partition("?")[0].partition("#")[0]
    if not path.startswith("/"):
        try:
            path = urlsplit(path).path if "://" in path else ""
        except ValueError:
            path = ""
    return path or "/"


def _host(header: str, address: str, port: int) -> tuple[str, int]:
    found = _HOST.fullmatch(header.rpartition("@")[2][:MAX_VALUE])
    if found is None or not found[1]:
        return address, port
    return found[1].strip("[]"), int(found[2]) if found[2] else 80


def _full(request: Head, address: str, port: int, path: str, wanted: Request) -> str:
    host, at = _host(request.headers.get("host", ""), address, port)
    host = f"[{host}]" if ":" in host else host
    query = request.target.partition("?")[2]
    shown = f"?{query}" if query and wanted.capture_query else ""
    return f"http://{host}{'' if at in (0, 80) else f':{at}'}{path}{shown}"[: 2 * MAX_VALUE]


def _headers(found: dict[str, AttributeValue], prefix: str, head: Head, wanted: Request) -> None:
    for name in wanted.capture_headers:
        value = head.headers.get(name.lower())
        if value is not None and name.lower() not in _SECRET:
            found[prefix + name.lower()] = (value[:MAX_VALUE],)
