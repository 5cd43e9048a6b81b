# SPDX-License-Identifier: Apache-2.0
"""What a request to Kafka says of itself in its span, by OpenTelemetry's conventions for messaging spans.

They know no spans of brokers: these say the same, from the other end. Nothing is put into a message, so what is sent is a client's
span, and no producer's. Of a message nothing is shown, neither its key nor its headers.
"""

from __future__ import annotations

from kernelspan_agent.model import AttributeValue, Kind, Segment
from kernelspan_agent.protocols.exchanges import Exchange
from kernelspan_agent.protocols.kafka import Messaging
from kernelspan_agent.trace.ends import Ends, put_peer, put_server
from kernelspan_api import semconv
from kernelspan_api.subjects import Request

_TYPES = {"send": "send", "poll": "receive", "commit": "settle"}


def segment(
    exchange: Exchange, _wanted: Request, ends: Ends, correlation: str, _hidden: tuple[str, ...] = ()
) -> Segment:
    """All that the span says."""
    assert isinstance(exchange, Messaging)
    found: dict[str, AttributeValue] = {
        semconv.MESSAGING_SYSTEM: "kafka",
        semconv.MESSAGING_OPERATION_NAME: exchange.operation,
        semconv.MESSAGING_OPERATION_TYPE: _TYPES[exchange.operation],
    }
    server = ends[:2] if exchange.is_server else ends[2:]
    put_server(found, server)
    put_peer(found, ends, is_server=exchange.is_server)
    if exchange.is_server:
        found[semconv.CORRELATION] = correlation
    texts = {
        semconv.MESSAGING_DESTINATION_NAME: exchange.topic,
        semconv.MESSAGING_CLIENT_ID: exchange.client_id,
        semconv.MESSAGING_CONSUMER_GROUP_NAME: exchange.group,
        semconv.ERROR_TYPE: exchange.error,
    }
    found.update({key: value for key, value in texts.items() if value})
    if exchange.partition is not None:
        found[semconv.MESSAGING_DESTINATION_PARTITION_ID] = str(exchange.partition)
    if exchange.count is not None:
        found[semconv.MESSAGING_BATCH_MESSAGE_COUNT] = exchange.count
    if exchange.offset is not None:
        found[semconv.MESSAGING_KAFKA_OFFSET] = exchange.offset
    where = exchange.topic or (f"{server[0]}:{server[1]}" if server[1] else server[0])
    kind = Kind.SERVER if exchange.is_server else Kind.CLIENT
    return Segment(found, f"{exchange.operation} {where}".rstrip(), kind, exchange.error)
