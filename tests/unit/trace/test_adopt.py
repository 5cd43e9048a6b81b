# SPDX-License-Identifier: Apache-2.0
"""Tasks of event loops: below the request that they answer, with all that they did for it; or as if nothing had been."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kernelspan_agent.model import Stack, StackState
from kernelspan_agent.trace import hold
from kernelspan_agent.trace.adopt import works_on_one
from kernelspan_agent.trace.joins import HOLD_NS
from kernelspan_agent.trace.keep import Keep
from kernelspan_agent.trace.settings import Orphans
from tests.unit.trace.builders import MS, Span, frame, process
from tests.unit.trace.services import Service, World, is_request, joined

CYCLE = "uvicorn.protocols.http.h11_impl.RequestResponseCycle.run_asgi"
LONG = (HOLD_NS + 1) / MS


def stack_of(*names: str, state: StackState = StackState.COMPLETE) -> Stack:
    """From the outermost to the innermost; a name with a dot is whole, another one of the application's."""
    one = frame("any@1")
    found = [
        replace(one, function=name, code=number) if "." in name else frame(name) for number, name in enumerate(names)
    ]
    return Stack(tuple(reversed(found)), state)


LOOP = stack_of(
    "asyncio.runners.run", "asyncio.events.Handle._run", "uvicorn.protocols.http.h11_impl.H11Protocol.data_received"
)
TASK = stack_of("asyncio.runners.run", "asyncio.events.Handle._run", CYCLE, "handler@3")
OTHER = stack_of("asyncio.runners.run", "asyncio.events.Handle._run", "shop.worker", "handler@3")
PARENT = "traceparent: 00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01\r\n"


class Loop:
    """A service whose loop receives on connection N what its task N answers."""

    def __init__(self, world: World, *, place: Stack = TASK, **settings: Any) -> None:
        self.world, self.place = world, place
        self.service: Service = world.service("loop", **settings)

    def receives(self, on: int, **more: Any) -> None:
        self.service.receives(0, f"/{on}", on=on, place=LOOP, **more)

    def do(self, task: int) -> int:
        return self.service.do(task=task, place=self.place)

    def answers(self, on: int, task: int | None = None, **more: Any) -> None:
        self.service.answers(on, task=on if task is None else task, place=self.place, **more)

    def request(self, on: int) -> Span:
        return self.service.request(path=f"/{on}")

    def above(self, number: int) -> list[Span]:
        """What an operation is below, the nearest first."""
        by_id = {span.span: span for span in self.service.found}
        (span,) = [span for span in self.service.found if span.number == number]
        found = []
        while (span := by_id.get(span.parent)) is not None:  # type: ignore[assignment]
            found.append(span)
        return found

    def owner(self, number: int) -> Span | None:
        """The request that it is below."""
        found = [span for span in self.above(number) if is_request(span, "SERVER")]
        assert len(found) <= 1
        return found[0] if found else None


@pytest.mark.parametrize("slowly", [False, True])
def test_what_a_task_did_before_it_answered(slowly: bool) -> None:
    """All of it, however long it took, under the request's trace; what the loop does is nobody's."""
    world = World()
    loop = Loop(world)
    loop.receives(1)
    first = loop.do(1)
    if slowly:
        for _ in range(20):
            world.tick(200)
    assert loop.service.shown() == []  # kept back
    second = loop.do(1)
    of_loop = loop.service.do(place=LOOP)
    loop.answers(1)
    world.end()
    request = loop.request(1)
    assert request.attributes["kernelspan.correlation"] == "Connection"
    assert loop.owner(first) is loop.owner(second) is request
    assert {span.trace for span in loop.above(first)} == {request.trace}
    assert any(span.name == "shop.handler" for span in loop.above(first))
    assert loop.owner(of_loop) is None


def test_side_by_side_and_after_one_another() -> None:
    """Each task's with the one that it answers, though addresses are used again."""
    world = World()
    loop = Loop(world)
    owners = {}
    for number in range(1, 40, 3):
        for on in range(number, number + 3):
            loop.receives(on)
        for on in reversed(range(number, number + 3)):
            owners[loop.do(on)] = on
        for on in (number + 1, number, number + 2):
            owners[loop.do(on)] = on
            loop.answers(on)
            if on % 5 == 0:
                world.tick(1)
    world.end()
    for operation, on in owners.items():
        assert loop.owner(operation) is loop.request(on)


def test_what_it_does_after_the_answer_is_not_the_requests() -> None:
    """A background task that goes on; nor does another request that came meanwhile get it."""
    world = World()
    loop = Loop(world)
    loop.receives(1)
    before = loop.do(1)
    loop.answers(1)
    loop.receives(2)
    after = loop.do(1)
    loop.do(2)
    loop.answers(2)
    world.end()
    assert loop.owner(before) is loop.request(1)
    assert loop.owner(after) is None


