# SPDX-License-Identifier: Apache-2.0
"""Which module says what of a request: the table of protocols, on the side of spans."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from kernelspan_agent.model import Segment, WireProtocol
from kernelspan_agent.protocols.exchanges import Exchange
from kernelspan_agent.trace import dbspans, dnsspans, grpcspans, httpspans, messagespans, tlsspans
from kernelspan_agent.trace.ends import Ends
from kernelspan_agent.trace.httpspans import Parent
from kernelspan_api.subjects import Request


@dataclass(frozen=True, slots=True)
class Spans:
    """Of one protocol. `parent_of`: who asked, as the request says. `is_owner`: what a context does for it lies below it."""

    segment: Callable[[Exchange, Request, Ends, str, tuple[str, ...]], Segment]
    parent_of: Callable[[Exchange], Parent | None]
    is_ignored: Callable[[Exchange, Request], bool]
    is_owner: bool


_DATABASES = Spans(dbspans.segment, lambda _: None, lambda _, __: False, is_owner=False)
SPANS = {
    WireProtocol.HTTP: Spans(httpspans.segment, httpspans.parent_of, httpspans.is_ignored, is_owner=True),
    WireProtocol.HTTP2: Spans(grpcspans.segment, httpspans.parent_of, httpspans.is_ignored, is_owner=False),
    WireProtocol.REDIS: _DATABASES,
    WireProtocol.POSTGRESQL: _DATABASES,
    WireProtocol.MYSQL: _DATABASES,
    WireProtocol.MONGODB: _DATABASES,
    WireProtocol.KAFKA: Spans(messagespans.segment, lambda _: None, lambda _, __: False, is_owner=False),
    WireProtocol.DNS: Spans(dnsspans.segment, lambda _: None, dnsspans.is_ignored, is_owner=False),
    WireProtocol.TLS: Spans(tlsspans.segment, lambda _: None, lambda _, __: False, is_owner=False),
}
