# SPDX-License-Identifier: Apache-2.0
"""HTTP/1 where calls are lost, or come in another order than they were begun: no request has another's answer."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kernelspan_agent.model import Payload
from kernelspan_agent.protocols.connections import Connections
from kernelspan_agent.protocols.exchanges import Exchange
from kernelspan_agent.protocols.http1talk import MAX_EARLY, HttpExchange

FIRST = 2**32 - 99  # positions begin anew in the middle


@dataclass
class Wire:
    """One connection. `is_placed`: with positions; `joined`: we came in its middle."""

    is_server: bool = False
    is_placed: bool = True
    joined: bool = False
    connections: Connections = field(default_factory=Connections)
    began: list[str] = field(default_factory=list)
    ended: list[HttpExchange] = field(default_factory=list)
    clock: int = 0
    moved: dict[bool, int] = field(default_factory=lambda: {True: 0, False: 0})
    finished: dict[str, int] = field(default_factory=dict)  # when the answer to a target was complete
    kept: list[tuple[Payload, int]] = field(default_factory=list)

    def move(self, data: bytes, *, sends: bool, seen: bool = True, later: bool = False) -> None:
        """One call. `seen`: its record has come; `later`: once `catch_up` is called, as it has not returned yet."""
        is_first = not any(self.moved.values()) and not self.joined
        self.clock += 10
        self.moved[sends] += len(data)
        places = [(FIRST + self.moved[each]) % 2**32 if self.is_placed else None for each in (sends, not sends)]
        payload = Payload(
            1, sends, len(data), data, b"", is_first=is_first and self.is_placed, position=places[0], other=places[1]
        )
        if later:
            self.kept.append((payload, self.clock - 5))
        elif seen:
            self._feed(payload, self.clock - 5, self.clock)

    def catch_up(self) -> None:
        """Calls that were under way return."""
        for payload, start in self.kept:
            self.clock += 10
            if self.is_placed:
                other = (FIRST + self.moved[not payload.sends]) % 2**32
                self._feed(replace(payload, other=other, is_first=False), start, self.clock)
            else:
                self._feed(payload, start, self.clock)
        self.kept.clear()

    def _feed(self, payload: Payload, start: int, end: int) -> None:
        told = self.connections.feed(payload, start, end)
        if told is None:
            return
        self.began += [_target(each) for each in told.began]
        for each in [*told.ended, *told.given_up]:
            assert isinstance(each, HttpExchange)
            assert each not in self.ended
            self.ended.append(each)

    def ask(self, number: int, method: str = "GET", *, seen: bool = True, later: bool = False) -> None:
        self.move(
            f"{method} /{number} HTTP/1.1\r\nHost: x\r\n\r\n".encode(), sends=not self.is_server, seen=seen, later=later
        )

    def answer(self, number: int, body: bytes = b"body", *, lost: str = "") -> None:
        """In two calls if `lost` is a part: `head`, `body`, `tail`; or `all`."""
        head = b"HTTP/1.1 %d X\r\nContent-Length: %d\r\n\r\n" % (400 + number, len(body))
        half = len(body) // 2
        parts = {"head": head, "body": body[:half], "tail": body[half:]}
        if not lost or lost == "all":
            parts = {"all": head + body}
        for name, data in parts.items():
            if data:
                self.move(data, sends=self.is_server, seen=name != lost)
        self.finished[f"/{number}"] = self.clock

    def said(self) -> dict[str, int]:
        return {_target(each): each.response.status if each.response else 0 for each in self.ended}

    def check(self) -> None:
        """Each has its own answer or none, and ends with a byte of its own."""
        for each in self.ended:
            target = _target(each)
            assert each.response is None or each.response.status == 400 + int(target[1:])
            assert not each.end_ns or each.start_ns <= each.end_ns <= self.finished.get(target, self.clock)


def _target(exchange: Exchange) -> str:
    assert isinstance(exchange, HttpExchange)
    return exchange.request.target


@pytest.mark.parametrize("is_server", [False, True])
@pytest.mark.parametrize(("lost", "known"), [("all", 0), ("head", 0), ("body", 402), ("tail", 402)])
def test_one_answer_is_lost(lost: str, known: int, is_server: bool) -> None:
    """All of it or a part: the next ones have their own."""
    wire = Wire(is_server)
    for number in range(1, 6):
        wire.ask(number)
        wire.answer(number, lost=lost if number == 2 else "")
    assert wire.said() == {"/1": 401, "/2": known, "/3": 403, "/4": 404, "/5": 405}
    wire.check()


@pytest.mark.parametrize("is_placed", [False, True])
def test_an_answer_that_comes_before_its_request(is_placed: bool) -> None:
    """The thread that writes has not returned yet when another has received."""
    wire = Wire(is_placed=is_placed)
    for number in range(1, 6):
        wire.ask(number, "HEAD" if number == 3 else "GET", later=number in {2, 3})
        wire.answer(number, b"" if number == 3 else b"HTTP/1.1 299 X\r\n\r\n")
        wire.catch_up()
    assert wire.said() == {f"/{number}": 400 + number for number in range(1, 6)}
    wire.check()


def test_an_answer_to_a_request_that_was_lost_is_nobodys() -> None:
    """It came before the next was asked."""
    for is_placed in (False, True):
        for is_server in (False, True):
            wire = Wire(is_server, is_placed)
            for number in range(1, 6):
                wire.ask(number, seen=number not in {2, 4})
                wire.answer(number)
            assert wire.said() == {"/1": 401, "/3": 403, "/5": 405}
            wire.check()


def test_an_answer_that_was_lost_where_nobody_says_so() -> None:
    """Without positions a second one that is open means that none is known."""
    for is_server in (False, True):
        wire = Wire(is_server, is_placed=False)
        for number in range(1, 6):
            wire.ask(number)
            wire.answer(number, lost="all" if number == 2 else "")
        assert wire.said() == {"/1": 401, "/2": 0, "/3": 0, "/4": 0, "/5": 0}


@pytest.mark.parametrize("is_server", [False, True])
def test_pipelined(is_server: bool) -> None:
    """In one call or in several, their answers too: nothing is lost, so each has its own."""
    wire = Wire(is_server)
    wire.move(b"".join(b"GET /%d HTTP/1.1\r\n\r\n" % number for number in range(1, 4)), sends=not is_server)
    wire.ask(4, "HEAD")
    said = b"".join(b"HTTP/1.1 %d X\r\nContent-Length: 3\r\n\r\nabc" % (400 + number) for number in range(1, 4))
    wire.move(said[:70], sends=is_server)
    wire.ask(5)
    wire.move(
        said[70:] + b"HTTP/1.1 404 X\r\nContent-Length: 7\r\n\r\nHTTP/1.1 405 X\r\nContent-Length: 0\r\n\r\n",
        sends=is_server,
    )
    assert wire.said() == {f"/{number}": 400 + number for number in range(1, 6)}


def test_pipelined_and_answered_early() -> None:
    """Two answers come at once, and the second one's request has not returned yet."""
    wire = Wire()
    wire.ask(1)
    wire.ask(2, later=True)
    wire.move(b"HTTP/1.1 401 X\r\nContent-Length: 2\r\n\r\nabHTTP/1.1 402 X\r\nContent-Length: 0\r\n\r\n", sends=False)
    wire.catch_up()
    wire.ask(3)
    wire.answer(3)
    assert wire.said() == {"/1": 401, "/2": 402, "/3": 403}