@pytest.mark.parametrize(
    "place",
    [
        OTHER,
        stack_of("asyncio.runners.run", CYCLE, "handler@3", state=StackState.TRUNCATED),
        stack_of("shop.protocols.http.h11_impl.RequestResponseCycle.run_asgi", "handler@3"),
        stack_of(CYCLE + "s", "handler@3"),
    ],
)
def test_tasks_of_which_nothing_is_known(place: Stack) -> None:
    """It may have worked for several before: nothing is claimed, and nothing kept back."""
    world = World()
    loop = Loop(world, place=place)
    loop.receives(1)
    inside = loop.do(1)
    assert loop.service.shown() == [inside]
    loop.answers(1)
    world.end()
    assert loop.request(1).attributes["kernelspan.correlation"] == "None"
    assert loop.owner(inside) is None


def test_names_of_the_class_or_not() -> None:
    """Python before 3.11 gives a method's module and name alone."""
    key = process("loop"), 1, 64, 4
    assert works_on_one(TASK, key)
    assert works_on_one(TASK, key, at_once=True)
    assert works_on_one(stack_of("uvicorn.protocols.http.httptools_impl.run_asgi", "handler@3"), key)
    assert not works_on_one(LOOP, key)
    assert not works_on_one(stack_of("uvicorn.protocols.http.httptools_impl.Other.run_asgi", "handler@3"), key)
    assert not works_on_one(stack_of("protocols.http.httptools_impl.RequestResponseCycle.run_asgi", "handler@3"), key)


def test_a_task_that_begins_in_the_midst_of_another() -> None:
    """Since Python 3.12 aiohttp's task of a request runs its first step inside the connection's, which lives on."""
    handler = "aiohttp.web_protocol.RequestHandler._handle_request", "handler@3"
    eager = stack_of("asyncio.events.Handle._run", "aiohttp.web_protocol.RequestHandler.start", *handler)
    own = stack_of("asyncio.events.Handle._run", *handler)
    of_connection, of_request = (process("loop"), 1, 64, 4), (process("loop"), 1, 64, 4 | 2)
    assert works_on_one(own, of_connection)
    assert not works_on_one(own, of_connection, at_once=True)
    assert works_on_one(own, of_request)
    assert not works_on_one(eager, of_connection)  # all that is known is that the connection's task has run it
    assert works_on_one(eager, of_request)


def test_a_step_is_no_task() -> None:
    """Where a task has no number each of its steps is a context: what the one that answers did is not all of it."""
    world = World()
    loop = Loop(world)
    loop.receives(1)
    inside = loop.service.do(task=1, step=1, place=TASK)
    loop.answers(1, step=1)
    world.end()
    assert loop.owner(inside) is None
    assert loop.request(1).attributes["kernelspan.correlation"] == "None"


def test_one_that_was_there_before_the_request() -> None:
    """It was not begun for it."""
    world = World()
    loop = Loop(world)
    loop.receives(1)
    early = loop.do(2)
    loop.receives(2)
    late = loop.do(2)
    loop.answers(2)
    world.end()
    assert loop.owner(early) is loop.owner(late) is None
    assert loop.request(2).attributes["kernelspan.correlation"] == "None"


