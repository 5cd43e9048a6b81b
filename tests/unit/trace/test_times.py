# SPDX-License-Identifier: Apache-2.0
"""Times on and off the CPU of a request: those of one thread that has done all of it, or none."""

from __future__ import annotations

from kernelspan_agent.model import ThreadTime
from kernelspan_agent.ring.records import ContextKind
from tests.unit.trace.test_requests import ANSWER, Server, requests_of

ON, OFF = "kernelspan.time.on_cpu", "kernelspan.time.off_cpu"


def _times(server: Server) -> list[tuple[object, object]]:
    return [(each.attributes.get(ON), each.attributes.get(OFF)) for each in requests_of(server.end())]


def test_what_the_thread_waited_is_off_and_the_rest_on() -> None:
    """Between the end of the call that brought the request and that of the one that answered it."""
    server = Server(times=True)
    server.receive("/a", thread=ThreadTime(7, 1_000, 50_000, 3))
    server.answer(thread=ThreadTime(7, 9_000, 56_500, 3))
    server.receive("/b", thread=ThreadTime(7, 20_000, 60_000, 4))
    server.answer(thread=ThreadTime(7, 21_000, 60_000, 4))
    assert _times(server) == [(1_500, 6_500), (1_000, 0)]


def test_not_if_nobody_asks_for_it() -> None:
    """The profile wants no time off the CPU."""
    server = Server()
    server.receive("/a", thread=ThreadTime(7, 1_000, 50_000, 3))
    server.answer(thread=ThreadTime(7, 9_000, 56_500, 3))
    assert _times(server) == [(None, None)]


def test_not_if_a_switch_was_not_timed() -> None:
    """Thrown away by the guard, or left out by the kernel: nobody knows how long it took."""
    server = Server(times=True)
    server.receive("/a", thread=ThreadTime(7, 1_000, 50_000, 3))
    server.answer(thread=ThreadTime(7, 9_000, 56_500, 4))
    assert _times(server) == [(None, None)]


def test_not_if_another_thread_answers() -> None:
    """It has a sum of its own."""
    server = Server(times=True)
    server.receive("/a", thread=ThreadTime(7, 1_000, 50_000, 3))
    server.answer(thread=ThreadTime(8, 9_000, 56_500, 3), tid=8)
    assert _times(server) == [(None, None)]


def test_not_of_what_came_in_pieces() -> None:
    """When its first byte came another call brought it, whose sum was not kept."""
    server = Server(times=True)
    server.move(b"GET /a HTTP/1.1\r\n", sends=False, thread=ThreadTime(7, 1_000, 50_000, 3))
    server.move(b"Host: shop\r\n\r\n", sends=False, thread=ThreadTime(7, 2_000, 50_500, 3))
    server.answer(thread=ThreadTime(7, 9_000, 56_500, 3))
    assert _times(server) == [(None, None)]


def test_not_of_an_answer_whose_end_nobody_told() -> None:
    """It ends with the connection."""
    server = Server(times=True)
    server.receive("/a", thread=ThreadTime(7, 1_000, 50_000, 3))
    server.answer(data=ANSWER.replace(b"Content-Length: 2\r\n", b""), thread=ThreadTime(7, 9_000, 56_500, 3))
    server.close()
    assert _times(server) == [(None, None)]


def test_not_of_what_runs_among_others() -> None:
    """A goroutine's thread has worked for others meanwhile."""
    server = Server(times=True)
    where = {"kind": ContextKind.GOROUTINE, "address": 0xC000, "generation": 5}
    server.receive("/a", thread=ThreadTime(7, 1_000, 50_000, 3), **where)
    server.answer(thread=ThreadTime(7, 9_000, 56_500, 3), **where)
    assert _times(server) == [(None, None)]
