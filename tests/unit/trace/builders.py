# SPDX-License-Identifier: Apache-2.0
"""Operations as a test writes them, as the batch the tracer takes; spans as a test reads them.

Times are milliseconds after BASE_NS. Every operation carries a number in its values, by which its span is found again.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np

from kernelspan_agent.model import (
    SPAN,
    VALUE_KEYS,
    AttributeValue,
    Frame,
    Kind,
    Library,
    Origin,
    ProcessInfo,
    ResolvedBatch,
    Resource,
    Segment,
    SpanBatch,
    Stack,
    StackState,
)
from kernelspan_agent.ring.records import OPERATION, ContextKind
from kernelspan_agent.trace import Tracer, TraceSettings
from kernelspan_agent.trace.ids import IdSource
from kernelspan_api import semconv

BASE_NS = 1_790_000_000_000_000_000
BOOT_NS = 3_600_000_000_000  # the monotonic clock at BASE_NS
MS = 1_000_000
SETTINGS = TraceSettings()
REQUESTS = Library("requests", "2.32.0", "pkg:pypi/requests@2.32.0")
_OPERATION = Segment({}, "file.read", Kind.INTERNAL)
_NUMBER, _OPERATIONS = VALUE_KEYS.index("kernelspan.io.requested"), VALUE_KEYS.index("kernelspan.operations")
_numbers = itertools.count(1)


def at(ms: float) -> int:
    """Unix time, ns."""
    return BASE_NS + round(ms * MS)


def tracer(seed: bytes = b"test", **settings: object) -> Tracer:
    """A tracer whose ids are the same in every run."""
    return Tracer(TraceSettings(**settings), IdSource(seed))  # type: ignore[arg-type]


def process(
    name: str = "app", *, started_ms: float = -1e6, parent: ProcessInfo | None = None, new: bool = False
) -> ProcessInfo:
    """A process; `new`: seen from its start."""
    return ProcessInfo(100, at(started_ms), new, name, Resource({"service.name": name}), parent)


def frame(text: str) -> Frame:
    """`name@site`, with the first letter of the name for the origin: `L` Library, `R` Runtime, `N` Native, else App."""
    name, _, site = text.partition("@")
    origin = {"L": Origin.LIBRARY, "R": Origin.RUNTIME, "N": Origin.NATIVE}.get(name[0], Origin.APP)
    library = REQUESTS if origin is Origin.LIBRARY else None
    code = 4096 + sum(ord(letter) << (8 * place) for place, letter in enumerate(name))
    return Frame(f"shop.{name}", f"/app/{name}.py", int(site or 1), origin, library, 2 * int(site or 1), code)


def stack(text: str, state: StackState = StackState.COMPLETE) -> Stack:
    """A stack from `outermost@site … innermost@site`."""
    return Stack(tuple(frame(word) for word in reversed(text.split())), state)


@dataclass(frozen=True, slots=True, eq=False)
class Op:
    """One operation. `mono_shift_ms`: how far the monotonic clock's times are from the Unix ones."""

    start_ms: float
    end_ms: float
    stack: Stack
    process: ProcessInfo
    tid: int = 7
    kind: int = ContextKind.THREAD
    address: int = 0
    generation: int = 0
    thread_name: str = ""
    mono_shift_ms: float = 0
    lost: int = 0
    number: int = field(default_factory=lambda: next(_numbers))


def batch(*ops: Op) -> ResolvedBatch:
    """The operations as resolve would hand them on."""
    rows, segments, table = np.zeros(len(ops), SPAN), np.empty((len(ops), 2), object), np.zeros(len(ops), OPERATION)
    for row, op in enumerate(ops):
        record = table[row]
        record["tid"], record["context_kind"] = op.tid, op.kind
        record["context"], record["generation"], record["lost"] = op.address, op.generation, op.lost
        record["start"] = BOOT_NS + round((op.start_ms + op.mono_shift_ms) * MS)
        record["time"] = BOOT_NS + round((op.end_ms + op.mono_shift_ms) * MS)
        rows[row]["values"], rows[row]["value_keys"] = (op.number, 0), (_NUMBER, 0)
        segments[row, 0] = _OPERATION
        if op.thread_name:
            segments[row, 1] = Segment({"thread.name": op.thread_name})
    return ResolvedBatch(
        table,
        np.array([at(op.start_ms) for op in ops], np.uint64),
        np.array([at(op.end_ms) for op in ops], np.uint64),
        [op.stack for op in ops],
        [op.process for op in ops],
        segments,
        rows,
    )


@dataclass(frozen=True, slots=True)
class Span:
    """One row of a SpanBatch. `number`: the operation's, 0 for other spans; `operations`: what the span counts."""

    trace: int
    span: int
    parent: int
    start_ns: int
    end_ns: int
    name: str
    attributes: dict[str, AttributeValue]
    number: int
    operations: int
    resource: Resource

    @property
    def is_activity(self) -> bool:
        return self.name.startswith("activity ")

    @property
    def bound(self) -> object:
        return self.attributes.get("kernelspan.span.bound")


def spans(*batches: SpanBatch) -> list[Span]:
    """All spans of the batches, in order; checks what holds of every batch."""
    found = []
    for one in batches:
        assert one.segments.shape[0] == len(one.rows)
        for row, segments in zip(one.rows, one.segments, strict=True):
            parts = [part for part in segments if part is not None]
            names = [part.name for part in parts if part.name]
            assert len(names) == 1
            values = dict(zip(row["value_keys"].tolist(), row["values"].tolist(), strict=True))
            for key, value in (pair for part in parts for pair in part.attributes.items()):
                if key.startswith(semconv.HTTP_HEADERS):
                    continue
                allowed = semconv.ATTRIBUTES[key].values
                assert not allowed or value in allowed
            high, low = row["trace_id"].tolist()
            assert high
            assert low
            assert row["span_id"]
            found.append(
                Span(
                    high << 64 | low,
                    int(row["span_id"]),
                    int(row["parent_id"]),
                    int(row["start_ns"]),
                    int(row["end_ns"]),
                    names[0],
                    {key: value for part in parts for key, value in part.attributes.items()},
                    values.get(_NUMBER, 0),
                    values.get(_OPERATIONS, 0),
                    one.resources[row["resource"]],
                )
            )
        assert sum(bool(span.number) for span in found[len(found) - len(one) :]) == one.operations
    return found


def run(ops: Iterable[Op], **settings: object) -> list[Span]:
    """All spans of one batch of operations and of closing the tracer after it."""
    subject, ops = tracer(**settings), list(ops)
    return spans(subject.process(batch(*ops)), subject.close(at(ops[-1].end_ms)))


def named(found: Iterable[Span], name: str) -> Span:
    """The one span of this name (for functions without `shop.`)."""
    (one,) = [span for span in found if span.name in {name, f"shop.{name}"}]
    return one


def of(found: Iterable[Span], op: Op) -> Span:
    """The span of an operation."""
    (one,) = [span for span in found if span.number == op.number]
    return one


def tree(found: Iterable[Span]) -> list[str]:
    """The spans as indented lines `name(operations)`, children by start; operations as `.`."""
    found = list(found)
    below: dict[int, list[Span]] = {}
    for span in found:
        below.setdefault(span.parent, []).append(span)

    def lines(parent: int, depth: int) -> Iterable[str]:
        for span in sorted(below.get(parent, []), key=lambda one: (one.start_ns, one.end_ns)):
            name = "." if span.number else f"{span.name.removeprefix('shop.')}({span.operations})"
            yield "  " * depth + name
            yield from lines(span.span, depth + 1)

    return list(lines(0, 0))
