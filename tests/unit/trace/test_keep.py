# SPDX-License-Identifier: Apache-2.0
"""Traces that are kept for what came of their requests: whole as far as this node knows them, or not at all."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kernelspan_agent.model import Payload, WireProtocol
from kernelspan_agent.trace import Tracer, hold
from kernelspan_agent.trace.ids import IdSource
from kernelspan_agent.trace.joins import HOLD_NS
from kernelspan_agent.trace.keep import Keep
from kernelspan_agent.trace.settings import TraceSettings
from tests.unit.protocols.test_kafka import fetch, fetched
from tests.unit.trace.builders import MS, Op, Span, batch
from tests.unit.trace.services import Service, World, is_request, joined
from tests.unit.trace.test_requests import PLACE, python, wants

LOCAL = {"kernelspan.sampling": "Local"}
PARENT = "traceparent: 00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-0{}\r\n"


def keeping(world: World, *, errors: bool = True, slower_ms: int = 0, percent: int = 0, asks: bool = False) -> Service:
    """A service whose profile keeps what failed, or took longer, of what its share leaves out."""
    return world.service("serves", asks=asks, percent=percent, keep=Keep(errors=errors, slower_than_ns=slower_ms * MS))


def is_local(span: Span) -> bool:
    return LOCAL.items() <= span.attributes.items()


@pytest.mark.parametrize("failed", [True, False])
def test_what_failed_is_kept_with_all_that_was_done_for_it(failed: bool) -> None:
    """Nothing of it goes out before it is known; then the request, its functions and operations do, or none."""
    world = World()
    serves = keeping(world)
    serves.receives(0)
    inside = [serves.do(), serves.do()]
    world.tick()
    assert serves.found == []
    assert serves.hold.operations == 2
    serves.answers(failed=failed)
    world.tick()
    assert serves.hold.operations == 0
    assert serves.shown() == (inside if failed else [])
    assert serves.hold.sampled_out == (0 if failed else 2)
    world.end()
    if failed:
        root = serves.request()
        assert (root.parent, root.attributes["http.response.status_code"]) == (0, 500)
        assert [is_local(span) for span in serves.found] == [span is root for span in serves.found]
        assert {span.trace for span in serves.found} == {root.trace}
        assert any(span.name == "shop.load" for span in serves.found)
    else:
        assert serves.found == []


@pytest.mark.parametrize(("took_ms", "kept"), [(90, False), (150, True)])
def test_what_took_long_is_kept(took_ms: float, kept: bool) -> None:
    world = World()
    serves = keeping(world, errors=False, slower_ms=100)
    serves.receives(0)
    serves.do()
    world.clock += took_ms
    serves.answers(failed=True)  # which nobody asked for
    world.end()
    assert bool(serves.found) == kept


def test_what_is_sampled_anyway_is_not_kept_back() -> None:
    """Nor does it say that it was kept."""
    world = World()
    serves = keeping(world, percent=100)
    serves.receives(0)
    inside = serves.do()
    assert serves.shown() == [inside]
    serves.answers(failed=True)
    world.end()
    assert not is_local(serves.request())


@pytest.mark.parametrize("sampled", [True, False])
def test_a_parent_that_is_not_sampled(sampled: bool) -> None:
    """What failed below it is kept all the same, under its name."""
    world = World()
    serves = keeping(world, percent=50)
    serves.receives(0, headers=PARENT.format(int(sampled)))
    serves.do()
    serves.answers(failed=True)
    world.end()
    assert is_local(serves.request()) == (not sampled)
    assert serves.request().parent == 0x00F067AA0BA902B7


@pytest.mark.parametrize("late", [False, True])
@pytest.mark.parametrize("failed", ["front", "back", "none"])
def test_services_that_are_joined_are_kept_together(failed: str, late: bool) -> None:
    """Whichever of them failed, and whether it was known before the end whose trace it is."""
    world = World()
    serves = keeping(world, asks=True)
    serves.receives(1, "/front")
    world.tick(HOLD_NS / MS + 1)  # nobody here has asked for it
    serves.asks(2, "/back")
    serves.receives(2, "/back", on=2, tid=8)
    behind = serves.do(tid=8)
    if not late:
        world.tick()
    serves.answers(on=2, tid=8, failed=failed == "back")
    serves.told()
    before = serves.do()
    serves.answers(failed=failed == "front")
    world.tick()
    world.end()
    if failed == "none":
        assert serves.found == []
        return
    front, back = serves.request(path="/front"), serves.request(path="/back")
    assert joined(back, serves.request("CLIENT", "/back"))
    assert back.trace == front.trace
    assert is_local(front)
    assert is_local(back)
    assert serves.shown() == [behind, before]


def test_one_that_is_heard_of_late_follows_what_was_kept() -> None:
    """The trace was kept: so are requests of it that come afterwards."""
    world = World()
    serves = keeping(world)
    for number, failed in enumerate([True, False]):
        serves.receives(0, f"/{number}", headers=PARENT.format(0))
        serves.answers(failed=failed)
        world.tick()
    world.end()
    assert [is_request(span, "SERVER") for span in serves.found] == [True, True]


def test_too_many_are_decided_early(monkeypatch: pytest.MonkeyPatch) -> None:
    """The oldest go, and are counted; what is held stays bounded, and nothing is left at the end."""
    monkeypatch.setattr(hold, "MAX_HELD", 40)
    world = World()
    serves = keeping(world)
    done = 0
    for number in range(20):
        serves.receives(0, f"/{number}", on=number + 1, tid=number + 10)
        for _ in range(5):
            serves.do(tid=number + 10)
            done += 1
            assert serves.hold.spans <= 40
    for number in range(20):
        serves.answers(on=number + 1, tid=number + 10, failed=number == 19)
    world.end()
    counters = serves.tracer.counters
    assert counters.traces_evicted > 0
    assert (len(serves.shown()), counters.traces_kept) == (5, 1)
    assert serves.hold.sampled_out == done - 5 - counters.operations_sampled_out


@given(
    st.lists(st.tuples(st.integers(0, 3), st.sampled_from(["receives", "do", "answers", "fails", "tick"])), max_size=60)
)
def test_a_trace_goes_out_whole_or_not_at_all(steps: list[tuple[int, str]]) -> None:
    """Whatever threads do in whatever order: the operations shown are those of the requests that failed."""
    world = World()
    serves = keeping(world)
    open_now: dict[int, list[int]] = {}
    expected: list[int] = []
    for tid, what in steps:
        if what == "tick":
            world.tick(tid * 100)
        elif what == "receives" and tid not in open_now:
            serves.receives(0, on=tid + 1, tid=tid + 10)
            open_now[tid] = []
        elif what == "do" and tid in open_now:
            open_now[tid].append(serves.do(tid=tid + 10))
        elif what in ("answers", "fails") and tid in open_now:
            serves.answers(on=tid + 1, tid=tid + 10, failed=what == "fails")
            inside = open_now.pop(tid)
            expected += inside if what == "fails" else []
            world.tick()
    world.end()
    assert sorted(serves.shown()) == sorted(expected)
    left = len(serves.done) - len(expected)
    assert left == serves.hold.sampled_out + serves.tracer.counters.operations_sampled_out


def test_a_request_that_is_not_told_holds_no_trace_open() -> None:
    """A poll of Kafka that brings nothing has no span; its trace is decided all the same, and forgotten."""
    keep = Keep(errors=True, slower_than_ns=0)
    made = Tracer(TraceSettings(requests=(wants(protocol="Kafka"),), percent=0), IdSource(b"test"), keep=keep)
    app, sent = python(), 0
    for number in range(1, 20):
        for data, sends in ((fetch(number, ["a"]), False), (fetched(number, {"a": [(0, 0, b"")]}), True)):
            sent += 10
            done = batch(Op(sent - 1, sent, PLACE, app))
            done.payloads = {0: Payload(1, sends, len(data), data, protocol=WireProtocol.KAFKA)}
            made.process(done)
        assert len(keep.pending) == 1
        assert [verdict.keep for verdict in keep.decided().values()] == [False]
        assert not keep.pending
