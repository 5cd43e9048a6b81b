# SPDX-License-Identifier: Apache-2.0
"""What is not told of a context that works on a request: whatever is lost, nothing it does is another request's."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kernelspan_agent.model import Payload, ProcessInfo, Stack
from kernelspan_agent.ring.records import ContextKind
from tests.unit.trace.builders import Op, batch, spans
from tests.unit.trace.test_claims import JAVA, PUMA_READS, PUMA_WORKS, RUBY, of
from tests.unit.trace.test_requests import ANSWER, PLACE, Server, python, requests_of

TOMCAT = "org.apache.coyote.http11.Http11Processor.service@"
TOMCAT_READS, TOMCAT_WORKS = (
    of("java.lang.Thread.run@1", TOMCAT + "3", "Read"),
    of("java.lang.Thread.run@1", TOMCAT + "9"),
)
KINDS = {
    "thread": ("CPython", {"kind": ContextKind.THREAD}),
    "php": ("PHP", {"kind": ContextKind.THREAD}),
    "task": ("CPython", {"kind": ContextKind.TASK, "address": 4096, "generation": 4}),
    "greenlet": ("CPython", {"kind": ContextKind.GREENLET, "address": 4096}),
    "goroutine": ("go", {"kind": ContextKind.GOROUTINE, "address": 4096, "generation": 9}),
}


@dataclass
class Worker:
    """A context of a kind that answers requests in turn; the kernel counts what of it is not told."""

    kind: str
    server: Server = field(init=False)
    lost: int = 0
    steps: int = 0

    def __post_init__(self) -> None:
        self.server = Server(app=app(self.kind))

    def where(self) -> dict[str, Any]:
        self.steps += 1
        found = {**KINDS[self.kind][1], "lost": self.lost}
        return {**found, "generation": self.steps} if self.kind == "greenlet" else found

    def receives(self, path: str, on: int = 1, *, told: bool = True) -> None:
        self.lost += not told
        if told:
            self.server.receive(path, on=on, **self.where())

    def answers(self, on: int = 1, *, told: bool = True) -> None:
        self.lost += not told
        if told:
            self.server.answer(on=on, **self.where())

    def closes(self, on: int = 1, *, told: bool = True) -> None:
        self.lost += not told
        if told:
            self.server.close(on)

    def do(self) -> int:
        return self.server.do(**self.where())


def app(kind: str) -> ProcessInfo:
    return python(KINDS[kind][0])


@pytest.mark.parametrize("kind", KINDS)
def test_an_answer_and_the_next_request_were_lost(kind: str) -> None:
    """What is done for the second is not the first's, nor what is done between."""
    worker = Worker(kind)
    worker.receives("/1")
    first = worker.do()
    worker.answers(told=False)
    between = worker.do()
    worker.receives("/2", told=False)
    second = worker.do()
    worker.server.end()
    assert [worker.server.owner(each) for each in (first, between, second)] == ["/1", "", ""]
    (span,) = requests_of(worker.server.found)
    assert span.attributes["kernelspan.correlation"] == "None"


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_seen_after_a_loss_is_believed(kind: str) -> None:
    """The next request that is told is claimed anew, where the one before is known to be over."""
    worker = Worker(kind)
    worker.receives("/1")
    worker.answers(told=False)
    worker.receives("/2", on=2, told=False)
    worker.answers(on=2)
    worker.closes(on=1)
    worker.receives("/3", on=3)
    third = worker.do()
    worker.answers(on=3)
    after = worker.do()
    worker.server.end()
    assert [worker.server.owner(each) for each in (third, after)] == ["/3", ""]


def test_a_greenlet_whose_close_was_lost_leaves_its_address() -> None:
    """To another that has received nothing, or whose receive was lost."""
    worker = Worker("greenlet")
    worker.receives("/1")
    worker.closes(told=False)
    other = worker.do()
    worker.server.end()
    assert worker.server.owner(other) == ""


@given(
    st.sampled_from(sorted(KINDS)),
    st.lists(st.tuples(st.sampled_from(["receive", "answer", "close", "do", "pause"]), st.integers(0, 2))),
)
def test_never_below_another(kind: str, steps: list[tuple[str, int]]) -> None:
    """One request after another, each on a connection of its own; of what is said any may be lost. Nothing lost: all known."""
    worker, on, current, expected, has_lost = Worker(kind), 0, "", dict[int, str](), False
    is_certain = list[bool]()
    for what, which in steps:
        told = which != 0
        if what == "receive" and not current:
            on, current = on + 1, f"/{on + 1}"
            worker.receives(current, on=on, told=told)
        elif what == "answer" and current:
            worker.answers(on=on, told=told)
            current = ""
        elif what == "close" and current:
            worker.closes(on=on, told=told)
            current = ""
        elif what == "do":
            expected[worker.do()] = current
            is_certain.append(not has_lost)
            continue
        elif what == "pause":
            worker.server.clock += 70_000
            continue
        else:
            continue
        has_lost |= not told
    worker.server.end()
    for (number, owner), certain in zip(expected.items(), is_certain, strict=True):
        assert worker.server.owner(number) in ({owner} if certain else {owner, ""})


@pytest.mark.parametrize(
    ("runtime", "reads", "works"), [(RUBY, PUMA_READS, PUMA_WORKS), (JAVA, TOMCAT_READS, TOMCAT_WORKS)]
)
def test_a_function_that_goes_on_with_the_next_request(runtime: str, reads: Stack, works: Stack) -> None:
    """Puma's and Tomcat's answer all requests of a kept connection in one call: its frames do not tell one from the next."""
    server = Server(app=python(runtime))
    server.receive("/1", place=reads)
    first = server.do(works)
    second = server.do(works, lost=2)  # the answer to it, and the next request
    server.end()
    assert [server.owner(each) for each in (first, second)] == ["/1", ""]


def test_what_another_thread_has_lost_is_not_this_ones() -> None:
    """Each has its own number."""
    server = Server()
    server.receive("/1", lost=5)
    server.do(tid=8, lost=77)
    inside = server.do(lost=5)
    server.answer(lost=5)
    server.end()
    assert server.owner(inside) == "/1"


@pytest.mark.parametrize("kind", KINDS)
def test_what_was_dropped_behind_the_kernel(kind: str) -> None:
    """By a full queue, by a limit: nothing that was claimed before is believed; what comes after is."""
    worker = Worker(kind)
    worker.receives("/1")
    first = worker.do()
    worker.server.tracer.lose()
    second = worker.do()
    worker.closes(on=1)
    worker.receives("/3", on=3)
    third = worker.do()
    worker.server.end()
    assert [worker.server.owner(each) for each in (first, second, third)] == ["/1", "", "/3"]


def test_a_batch_of_which_some_was_dropped() -> None:
    """Where, nobody knows: no operation in it is claimed."""
    server = Server()
    made = batch(*(Op(at, at + 1, PLACE, server.app) for at in range(3)))
    made.payloads = {0: _asked()}
    made.hidden = np.array([True, False, False])
    server.found += spans(server.tracer.process(made, is_thinned=True))
    server.clock = 20.0
    after = server.do()
    server.answer(data=ANSWER)
    server.receive("/2", on=2)
    believed = server.do()
    found = requests_of(server.end())
    inside = [span.number for span in server.found if span.number][:2]
    assert [server.owner(each) for each in (*inside, after, believed)] == ["", "", "", "/2"]
    assert [each.attributes["kernelspan.correlation"] for each in found] == ["None", "Thread"]


def _asked() -> Payload:
    data = b"GET /1 HTTP/1.1\r\nHost: shop\r\n\r\n"
    return Payload(1, False, len(data), data)
