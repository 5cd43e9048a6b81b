# SPDX-License-Identifier: Apache-2.0
"""What holds of every trace, whatever the operations, the clock and the processes do."""

from __future__ import annotations

from collections import Counter

from hypothesis import given, settings
from hypothesis import strategies as st

from kernelspan_agent.model import ProcessInfo, Stack, StackState
from tests.unit.trace.builders import Op, Span, at, batch, process, spans, stack, tracer

STACKS = [
    *(
        stack(text)
        for text in (
            "main@1 load@3",
            "main@1 load@4 open@1",
            "main@2 load@3 Lget@1 Lsend@2",
            "main@2",
            "Rloop@1",
            "Rloop@1 main@1 walk@1 walk@1 walk@2",
            "Rloop@1 main@1 walk@1 walk@3 load@3",
        )
    ),
    stack("load@3", StackState.TRUNCATED),
    Stack((), StackState.RUNTIME_PENDING),
]

# Milliseconds since the last event: mostly next to nothing, sometimes beyond an idle gap or an activity's length.
GAPS = st.sampled_from([0, 0, 1, 1, 2, 5, 300, 1001, 30_000])
OPERATION = st.fixed_dictionaries(
    {
        "lasted": st.sampled_from([0, 1, 3, 10, 2000]),
        "stack": st.sampled_from(STACKS),
        "tid": st.integers(1, 3),
        "kind": st.sampled_from([0, 0, 1, 2, 9]),
        "address": st.sampled_from([64, 128]),
        "generation": st.integers(0, 2),
    }
)
EVENTS = st.lists(
    st.tuples(
        GAPS,
        st.integers(0, 3),  # which process
        st.one_of(OPERATION, OPERATION, OPERATION, st.sampled_from(["flush", "tick", "start", "exec", "end"])),
    ),
    max_size=60,
)


class World:
    """Processes with pids used again and again, and the tracer that watches them."""

    def __init__(self, **options: object) -> None:
        self.tracer = tracer(**options)
        self.alive: list[ProcessInfo] = [process(f"old{i}") for i in range(4)]
        self.ops: list[Op] = []
        self.waiting: list[Op] = []
        self.found: list[Span] = []
        self.now = 0.0

    def flush(self) -> None:
        self.waiting, ops = [], sorted(self.waiting, key=lambda op: op.end_ms)
        self.found += spans(self.tracer.process(batch(*ops)))

    def event(self, gap: float, which: int, what: dict[str, object] | str) -> None:
        self.now += gap
        if isinstance(what, dict):
            fields = dict(what)
            op = Op(self.now - fields.pop("lasted"), self.now, process=self.alive[which], **fields)  # type: ignore[arg-type,operator]
            self.ops.append(op)
            self.waiting.append(op)
        elif what == "flush":
            self.flush()
        elif what == "tick":
            self.flush()
            self.found += spans(self.tracer.tick(at(self.now)))
        else:
            self.replace(which, what)

    def replace(self, which: int, what: str) -> None:
        old = self.alive[which]
        parent = old if what == "exec" else self.alive[(which + 1) % 4] if what == "start" else None
        new = process(f"new{len(self.ops)}", started_ms=self.now, parent=parent, new=what != "end")
        self.tracer.process_ended(old, at(self.now))
        self.tracer.process_started(new)
        self.alive[which] = new

    def close(self) -> list[Span]:
        self.flush()
        self.found += spans(self.tracer.close(at(self.now)))
        return self.found


def lived(events: list[tuple[float, int, dict[str, object] | str]], **options: object) -> World:
    world = World(**options)
    for event in events:
        world.event(*event)
    world.close()
    return world


def context_of(op: Op) -> tuple[object, ...]:
    if op.kind in {1, 2} and op.generation:
        return (op.process, op.kind, op.address, op.generation)
    return (op.process, 0, op.tid)


@given(EVENTS, st.sampled_from([2, 16]), st.sampled_from([2, 100]))
@settings(max_examples=150, deadline=None)
def test_parents(events: list[tuple[float, int, dict[str, object] | str]], depth: int, contexts: int) -> None:
    """Every parent is there, in the same trace, and encloses its children, but for a child process."""
    world = lived(events, max_depth=depth, max_contexts=contexts)
    by_id = {span.span: span for span in world.found}
    assert len(by_id) == len(world.found)
    for span in world.found:
        if not span.parent:
            assert span.is_activity
            continue
        parent = by_id[span.parent]
        assert not parent.number
        assert parent.trace == span.trace
        if span.is_activity:
            assert parent.is_activity
            assert parent.start_ns <= span.start_ns or parent.resource is not span.resource
        else:
            assert parent.start_ns <= span.start_ns <= span.end_ns <= parent.end_ns
            assert parent.resource is span.resource


@given(EVENTS, st.sampled_from([2, 100]))
@settings(max_examples=150, deadline=None)
def test_accounts(events: list[tuple[float, int, dict[str, object] | str]], contexts: int) -> None:
    """Every operation goes out once, and is counted once by each span it is inside of; nothing stays open."""
    world = lived(events, max_contexts=contexts)
    assert sorted(span.number for span in world.found if span.number) == sorted(op.number for op in world.ops)
    by_id = {span.span: span for span in world.found}
    counted: Counter[int] = Counter()
    for span in world.found:
        if span.number:
            above = by_id[span.parent]
            while not above.is_activity:
                counted[above.span] += 1
                above = by_id[above.parent]
            counted[above.span] += 1
    assert all(span.operations == counted[span.span] for span in world.found if not span.number)
    assert sum(span.operations for span in world.found if span.is_activity) == len(world.ops)
    assert (world.tracer.counters.contexts_open, world.tracer.counters.processes_open) == (0, 0)


@given(EVENTS, st.sampled_from([2, 100]))
@settings(max_examples=150, deadline=None)
def test_contexts_are_never_mixed(events: list[tuple[float, int, dict[str, object] | str]], contexts: int) -> None:
    """No span holds operations of two contexts, but for a whole process's activity; functions are on the stack."""
    world = lived(events, max_contexts=contexts)
    by_id, by_number = {span.span: span for span in world.found}, {op.number: op for op in world.ops}
    inside: dict[int, set[tuple[object, ...]]] = {}
    for span in world.found:
        if not span.number:
            continue
        op, above = by_number[span.number], by_id[span.parent]
        assert span.resource is op.process.resource
        while True:
            inside.setdefault(above.span, set()).add(context_of(op))
            if above.is_activity:
                break
            assert above.name in {frame.function for frame in op.stack.frames}
            above = by_id[above.parent]
    for span_id, held in inside.items():
        if by_id[span_id].attributes.get("kernelspan.correlation") == "None":
            assert len({context[0] for context in held}) == 1
        else:
            assert len(held) == 1


@given(EVENTS)
@settings(max_examples=150, deadline=None)
def test_inner_is_proved(events: list[tuple[float, int, dict[str, object] | str]]) -> None:
    """A span that claims one call holds one operation, or operations each of which overlaps another."""
    world = lived(events)
    by_id = {span.span: span for span in world.found}
    inside: dict[int, list[Span]] = {}
    for span in world.found:
        above = by_id[span.parent] if span.number else None
        while above is not None and not above.is_activity:
            inside.setdefault(above.span, []).append(span)
            above = by_id[above.parent]
    for span_id, held in inside.items():
        if by_id[span_id].bound == "Inner" and len(held) > 1:
            ordered = sorted(held, key=lambda span: span.start_ns)
            reach = ordered[0].end_ns
            for span in ordered[1:]:
                assert span.start_ns < reach
                reach = max(reach, span.end_ns)
