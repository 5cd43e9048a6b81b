# SPDX-License-Identifier: Apache-2.0
"""Activities: what ends one, which context an operation belongs to, how many may be open."""

from __future__ import annotations

import pytest

from kernelspan_agent.model import Stack, StackState
from kernelspan_agent.ring.records import ContextKind
from kernelspan_agent.trace import Orphans, TraceSettings
from tests.unit.trace.builders import MS, Op, Span, at, batch, named, of, process, run, spans, stack, tracer

APP = process()
PLACE = stack("main@1 load@3")
NOWHERE = Stack((), StackState.NONE)


def activities(found: list[Span]) -> list[Span]:
    return sorted((span for span in found if span.is_activity), key=lambda span: span.start_ns)


def test_an_activity_encloses_its_operations_and_is_a_root() -> None:
    """From the first operation's start to the last one's end."""
    found = run([Op(5, 8, NOWHERE, APP), Op(1, 9, NOWHERE, APP)])
    (root,) = activities(found)
    assert (root.start_ns, root.end_ns, root.parent, root.operations) == (at(1), at(9), 0, 2)
    assert {span.trace for span in found} == {root.trace}


def test_a_pause_longer_than_the_gap_ends_it() -> None:
    """Exactly the gap is not yet a pause; functions do not go on beyond it."""
    found = run(
        [Op(0, 1, PLACE, APP), Op(1000, 1001, PLACE, APP), Op(1500, 2001, PLACE, APP), Op(2900, 3002, PLACE, APP)]
    )
    assert [span.operations for span in activities(found)] == [3, 1]
    assert len({span.trace for span in activities(found)}) == 2
    assert [span.operations for span in found if span.name == "shop.load"] == [3, 1]


def test_the_clock_and_the_next_operation_agree() -> None:
    """Whether a tick came in between makes no difference to what belongs together."""
    ops = [Op(0, 1, PLACE, APP), Op(500, 1500, PLACE, APP), Op(1600, 2000, PLACE, APP), Op(2100, 2200, PLACE, APP)]
    without = run(ops)
    subject, found = tracer(), []
    for op in ops:
        found += spans(subject.tick(at(op.end_ms)), subject.process(batch(op)))
    found += spans(subject.close(at(2200)))
    key = [(span.start_ns, span.end_ns, span.operations) for span in activities(without)]
    assert key == [(span.start_ns, span.end_ns, span.operations) for span in activities(found)]
    assert [one[2] for one in key] == [1, 3]


def test_a_tick_exports_what_is_idle_and_only_that() -> None:
    """The busy context stays open."""
    subject = tracer()
    subject.process(batch(Op(0, 1, PLACE, APP, tid=1), Op(900, 901, PLACE, APP, tid=2)))
    assert not len(subject.tick(at(1001)))
    assert [span.name for span in spans(subject.tick(at(1002)))] == ["shop.load", "shop.main", "activity app"]
    assert subject.counters.contexts_open == 1


def test_it_ends_after_its_greatest_length() -> None:
    """However busy, after a minute another begins."""
    found = run([Op(500 * i, 500 * i + 1, PLACE, APP) for i in range(300)])
    roots = activities(found)
    assert [span.operations for span in roots] == [120, 120, 60]
    assert all(span.end_ns - span.start_ns <= 60_000 * MS for span in roots)


def test_an_operation_longer_than_any_activity_has_one() -> None:
    """A two-minute read is an activity of two minutes."""
    (root,) = activities(run([Op(0, 120_000, PLACE, APP)]))
    assert (root.start_ns, root.end_ns, root.operations) == (at(0), at(120_000), 1)


def test_a_tick_ends_a_busy_activity_at_its_length() -> None:
    """The clock ends it, without another operation."""
    subject = tracer(idle_ns=10**12)
    subject.process(batch(Op(0, 1, NOWHERE, APP)))
    assert not len(subject.tick(at(60_000)))
    assert len(subject.tick(at(60_001))) == 1


