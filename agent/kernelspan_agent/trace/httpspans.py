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
from kernelspan_agent.protocols.http1talk import HttpExchange
from kernelspan_agent.trace.ends import Ends, put_peer, put_server
from kernelspan_api import semconv
from kernelspan_api.subjects import Request

MAX_VALUE = 1024  # characters of what the other end says
MAX_STEPS = 16  # of a path that a guess keeps
_TRACEPARENT = re.compile(r"(?!ff)[0-9a-f]{2}-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(?:-.*)?")
_IDENTIFIER = re.compile(r"\d+|[0-9a-fA-F-]{8,}|(?=.*\d)[\w.~%:@=+-]{6,}|.{25,}")
_SECRET = {"authorization", "proxy-authorization", "cookie", "set-cookie", "x-api-key", "x-auth-token"}
_SERVER_ERROR, _CLIENT_ERROR = 500, 400  # from which on a status is an error, of the conventions
_PORTS = {"http": 80, "https": 443}  # where none is said
_HOST = re.compile(r"(\[[^\]]*\]|[^:]*)(?::(\d{1,5}))?")


@dataclass(frozen=True, slots=True)
class Parent:
    """Who asked, as the request says."""

    high: int
    low: int
    span_id: int
    sampled: bool


def parent_of(exchange: Exchange) -> Parent | None:
    """The span that `traceparent` names (W3C Trace Context); None: none, or none that can be one."""
    assert isinstance(exchange, HttpExchange)
    found = _TRACEPARENT.fullmatch(exchange.request.headers.get("traceparent", ""))
    if found is None or not int(found[1], 16) or not int(found[2], 16):
        return None
    return Parent(int(found[1][:16], 16), int(found[1][16:], 16), int(found[2], 16), bool(int(found[3], 16) & 1))


def is_ignored(exchange: Exchange, wanted: Request) -> bool:
    """Whether the profile wants nothing of requests to this path."""
    assert isinstance(exchange, HttpExchange)
    path = _path(exchange.request.target)
    return any(fnmatch.fnmatchcase(path, glob) for glob in wanted.ignore_paths)


def segment(exchange: Exchange, wanted: Request, ends: Ends, correlation: str, hidden: tuple[str, ...] = ()) -> Segment:
    """All that the span says. `hidden`: globs of headers that are never shown."""
    assert isinstance(exchange, HttpExchange)
    request, response = exchange.request, exchange.response
    found: dict[str, AttributeValue] = {
        semconv.HTTP_REQUEST_METHOD: request.method,
        semconv.NETWORK_PROTOCOL_NAME: "http",
        semconv.NETWORK_PROTOCOL_VERSION: request.version,
    }
    put_peer(found, ends, is_server=exchange.is_server)
    if exchange.is_server:
        name = _of_server(found, request, wanted, ends)
        found[semconv.CORRELATION] = correlation
    else:
        name = _of_client(found, request, wanted, ends)
    put_headers(found, semconv.HTTP_HEADERS[0], request, wanted, hidden)
    error = ""
    if response is not None:
        found[semconv.HTTP_RESPONSE_STATUS_CODE] = response.status
        if response.status >= (_SERVER_ERROR if exchange.is_server else _CLIENT_ERROR):
            found[semconv.ERROR_TYPE] = error = str(response.status)
        put_headers(found, semconv.HTTP_HEADERS[1], response, wanted, hidden)
    if exchange.reset and not error:
        found[semconv.ERROR_TYPE] = error = exchange.reset
    return Segment(found, name, Kind.SERVER if exchange.is_server else Kind.CLIENT, error)


def _of_server(found: dict[str, AttributeValue], request: Head, wanted: Request, ends: Ends) -> str:
    path, query = _path(request.target), request.target.partition("?")[2]
    found[semconv.URL_PATH], found[semconv.URL_SCHEME] = path[:MAX_VALUE], request.scheme
    put_server(found, host_of(request, ends[0], ends[1]))
    if wanted.capture_query and query:
        found[semconv.URL_QUERY] = query[:MAX_VALUE]
    route = _route(path, wanted.routes)
    if route:
        found[semconv.HTTP_ROUTE] = route
    return f"{request.method} {route or guess(path)}"


def _of_client(found: dict[str, AttributeValue], request: Head, wanted: Request, ends: Ends) -> str:
    host, port = host_of(request, ends[2], ends[3])
    put_server(found, (host, port))
    shown = f"[{host}]" if ":" in host else host
    query = request.target.partition("?")[2]
    tail = f"?{query}" if query and wanted.capture_query else ""
    url = f"{request.scheme}://{shown}{'' if port in (0, _PORTS[request.scheme]) else f':{port}'}{_path(request.target)}{tail}"
    found[semconv.URL_FULL] = url[: 2 * MAX_VALUE]
    return request.method


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


def host_of(request: Head, address: str, port: int) -> tuple[str, int]:
    """The server as the request names it, else by its address."""
    found = _HOST.fullmatch(request.headers.get("host", "").rpartition("@")[2][:MAX_VALUE])
    if found is None or not found[1]:
        return address, port
    return found[1].strip("[]"), int(found[2]) if found[2] else _PORTS[request.scheme]


def put_headers(
    found: dict[str, AttributeValue], prefix: str, head: Head, wanted: Request, hidden: tuple[str, ...]
) -> None:
    """Those that the profile asks for, but for the secret ones."""
    for name in map(str.lower, wanted.capture_headers):
        value = head.headers.get(name)
        if value is None or name in _SECRET or any(fnmatch.fnmatchcase(name, glob.lower()) for glob in hidden):
            continue
        found[prefix + name] = (value[:MAX_VALUE],)
