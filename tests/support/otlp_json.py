# SPDX-License-Identifier: Apache-2.0
"""OTLP/JSON as the collector and Jaeger write it, read into plain spans that a test can compare.

Layout: opentelemetry-proto's trace.proto and its JSON mapping (ids in hex, 64-bit integers as strings, enums as
numbers; what has its default value may be absent). Jaeger's api_v3 may write enums by name; both are read.
"""

from __future__ import annotations

import base64
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

Value = str | bool | int | float | bytes | tuple["Value", ...] | Mapping[str, "Value"] | None

_KINDS = ("UNSPECIFIED", "INTERNAL", "SERVER", "CLIENT", "PRODUCER", "CONSUMER")
_STATUS = ("UNSET", "OK", "ERROR")


@dataclass(frozen=True, slots=True)
class ReceivedEvent:
    """An event inside a span; time in ns since the epoch."""

    name: str
    time_ns: int
    attributes: Mapping[str, Value]


@dataclass(frozen=True, slots=True)
class ReceivedLink:
    """A link to another span; ids in hex."""

    trace_id: str
    span_id: str
    attributes: Mapping[str, Value]


@dataclass(frozen=True, slots=True)
class ReceivedSpan:
    """One span as it arrived: ids in hex ("" for no parent), times in ns since the epoch, kind and status by name."""

    trace_id: str
    span_id: str
    parent_span_id: str
    name: str
    kind: str
    start_ns: int
    end_ns: int
    status: str
    status_message: str
    attributes: Mapping[str, Value]
    events: tuple[ReceivedEvent, ...]
    links: tuple[ReceivedLink, ...]
    resource: Mapping[str, Value] = field(default_factory=dict)
    scope_name: str = ""
    scope_version: str = ""
    trace_state: str = ""
    flags: int = 0


Labels = frozenset[tuple[str, Value]]


@dataclass(frozen=True, slots=True)
class ReceivedPoint:
    """A point of a metric: of a sum its value, of a histogram how many observations; the resource's attributes are among its labels."""

    name: str
    labels: Labels
    value: float


def metrics_of(message: Mapping[str, Any]) -> Iterator[ReceivedPoint]:
    """Every point of one ExportMetricsServiceRequest that is a sum's or a histogram's. Raises KeyError, TypeError, ValueError."""
    for resource_metrics in message.get("resourceMetrics", []):
        resource = _attributes(resource_metrics.get("resource", {}))
        for scope_metrics in resource_metrics.get("scopeMetrics", []):
            for metric in scope_metrics.get("metrics", []):
                for point in metric.get("sum", metric.get("histogram", {})).get("dataPoints", []):
                    labels = frozenset({**resource, **_attributes(point)}.items())
                    value = point.get("asInt", point.get("asDouble", point.get("count", 0)))
                    yield ReceivedPoint(metric["name"], labels, float(value))


def spans_of(message: Mapping[str, Any]) -> Iterator[ReceivedSpan]:
    """Every span of one ExportTraceServiceRequest or TracesData, in its order. Raises KeyError, TypeError, ValueError."""
    for resource_spans in message.get("resourceSpans", []):
        resource = _attributes(resource_spans.get("resource", {}))
        for scope_spans in resource_spans.get("scopeSpans", []):
            scope = scope_spans.get("scope", {})
            for span in scope_spans.get("spans", []):
                yield _span(span, resource, scope)


def _span(span: Mapping[str, Any], resource: Mapping[str, Value], scope: Mapping[str, Any]) -> ReceivedSpan:
    status = span.get("status", {})
    return ReceivedSpan(
        trace_id=span["traceId"],
        span_id=span["spanId"],
        parent_span_id=span.get("parentSpanId", ""),
        name=span.get("name", ""),
        kind=_enum(span.get("kind", 0), _KINDS, "SPAN_KIND_"),
        start_ns=int(span.get("startTimeUnixNano", 0)),
        end_ns=int(span.get("endTimeUnixNano", 0)),
        status=_enum(status.get("code", 0), _STATUS, "STATUS_CODE_"),
        status_message=status.get("message", ""),
        attributes=_attributes(span),
        events=tuple(
            ReceivedEvent(event.get("name", ""), int(event.get("timeUnixNano", 0)), _attributes(event))
            for event in span.get("events", [])
        ),
        links=tuple(ReceivedLink(link["traceId"], link["spanId"], _attributes(link)) for link in span.get("links", [])),
        resource=resource,
        scope_name=scope.get("name", ""),
        scope_version=scope.get("version", ""),
        trace_state=span.get("traceState", ""),
        flags=int(span.get("flags", 0)),
    )


def _enum(value: int | str, names: Sequence[str], prefix: str) -> str:
    name = names[value] if isinstance(value, int) else value.removeprefix(prefix)
    if name not in names:
        raise ValueError(f"{value!r} is none of {', '.join(names)}")
    return name


def _attributes(holder: Mapping[str, Any]) -> Mapping[str, Value]:
    pairs: Sequence[Mapping[str, Any]] = holder.get("attributes", [])
    found = {pair.get("key", ""): _value(pair.get("value", {})) for pair in pairs}
    if len(found) != len(pairs):
        raise ValueError(f"an attribute stands twice: {sorted(pair['key'] for pair in pairs)}")
    return found


def _value(value: Mapping[str, Any]) -> Value:
    if not value:
        return None
    ((kind, content),) = value.items()
    match kind:
        case "stringValue" | "boolValue":
            return content  # type: ignore[no-any-return]
        case "intValue":
            return int(content)
        case "doubleValue":
            return float(content)
        case "bytesValue":
            return base64.b64decode(content, validate=True)
        case "arrayValue":
            return tuple(_value(item) for item in content.get("values", []))
        case "kvlistValue":
            return {pair.get("key", ""): _value(pair.get("value", {})) for pair in content.get("values", [])}
        case _:
            raise ValueError(f"unknown kind of attribute value: {kind}")
