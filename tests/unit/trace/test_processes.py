# SPDX-License-Identifier: Apache-2.0
"""A process seen from its start is one activity; its children join it."""

from __future__ import annotations

from kernelspan_agent.model import ProcessInfo
from kernelspan_agent.trace import Tracer
from tests.unit.trace.builders import Op, Span, at, batch, named, of, process, spans, stack, tracer, tree

PLACE = stack("main@1 load@3")


def new(name: str, started_ms: float = 0, parent: ProcessInfo | None = None) -> ProcessInfo:
    return process(name, started_ms=started_ms, parent=parent, new=True)


def end(subject: Tracer, info: ProcessInfo, ms: float) -> list[Span]:
    subject.process_ended(info, at(ms))
    return spans(subject.tick(at(ms)))


def test_a_short_process_is_one_trace_from_exec_to_exit() -> None:
    """All its threads are in it, pauses and all; functions still end with a pause."""
    subject, job = tracer(), new("job", 5)
    subject.process_started(job)
    found = spans(subject.process(batch(Op(10, 11, PLACE, job, tid=1), Op(12, 13, PLACE, job, tid=2))))
    found += spans(subject.tick(at(20_000)))
    assert not any(span.is_activity for span in found)
    found += spans(subject.process(batch(Op(30_000, 30_001, PLACE, job, tid=1))))
    found += end(subject, job, 31_000)
    root = named(found, "activity job")
    assert (root.start_ns, root.end_ns, root.parent, root.operations) == (at(5), at(31_000), 0, 3)
    assert {span.trace for span in found} == {root.trace}
    assert root.attributes == {"kernelspan.correlation": "None", "process.executable.name": "job"}
    assert sum(span.name == "shop.load" for span in found) == 3
    assert (subject.counters.contexts_open, subject.counters.processes_open) == (0, 0)


def test_after_a_minute_contexts_have_their_own() -> None:
    """The process's activity ends with its last operation then, for its end was not seen."""
    subject, job = tracer(), new("job")
    subject.process_started(job)
    early, late = Op(59_000, 59_500, PLACE, job), Op(59_600, 60_001, PLACE, job)
    found = spans(subject.process(batch(early, late)))
    (root,) = [span for span in found if span.is_activity]
    assert (root.start_ns, root.end_ns, root.operations) == (at(0), at(59_500), 1)
    assert of(found, early).trace == root.trace != of(found, late).trace
    found = end(subject, job, 70_000)
    assert named(found, "activity job").trace != root.trace


def test_a_tick_ends_it_at_a_minute() -> None:
    """The clock alone exports it."""
    subject, job = tracer(), new("job")
    subject.process_started(job)
    subject.process(batch(Op(59_500, 59_900, PLACE, job)))
    assert not len(subject.tick(at(60_000)))
    assert named(spans(subject.tick(at(60_001))), "activity job").end_ns == at(59_900)


def test_an_end_seen_late_does_not_stretch_it() -> None:
    """A process that lived longer than a minute is not one activity, even if nobody looked in between."""
    subject, job = tracer(), new("job")
    subject.process_started(job)
    subject.process(batch(Op(1, 2, PLACE, job)))
    assert named(end(subject, job, 90_000), "activity job").end_ns == at(2)


def test_operations_in_the_same_drain_as_the_end_belong_to_it() -> None:
    """A process of five milliseconds starts and ends before its operations are handed on."""
    subject, job = tracer(), new("job")
    subject.process_started(job)
    subject.process_ended(job, at(5))
    op = Op(1, 2, PLACE, job)
    found = spans(subject.process(batch(op)))
    assert tree(found) == ["activity job(1)", "  main(1)", "    load(1)", "      ."]
    assert named(found, "activity job").end_ns == at(5)


def test_an_operation_that_comes_later_still_is_kept_apart() -> None:
    """After the activity went out it can take nothing more in."""
    subject, job = tracer(), new("job")
    subject.process_started(job)
    subject.process(batch(Op(1, 2, PLACE, job)))
    gone = named(end(subject, job, 5), "activity job")
    late = Op(3, 4, PLACE, job)
    found = spans(subject.process(batch(late)), subject.tick(at(3000)))
    assert of(found, late).trace != gone.trace
    assert named(found, "activity job").operations == 1
    assert subject.counters.processes_open == 0


def test_a_process_that_ends_closes_its_contexts() -> None:
    """Also one whose start was not seen."""
    subject, server = tracer(), process("server")
    subject.process_started(server)
    subject.process(batch(Op(0, 1, PLACE, server, tid=1), Op(0, 1, PLACE, server, tid=2)))
    assert sum(span.is_activity for span in end(subject, server, 3)) == 2