def test_threads_have_their_own() -> None:
    """Two threads of one process share nothing, and each is named after itself where its name is known."""
    one, two = Op(0, 1, PLACE, APP, tid=1, thread_name="worker-3"), Op(2, 3, PLACE, APP, tid=2)
    found = run([one, two])
    assert of(found, one).trace == named(found, "activity worker-3").trace != of(found, two).trace
    assert named(found, "activity worker-3").attributes == {
        "kernelspan.correlation": "Thread",
        "process.executable.name": "app",
        "thread.name": "worker-3",
    }
    assert named(found, "activity app").attributes == {
        "kernelspan.correlation": "Thread",
        "process.executable.name": "app",
    }


@pytest.mark.parametrize(("kind", "says"), [(ContextKind.TASK, "Task"), (ContextKind.GREENLET, "Fiber")])
def test_tasks_have_their_own_whatever_thread_runs_them(kind: ContextKind, says: str) -> None:
    """A task's key is its address and generation; the thread is not part of it."""
    one = Op(0, 1, PLACE, APP, 1, kind, 64, 5, thread_name="pool")
    moved = Op(2, 3, PLACE, APP, 2, kind, 64, 5)
    other, thread = Op(4, 5, PLACE, APP, 1, kind, 128, 5), Op(6, 7, PLACE, APP, 1)
    found = run([one, moved, other, thread])
    assert of(found, one).trace == of(found, moved).trace
    assert len({of(found, op).trace for op in (one, other, thread)}) == 3
    (root,) = [span for span in activities(found) if span.trace == of(found, one).trace]
    assert (root.name, root.attributes["kernelspan.correlation"]) == ("activity app", says)


def test_tasks_one_after_another_at_one_address_never_share() -> None:
    """A thousand tasks at the same address are a thousand traces."""
    ops = [Op(i, i + 0.5, PLACE, APP, 1, ContextKind.TASK, 64, 1 + i) for i in range(1000)]
    found = run(ops)
    assert len({of(found, op).trace for op in ops}) == 1000
    assert all(span.operations == 1 for span in found if not span.number)


def test_a_task_and_a_greenlet_of_one_address_differ() -> None:
    """Equal numbers of another kind are another context."""
    task, greenlet = (
        Op(0, 1, PLACE, APP, 1, ContextKind.TASK, 64, 5),
        Op(2, 3, PLACE, APP, 1, ContextKind.GREENLET, 64, 5),
    )
    found = run([task, greenlet])
    assert of(found, task).trace != of(found, greenlet).trace


@pytest.mark.parametrize(("kind", "generation"), [(ContextKind.TASK, 0), (ContextKind.GREENLET, 0), (77, 5)])
def test_a_task_of_no_generation_is_known_by_its_thread_only(kind: int, generation: int) -> None:
    """It hangs at the thread's activity and neither opens nor ends functions there."""
    ops = [Op(0, 1, PLACE, APP), Op(2, 3, stack("task@1"), APP, 7, kind, 64, generation), Op(4, 5, PLACE, APP)]
    found = run(ops)
    (root,) = activities(found)
    assert (of(found, ops[1]).parent, root.operations) == (root.span, 3)
    assert (named(found, "load").operations, "shop.task" in {span.name for span in found}) == (2, False)


def test_a_thread_is_its_tid_alone() -> None:
    """What stands in the context words of a thread's operation is not looked at."""
    found = run(
        [Op(0, 1, PLACE, APP, 1, ContextKind.THREAD, 64, 1), Op(2, 3, PLACE, APP, 1, ContextKind.THREAD, 128, 2)]
    )
    assert len(activities(found)) == 1


def test_a_pid_used_again_is_another_process() -> None:
    """Equal pid and tid of a new process never share with the old one."""
    old, new = process(), process()
    one, two = Op(0, 1, PLACE, old), Op(2, 3, PLACE, new)
    found = run([one, two])
    assert of(found, one).trace != of(found, two).trace
    assert of(found, one).resource is old.resource
    assert of(found, two).resource is new.resource


