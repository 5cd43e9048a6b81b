# SPDX-License-Identifier: Apache-2.0
"""Function spans: which frames make them, when they go on, what they claim."""

from __future__ import annotations

import itertools

import pytest

from kernelspan_agent.model import Origin, Stack, StackState
from kernelspan_agent.trace import paths as paths_module
from kernelspan_agent.trace.paths import PathCache
from kernelspan_agent.trace.segments import SegmentCache
from tests.unit.trace.builders import Op, at, batch, frame, named, of, process, run, spans, stack, tracer, tree

APP = process()


def sequence(*texts: str) -> list[Op]:
    """One operation of 1 ms every 2 ms at each of these stacks; equal texts are the same stack."""
    stacks = {text: stack(text) for text in texts}
    return [Op(2 * i, 2 * i + 1, stacks[text], APP) for i, text in enumerate(texts)]


def test_a_prefix_goes_on_and_what_is_inside_ends() -> None:
    """A function goes on while nothing outside it moves; the one inside ends when its caller stands elsewhere."""
    found = run(sequence("main@1 load@3 open@9", "main@1 load@4 parse@2", "main@2 save@1"))
    assert tree(found) == [
        "activity app(3)",
        "  main(3)",
        "    load(2)",
        "      open(1)",
        "        .",
        "      parse(1)",
        "        .",
        "    save(1)",
        "      .",
    ]


def test_the_same_function_called_from_another_line_is_another_span() -> None:
    """Two calls from two call sites are never one span."""
    assert tree(run(sequence("main@1 load@3", "main@2 load@3")))[1:] == [
        "  main(2)",
        "    load(1)",
        "      .",
        "    load(1)",
        "      .",
    ]


def test_two_call_sites_on_one_line_differ() -> None:
    """The instruction counts, not the line alone."""
    first = stack("main@1 load@3")
    main = first.frames[1]
    moved = type(main)(main.function, main.file, main.line, main.origin, None, main.call_site + 2, main.code)
    second = Stack((first.frames[0], moved))
    assert sum(span.name == "shop.load" for span in run([Op(0, 1, first, APP), Op(2, 3, second, APP)])) == 2


def test_the_same_name_in_other_code_is_another_function() -> None:
    """Two lambdas of one name are told apart by their code."""
    first, second = stack("main@1 load@3"), stack("main@1 load@3")
    other = second.frames[0]
    second = Stack((type(other)(other.function, other.file, 3, Origin.APP, None, 6, other.code + 64), second.frames[1]))
    assert sum(span.name == "shop.load" for span in run([Op(0, 1, first, APP), Op(2, 3, second, APP)])) == 2


def test_times_run_from_the_first_operation_to_the_last() -> None:
    """A function span is as long as what was seen inside, and says so."""
    found = run(sequence("main@1 load@3", "main@1 load@4", "main@2"))
    load = named(found, "load")
    assert (load.start_ns, load.end_ns, load.operations) == (at(0), at(3), 2)
    assert (named(found, "main").start_ns, named(found, "main").end_ns) == (at(0), at(5))


def test_one_operation_is_one_call() -> None:
    """What was seen once lies in one call of each function around it."""
    assert {span.bound for span in run(sequence("main@1 load@3")) if not (span.number or span.is_activity)} == {"Inner"}


@pytest.mark.parametrize("second", ["main@1 load@3", "main@1 load@2", "main@1 load@9"], ids=["same", "back", "forward"])
def test_two_operations_one_after_the_other_are_never_claimed_to_be_one_call(second: str) -> None:
    """Neither a position further on nor the same one proves one call: a loop may call again and take another branch."""
    found = run(sequence("main@1 load@3", second))
    assert (named(found, "load").bound, named(found, "main").bound) == ("Merged", "Merged")


def test_a_function_once_inside_a_repeated_one_keeps_its_own_bound() -> None:
    """What is merged outside says nothing about what was seen once inside."""
    found = run(sequence("main@1 load@3", "main@2 save@3"))
    assert (named(found, "main").bound, named(found, "load").bound) == ("Merged", "Inner")


def test_overlapping_operations_are_one_call() -> None:
    """A thread that is inside one operation when another ends is in the same call of all its functions."""
    same = stack("main@1 load@3")
    found = run([Op(2, 4, same, APP), Op(0, 6, same, APP)])
    load = named(found, "load")
    assert (load.bound, load.start_ns, load.end_ns, load.operations) == ("Inner", at(0), at(6), 2)
    assert (named(found, "main").bound, named(found, "activity app").start_ns) == ("Inner", at(0))


def test_operations_that_only_touch_prove_nothing() -> None:
    """The next may begin in the nanosecond in which the last one ended."""
    same = stack("main@1 load@3")
    assert named(run([Op(0, 2, same, APP), Op(2, 3, same, APP)]), "load").bound == "Merged"


def test_overlap_across_two_stacks_is_one_call_too() -> None:
    """What goes on from one stack to another is one call if the operations overlap."""
    found = run([Op(2, 4, stack("main@1 load@3"), APP), Op(0, 6, stack("main@1 load@4 open@1"), APP)])
    assert (named(found, "load").bound, named(found, "load").operations) == ("Inner", 2)


def test_overlap_is_judged_by_the_monotonic_clock() -> None:
    """A wall clock set back makes successive operations look as if they overlapped."""
    same = stack("main@1 load@3")
    found = run([Op(0, 4, same, APP), Op(2, 5, same, APP, mono_shift_ms=10)])
    assert named(found, "load").bound == "Merged"


def test_an_operation_out_of_order_proves_nothing() -> None:
    """An overlap is believed only of operations in the order of their end."""
    same = stack("main@1 load@3")
    assert named(run([Op(8, 9, same, APP), Op(2, 3, same, APP)]), "load").bound == "Merged"


