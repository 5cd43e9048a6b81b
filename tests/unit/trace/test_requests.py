# SPDX-License-Identifier: Apache-2.0
"""Which operations are of which request, and what its span says: against all that tries to mix them up."""

from __future__ import annotations

from typing import Any

import msgspec
import numpy as np
import pytest

from kernelspan_agent.model import Payload, ProcessInfo, Resource, Stack, StackState, ThreadTime
from kernelspan_agent.ring.records import ContextKind
from kernelspan_agent.trace import Orphans, Tracer
from kernelspan_agent.trace.requests import CLOSE, IDLE_NS, MAX_LENGTH_NS
from kernelspan_api.subjects import Request
from tests.unit.trace.builders import Op, Span, at, batch, process, spans, stack, tracer

PLACE = stack("Lserve@1 main@2 load@3")
ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


def python(runtime: str = "CPython") -> ProcessInfo:
    made = process()
    made.resource = Resource({"service.name": "app", "process.runtime.name": runtime})
    return made


def wants(**settings: Any) -> Request:
    return msgspec.convert({"protocol": "HTTP", **settings}, Request)


class Server:
    """A process whose operations a test writes one by one, 10 ms apart."""

    def __init__(self, *wanted: Request, app: ProcessInfo | None = None, **settings: object) -> None:
        self.app = app or python()
        self.tracer: Tracer = tracer(requests=wanted or (wants(),), **settings)
        self.clock = 0.0
        self.found: list[Span] = []

    def do(self, place: Stack = PLACE, **where: Any) -> int:
        """An operation that is shown; its number."""
        self.clock += 10
        op = Op(self.clock - 1, self.clock, place, self.app, **where)
        self.found += spans(self.tracer.process(batch(op)))
        return op.number

    def move(
        self,
        data: bytes,
        *,
        sends: bool,
        on: int = 1,
        place: Stack = PLACE,
        thread: ThreadTime | None = None,
        **where: Any,
    ) -> None:
        """Bytes on a connection, by an operation that is not shown."""
        self.clock += 10
        made = batch(Op(self.clock - 1, self.clock, place, self.app, **where))
        made.payloads, made.hidden = {0: Payload(on, sends, len(data), data, thread=thread)}, np.ones(1, bool)
        made.ops["fd"] = 10 + on
        self.found += spans(self.tracer.process(made))

    def receive(self, target: str = "/a", on: int = 1, headers: str = "", **where: Any) -> None:
        self.move(f"GET {target} HTTP/1.1\r\nHost: shop:8080\r\n{headers}\r\n".encode(), sends=False, on=on, **where)

    def answer(self, on: int = 1, data: bytes = ANSWER, **where: Any) -> None:
        self.move(data, sends=True, on=on, **where)

    def close(self, on: int = 1) -> None:
        """The connection's descriptor."""
        self.clock += 10
        made = batch(Op(self.clock - 1, self.clock, PLACE, self.app))
        made.hidden = np.ones(1, bool)
        made.ops["fd"], made.ops["op"] = 10 + on, CLOSE
        self.found += spans(self.tracer.process(made))

    def end(self) -> list[Span]:
        self.found += spans(self.tracer.close(at(self.clock)))
        return self.found

    def owner(self, number: int) -> str:
        """Path of the request that an operation is below; empty: of none."""
        by_id = {span.span: span for span in self.found}
        above = next(span for span in self.found if span.number == number)
        while above.parent in by_id:
            above = by_id[above.parent]
        return str(above.attributes.get("url.path", ""))


def requests_of(found: list[Span]) -> list[Span]:
    return [span for span in found if "http.request.method" in span.attributes]


def test_what_a_thread_does_between_request_and_answer_is_the_requests() -> None:
    """Before and after it is the thread's own."""
    server = Server()
    before = server.do()
    server.receive("/a")
    inside = [server.do(), server.do()]
    server.answer()
    after = server.do()
    other = server.do(tid=8)
    (span,) = requests_of(server.end())
    assert (span.start_ns, span.end_ns, span.parent) == (at(20), at(50), 0)
    assert (span.name, span.attributes["kernelspan.correlation"], span.operations) == ("GET /a", "Thread", 2)
    assert [server.owner(number) for number in inside] == ["/a", "/a"]
    assert [server.owner(number) for number in (before, after, other)] == ["", "", ""]
    functions = [each for each in server.found if each.name == "shop.load" and each.trace == span.trace]
    assert [each.operations for each in functions] == [2]


def test_a_request_may_wait_as_long_as_it_likes() -> None:
    """Pauses and lengths that end an activity do not end it."""
    server = Server()
    server.receive("/a")
    server.clock += 90_000
    server.found += spans(server.tracer.tick(at(server.clock)))
    late = server.do()
    server.answer()
    server.end()
    assert server.owner(late) == "/a"


