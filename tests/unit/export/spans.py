# SPDX-License-Identifier: Apache-2.0
"""Batches for the tests: built by hand, drawn by hypothesis, and as opentelemetry-sdk sees the same spans."""

from __future__ import annotations

import numpy as np
from hypothesis import strategies as st
from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.sdk.resources import Resource as SdkResource
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import SpanContext, SpanKind, Status, StatusCode

from kernelspan_agent.export.encode import scope_version
from kernelspan_agent.model import SPAN, VALUE_KEYS, AttributeValue, Kind, Resource, Segment, SpanBatch

START_NS = 1_790_000_000_000_000_000


def batch_of(count: int, operations: int | None = None, name: str = "file.read", first_id: int = 1) -> SpanBatch:
    """`count` spans of one trace and one process; span ids count up from `first_id`, the first span is the root."""
    rows = np.zeros(count, SPAN)
    rows["trace_id"] = (7, 9)
    rows["span_id"] = np.arange(first_id, first_id + count)
    rows["parent_id"][1:] = first_id
    rows["start_ns"] = START_NS + np.arange(count)
    rows["end_ns"] = rows["start_ns"] + 1000
    rows["values"][:, 0] = np.arange(count)
    rows["value_keys"][:, 0] = VALUE_KEYS.index("kernelspan.io.transferred")
    segments = np.empty((count, 2), object)
    segments[:, 0] = Segment({"file.path": "/data/a", "code.line.number": 12}, name=name, kind=Kind.INTERNAL)
    return SpanBatch(rows, segments, [Resource({"service.name": "shop"})], count if operations is None else operations)


_words = st.text(st.characters(exclude_categories=("Cs",)), max_size=12)
_values: st.SearchStrategy[AttributeValue] = st.one_of(
    _words,
    st.booleans(),
    st.integers(-(2**63), 2**63 - 1),
    st.lists(_words, max_size=3).map(tuple),
)
_uint64 = st.integers(1, 2**64 - 1)
_times = st.integers(0, 2**64 - 1)
_key = st.integers(0, len(VALUE_KEYS) - 1)
# trace id (two), span id, start, end, parent, resource, keys of the values, values
_ROW = st.tuples(
    _uint64,
    _uint64,
    _uint64,
    _times,
    _times,
    st.just(0) | _uint64,
    st.integers(0, 2),
    _key,
    _key,
    st.integers(-(2**63), 2**63 - 1),
    st.integers(-3, 300),
)


def _attributes(prefix: str) -> st.SearchStrategy[dict[str, AttributeValue]]:
    """Keys of one place are no keys of another: an attribute that stands twice is the tracer's fault, not ours."""
    return st.dictionaries(_words.map(lambda word: f"{prefix}.{word}"), _values, max_size=4)


@st.composite
def batches(draw: st.DrawFn) -> SpanBatch:
    """Any batch the tracer could make, and many it could not."""
    count = draw(st.integers(1, 6))
    resources = draw(st.lists(_attributes("r").map(Resource), min_size=1, max_size=3))
    rows = np.zeros(count, SPAN)
    segments = np.empty((count, 3), object)
    named = [Segment(draw(_attributes("n")), draw(_words), draw(st.none() | st.sampled_from(Kind))) for _ in range(3)]
    plain = [Segment(draw(_attributes("p"))) for _ in range(3)]
    broken = [Segment(draw(_attributes("e")), error=draw(_words)) for _ in range(3)]
    for row in range(count):
        *ids, parent, resource, first, second, large, small = draw(_ROW)
        rows[row] = (
            tuple(ids[:2]),
            ids[2],
            parent,
            *ids[3:],
            resource % len(resources),
            (large, small),
            (first, second),
        )
        rows[row]["value_keys"][1] *= first != second
        for column, choice in enumerate((named, plain, broken)):
            segments[row, column] = (None, *choice)[draw(st.integers(0, 3))]
    return SpanBatch(rows, segments, resources, draw(st.integers(0, count)))


def by_sdk(batch: SpanBatch) -> ExportTraceServiceRequest:
    """The batch as opentelemetry-sdk's exporter would send it, one ResourceSpans for each resource that has spans."""
    scope = InstrumentationScope("kernelspan", scope_version())
    resources = [SdkResource(dict(resource.attributes)) for resource in batch.resources]
    request = ExportTraceServiceRequest()
    for number, resource in enumerate(resources):
        rows = [row for row in range(len(batch)) if batch.rows[row]["resource"] == number]
        if rows:
            request.MergeFrom(encode_spans([_sdk_span(batch, row, resource, scope) for row in rows]))
    return request


def _sdk_span(batch: SpanBatch, row: int, resource: SdkResource, scope: InstrumentationScope) -> ReadableSpan:
    fields = batch.rows[row]
    high, low = (int(part) for part in fields["trace_id"])
    trace_id, parent = high << 64 | low, int(fields["parent_id"])
    attributes: dict[str, AttributeValue] = {}
    name, kind, status = "", Kind.INTERNAL, Status()
    for segment in batch.segments[row]:
        if segment is not None:
            attributes.update(segment.attributes)
            name, kind = segment.name or name, segment.kind or kind
            status = Status(StatusCode.ERROR, segment.error) if segment.error else status
    for key, value in zip(fields["value_keys"], fields["values"], strict=True):
        if key:
            attributes[VALUE_KEYS[key]] = int(value)
    return ReadableSpan(
        name=name,
        context=SpanContext(trace_id, int(fields["span_id"]), is_remote=False),
        parent=SpanContext(trace_id, parent, is_remote=False) if parent else None,
        resource=resource,
        attributes=attributes,
        kind=SpanKind[kind.name],
        instrumentation_scope=scope,
        status=status,
        start_time=int(fields["start_ns"]),
        end_time=int(fields["end_ns"]),
    )


def normalised(request: ExportTraceServiceRequest) -> ExportTraceServiceRequest:
    """With the attributes of resources and spans in the order of their keys, which means nothing in OTLP."""
    for resource_spans in request.resource_spans:
        holders = [resource_spans.resource, *(span for scope in resource_spans.scope_spans for span in scope.spans)]
        for holder in holders:
            holder.attributes.sort(key=lambda pair: pair.key)
    return request


def parsed(payload: bytes) -> ExportTraceServiceRequest:
    """The request that the bytes are; raises DecodeError where they are none."""
    request = ExportTraceServiceRequest()
    request.ParseFromString(payload)
    return request


def span_ids(payload: bytes) -> list[int]:
    """Ids of the spans in a serialised request, in order."""
    return [
        int.from_bytes(span.span_id, "big")
        for resource_spans in parsed(payload).resource_spans
        for scope in resource_spans.scope_spans
        for span in scope.spans
    ]
