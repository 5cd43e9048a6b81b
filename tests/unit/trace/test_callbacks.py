# SPDX-License-Identifier: Apache-2.0
"""What a loop of Node.js hands to a callback: from the receive to the callback's return, and nothing that is put off."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from kernelspan_agent.model import Frame, Origin, Resource, Stack, StackState
from kernelspan_agent.ring.records import ContextKind
from tests.unit.trace.builders import BOOT_NS, MS, Op, batch
from tests.unit.trace.services import ANSWER, Service, World, head, is_request, payload

PARSER = (("parserOnHeadersComplete", "node:_http_common"), ("parserOnIncoming", "node:_http_server"))
TICKS = ("processTicksAndRejections", "node:internal/process/task_queues")


def of(*functions: tuple[str, str], state: StackState = StackState.COMPLETE) -> Stack:
    """A stack from the outermost to the innermost."""
    frames = [Frame(name, file, 1, Origin.RUNTIME, None, 1) for name, file in reversed(functions)]
    return Stack(tuple(frames), state)


LOOP = Stack((), StackState.NONE)
INSIDE, DEEPER = of(*PARSER, ("handle", "/app.js")), of(*PARSER, ("handle", "/app.js"), ("touch", "/app.js"))
LATER = of(TICKS, ("handle", "/app.js"))
WITHIN = of(TICKS, *PARSER, ("handle", "/app.js"))  # a parser that a program has called
BODY = of(("parserOnBody", "node:_http_common"), ("handle", "/app.js"))
OWN = of(("parserOnHeadersComplete", "/app.js"), ("parserOnIncoming", "/app.js"))
UNKNOWN = of(*PARSER, state=StackState.TRUNCATED)


class Loop:
    """A service of Node.js: one thread that receives all, and knows since when."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.service: Service = world.service("loop", asks=False)
        self.service.app.resource = Resource({"service.name": "loop", "process.runtime.name": "nodejs"})
        self.received = 0  # when the last receive began

    def receives(
        self, on: int, data: bytes = b"", *, place: Stack = LOOP, unseen: int = 0, is_lost: bool = False
    ) -> None:
        """`unseen`: bytes behind these that were not copied; `is_lost`: the call's record is."""
        self.received = BOOT_NS + round(self.world.clock * MS)
        if not is_lost:
            self._move(data or head(f"/{on}"), on, place, sends=False, unseen=unseen)

    def answers(self, on: int, place: Stack = LOOP) -> None:
        self._move(ANSWER, on, place, sends=True)

    def _move(self, data: bytes, on: int, place: Stack, *, sends: bool, unseen: int = 0) -> None:
        self.world.clock += 1
        clock = self.world.clock
        made = batch(Op(clock - 1, clock, place, self.service.app, 7, ContextKind.THREAD, 0, self.received))
        moved = payload(on, data, 0, sends=sends)
        made.payloads = {0: type(moved)(on, sends, len(data) + unseen, data)}
        made.hidden, made.ops["fd"] = np.ones(1, bool), on
        self.service._take(made)

    def do(self, place: Stack = INSIDE, *, tid: int = 7) -> int:
        """An operation of the loop's thread, or of another."""
        self.world.clock += 1
        clock, received = self.world.clock, self.received if tid == 7 else 0
        op = Op(clock - 1, clock, place, self.service.app, tid, ContextKind.THREAD, 0, received)
        self.service.done.append(op.number)
        self.service._take(batch(op))
        return op.number

    def owners(self, numbers: list[int]) -> list[str]:
        self.world.end()
        return [self.service.owner(each) for each in numbers]

    def correlations(self) -> dict[str, str]:
        found = [each.attributes for each in self.service.found if is_request(each, "SERVER")]
        return {str(each["url.path"]): str(each["kernelspan.correlation"]) for each in found}


def test_what_the_callback_does_is_the_requests() -> None:
    """Until the thread receives again; however many requests are open."""
    loop = Loop(World())
    numbers = []
    for on in (1, 2, 3):
        loop.receives(on)
        numbers += [loop.do(INSIDE), loop.do(DEEPER), loop.do(INSIDE)]
    for on in (2, 1, 3):
        loop.answers(on, LATER)
    assert loop.owners(numbers) == ["/1"] * 3 + ["/2"] * 3 + ["/3"] * 3
    assert loop.correlations() == {"/1": "Connection", "/2": "Connection", "/3": "Connection"}


def test_what_has_other_outermost_functions_is_nobodys() -> None:
    """Promises and ticks, parts of a body, a parser that the program itself has called, functions of the same names."""
    for place in (LATER, BODY, WITHIN, OWN, LOOP, of(PARSER[0]), of(PARSER[0], ("on", "node:_http_client"))):
        loop = Loop(World())
        loop.receives(1)
        assert loop.owners([loop.do(place), loop.do(INSIDE)]) == ["", ""]  # the callback has returned
        assert loop.correlations() == {"/1": "None"}