def test_only_app_frames_and_the_first_library_frame_below_make_spans() -> None:
    """Runtime and native frames, libraries above the app, and a library's inner frames make none."""
    text = "Loader@1 Rrun@1 main@1 Rjson@1 Lget@1 Lsend@1 Nsocket@1 callback@1 Lhook@1"
    names = [line.strip() for line in tree(run(sequence(text)))]
    assert names == ["activity app(1)", "main(1)", "Lget(1)", "callback(1)", "Lhook(1)", "."]


def test_recursion_is_folded() -> None:
    """A function already open further out is not opened again, whether it calls itself directly or not."""
    found = run(sequence("main@1 walk@1 walk@1 visit@1 walk@2", "main@1 walk@1 walk@1 walk@3"))
    assert tree(found) == ["activity app(2)", "  main(2)", "    walk(2)", "      visit(1)", "        .", "      ."]


def test_depth_is_bounded() -> None:
    """Beyond the bound the operation hangs at the last function that has a span."""
    found = run(sequence(" ".join(f"f{i}@1" for i in range(40))), max_depth=3)
    assert [line.strip() for line in tree(found)] == ["activity app(1)", "f0(1)", "f1(1)", "f2(1)", "."]


def test_a_place_outside_the_app_ends_its_functions() -> None:
    """A stack with no app frame is known to be outside all functions."""
    app, outside = stack("main@1 load@3"), stack("Rloop@1")
    ops = [Op(0, 1, app, APP), Op(2, 3, outside, APP), Op(4, 5, app, APP)]
    assert tree(run(ops))[1:] == ["  main(1)", "    load(1)", "      .", "  .", "  main(1)", "    load(1)", "      ."]


@pytest.mark.parametrize("state", [one for one in StackState if one is not StackState.COMPLETE])
def test_an_unknown_place_hangs_at_the_activity_and_ends_nothing(state: StackState) -> None:
    """An operation whose place is not known has no function for its parent and closes none."""
    app, unknown = stack("main@1 load@3"), stack("main@1 load@3", state)
    ops = [Op(0, 1, app, APP), Op(2, 3, unknown, APP), Op(4, 5, app, APP)]
    found = run(ops)
    assert of(found, ops[1]).parent == named(found, "activity app").span
    assert of(found, ops[0]).parent == of(found, ops[2]).parent == named(found, "load").span
    assert (named(found, "load").operations, named(found, "activity app").operations) == (2, 3)


def test_a_complete_stack_without_frames_is_no_place() -> None:
    """A thread that has no frames of its runtime is nowhere known."""
    app = stack("main@1")
    found = run([Op(0, 1, app, APP), Op(2, 3, Stack(()), APP), Op(4, 5, app, APP)])
    assert named(found, "main").operations == 2


def test_functions_can_be_switched_off() -> None:
    """Without function spans every operation hangs at its activity."""
    assert tree(run(sequence("main@1 load@3", "main@2"), functions=False)) == ["activity app(2)", "  .", "  ."]


def test_what_a_function_span_says() -> None:
    """Function, file and library, but no line: a span has many."""
    found = run(sequence("main@1 Lget@3"))
    assert named(found, "main").attributes == {
        "code.function.name": "shop.main",
        "code.file.path": "/app/main.py",
        "kernelspan.code.origin": "App",
        "kernelspan.span.bound": "Inner",
    }
    assert named(found, "Lget").attributes == {
        "code.function.name": "shop.Lget",
        "code.file.path": "/app/Lget.py",
        "kernelspan.code.origin": "Library",
        "kernelspan.library.name": "requests",
        "kernelspan.library.version": "2.32.0",
        "kernelspan.library.purl": "pkg:pypi/requests@2.32.0",
        "kernelspan.span.bound": "Inner",
    }
    assert named(found, "Lget").resource is APP.resource


def test_what_a_frame_does_not_know_is_left_out() -> None:
    """A frame without names makes a span called unknown that claims neither function nor file."""
    main = frame("main@1")
    bare = Stack((type(main)("", "", 0, Origin.APP, None, 2, 5),))
    (span,) = [one for one in run([Op(0, 1, bare, APP)]) if one.bound]
    assert span.name == "unknown"
    assert span.attributes == {"kernelspan.code.origin": "App", "kernelspan.span.bound": "Inner"}


def test_spans_alike_share_their_segment() -> None:
    """A Segment is made once for a function and its bound: the exporter encodes it once."""
    subject, app = tracer(), stack("main@1")
    closed = []
    for second in range(0, 9, 3):
        subject.process(batch(Op(1000 * second, 1000 * second + 1, app, APP)))
        closed.append(subject.tick(at(1000 * second + 2000)))
    assert len({id(one.segments[0, 0]) for one in closed}) == 1
    assert len(spans(*closed)) == 6


def test_caches_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """However many stacks there are, only so many are held, and the answers stay the same."""
    monkeypatch.setattr(paths_module, "_MAX_PATHS", 4)
    monkeypatch.setattr(paths_module, "_MAX_STEPS", 4)
    cache = PathCache(SegmentCache(), 16)
    many = [stack(f"main@1 f{i}@1") for i in range(20)]
    for before, after in itertools.pairwise(many):
        assert cache.kept(cache.path(before), cache.path(after)) == 1
        assert len(cache) <= 8
    assert cache.kept(cache.path(many[0]), cache.path(many[0])) == 2


def test_a_step_is_worked_out_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two stacks that follow one another again and again are compared once."""
    compared = []
    real = paths_module.shared_frames
    monkeypatch.setattr(paths_module, "shared_frames", lambda *pair: compared.append(pair) or real(*pair))
    run(sequence(*["main@1 load@1", "main@2 save@1"] * 50))
    assert len(compared) == 2