def test_open_contexts_are_bounded_and_the_longest_idle_go_first() -> None:
    """Beyond the bound the one without operations for the longest time is exported."""
    subject = tracer(max_contexts=3)
    a, b, c, d = (Op(0, i + 1, PLACE, APP, tid=i) for i in range(4))
    found = spans(subject.process(batch(a, b, c, Op(4, 5, PLACE, APP, tid=0), d)))
    assert [span.trace for span in activities(found)] == [of(found, b).trace]
    assert (subject.counters.contexts_open, subject.counters.contexts_evicted) == (3, 1)


def test_making_room_does_not_lose_the_process_that_needs_it() -> None:
    """A process whose only other context is closed to make room still closes all it has when it ends."""
    subject = tracer(max_contexts=1)
    subject.process(batch(Op(0, 1, PLACE, APP, tid=1), Op(2, 3, PLACE, APP, tid=2)))
    subject.process_ended(APP, at(4))
    assert named(spans(subject.tick(at(4))), "activity app").operations == 1
    assert (subject.counters.contexts_open, subject.counters.processes_open) == (0, 0)


def test_memory_stays_bounded_over_many_contexts() -> None:
    """Contexts one after another leave nothing behind: neither contexts nor processes."""
    subject = tracer(max_contexts=64)
    total = 0
    for start in range(0, 3000, 100):
        infos = [process() for _ in range(50)]
        ops = [Op(start + i, start + i + 1, PLACE, infos[i % 50], i, 1, i, start + 1) for i in range(100)]
        total += sum(span.operations for span in activities(spans(subject.process(batch(*ops)))))
        assert subject.counters.contexts_open <= 64
        assert subject.counters.processes_open <= 64
    total += sum(span.operations for span in activities(spans(subject.close(at(3000)))))
    assert (total, subject.counters.contexts_open, subject.counters.processes_open) == (3000, 0, 0)


def test_a_clock_set_back_gives_no_span_that_ends_before_it_began() -> None:
    """Times that go back are cut, and parents still enclose."""
    op = Op(9, 4, PLACE, APP)
    found = run([op])
    assert all(span.start_ns <= span.end_ns for span in found)
    assert all(span.start_ns <= of(found, op).start_ns for span in found)


def test_orphans_as_roots() -> None:
    """Every operation is a trace of its own; nothing else is made."""
    ops = [Op(i, i + 1, PLACE, APP) for i in range(5)]
    found = run(ops, orphans=Orphans.ROOT)
    assert len(found) == len({span.trace for span in found}) == len({span.span for span in found}) == 5
    assert {span.parent for span in found} == {0}
    assert [(span.start_ns, span.end_ns) for span in found] == [(at(op.start_ms), at(op.end_ms)) for op in ops]
    assert {span.resource for span in found} == {APP.resource}


def test_orphans_dropped_are_counted() -> None:
    """Nothing goes out, nothing is lost from the account."""
    subject = tracer(orphans=Orphans.DROP)
    out = subject.process(batch(*(Op(i, i + 1, PLACE, APP) for i in range(5))))
    assert (len(out), out.operations, subject.counters.orphans_dropped) == (0, 0, 5)


def test_an_empty_batch_and_nothing_open() -> None:
    """Nothing in, nothing out."""
    subject = tracer()
    assert [len(one) for one in (subject.process(batch()), subject.tick(at(0)), subject.close(at(0)))] == [0, 0, 0]


def test_counters_tell_what_was_made() -> None:
    """Function spans and activities are counted when they close."""
    subject = tracer()
    subject.process(batch(Op(0, 1, PLACE, APP)))
    assert (subject.counters.function_spans, subject.counters.activities) == (0, 0)
    subject.close(at(1))
    assert (subject.counters.function_spans, subject.counters.activities) == (2, 1)


@pytest.mark.parametrize(
    "wrong", [{"percent": -1}, {"percent": 101}, {"idle_ns": 0}, {"max_contexts": 0}, {"max_depth": 0}]
)
def test_settings_out_of_range_are_refused(wrong: dict[str, int]) -> None:
    """The message names the field."""
    with pytest.raises(ValueError, match=next(iter(wrong))):
        TraceSettings(**wrong)