def test_a_request_that_is_lost_of_several_at_once() -> None:
    """Nothing has answered it when the next one is asked: the answer that comes may be its own."""
    for is_server in (False, True):
        wire = Wire(is_server)
        wire.ask(1)
        wire.answer(1)
        wire.ask(2, seen=False)
        wire.ask(3)
        wire.answer(2)
        wire.answer(3)
        assert wire.said() == {"/1": 401, "/3": 0}


def test_the_method_of_a_request_that_is_given_up_is_forgotten() -> None:
    """An answer to HEAD has no body, whatever it says; the next one has."""
    wire = Wire()
    for number in range(1, 5):
        wire.ask(number, "HEAD" if number == 2 else "GET")
        wire.answer(number, b"HTTP/1.1 299 X\r\n\r\n", lost="all" if number == 2 else "")
    assert wire.said() == {"/1": 401, "/2": 0, "/3": 403, "/4": 404}
    assert sorted((_target(each), each.response_body) for each in wire.ended) == [
        ("/1", 18),
        ("/2", -1),
        ("/3", 18),
        ("/4", 18),
    ]


def test_a_body_of_which_calls_are_lost_ends_where_it_ends() -> None:
    """How many bytes were missed says that they were its own."""
    wire = Wire()
    wire.ask(1)
    wire.move(b"HTTP/1.1 401 X\r\nContent-Length: 900\r\n\r\n", sends=False)
    for number in range(9):
        wire.move(b"HTTP/1.1 299".ljust(100), sends=False, seen=number in {2, 5, 8})
    assert [(each.response_body, each.end_ns) for each in wire.ended] == [(900, wire.clock)]


