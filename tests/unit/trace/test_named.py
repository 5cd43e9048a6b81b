# SPDX-License-Identifier: Apache-2.0
"""Programs that make spans of their own: what they send names one of these, and ours go on from there."""

from __future__ import annotations

from typing import Any

import pytest

from kernelspan_agent.trace.joins import HOLD_NS
from tests.unit.trace.builders import MS, Span
from tests.unit.trace.services import Service, World, head, is_request, joined

LONG = (HOLD_NS + 1) / MS
THEIRS, OTHER = 0x4BF92F3577B34DA6A3CE929D0E0E4736, 0x5BF92F3577B34DA6A3CE929D0E0E4736
ROOT, SENT = 0x00F067AA0BA902B7, 0x10F067AA0BA902B7


def named(trace: int, span: int, *, sampled: bool = True) -> str:
    return f"traceparent: 00-{trace:032x}-{span:016x}-{int(sampled):02x}\r\n"


def asks(service: Service, headers: str, on: int = 100, number: int = 9) -> None:
    service.move(head("/next", headers), number, sends=True, on=on)
    service.told(on)


def serves(*sent: str, received: str = "", **settings: Any) -> Service:
    """One that has asked with these headers before it answered, and what nobody here has asked of it."""
    world = World()
    made = world.service("shop", **settings)
    made.receives(5, headers=received)
    made.do()
    for number, headers in enumerate(sent):
        asks(made, headers, 100 + number, 9 + number)
    made.answers()
    world.tick(LONG)
    world.end()
    return made


def clients(service: Service) -> list[Span]:
    return [span for span in service.found if is_request(span, "CLIENT")]


def shown(service: Service) -> Span:
    """The operation that was done for the request."""
    return next(span for span in service.found if span.number)


def test_a_request_is_of_the_trace_that_was_begun_for_it() -> None:
    """As a root, since nobody has said which span the program's own of it is; what it sends is below the span that it names."""
    made = serves(named(THEIRS, SENT))
    server, (client,) = made.request(), clients(made)
    assert (server.trace, server.parent) == (THEIRS, 0)
    assert (client.trace, client.parent) == (THEIRS, SENT)
    assert shown(made).trace == THEIRS


def test_both_ends_of_a_trace_that_came_along() -> None:
    """The request is below the span that it names, and what is sent for it below the one that this names."""
    made = serves(named(THEIRS, SENT), received=named(THEIRS, ROOT))
    server, (client,) = made.request(), clients(made)
    assert (server.trace, server.parent) == (THEIRS, ROOT)
    assert (client.trace, client.parent) == (THEIRS, SENT)


def test_what_is_only_passed_on() -> None:
    """A proxy that sends what it was sent has no span of its own: ours is below its request."""
    made = serves(named(THEIRS, ROOT), received=named(THEIRS, ROOT))
    server, (client,) = made.request(), clients(made)
    function = next(span for span in made.found if span.span == client.parent)
    assert (server.trace, client.trace, function.trace) == (THEIRS, THEIRS, THEIRS)
    assert function.name == "shop.load"


def test_two_traces_in_one_request() -> None:
    """Which of them is the request's nobody knows."""
    made = serves(named(THEIRS, SENT), named(OTHER, SENT))
    assert made.request().trace not in {THEIRS, OTHER}
    assert [(client.trace, client.parent) for client in clients(made)] == [(THEIRS, SENT), (OTHER, SENT)]


def test_who_asked_is_stronger() -> None:
    """A request whose sender is known goes on with its trace."""
    world = World()
    first, made = world.service("first"), world.service("shop")
    first.asks(5)
    made.receives(5)
    asks(made, named(THEIRS, SENT))
    made.answers()
    first.told()
    world.tick(LONG)
    world.end()
    assert joined(made.request(), first.request("CLIENT"))
    assert [(client.trace, client.parent) for client in clients(made)] == [(THEIRS, SENT)]


def test_it_may_be_ignored() -> None:
    """`correlation.traceparent: Ignore`."""
    made = serves(named(THEIRS, SENT), traceparent=False)
    (client,) = clients(made)
    assert client.trace == made.request().trace != THEIRS


@pytest.mark.parametrize("parent_based", [True, False])
@pytest.mark.parametrize("sampled", [True, False])
@pytest.mark.parametrize("percent", [0, 100])
def test_sampling(percent: float, sampled: bool, parent_based: bool) -> None:
    """What the program samples is kept with it, and what the profile does; both ends or none."""
    made = serves(named(THEIRS, SENT, sampled=sampled), percent=percent, parent_based=parent_based)
    kept = percent == 100 or (sampled and parent_based)
    assert bool(clients(made)) == kept
    assert any(is_request(span, "SERVER") for span in made.found) == kept
    assert any(span.number for span in made.found) == kept