def test_one_that_answers_several() -> None:
    """It is neither's, and it is counted."""
    world = World()
    loop = Loop(world)
    loop.receives(1)
    loop.receives(2)
    inside = loop.do(5)
    loop.service.move(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n", 0, sends=True, on=1, task=5, place=TASK)
    loop.answers(2, task=5)
    world.end()
    assert loop.owner(inside) is None
    assert {loop.request(on).attributes["kernelspan.correlation"] for on in (1, 2)} == {"None"}
    assert loop.service.tracer.counters.requests_ambiguous == 1


def test_an_answer_in_parts() -> None:
    """What it does between them is the request's, and the loop may send the last of it."""
    world = World()
    loop = Loop(world)
    loop.receives(1)
    inside = [loop.do(1)]
    loop.service.move(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\n", 0, sends=True, on=1, task=1, place=TASK)
    inside.append(loop.do(1))
    world.tick(200)
    inside.append(loop.do(1))
    loop.service.move(b"body", 0, sends=True, on=1, place=LOOP)
    after = loop.do(1)
    world.end()
    assert all(loop.owner(number) is loop.request(1) for number in inside)
    assert loop.owner(after) is None


def test_one_that_never_answers() -> None:
    """Its spans are an activity's once no request can be its own any more, or at the end."""
    world = World()
    loop = Loop(world)
    loop.receives(1)
    inside, other = loop.do(1), loop.do(3)
    loop.answers(1)
    for _ in range(8):
        world.tick(200)
    assert sorted(loop.service.shown()) == [inside, other]
    root = loop.above(other)[-1]
    assert (root.is_activity, root.parent, loop.owner(other)) == (True, 0, None)
    world.end()


def test_where_only_requests_are_wanted() -> None:
    """What is nobody's in the end is dropped, and counted as that."""
    world = World()
    loop = Loop(world, orphans=Orphans.DROP)
    loop.receives(1)
    inside, other = loop.do(1), loop.do(3)
    loop.answers(1)
    world.end()
    assert loop.service.shown() == [inside]
    assert loop.owner(inside) is loop.request(1)
    assert (loop.service.hold.orphans, other in loop.service.shown()) == (1, False)


def test_a_trace_that_is_known_late() -> None:
    """The request waits for who asked; its task with it, and what the task asks others is the same trace."""
    world = World()
    asks, loop = world.service("asks"), Loop(world)
    back = world.service("back")
    loop.service.receives(5, "/1", on=1, place=LOOP)
    inside = loop.do(1)
    loop.service.asks(6, "/deep", on=200, task=1, place=TASK)
    back.receives(6, "/deep", on=2)
    behind = back.do()
    back.answers(2)
    loop.service.told(200, task=1, place=TASK)
    loop.answers(1)
    world.tick(100)
    assert loop.service.shown() == []
    asks.asks(5, "/1", ago=120)
    world.tick()
    world.tick()
    world.end()
    client, server = asks.request("CLIENT", "/1"), loop.request(1)
    assert joined(server, client)
    assert loop.owner(inside) is server
    assert {span.trace for span in loop.above(inside)} == {client.trace}
    assert joined(back.request(path="/deep"), loop.service.request("CLIENT", "/deep"))
    assert {span.trace for span in back.found if span.number == behind} == {client.trace}


@pytest.mark.parametrize("failed", [True, False])
def test_traces_that_are_kept_for_what_came_of_them(failed: bool) -> None:
    """With what their tasks did, or without."""
    world = World()
    loop = Loop(world, asks=False, percent=0, keep=Keep(errors=True, slower_than_ns=0))
    loop.receives(1)
    inside = loop.do(1)
    world.tick(200)
    loop.answers(1, failed=failed)
    world.tick()
    world.end()
    assert loop.service.shown() == ([inside] if failed else [])
    if failed:
        assert loop.owner(inside) is loop.request(1)
    counted = loop.service.hold.sampled_out + loop.service.tracer.counters.operations_sampled_out
    assert counted == (0 if failed else 1)


@pytest.mark.parametrize("percent", [0, 100])
def test_sampling(percent: int) -> None:
    """The request's trace decides, not the one that the task had."""
    world = World()
    loop = Loop(world, percent=percent, asks=False)
    loop.receives(1)
    loop.receives(2, headers=PARENT)
    mine, parents = loop.do(1), loop.do(2)
    loop.answers(1)
    loop.answers(2)
    world.end()
    assert loop.service.shown() == ([mine] if percent else []) + [parents]


def test_too_many(monkeypatch: pytest.MonkeyPatch) -> None:
    """Room is made: they are activities then, and what is answered later claims none of it."""
    monkeypatch.setattr(hold, "MAX_HELD", 20)
    world = World()
    loop = Loop(world)
    operations: dict[int, list[int]] = {}
    for on in range(1, 6):
        loop.receives(on)
    for on in range(1, 6):
        operations[on] = [loop.do(on) for _ in range(6)]
        assert loop.service.hold.spans <= 20
    for on in range(1, 6):
        loop.answers(on)
    world.end()
    assert sorted(loop.service.shown()) == sorted(number for each in operations.values() for number in each)
    for on, numbers in operations.items():
        claimed = loop.request(on).attributes["kernelspan.correlation"] == "Connection"
        assert all((loop.owner(number) is loop.request(on)) == claimed for number in numbers)


@given(
    st.lists(st.tuples(st.integers(1, 5), st.sampled_from(["receives", "do", "answers", "tick", "parts"])), max_size=80)
)
def test_never_below_another(steps: list[tuple[int, str]]) -> None:
    """Whatever loops and tasks do in whatever order: an operation is below its own request, or below none; none is lost."""
    world = World()
    loop = Loop(world)
    generation = dict.fromkeys(range(1, 6), 0)
    is_open: set[int] = set()
    owners: dict[int, str] = {}
    for which, what in steps:
        on = generation[which] * 8 + which
        if what == "tick":
            world.tick(which * 150)
        elif what == "receives" and which not in is_open:
            generation[which] += 1
            is_open.add(which)
            loop.receives(generation[which] * 8 + which)
        elif what == "do":
            owners[loop.do(on or which)] = f"/{on}"
        elif what == "answers" and which in is_open:
            is_open.discard(which)
            loop.answers(on)
        elif what == "parts" and which in is_open:
            is_open.discard(which)
            loop.service.move(
                b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\n", 0, sends=True, on=on, task=on, place=TASK
            )
            owners[loop.do(on)] = f"/{on}"
            loop.service.move(b"body", 0, sends=True, on=on, task=on, place=TASK)
    world.end()
    assert sorted(loop.service.shown()) == sorted(owners)
    for number, path in owners.items():
        owner = loop.owner(number)
        assert owner is None or owner.attributes["url.path"] == path