def test_an_operation_whose_frames_are_not_all_known_is_nobodys() -> None:
    """The next one that is known may be the request's again."""
    loop = Loop(World())
    loop.receives(1)
    assert loop.owners([loop.do(UNKNOWN), loop.do(INSIDE), loop.do(UNKNOWN)]) == ["", "/1", ""]


def test_a_receive_that_was_not_seen_is_another_one() -> None:
    """Its record was lost, or it was not to be looked at: the kernel says that there was one."""
    loop = Loop(World())
    loop.receives(1)
    inside = loop.do()
    loop.receives(2, is_lost=True)
    lost = loop.do()
    loop.received = 0  # the kernel has not remembered one
    assert loop.owners([inside, lost, loop.do()]) == ["/1", "", ""]


def test_what_else_the_call_has_brought() -> None:
    """Two requests, the end of one and another, a part of a head, bytes that were not copied, for somebody else."""
    two, cut = head("/1a") + head("/1b"), head("/1", "Content-Length: 3\r\n")
    loop = Loop(World())
    loop.receives(1, two)
    numbers = [loop.do()]
    loop.receives(2, cut)
    first = loop.do()
    loop.receives(2, b"abc" + head("/2b"))
    numbers.append(loop.do())
    loop.receives(3, head("/3")[:20])
    numbers.append(loop.do())
    loop.receives(3, head("/3")[20:])
    numbers.append(loop.do())
    loop.receives(4, unseen=9000)
    numbers.append(loop.do())
    loop.receives(5, place=LATER)
    numbers.append(loop.do())
    assert loop.owners([*numbers, first]) == [""] * 3 + ["/3"] + [""] * 2 + [
        "/1"
    ]  # what completes a head; the path of cut


def test_the_end_of_a_request_that_was_not_seen() -> None:
    """Its beginning was lost: the callback is for that one."""
    loop = Loop(World())
    loop.receives(1)
    loop.receives(1, is_lost=True)
    loop.receives(1, b"Host: here\r\n\r\n" + head("/1a"))
    unknown = loop.do()
    loop.receives(1, head("/1b"))
    assert loop.owners([unknown, loop.do()]) == ["", "/1b"]


def test_pipelined_one_by_one() -> None:
    """Node.js begins to work on each as it comes, whatever it answers first."""
    loop = Loop(World())
    loop.receives(1, head("/1a"))
    first = loop.do()
    loop.receives(1, head("/1b"))
    second = loop.do()
    loop.answers(1)
    loop.answers(1)
    assert loop.owners([first, second]) == ["/1a", "/1b"]


def test_what_follows_the_answer_is_not_the_requests() -> None:
    """Though the callback has not returned. One that answers another request meanwhile is still at its own."""
    loop = Loop(World())
    loop.receives(1)
    loop.receives(2)
    before = loop.do()
    loop.answers(1, INSIDE)
    between = loop.do()
    loop.answers(2, INSIDE)
    assert loop.owners([before, between, loop.do()]) == ["/2", "/2", ""]


def test_another_thread_is_not_in_the_callback() -> None:
    """Nor when its frames look like it."""
    loop = Loop(World())
    loop.receives(1)
    assert loop.owners([loop.do(INSIDE, tid=8), loop.do()]) == ["", "/1"]


def test_it_is_found_whenever_the_activity_would_have_ended() -> None:
    """A callback that takes longer than a pause between activities."""
    loop = Loop(World())
    loop.do(LATER)
    loop.receives(1)
    loop.world.clock += 70_000
    inside = loop.do()
    loop.world.clock += 5_000
    later = loop.do(LATER)
    assert loop.owners([inside, later]) == ["/1", ""]


@given(
    st.lists(
        st.tuples(st.sampled_from(["receive", "two", "lost", "do", "later", "unknown", "answer"]), st.integers(0, 3))
    )
)
def test_never_below_another(steps: list[tuple[str, int]]) -> None:
    """Whatever comes, is lost and is answered: an operation is below the request that was handed on last, or below none."""
    loop = Loop(World())
    on, current, is_open, is_inside = 0, "", list[int](), False
    expected: dict[int, str] = {}
    for what, which in steps:
        if what in {"receive", "two", "lost"}:
            on += 1
            loop.receives(on, head(f"/{on}") * (2 if what == "two" else 1), is_lost=what == "lost")
            is_inside, current = what == "receive", f"/{on}"
            if what == "receive":
                is_open.append(on)
        elif what == "answer" and is_open:
            done = is_open.pop(which % len(is_open))
            loop.answers(done, INSIDE if is_inside else LATER)
            is_inside = is_inside and current != f"/{done}"
        elif what == "do":
            expected[loop.do()] = current if is_inside else ""
        elif what == "later":
            expected[loop.do(LATER)] = ""
            is_inside = False
        elif what == "unknown":
            expected[loop.do(UNKNOWN)] = ""
    assert loop.owners(list(expected)) == list(expected.values())
