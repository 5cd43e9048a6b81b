# SPDX-License-Identifier: Apache-2.0
"""Both ends of a request as one trace: whichever is heard of first, however they are named, and none by guess."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kernelspan_agent.trace import hold, joins
from kernelspan_agent.trace.joins import HOLD_NS, KEPT_NS
from tests.unit.trace.builders import MS
from tests.unit.trace.services import Service, World, is_request, joined, path_of

LONG = (HOLD_NS + 1) / MS


@pytest.mark.parametrize("first", ["client", "server"])
@pytest.mark.parametrize("answered", [True, False])
def test_whichever_end_is_heard_of_first(first: str, answered: bool) -> None:
    """The request, its functions and operations go on with the trace of who asked, below the span that asked."""
    world = World()
    asks, serves = world.service("asks"), world.service("serves")
    if first == "client":
        asks.asks(5)
    serves.receives(5)
    inside = serves.do()
    if answered:
        serves.answers()
    if first == "server":
        world.tick(100)
        assert not any(span.number or is_request(span, "SERVER") for span in serves.found)  # kept back
        asks.asks(5, ago=110)
    world.tick()
    after = serves.do()
    assert serves.shown()[-1] == after  # nothing is kept back any more
    world.end()
    client, server = asks.request("CLIENT"), serves.request()
    assert joined(server, client)
    below = {span.number: span for span in serves.found if span.number}
    function = next(span for span in serves.found if span.name == "shop.load" and span.trace == server.trace)
    assert below[inside].trace == client.trace
    assert below[inside].parent == function.span
    assert (below[after].trace == client.trace) == (not answered)
    assert (world.joins.joined, world.joins.expired, world.joins.ambiguous) == (1, 0, 0)


def test_a_request_of_nobody_here_is_a_root_after_the_hold() -> None:
    """Not before; and whatever else the process does goes out at once."""
    world = World()
    serves = world.service("serves")
    serves.receives(5)
    serves.do()
    other = serves.do(tid=8)
    assert serves.shown() == [other]
    world.tick(HOLD_NS / MS - 10)
    assert serves.shown() == [other]
    assert serves.hold.operations == 1
    world.tick(100)
    assert serves.hold.operations == 0
    serves.answers()
    world.end()
    assert serves.request().parent == 0
    assert (world.joins.joined, world.joins.expired) == (0, 1)


def test_where_nobody_asks_nothing_waits() -> None:
    """No profile wants spans of requests that are made: there is none to be found."""
    world = World()
    serves = world.service("serves", asks=False)
    serves.receives(5)
    inside = serves.do()
    assert serves.shown() == [inside]
    assert world.joins.waiting == 0
    world.end()


def test_traceparent_is_stronger() -> None:
    """Who says who it is is believed, at once."""
    world = World()
    asks, serves = world.service("asks"), world.service("serves")
    asks.asks(5)
    serves.receives(5, headers="traceparent: 00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01\r\n")
    serves.answers()
    assert serves.request().parent == 0x00F067AA0BA902B7
    world.end()


@pytest.mark.parametrize("backwards", [True, False])
def test_a_chain_is_one_trace(backwards: bool) -> None:
    """Each waits for the one before it, whichever profile's turn is first."""
    world = World()
    names = ["a", "b", "c", "d"]
    services = {name: world.service(name) for name in (reversed(names) if backwards else names)}
    for number, name in enumerate(names):
        if number:
            services[name].receives(number)
            services[name].do()
        services[name].asks(number + 1)
    for name in reversed(names):
        services[name].told()
        services[name].answers()
    world.tick()
    found = world.end()
    requests = [span for span in found if is_request(span, "SERVER")]
    assert len(requests) == 3
    assert {span.trace for span in requests} == {services["a"].request("CLIENT").trace}
    for before, name in itertools.pairwise(names):
        assert joined(services[name].request(), services[before].request("CLIENT"))


