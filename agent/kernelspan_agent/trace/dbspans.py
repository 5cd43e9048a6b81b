# SPDX-License-Identifier: Apache-2.0
"""What a request to a database says of itself in its span, by OpenTelemetry's conventions for database spans.

Statements are shown without the values in them, as the profile has it. An error's message stays out: it may repeat them.
"""

from __future__ import annotations

from kernelspan_agent.model import AttributeValue, Kind, Segment, WireProtocol
from kernelspan_agent.protocols.databases import Query
from kernelspan_agent.protocols.exchanges import Exchange
from kernelspan_agent.trace.ends import Ends, put_peer, put_server
from kernelspan_api import semconv
from kernelspan_api.subjects import Request, Statement

MAX_STATEMENT = 4096  # characters of one that are shown
_MORE = "..."
SYSTEMS = {
    WireProtocol.REDIS: "redis",
    WireProtocol.POSTGRESQL: "postgresql",
    WireProtocol.MYSQL: "mysql",
    WireProtocol.MONGODB: "mongodb",
}


def segment(
    exchange: Exchange, wanted: Request, ends: Ends, correlation: str, _hidden: tuple[str, ...] = ()
) -> Segment:
    """All that the span says."""
    assert isinstance(exchange, Query)
    found: dict[str, AttributeValue] = {semconv.DB_SYSTEM_NAME: _system(exchange)}
    server = ends[:2] if exchange.is_server else ends[2:]
    put_server(found, server)
    put_peer(found, ends, is_server=exchange.is_server)
    if exchange.is_server:
        found[semconv.CORRELATION] = correlation
    statement = {Statement.SANITIZED: exchange.text, Statement.RAW: exchange.raw, Statement.NONE: ""}[wanted.statement]
    said = {
        semconv.DB_OPERATION_NAME: exchange.operation,
        semconv.DB_QUERY_TEXT: _cut(statement),
        semconv.DB_QUERY_SUMMARY: exchange.summary,
        semconv.DB_COLLECTION_NAME: exchange.collection,
        semconv.DB_NAMESPACE: exchange.namespace,
        semconv.DB_RESPONSE_STATUS_CODE: "" if exchange.error == "_OTHER" else exchange.error,
        semconv.ERROR_TYPE: exchange.error,
    }
    found.update({key: value for key, value in said.items() if value})
    kind = Kind.SERVER if exchange.is_server else Kind.CLIENT
    return Segment(found, _name(exchange, server), kind, exchange.error)


def _system(exchange: Query) -> str:
    """As the server said, else as the protocol is called."""
    return exchange.system or SYSTEMS[exchange.protocol]


def _cut(statement: str) -> str:
    """What is shown ends in dots where there is more."""
    return statement if len(statement) <= MAX_STATEMENT + len(_MORE) else statement[:MAX_STATEMENT] + _MORE


def _name(exchange: Query, server: tuple[str, int]) -> str:
    """The summary, else the operation and what it is done to. Redis' databases are numbers, which say nothing there."""
    if exchange.summary:
        return exchange.summary
    where = exchange.collection or ("" if exchange.protocol is WireProtocol.REDIS else exchange.namespace)
    if not where and server[0]:
        where = f"{server[0]}:{server[1]}" if server[1] else server[0]
    return f"{exchange.operation or _system(exchange)} {where}".rstrip()