def test_exec_begins_another_activity_in_the_same_trace() -> None:
    """What a process was before exec and what it is after are two, one below the other."""
    subject, shell = tracer(), new("sh")
    subject.process_started(shell)
    before = Op(1, 2, PLACE, shell)
    found = spans(subject.process(batch(before)))
    job = new("job", 5, parent=shell)
    subject.process_ended(shell, at(5))
    subject.process_started(job)
    after = Op(6, 7, PLACE, job)
    found += spans(subject.process(batch(after))) + end(subject, job, 9)
    assert tree(found) == [
        "activity sh(1)",
        "  main(1)",
        "    load(1)",
        "      .",
        "  activity job(1)",
        "    main(1)",
        "      load(1)",
        "        .",
    ]
    assert len({span.trace for span in found}) == 1
    assert named(found, "activity sh").end_ns == at(5)
    assert named(found, "activity job").resource is job.resource


def test_a_child_of_an_old_process_has_its_own_trace() -> None:
    """A server that starts a job does not own it."""
    subject, server = tracer(), new("server")
    subject.process_started(server)
    subject.process(batch(Op(1, 2, PLACE, server)))
    job = new("job", 60_001, parent=server)
    subject.process_started(job)
    found = spans(subject.process(batch(Op(60_002, 60_003, PLACE, job)))) + end(subject, job, 60_005)
    assert named(found, "activity job").parent == 0
    assert named(found, "activity job").trace != named(found, "activity server").trace


def test_a_child_may_outlive_its_parent() -> None:
    """It keeps the parent that it had."""
    subject, shell = tracer(), new("sh")
    child = new("daemon", 1, parent=shell)
    subject.process_started(shell)
    subject.process_started(child)
    found = spans(subject.process(batch(Op(1, 2, PLACE, shell)))) + end(subject, shell, 3)
    found += spans(subject.process(batch(Op(4, 5, PLACE, child)))) + end(subject, child, 6)
    assert named(found, "activity daemon").parent == named(found, "activity sh").span


def test_a_parent_was_alive_when_its_child_started() -> None:
    """A parent whose end is not seen lasts at least until its last child."""
    subject, shell = tracer(), new("sh")
    job = new("job", 5, parent=shell)
    subject.process_started(shell)
    subject.process(batch(Op(1, 2, PLACE, shell)))
    subject.process_started(job)
    assert named(spans(subject.close(at(9))), "activity sh").end_ns == at(5)


def test_a_process_in_which_nothing_was_seen_is_not_exported() -> None:
    """No operation, no span; and nothing stays behind."""
    subject, shell = tracer(), new("sh")
    subject.process_started(shell)
    assert end(subject, shell, 3) == []
    assert subject.counters.processes_open == 0


def test_but_it_is_if_a_child_needs_it() -> None:
    """Grandparents that did nothing are exported when the grandchild does something, even after they have gone."""
    subject = tracer()
    shell, make, job = new("sh"), new("make", 1), new("job", 2)
    make.parent, job.parent = shell, make
    for info in (shell, make, job):
        subject.process_started(info)
    found = end(subject, shell, 3) + end(subject, make, 4)
    assert found == []
    found += spans(subject.process(batch(Op(5, 6, PLACE, job)))) + end(subject, job, 7)
    assert named(found, "activity job").parent == named(found, "activity make").span
    assert named(found, "activity make").parent == named(found, "activity sh").span
    assert (named(found, "activity sh").end_ns, named(found, "activity sh").operations) == (at(3), 0)
    assert len(found) == 6


def test_a_daemon_that_forks_for_ever_has_no_endless_trace() -> None:
    """The number of processes below one another in a trace is bounded."""
    subject = tracer(max_process_depth=3)
    info, found = new("p0"), []
    subject.process_started(info)
    for i in range(1, 10):
        child = new(f"p{i}", i, parent=info)
        subject.process_started(child)
        found += spans(subject.process(batch(Op(i, i + 0.5, PLACE, child)))) + end(subject, info, i + 1)
        info = child
    found += spans(subject.close(at(99)))
    roots = [span for span in found if span.is_activity and not span.parent]
    assert [span.name for span in roots] == ["activity p0", "activity p3", "activity p6", "activity p9"]


def test_processes_whose_end_was_lost_do_not_stay() -> None:
    """After a minute nothing of them is held."""
    subject = tracer()
    for _ in range(20):
        info = new("job")
        subject.process_started(info)
        subject.process(batch(Op(1, 2, PLACE, info)))
    subject.tick(at(60_001))
    assert (subject.counters.contexts_open, subject.counters.processes_open) == (0, 0)


def test_open_processes_are_bounded() -> None:
    """The first of them is closed to make room."""
    subject = tracer(max_contexts=4)
    infos = [new(f"p{i}", i) for i in range(10)]
    found = []
    for i, info in enumerate(infos):
        subject.process_started(info)
        found += spans(subject.process(batch(Op(i, i + 1, PLACE, info))))
    assert [span.name for span in found if span.is_activity] == [f"activity p{i}" for i in range(6)]
    assert subject.counters.processes_open == 4


def test_processes_not_seen_from_their_start_or_told_of_late_are_by_context() -> None:
    """A process activity that cannot hold all is not opened."""
    subject, job = tracer(), new("job")
    subject.process(batch(Op(1, 2, PLACE, job)))
    subject.process_started(job)
    found = spans(subject.process(batch(Op(3, 4, PLACE, job)))) + end(subject, job, 5)
    assert named(found, "activity job").attributes["kernelspan.correlation"] == "Thread"