def test_a_thread_that_has_several_requests_at_once_works_on_none() -> None:
    """A loop that nobody knew of: from its second request on nothing is claimed."""
    server = Server()
    server.receive("/a", on=1)
    server.receive("/b", on=2)
    after = server.do()
    server.answer(on=1)
    between = server.do()
    server.answer(on=2)
    found = requests_of(server.end())
    assert [each.attributes["kernelspan.correlation"] for each in found] == ["None", "None"]
    assert [server.owner(number) for number in (after, between)] == ["", ""]
    assert server.tracer.counters.requests_ambiguous == 1


@pytest.mark.parametrize("runtime", ["nodejs", "go", ""])
def test_threads_of_other_runtimes_claim_nothing(runtime: str) -> None:
    """Theirs may run anything in turn."""
    server = Server(app=python(runtime))
    server.receive("/a")
    inside = server.do()
    server.answer()
    (span,) = requests_of(server.end())
    assert (span.attributes["kernelspan.correlation"], server.owner(inside)) == ("None", "")


@pytest.mark.parametrize("state", [StackState.NONE, StackState.TRUNCATED, StackState.RUNTIME_PENDING])
def test_a_thread_whose_frames_are_not_all_known_claims_nothing(state: StackState) -> None:
    """It may be a loop's."""
    server = Server()
    server.receive("/a", place=Stack(PLACE.frames, state))
    inside = server.do()
    server.answer()
    server.end()
    assert server.owner(inside) == ""


GREENLET = {"kind": ContextKind.GREENLET, "address": 4096}


def test_a_greenlet_keeps_its_request_over_its_switches() -> None:
    """Each step has a generation of its own; others of the thread run in between."""
    server = Server()
    server.receive("/a", generation=1, **GREENLET)
    first = server.do(generation=1, **GREENLET)
    other = server.do(kind=ContextKind.GREENLET, address=8192, generation=2)
    second = server.do(generation=3, **GREENLET)
    server.answer(generation=3, **GREENLET)
    after = server.do(generation=3, **GREENLET)
    reused = server.do(generation=4, **GREENLET)
    (span,) = requests_of(server.end())
    assert span.attributes["kernelspan.correlation"] == "Fiber"
    assert [server.owner(number) for number in (first, other, second, after, reused)] == ["/a", "", "/a", "", ""]


def test_an_address_is_somebody_elses_when_its_connection_is_closed() -> None:
    """A greenlet that dies without an answer gives its address to the next at once."""
    server = Server()
    server.receive("/a", generation=1, **GREENLET)
    inside = server.do(generation=1, **GREENLET)
    server.close()
    reused = server.do(generation=2, **GREENLET)
    server.receive("/b", on=2, generation=3, **GREENLET)
    next_one = server.do(generation=4, **GREENLET)
    found = requests_of(server.end())
    assert [server.owner(number) for number in (inside, reused, next_one)] == ["/a", "", "/b"]
    assert "http.response.status_code" not in found[0].attributes


def test_a_goroutine_is_its_number_and_not_its_address() -> None:
    """One that ends unanswered leaves its address to another, whose number is another."""
    server = Server(app=python("go"))
    where = {"kind": ContextKind.GOROUTINE, "address": 4096}
    server.receive("/a", generation=1, **where)
    inside = server.do(generation=1, **where)
    reused = server.do(generation=2, **where)
    server.end()
    assert [server.owner(number) for number in (inside, reused)] == ["/a", ""]


def test_an_answer_without_an_end_ends_with_a_pause() -> None:
    """Up to the connection's end, which is not seen."""
    server = Server()
    server.receive("/a")
    server.answer(data=b"HTTP/1.0 200 OK\r\n\r\nsome")
    server.answer(data=b"more")
    ended = server.clock
    server.found += spans(server.tracer.tick(at(ended) + IDLE_NS + 1))
    after = server.do()
    (span,) = requests_of(server.found)
    assert (span.end_ns, server.owner(after) if server.end() else "") == (at(ended), "")


def test_one_that_never_ends_is_given_up() -> None:
    """Its span says what is known."""
    server = Server()
    server.receive("/a")
    server.found += spans(server.tracer.tick(at(server.clock) + MAX_LENGTH_NS + 1))
    (span,) = requests_of(server.found)
    assert "http.response.status_code" not in span.attributes
    assert server.tracer.counters.contexts_open <= 1


def test_traceparent_is_the_parent() -> None:
    """And what it says of sampling holds; one that cannot be is none."""
    asked = "4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7"
    server = Server(percent=0)
    server.receive("/a", headers=f"traceparent: 00-{asked}-01\r\n")
    server.answer()
    server.receive("/b", headers=f"traceparent: 00-{asked}-00\r\n")
    server.answer()
    for bad in ("00-" + "0" * 32 + "-00f067aa0ba902b7-01", "ff-" + asked + "-01", "00-xyz-01"):
        server.receive("/c", headers=f"traceparent: {bad}\r\n")
        server.answer()
    (span,) = requests_of(server.end())
    assert (f"{span.trace:032x}", f"{span.parent:016x}") == tuple(asked.split("-"))
    assert span.attributes["url.path"] == "/a"


