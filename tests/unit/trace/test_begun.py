# SPDX-License-Identifier: Apache-2.0
"""Tasks known by their numbers: what a loop's thread has received, and how many tasks there were then."""

from __future__ import annotations

from typing import Any

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from kernelspan_agent.ring.records import ContextKind
from kernelspan_agent.runtimes.python.tasks import generation_of
from tests.unit.trace.builders import Op, batch
from tests.unit.trace.services import ANSWER, Service, World, head, is_request, payload
from tests.unit.trace.test_adopt import LOOP, OTHER, TASK


class Loop:
    """A service whose loop counts its tasks, and sends the answers itself."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.service: Service = world.service("loop", asks=False)

    def receives(self, on: int, count: int, *, data: bytes = b"", tid: int = 7) -> None:
        self._move(data or head(f"/{on}"), on, sends=False, tid=tid, generation=count)

    def answers(self, on: int) -> None:
        self._move(ANSWER, on, sends=True, tid=7, generation=0)

    def _move(self, data: bytes, on: int, *, sends: bool, tid: int, generation: int) -> None:
        self.world.clock += 1
        clock = self.world.clock
        made = batch(Op(clock - 1, clock, LOOP, self.service.app, tid, ContextKind.THREAD, 0, generation))
        made.payloads = {0: payload(on, data, 0, sends=sends)}
        made.hidden, made.ops["fd"] = np.ones(1, bool), on
        self.service._take(made)

    def do(self, number: int, *, tid: int = 7, place: Any = TASK, step: int = 0) -> int:
        """An operation of the task of this number."""
        self.world.clock += 1
        clock = self.world.clock
        generation = generation_of(number) | step
        op = Op(clock - 1, clock, place, self.service.app, tid, ContextKind.TASK, 64, generation)
        self.service.done.append(op.number)
        self.service._take(batch(op))
        return op.number


def test_the_next_task_is_the_requests() -> None:
    """From its first operation to the answer, whoever sends that; side by side with others."""
    world = World()
    loop = Loop(world)
    loop.receives(1, 300)
    loop.receives(2, 301)
    inside = {loop.do(302): "/2", loop.do(301): "/1", loop.do(302): "/2", loop.do(301): "/1"}
    loop.answers(1)
    inside[loop.do(302)] = "/2"
    after = loop.do(301)
    loop.answers(2)
    world.end()
    assert {number: loop.service.owner(number) for number in inside} == inside
    assert loop.service.owner(after) == ""
    assert {each.attributes["kernelspan.correlation"] for each in loop.service.found if is_request(each, "SERVER")} == {
        "Connection"
    }


def test_other_tasks_are_not() -> None:
    """Of another number, by frames that prove nothing, of a step, or where the count is not known."""
    world = World()
    loop = Loop(world)
    loop.receives(1, 300)
    loop.receives(2, 0)
    numbers = [
        loop.do(302),
        loop.do(1),
        loop.do(301, place=OTHER),
        loop.do(400, step=1),
    ]
    loop.answers(1)
    loop.answers(2)
    world.end()
    assert [loop.service.owner(number) for number in numbers] == [""] * 4


def test_a_request_for_which_no_task_was_begun() -> None:
    """The count has not grown when the next one comes: the task is that one's."""
    world = World()
    loop = Loop(world)
    loop.receives(1, 300)
    loop.receives(2, 300)
    inside = loop.do(301)
    loop.answers(2)
    loop.answers(1)
    world.end()
    assert loop.service.owner(inside) == "/2"


def test_more_bytes_without_a_task() -> None:
    """The request that they belong to is not what the loop begins a task for next."""
    world = World()
    loop = Loop(world)
    loop.receives(2, 299, data=head("/2", "Content-Length: 3\r\n"))
    loop.receives(1, 300)
    loop.receives(2, 300, data=b"abc")
    inside = loop.do(301)
    loop.answers(1)
    world.end()
    assert loop.service.owner(inside) == ""


def test_pipelined() -> None:
    """A request behind another one of its connection is begun when that is answered, by whatever number."""
    world = World()
    loop = Loop(world)
    loop.receives(1, 300)
    first = loop.do(301)
    loop.receives(1, 301, data=head("/1b"))
    second = loop.do(302)
    loop.answers(1)
    loop.answers(1)
    loop.receives(3, 310, data=head("/3a") + head("/3b"))
    third = loop.do(311)
    loop.answers(3)
    world.end()
    assert [loop.service.owner(number) for number in (first, second, third)] == ["/1", "", ""]


def test_several_threads_that_receive() -> None:
    """Another thread's loop may have taken the number; a task's own thread must be the one that has received."""
    world = World()
    loop = Loop(world)
    loop.receives(1, 300)
    in_pool = loop.do(301, tid=20)
    loop.answers(1)
    loop.receives(2, 310, tid=8)
    taken = loop.do(311, tid=20)
    loop.receives(3, 320, tid=8)
    own = loop.do(321, tid=8)
    world.end()
    assert [loop.service.owner(number) for number in (in_pool, taken, own)] == ["/1", "", "/3"]


@given(st.lists(st.tuples(st.sampled_from(["request", "odd", "task", "do", "answer"]), st.integers(0, 5)), max_size=60))
def test_never_below_another(steps: list[tuple[str, int]]) -> None:
    """Whatever a loop reads, begins and answers: an operation is below its own request or below none.

    "odd": a request that the server refuses, for which it begins no task; "task": one that somebody else begins.
    """
    world = World()
    loop = Loop(world)
    count, on = 300, 0
    is_open: dict[int, int] = {}  # connection: its task's number
    owners: dict[int, str] = {}
    others: list[int] = []
    for what, which in steps:
        if what == "request":
            on += 1
            loop.receives(on, count)
            count += 1
            is_open[on] = count
        elif what == "odd":
            on += 1
            loop.receives(on, count)
        elif what == "task":
            count += 1
            others.append(count)
        elif what == "do":
            for path, number in list(is_open.items())[: which + 1]:
                owners[loop.do(number)] = f"/{path}"
            for number in others[-1:]:
                owners[loop.do(number, place=OTHER)] = ""
        elif is_open:
            path = list(is_open)[which % len(is_open)]
            del is_open[path]
            loop.answers(path)
    world.end()
    for number, path in owners.items():
        assert loop.service.owner(number) in {"", path}
    assert sorted(loop.service.shown()) == sorted(owners)