def test_a_chain_whose_beginning_is_nobodys() -> None:
    """What is joined to one that waits waits with it, and is a part of its trace when that turns out to begin there."""
    world = World()
    front, back = world.service("front"), world.service("back")
    front.receives(1)
    front.asks(2)
    back.receives(2)
    back.answers()
    front.told()
    front.answers()
    world.tick(100)
    assert not any(is_request(span, "SERVER") for span in back.found)
    world.tick(LONG)
    assert front.request().parent == 0
    assert joined(back.request(), front.request("CLIENT"))
    assert front.request("CLIENT").parent in {span.span for span in front.found if span.trace == front.request().trace}
    world.end()


def test_a_profile_that_goes_is_joined_as_far_as_it_can_be() -> None:
    """What it goes on from is settled with it, whoever's that is; what is not of it waits on."""
    world = World()
    front, back = world.service("front"), world.service("back")
    front.receives(1)
    front.asks(2)
    back.receives(2)
    front.receives(3, on=3, tid=8)
    back.answers()
    back.end()
    assert world.joins.waiting == 1
    front.told()
    front.answers()
    world.end()
    assert joined(back.request(), front.request("CLIENT"))


CLAIMS: dict[str, list[tuple[str, int, str]]] = {
    "two asked": [("asks", 5, "/a"), ("asks", 5, "/a"), ("receives", 5, "/a")],
    "two received": [("asks", 5, "/a"), ("receives", 5, "/a"), ("receives", 5, "/a")],
    "another target": [("asks", 5, "/b"), ("receives", 5, "/a")],
    "another number": [("asks", 6, "/a"), ("receives", 5, "/a")],
    "received before it was sent": [("receives", 5, "/a"), ("asks", 5, "/a")],
    "received after it was answered": [("asks", 5, "/a"), ("told", 0, ""), ("receives", 5, "/a")],
    "no numbers": [("asks", 0, "/a"), ("receives", 0, "/a")],
}


@pytest.mark.parametrize("what", CLAIMS)
@pytest.mark.parametrize("ticks", [True, False])
def test_rather_no_parent_than_a_wrong_one(what: str, ticks: bool) -> None:
    """Of what cannot be, or may be two."""
    world = World()
    asks, serves = world.service("asks"), world.service("serves")
    connection = iter(range(1, 100))
    for said, number, target in CLAIMS[what]:
        if said == "asks":
            asks.asks(number, target, on=100 + next(connection))
        elif said == "told":
            asks.told(on=101)
        else:
            serves.receives(number, target, on=next(connection))
        world.clock += 1
        if ticks and what != "two received":
            world.tick()
    world.end()
    assert {span.parent for span in serves.found if is_request(span, "SERVER")} == {0}
    assert world.joins.joined == 0
    assert (world.joins.ambiguous > 0) == what.startswith("two")


def test_one_that_was_joined_is_nobody_elses_parent() -> None:
    """The second to say that it received it is not."""
    world = World()
    asks, serves = world.service("asks"), world.service("serves")
    asks.asks(5)
    serves.receives(5, on=1)
    world.tick()
    serves.receives(5, on=2)
    world.tick()
    world.end()
    assert sorted(span.parent != 0 for span in serves.found if is_request(span, "SERVER")) == [False, True]
    assert (world.joins.joined, world.joins.ambiguous) == (1, 1)


def test_several_profiles_with_the_same_end() -> None:
    """Its own goes before another's, whichever was first; else the first of them."""
    world = World()
    a, b, c = (world.service(name) for name in "abc")
    b.asks(5)
    a.asks(5)
    for each in (c, b):
        each.receives(5)
    world.tick()
    world.end()
    assert joined(b.request(), b.request("CLIENT"))
    assert joined(c.request(), a.request("CLIENT"))


@pytest.mark.parametrize(
    ("client", "server", "parent_based", "kept"),
    [(100, 0, True, True), (0, 100, True, False), (0, 100, False, True), (100, 0, False, False)],
)
def test_who_asked_decides_what_is_sampled(client: int, server: int, parent_based: bool, kept: bool) -> None:
    """Unless the profile decides for itself; what is not kept is counted."""
    world = World()
    asks = world.service("asks", percent=client)
    serves = world.service("serves", percent=server, parent_based=parent_based)
    asks.asks(5)
    serves.receives(5)
    inside = serves.do()
    world.tick()
    late = serves.do()
    serves.answers()
    world.end()
    assert set(serves.shown()) == ({inside, late} if kept else set())
    assert any(is_request(span, "SERVER") for span in serves.found) == kept
    out = serves.tracer.counters.operations_sampled_out + serves.hold.sampled_out
    assert out == (0 if kept else 2)


