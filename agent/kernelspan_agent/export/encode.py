# SPDX-License-Identifier: Apache-2.0
"""SpanBatch -> ExportTraceServiceRequest bytes, by column.

What differs in every span (ids, times, integer attributes) is one numpy record a layout: a layout is which of those
fields are there and how wide their varints are, so that every field stands at a fixed place and is filled for all spans
at once. What many spans share (Segment, Resource) is encoded once and kept on the object.

Two properties of the wire format are used: varints may be padded (a layout's are as wide as its widest needs), and of a
scalar given twice the last one holds (every head says INTERNAL, a segment may say another kind after it). Field
numbers: opentelemetry-proto trace/v1/trace.proto. Flags and the always present status are what opentelemetry-sdk's
exporter sends.
"""

from __future__ import annotations

import functools
import importlib.metadata
import itertools
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from kernelspan_agent.export import wire
from kernelspan_agent.model import SPAN, VALUE_KEYS, Kind, Resource, Segment, SpanBatch

SCOPE_NAME = "kernelspan"
FLAGS = 0x100  # SPAN_FLAGS_CONTEXT_HAS_IS_REMOTE_MASK: it is known whether the parent is remote, and it is not
STATUS_ERROR = 2


@dataclass(frozen=True, slots=True)
class Bounds:
    """How large a request may grow. One span that alone is larger still makes a request of its own."""

    max_spans: int = 8192
    max_bytes: int = (4 << 20) - (16 << 10)  # gRPC servers take 4 MiB by default


@dataclass(frozen=True, slots=True)
class Request:
    """One ExportTraceServiceRequest. `rows`: the batch's row numbers in it, shape (spans,)."""

    payload: bytes
    rows: np.ndarray


@functools.cache
def scope_version() -> str:
    """This package's version."""
    return importlib.metadata.version("kernelspan")


@functools.cache
def _scope() -> bytes:
    return wire.block(1, wire.block(1, SCOPE_NAME.encode()) + wire.block(2, scope_version().encode()))


def segment_wire(segment: Segment) -> bytes:
    """Fields of Span that the segment stands for; encoded once in its life."""
    if segment.wire is None:
        out = wire.attributes(9, segment.attributes)
        if segment.name:
            out = wire.block(5, wire.text(segment.name)) + out
        if segment.kind is not None and segment.kind is not Kind.INTERNAL:
            out += wire.tag(6, wire.VARINT) + wire.varint(segment.kind)
        if segment.error:
            status = wire.block(2, wire.text(segment.error)) + wire.tag(3, wire.VARINT) + wire.varint(STATUS_ERROR)
            out += wire.block(15, status)
        object.__setattr__(segment, "wire", out)
        return out
    return segment.wire


def resource_wire(resource: Resource) -> bytes:
    """Field `resource` of ResourceSpans; encoded once in its life."""
    if resource.wire is None:
        object.__setattr__(resource, "wire", wire.block(1, wire.attributes(1, resource.attributes)))
    assert resource.wire is not None
    return resource.wire


@functools.lru_cache(maxsize=512)
def _layout(has_parent: bool, keys: tuple[int, ...], widths: tuple[int, ...], length_width: int) -> np.ndarray:
    """A record of one span's head with its constants filled in, shape (1,); `keys` and `widths` are of its values."""
    parts: list[tuple[str, bytes | str]] = [("", b"\x12"), ("length", f"V{length_width}"), ("", b"\x0a\x10")]
    parts += [("trace_id", "V16"), ("", b"\x12\x08"), ("span_id", "V8")]
    if has_parent:
        parts += [("", b"\x22\x08"), ("parent_id", "V8")]
    parts += [("", wire.tag(7, wire.FIXED64)), ("start_ns", "<u8"), ("", wire.tag(8, wire.FIXED64)), ("end_ns", "<u8")]
    for at, (key, width) in enumerate(zip(keys, widths, strict=True)):
        label = wire.block(1, VALUE_KEYS[key].encode())
        value = wire.tag(2, wire.BYTES) + wire.varint(width + 1) + wire.tag(3, wire.VARINT)
        size = wire.varint(len(label) + len(value) + width)
        parts += [("", wire.tag(9, wire.BYTES) + size + label + value), (f"value{at}", f"V{width}")]
    shared = wire.tag(6, wire.VARINT) + wire.varint(Kind.INTERNAL) + wire.block(15, b"")
    parts.append(("", shared + wire.tag(16, wire.FIXED32) + FLAGS.to_bytes(4, "little")))
    columns = [(name or f"_{at}", spec) for at, (name, spec) in enumerate(parts)]
    formats = [(name, f"V{len(spec)}" if isinstance(spec, bytes) else spec) for name, spec in columns]
    record = np.zeros(1, np.dtype(formats))
    for name, constant in columns:
        if isinstance(constant, bytes):
            record[name] = np.void(constant)
    return record


