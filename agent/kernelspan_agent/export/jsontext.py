# SPDX-License-Identifier: Apache-2.0
"""SpanBatch -> OTLP/JSON, one ExportTraceServiceRequest a line, as the collector's file exporter writes it.

Mapping (opentelemetry-proto, docs/specification.md, "JSON Protobuf Encoding"): ids in hex, 64-bit integers as strings,
enums as numbers, names in lowerCamelCase, empty lists and strings left out. Segments are turned into text once a batch and shared, as in `encode`.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from json.encoder import encode_basestring
from typing import NamedTuple

import numpy as np

from kernelspan_agent.export import wire
from kernelspan_agent.export.encode import FLAGS, SCOPE_NAME, STATUS_ERROR, scope_version
from kernelspan_agent.model import SPAN, VALUE_KEYS, Attributes, AttributeValue, Kind, Resource, Segment, SpanBatch

MAX_SPANS_A_LINE = 2048  # about 1.5 MB: a line is held in memory as a whole, here and by whoever reads it


@dataclass(frozen=True, slots=True)
class Line:
    """One request, newline included. `rows`: the batch's row numbers in it, shape (spans,)."""

    text: bytes
    rows: np.ndarray


def quoted(value: str) -> str:
    """A JSON string of what OTLP would carry."""
    return encode_basestring(wire.text(value).decode())


def any_value(value: AttributeValue) -> str:
    """AnyValue. Raises TypeError for what is no attribute value."""
    if isinstance(value, str):
        return f'{{"stringValue":{quoted(value)}}}'
    if isinstance(value, bool):
        return f'{{"boolValue":{"true" if value else "false"}}}'
    if isinstance(value, int):
        return f'{{"{"intValue" if wire.in_int64(value) else "stringValue"}":"{value}"}}'
    if isinstance(value, tuple):
        items = ",".join(map(any_value, value))
        return f'{{"arrayValue":{{"values":[{items}]}}}}' if items else '{"arrayValue":{}}'
    raise TypeError(f"an attribute value cannot be {type(value).__name__}")


def attributes(values: Attributes) -> list[str]:
    """KeyValues."""
    return [f'{{"key":{quoted(key)},"value":{any_value(value)}}}' for key, value in values.items()]


_NO_PARENT, _PARENT, _NO_ATTRIBUTES = "0" * 16, '"parentSpanId":"%s",', ',"attributes":[]'
_VALUE_TEXTS = tuple(f'{{"key":"{key}","value":{{"intValue":"' for key in VALUE_KEYS)


class _Said(NamedTuple):
    """What one segment says of a span; "" and 0 where it says nothing."""

    name: str
    kind: int
    status: str
    attributes: str  # joined, each followed by a comma


_NOTHING = _Said("", 0, "", "")


def _said(segment: Segment | None) -> _Said:
    if segment is None:
        return _NOTHING
    return _Said(
        quoted(segment.name) if segment.name else "",
        int(segment.kind or 0),
        f'{{"message":{quoted(segment.error)},"code":{STATUS_ERROR}}}' if segment.error else "",
        "".join(f"{pair}," for pair in attributes(segment.attributes)),
    )


def _tails(segments: np.ndarray) -> list[str]:
    """The members of each span that its segments give; its list of attributes is left open at its end."""
    columns = [segments[:, at].tolist() for at in range(segments.shape[1])]
    said = {segment: _said(segment) for segment in set(itertools.chain.from_iterable(columns))}
    combinations = list(zip(*columns, strict=True)) or [()] * len(segments)
    texts = {}
    for combination in set(combinations):
        name, kind, status, pairs = "", int(Kind.INTERNAL), "{}", ""
        for one in map(said.__getitem__, combination):
            name, kind, status, pairs = one.name or name, one.kind or kind, one.status or status, pairs + one.attributes
        named = f',"name":{name}' if name else ""
        texts[combination] = f'{named},"kind":{kind},"flags":{FLAGS},"status":{status},"attributes":[{pairs}'
    return [texts[combination] for combination in combinations]


def _spans(rows: np.ndarray, segments: np.ndarray) -> list[str]:
    trace_ids = np.ascontiguousarray(rows["trace_id"]).tobytes().hex()
    span_ids = np.ascontiguousarray(rows["span_id"]).tobytes().hex()
    parents = np.ascontiguousarray(rows["parent_id"]).tobytes().hex()
    columns = (rows["start_ns"].tolist(), rows["end_ns"].tolist(), rows["value_keys"].tolist(), rows["values"].tolist())
    out = []
    for at, (start_ns, end_ns, keys, values, tail) in enumerate(zip(*columns, _tails(segments), strict=True)):
        own = "".join([f'{_VALUE_TEXTS[key]}{value}"}}}},' for key, value in zip(keys, values, strict=True) if key])
        parent = parents[16 * at : 16 * at + 16]
        rest = (tail + own).removesuffix(",") + "]"
        out.append(
            f'{{"traceId":"{trace_ids[32 * at : 32 * at + 32]}","spanId":"{span_ids[16 * at : 16 * at + 16]}",'
            f"{'' if parent == _NO_PARENT else _PARENT % parent}"
            f'"startTimeUnixNano":"{start_ns}","endTimeUnixNano":"{end_ns}"{rest.removesuffix(_NO_ATTRIBUTES)}}}'
        )
    return out


def _resource_spans(resource: Resource, spans: list[str]) -> str:
    pairs = ",".join(attributes(resource.attributes))
    about = f'"attributes":[{pairs}]' if pairs else ""
    return (
        f'{{"resource":{{{about}}},"scopeSpans":[{{"scope":'
        f'{{"name":"{SCOPE_NAME}","version":{quoted(scope_version())}}},"spans":[{",".join(spans)}]}}]}}'
    )


def lines(batch: SpanBatch, max_spans: int = MAX_SPANS_A_LINE) -> Iterator[Line]:
    """Lines that together hold every row once. Raises TypeError where a segment holds what is no attribute value."""
    order = np.argsort(batch.rows["resource"], kind="stable")
    for start in range(0, len(order), max_spans):
        chosen = order[start : start + max_spans]
        rows = batch.rows[chosen].astype(SPAN, copy=False)
        spans = _spans(rows, batch.segments[chosen])
        cuts = [0, *(np.flatnonzero(np.diff(rows["resource"])) + 1).tolist(), len(rows)]
        parts = [
            _resource_spans(batch.resources[rows["resource"][low]], spans[low:high])
            for low, high in itertools.pairwise(cuts)
        ]
        yield Line(f'{{"resourceSpans":[{",".join(parts)}]}}\n'.encode(), chosen)
