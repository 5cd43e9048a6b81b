# SPDX-License-Identifier: Apache-2.0
"""Our bytes mean what the SDK's exporter would have sent, and requests keep their bounds."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kernelspan_agent.export.batches import concat, operation_mask, part
from kernelspan_agent.export.encode import Bounds, encode
from kernelspan_agent.model import SPAN, Kind, Resource, Segment, SpanBatch
from tests.unit.export.spans import batch_of, batches, by_sdk, normalised, parsed, span_ids


@given(batches())
def test_same_as_sdk(batch: SpanBatch) -> None:
    """Parsed by opentelemetry-proto, a request equals what opentelemetry-sdk's exporter encodes for the same spans."""
    (request,) = encode(batch)
    assert normalised(parsed(request.payload)) == normalised(by_sdk(batch))


@given(batches(), st.integers(1, 5), st.integers(1, 2000))
def test_bounds(batch: SpanBatch, max_spans: int, max_bytes: int) -> None:
    """Every row stands in exactly one request; a request is within its bounds unless it is a single span."""
    requests = list(encode(batch, Bounds(max_spans, max_bytes)))
    assert sorted(itertools.chain.from_iterable(one.rows.tolist() for one in requests)) == list(range(len(batch)))
    for request in requests:
        assert len(request.rows) <= max_spans
        assert len(request.payload) <= max_bytes or len(request.rows) == 1
        assert span_ids(request.payload) == batch.rows["span_id"][request.rows].tolist()


def test_requests_are_filled() -> None:
    """Spans of one size fill each request but the last up to its bound, with less than a span of room left over."""
    batch = batch_of(1000)
    batch.rows["values"][:, 0] = 300
    (whole,) = encode(batch)
    sizes = [len(one.payload) for one in encode(batch, Bounds(1000, 10_000))]
    span_bytes = len(whole.payload) / 1000
    assert len(sizes) > 10
    assert all(10_000 - span_bytes - 16 <= size <= 10_000 for size in sizes[:-1])


@settings(max_examples=40)
@given(st.lists(batches(), min_size=1, max_size=2), st.data())
def test_concat_and_part(some: list[SpanBatch], data: st.DataObject) -> None:
    """Joined and cut again, a batch encodes to the same spans with the same operations."""
    joined = concat(some)
    assert joined.operations == sum(batch.operations for batch in some)
    assert operation_mask(joined).tolist() == [one for batch in some for one in operation_mask(batch).tolist()]
    cut = data.draw(st.integers(0, len(joined)))
    pieces = [part(joined, 0, cut), part(joined, cut, len(joined))]
    assert sum(piece.operations for piece in pieces) == joined.operations
    ids = [span_ids(request.payload) for piece in (*pieces, joined) for request in encode(piece, Bounds(1))]
    wanted = [[int(one)] for batch in some for one in batch.rows["span_id"]]
    assert sorted(ids) == sorted(wanted * 2)


def test_concat_keeps_resources_apart() -> None:
    """The same Resource object of two batches is one resource, an equal one of another process is not."""
    first, second, third = batch_of(2), batch_of(3, first_id=10), batch_of(1, first_id=20)
    second.resources = [Resource({"other": 1}), first.resources[0]]
    second.rows["resource"] = 1
    joined = concat([first, second, third])
    assert [len(one.attributes) for one in joined.resources] == [1, 1, 1]
    assert joined.rows["resource"].tolist() == [0, 0, 0, 0, 0, 2]
    assert second.rows["resource"].tolist() == [1, 1, 1], "the batch itself is unchanged"


def test_empty_batch() -> None:
    """No spans make no request."""
    empty = SpanBatch(np.zeros(0, SPAN), np.empty((0, 3), object), [])
    assert list(encode(empty)) == []


def test_no_segments() -> None:
    """A span without any segment still goes out: ids and times are known."""
    batch = batch_of(2)
    batch.segments = np.empty((2, 0), object)
    (request,) = encode(batch)
    assert normalised(parsed(request.payload)) == normalised(by_sdk(batch))


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        (b"/tmp/\xff\n\xc3\xa9".decode("utf-8", "surrogateescape"), "/tmp/\\xff\né"),
        ("lone \ud800", "lone \\ud800"),
        ("both \udcff \ud800", "both \\udcff \\ud800"),
        ("\x00", "\x00"),
    ],
)
def test_hostile_text(text: str, wanted: str) -> None:
    """What is not valid UTF-8 is escaped wherever text can stand; the request stays parseable."""
    batch = batch_of(1)
    batch.segments[0, 0] = Segment({text: text, "list": (text,)}, name=text, error=text)
    batch.resources = [Resource({"service.name": text})]
    (request,) = encode(batch)
    message = parsed(request.payload).resource_spans[0]
    span = message.scope_spans[0].spans[0]
    assert message.resource.attributes[0].value.string_value == wanted
    assert (span.name, span.status.message, span.attributes[1].key) == (wanted, wanted, wanted)
    assert (
        span.attributes[1].value.string_value == span.attributes[2].value.array_value.values[0].string_value == wanted
    )


def test_integers_beyond_64_bits() -> None:
    """OTLP has no room for them: they arrive as text, not as another number."""
    batch = batch_of(1)
    batch.segments[0, 0] = Segment({"big": 1 << 63, "small": -(1 << 63) - 1})
    (request,) = encode(batch)
    values = [pair.value for pair in parsed(request.payload).resource_spans[0].scope_spans[0].spans[0].attributes]
    assert [value.string_value for value in values[1:]] == [str(1 << 63), str(-(1 << 63) - 1)]


def test_not_an_attribute_value() -> None:
    """A value that OTLP cannot say raises, instead of being sent as something else."""
    batch = batch_of(1)
    batch.segments[0, 1] = Segment({"bad": 1.5})  # type: ignore[dict-item]
    with pytest.raises(TypeError, match="float"):
        list(encode(batch))


def test_one_span_larger_than_the_bound() -> None:
    """It makes a request of its own and takes no other span with it."""
    batch = batch_of(3)
    batch.segments[1, 1] = Segment({"long": "x" * 5000})
    sizes = [len(request.rows) for request in encode(batch, Bounds(100, 1000))]
    assert sizes == [1, 1, 1]


def test_kind_is_the_segments() -> None:
    """The last word on the kind is the segment's; no word is INTERNAL."""
    batch = batch_of(len(Kind) + 1)
    for row, kind in enumerate(Kind):
        batch.segments[row, 0] = Segment(name="x", kind=kind)
    batch.segments[len(Kind), 0] = None
    (request,) = encode(batch)
    spans = parsed(request.payload).resource_spans[0].scope_spans[0].spans
    assert [span.kind for span in spans] == [*Kind, Kind.INTERNAL]