def test_bounds(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of each there are so many; what is beyond is let go, and nothing is lost."""
    monkeypatch.setattr(joins, "MAX_WAITING", 8)
    monkeypatch.setattr(joins, "MAX_ASKED", 8)
    monkeypatch.setattr(hold, "MAX_HELD", 20)
    world = World()
    asks, serves = world.service("asks"), world.service("serves")
    for number in range(1, 40):
        asks.asks(number, on=100 + number)
        serves.receives(1000 + number, on=number, tid=number)
        for _ in range(3):
            serves.do(tid=number)
            assert serves.hold.spans <= 20
        assert world.joins.waiting <= 8
        assert len(world.joins) <= 8
    assert world.joins.evicted == 31
    world.end()
    assert sorted(serves.shown()) == sorted(serves.done)


def test_who_asked_is_forgotten_when_it_has_its_answer() -> None:
    """A while after: the other end may be late, and no longer than that."""
    world = World()
    asks = world.service("asks")
    for number in range(1, 10):
        asks.asks(number, on=100 + number)
        asks.told(on=100 + number)
    assert len(world.joins) == 9
    world.tick(KEPT_NS / MS + 100)
    world.tick(KEPT_NS / MS + 100)
    assert len(world.joins) == 0


@dataclass(frozen=True)
class Step:
    """One thing that happens: `what` at `who`, of exchange `which`."""

    what: str
    who: int
    which: int


STEPS = st.lists(
    st.builds(
        Step,
        st.sampled_from(["asks", "receives", "do", "told", "answers", "tick", "long", "close"]),
        st.integers(0, 2),
        st.integers(1, 4),
    ),
    max_size=60,
)


def happen(world: World, service: Service, step: Step, place: int) -> None:
    """At any thread, on its exchange's connection."""
    which = step.which
    if step.what == "asks":
        service.asks(which, f"/n{which}", on=100 + which, tid=place)
    elif step.what == "receives":
        service.receives(which, f"/n{which}", on=which, tid=which)
    elif step.what == "do":
        service.do(tid=which)
    elif step.what == "told":
        service.told(on=100 + which)
    elif step.what == "answers":
        service.answers(on=which, tid=which)
    elif step.what == "close":
        service.end()
    else:
        world.tick(LONG if step.what == "long" else 50)


@given(STEPS, st.sampled_from([0, 50, 100]), st.booleans())
def test_whatever_happens(steps: list[Step], percent: int, parent_based: bool) -> None:
    """Nothing is lost, doubled or kept; a parent is there, is of the same exchange, and its trace is the request's."""
    world = World()
    services = [world.service(name, percent=percent, parent_based=parent_based) for name in "abc"]
    for place, step in enumerate(steps):
        happen(world, services[step.who], step, place)
    found = world.end()
    by_id = {span.span: span for span in found}
    assert len(by_id) == len(found)
    for span in found:
        assert not span.parent or by_id[span.parent].trace == span.trace
        if is_request(span, "SERVER") and span.parent:
            parent = by_id[span.parent]
            assert is_request(parent, "CLIENT")
            assert path_of(parent) == path_of(span)
            assert parent.start_ns <= span.start_ns
    for service in services:
        out = service.tracer.counters.operations_sampled_out + service.hold.sampled_out
        assert len(service.shown()) + out == len(service.done)
    received = sum(step.what == "receives" for step in steps)
    assert world.joins.joined + world.joins.ambiguous + world.joins.expired == received


def test_a_clock_that_is_set_back_keeps_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    """By an hour: what was to be forgotten is not, until there is too much."""
    monkeypatch.setattr(joins, "MAX_ASKED", 8)
    world = World(clock=3_600_000)
    asks = world.service("asks")
    for number in range(1, 40):
        asks.asks(number, on=100 + number)
        asks.told(on=100 + number)
    world.clock = 0
    world.tick(1)
    assert len(world.joins._answered) == 8
    assert len(world.joins) <= 8