def test_traceparent_may_be_ignored_or_decide_less() -> None:
    """`correlation.traceparent: Ignore`; `sampling.parentBased: false`."""
    asked = "4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7"
    ignores, decides = Server(traceparent=False), Server(parent_based=False, percent=100)
    for server in (ignores, decides):
        server.receive("/a", headers=f"traceparent: 00-{asked}-00\r\n")
        server.answer()
    (root,), (child,) = requests_of(ignores.end()), requests_of(decides.end())
    assert root.parent == 0
    assert f"{root.trace:032x}" != f"{child.trace:032x}" == asked.partition("-")[0]


def test_a_client_is_below_the_function_that_asked() -> None:
    """Its span goes from the first byte sent to the last received."""
    server = Server()
    server.move(b"POST /buy?card=4111 HTTP/1.1\r\nHost: pay\r\nContent-Length: 0\r\n\r\n", sends=True, place=PLACE)
    server.move(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n", sends=False, place=PLACE)
    server.do()
    (span,) = requests_of(server.end())
    function = next(each for each in server.found if each.name == "shop.load")
    assert (span.name, span.parent, span.trace) == ("POST", function.span, function.trace)
    assert (span.start_ns, span.end_ns) == (at(9), at(20))
    assert span.attributes["url.full"] == "http://pay/buy"
    assert span.attributes["error.type"] == "404"


def test_what_the_profile_wants() -> None:
    """Roles, ports and paths; the first entry that fits decides."""
    server = Server(wants(roles=["Server"], ignorePaths=["/healthz", "/static/**"], routes=["/orders/{id}/items"]))
    for path in ("/healthz", "/static/x/y", "/orders/77/items?x=1", "/users/1234567/photos"):
        server.receive(path)
        server.answer()
    server.move(b"GET / HTTP/1.1\r\n\r\n", sends=True, on=5)
    server.move(ANSWER, sends=False, on=5)
    found = requests_of(server.end())
    assert [each.name for each in found] == ["GET /orders/{id}/items", "GET /users/{id}/photos"]
    assert [each.attributes.get("http.route") for each in found] == ["/orders/{id}/items", None]


def test_drop_keeps_what_requests_own() -> None:
    """`orphans: Drop`: all else is counted."""
    server = Server(orphans=Orphans.DROP)
    server.do()
    server.receive("/a")
    inside = server.do()
    server.answer()
    server.do()
    server.end()
    assert [span.number for span in server.found if span.number] == [inside]
    assert server.tracer.counters.orphans_dropped == 2


SECRETS = [
    "Authorization: Bearer s3cret", "Authorization: Basic s3cret", "Cookie: session=s3cret", "X-Api-Key: s3cret",
    "Proxy-Authorization: s3cret", "X-Auth-Token: s3cret", "X-Amz-Security-Token: s3cret", "X-CSRF-Token: s3cret",
    "Referer: http://u:s3cret@h/", "Host: user:s3cret@shop", "User-Agent: s3cret", "From: s3cret@x", "X-Whatever: s3cret",
]  # fmt: skip
TARGETS = ["/a?token=s3cret", "/a?x=1&password=s3cret", "http://user:s3cret@shop/a", "/a#s3cret", "/a?s3cret"]


@pytest.mark.parametrize("sends", [True, False])
def test_secrets_stay_where_they_are(sends: bool) -> None:
    """In headers, queries, user information, bodies: nothing of it is in any span unless the profile asks for it."""
    server = Server(wants(captureHeaders=["authorization", "Cookie", "set-cookie"]))
    for number, (target, header) in enumerate([(t, h) for t in TARGETS for h in SECRETS]):
        asked = f"POST {target} HTTP/1.1\r\n{header}\r\nContent-Length: 6\r\n\r\ns3cret".encode()
        said = b"HTTP/1.1 200 s3cret\r\nSet-Cookie: s3cret\r\nLocation: /?s3cret\r\nContent-Length: 6\r\n\r\ns3cret"
        server.move(asked, sends=sends, on=number)
        server.move(said, sends=not sends, on=number)
    found = requests_of(server.end())
    assert len(found) == len(TARGETS) * len(SECRETS)
    assert "s3cret" not in repr(found)
    assert {each.attributes["http.response.status_code"] for each in found} == {200}


def test_what_is_asked_for_is_kept() -> None:
    """Headers by name, whatever their case, and the query."""
    server = Server(wants(captureHeaders=["X-Request-Id", "content-type"], captureQuery=True))
    server.receive("/a?page=2", headers="x-request-ID: r1\r\nX-Request-Id: r2\r\n")
    server.answer(data=b"HTTP/1.1 204 No\r\nContent-Type: text/x\r\n\r\n")
    (span,) = requests_of(server.end())
    hiding = Server(wants(captureHeaders=["x-request-id"]), hidden_headers=("X-Request-*",))
    hiding.receive("/a", headers="x-request-id: r1\r\n")
    hiding.answer()
    assert "r1" not in repr(hiding.end())
    assert span.attributes["url.query"] == "page=2"
    assert span.attributes["http.request.header.x-request-id"] == ("r1, r2",)
    assert span.attributes["http.response.header.content-type"] == ("text/x",)