def _varint_width(values: np.ndarray) -> int:
    """Bytes that the widest of `values` (uint64) takes."""
    return max(1, (int(values.max()).bit_length() + 6) // 7)


def _varints(values: np.ndarray, width: int) -> np.ndarray:
    """`values` (uint64) as varints padded to `width` bytes: V<width>, shape (n,)."""
    shifts = np.arange(width, dtype=np.uint64) * np.uint64(7)
    out = ((values[:, None] >> shifts) & np.uint64(0x7F)).astype(np.uint8)
    out[:, :-1] |= 0x80
    return np.ascontiguousarray(out).view(f"V{width}")[:, 0]


def _heads(rows: np.ndarray, tail_sizes: np.ndarray) -> tuple[list[bytes], np.ndarray]:
    """The bytes of each span up to its segments, field tag and length of the span included; and their sizes."""
    heads = np.empty(len(rows), dtype=object)
    sizes = np.empty(len(rows), dtype=np.int64)
    keys = rows["value_keys"].astype(np.int64)
    codes = ((rows["parent_id"] != 0) * len(VALUE_KEYS) + keys[:, 0]) * len(VALUE_KEYS) + keys[:, 1]
    for code in np.flatnonzero(np.bincount(codes)):
        chosen = np.flatnonzero(codes == code)
        records = _records(rows[chosen], tail_sizes[chosen])
        heads[chosen] = np.array(records.view(f"V{records.itemsize}").tolist(), dtype=object)
        sizes[chosen] = records.itemsize
    return heads.tolist(), sizes


def _records(rows: np.ndarray, tail_sizes: np.ndarray) -> np.ndarray:
    """Heads of rows that all have the same fields."""
    has_parent = bool(rows["parent_id"][0])
    slots = [at for at in range(rows["value_keys"].shape[1]) if rows["value_keys"][0, at]]
    columns = [np.ascontiguousarray(rows["values"][:, at]).view(np.uint64) for at in slots]
    keys = tuple(int(rows["value_keys"][0, at]) for at in slots)
    widths = tuple(_varint_width(column) for column in columns)
    body = _layout(has_parent, keys, widths, 0).itemsize - 1
    lengths = (tail_sizes + body).astype(np.uint64)
    length_width = _varint_width(lengths)
    template = _layout(has_parent, keys, widths, length_width)
    records = np.repeat(template, len(rows))
    records["length"] = _varints(lengths, length_width)
    records["trace_id"] = np.ascontiguousarray(rows["trace_id"]).view("V16")[:, 0]
    for name in ("span_id", "parent_id") if has_parent else ("span_id",):
        records[name] = np.ascontiguousarray(rows[name]).view("V8")
    records["start_ns"], records["end_ns"] = rows["start_ns"], rows["end_ns"]
    for at, (column, width) in enumerate(zip(columns, widths, strict=True)):
        records[f"value{at}"] = _varints(column, width)
    return records


def _columns(segments: np.ndarray) -> tuple[list[list[bytes]], np.ndarray]:
    """The bytes of the segments, column by column without those that say nothing at all; and each row's sum of them."""
    columns: list[list[bytes]] = []
    sizes = np.zeros(len(segments), dtype=np.int64)
    for at in range(segments.shape[1]):
        column = segments[:, at].tolist()
        known = {one: b"" if one is None else segment_wire(one) for one in set(column)}
        if any(known.values()):
            columns.append(list(map(known.__getitem__, column)))
            sizes += np.fromiter(map(len, columns[-1]), dtype=np.int64, count=len(column))
    return columns, sizes


def encode(batch: SpanBatch, bounds: Bounds = Bounds()) -> Iterator[Request]:
    """Requests that together hold every row once, spans of one resource side by side.

    Raises TypeError where a segment holds what is no attribute value.
    """
    if not len(batch):
        return
    order = np.argsort(batch.rows["resource"], kind="stable")
    rows = batch.rows[order].astype(SPAN, copy=False)  # numpy's own joins lose the byte order
    columns, tail_sizes = _columns(batch.segments[order])
    heads, head_sizes = _heads(rows, tail_sizes)
    pieces = list(itertools.chain.from_iterable(zip(heads, *columns, strict=True)))
    ends = np.concatenate(([0], np.cumsum(head_sizes + tail_sizes)))
    resources = rows["resource"]
    headers = np.array([len(resource_wire(one)) + len(_scope()) + _MAX_HEADER for one in batch.resources])
    first = np.concatenate(([True], resources[1:] != resources[:-1]))
    weighted = np.concatenate(([0], np.cumsum(head_sizes + tail_sizes + np.where(first, headers[resources], 0))))
    start = 0
    while start < len(rows):
        repeated = 0 if first[start] else headers[resources[start]]
        fits = int(np.searchsorted(weighted, weighted[start] + bounds.max_bytes - repeated, side="right")) - 1
        stop = min(max(fits, start + 1), start + bounds.max_spans, len(rows))
        yield Request(_request(batch.resources, resources, pieces, ends, start, stop), order[start:stop])
        start = stop


_MAX_HEADER = 16  # two tags and two lengths around the spans of a resource


def _request(
    known: list[Resource], resources: np.ndarray, pieces: list[bytes], ends: np.ndarray, start: int, stop: int
) -> bytes:
    """The request of rows start to stop; `pieces` holds as many entries for each row, `ends` its offset."""
    cuts = [start, *(np.flatnonzero(np.diff(resources[start:stop])) + start + 1).tolist(), stop]
    width = len(pieces) // len(resources)
    out: list[bytes] = []
    for low, high in itertools.pairwise(cuts):
        resource, scope = resource_wire(known[resources[low]]), _scope()
        spans_size = int(ends[high] - ends[low])
        scope_spans = wire.tag(2, wire.BYTES) + wire.varint(len(scope) + spans_size) + scope
        out.append(wire.tag(1, wire.BYTES) + wire.varint(len(resource) + len(scope_spans) + spans_size))
        out += (resource, scope_spans)
        out += pieces[width * low : width * high]
    return b"".join(out)