def test_how_much_of_an_early_answer_is_kept_is_bounded() -> None:
    """Beyond that the request has none, and the next one its own."""
    wire = Wire()
    wire.ask(0)
    wire.answer(0)
    wire.ask(1, later=True)
    wire.move(b"HTTP/1.1 401 X\r\nContent-Length: %d\r\n\r\n" % (100 * MAX_EARLY), sends=False)
    for _ in range(MAX_EARLY):
        wire.move(b"HTTP/1.1 299 X\r\n\r\n".ljust(100), sends=False)
    wire.catch_up()
    assert len(wire.connections._by_id[1].talk._early) <= MAX_EARLY
    wire.ask(2)
    wire.answer(2)
    assert wire.said() == {"/0": 400, "/1": 0, "/2": 402}


@given(data=st.data(), is_server=st.booleans(), joined=st.booleans(), window=st.integers(1, 3), slides=st.booleans())
@settings(max_examples=500, deadline=None)
def test_whatever_is_lost_none_has_anothers(
    data: st.DataObject, is_server: bool, joined: bool, window: int, slides: bool
) -> None:
    """Requests, answers and parts of them, of a client that waits or does not; bodies that look like answers."""
    wire, asked, answered = Wire(is_server, joined=joined and window == 1), 0, 0
    ways = st.sampled_from(["", "", "", "", "all", "head", "body", "tail"])
    bodies = st.sampled_from([b"", b"x" * 40, b"HTTP/1.1 299 X\r\n\r\n" * 2])
    is_lost = st.integers(0, 5).map(lambda value: value == 0)
    while answered < 12:
        for _ in range(window - (asked - answered) if slides or asked == answered else 0):
            later = not is_server and window == 1 and data.draw(st.booleans())
            # (of several at once the first are seen: else it looks like a client that waits)
            is_seen = asked < window or not data.draw(is_lost)
            wire.ask(asked, seen=is_seen, later=later)
            asked += 1
        wire.answer(answered, data.draw(bodies), lost=data.draw(ways))
        answered += 1
        wire.catch_up()
    wire.check()
    assert len(set(wire.began)) == len(wire.began)


@given(data=st.data(), is_server=st.booleans(), window=st.integers(1, 3), slides=st.booleans())
@settings(max_examples=500, deadline=None)
def test_whatever_answer_is_lost_without_positions_none_has_anothers(
    data: st.DataObject, is_server: bool, window: int, slides: bool
) -> None:
    """Answers of a Unix socket."""
    wire, asked, answered = Wire(is_server, is_placed=False), 0, 0
    ways = st.sampled_from(["", "", "", "", "all", "head", "body", "tail"])
    while answered < 12:
        for _ in range(window - (asked - answered) if slides or asked == answered else 0):
            wire.ask(asked)
            asked += 1
        wire.answer(answered, b"x" * 40, lost=data.draw(ways))
        answered += 1
    wire.check()
