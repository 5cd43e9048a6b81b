# SPDX-License-Identifier: Apache-2.0
"""Profiles of one engine, each with one service whose sends and receives a test writes one by one."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import msgspec
import numpy as np

from kernelspan_agent.model import Payload, ProcessInfo, ResolvedBatch, Resource, Segment, Stack
from kernelspan_agent.ring.records import ContextKind
from kernelspan_agent.trace import Tracer, TraceSettings
from kernelspan_agent.trace.adopt import Adoptions
from kernelspan_agent.trace.hold import Hold
from kernelspan_agent.trace.ids import IdSource, ratio_bound
from kernelspan_agent.trace.joins import Joins
from kernelspan_agent.trace.keep import Keep
from kernelspan_api.subjects import Request
from tests.unit.trace.builders import Op, Span, at, batch, process, spans, stack

PLACE = stack("Lserve@1 main@2 load@3")
ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
FAILURE = b"HTTP/1.1 500 Broken\r\nContent-Length: 2\r\n\r\nno"


def payload(on: int, data: bytes, number: int, *, sends: bool) -> Payload:
    """What a call moved whose exchange_id is this number."""
    places = {"position": (number >> 32) + len(data) & 0xFFFFFFFF, "other": number & 0xFFFFFFFF} if number else {}
    return Payload(on, sends, len(data), data, **places)


@dataclass
class World:
    """One engine's profiles, on one clock (ms)."""

    joins: Joins = field(default_factory=Joins)
    clock: float = 0.0
    services: list[Service] = field(default_factory=list)

    def service(self, name: str, **settings: Any) -> Service:
        made = Service(self, name, **settings)
        self.services.append(made)
        return made

    def tick(self, after_ms: float = 0.0) -> None:
        """What the engine does five times a second, its profiles in their order."""
        self.clock += after_ms
        self.joins.correspond()
        for each in self.services:
            each.tick()

    def end(self) -> list[Span]:
        """Everything that was exported; nothing is left."""
        for each in self.services:
            each.end()
            assert (each.hold.spans, each.hold.operations) == (0, 0)
        assert self.joins.waiting == 0
        return [span for each in self.services for span in each.found]


class Service:
    """A profile with one process, whose operations a test writes one by one."""

    def __init__(
        self, world: World, name: str, *, asks: bool = True, keep: Keep | None = None, **settings: Any
    ) -> None:
        self.world, self.app = world, process(name)
        self.app.resource = Resource({"service.name": name, "process.runtime.name": "CPython"})
        wanted = {"protocol": "HTTP", "roles": ["Server", "Client"] if asks else ["Server"]}
        made = TraceSettings(requests=(msgspec.convert(wanted, Request),), **settings)
        bound = ratio_bound(made.percent)
        self.party = world.joins.party(name, asks=asks, bound=bound, parent_based=made.parent_based, keep=keep)
        adoptions = Adoptions(keep)
        self.tracer = Tracer(made, IdSource(name.encode()), self.party, keep, adoptions)
        self.hold = Hold(self.party, keep, adoptions)
        self.found: list[Span] = []
        self.done: list[int] = []

    def _take(self, made: ResolvedBatch) -> None:
        for each in self.hold.sift(self.tracer.process(made)):
            self.found += spans(each)

    def do(
        self, app: ProcessInfo | None = None, tid: int = 7, task: int = 0, place: Stack = PLACE, step: int = 0
    ) -> int:
        """An operation that is shown; its number. `task`: of a loop, by its number; `step`: 1 where it has none."""
        self.world.clock += 1
        op = self._op(app or self.app, tid, task, place, step=step)
        self.done.append(op.number)
        self._take(batch(op))
        return op.number

    def _op(self, app: ProcessInfo, tid: int, task: int, place: Stack, ago: float = 0.0, step: int = 0) -> Op:
        kind = ContextKind.TASK if task else ContextKind.THREAD
        start, end = self.world.clock - 1 - ago, self.world.clock - ago
        return Op(start, end, place, app, tid, kind, task % 4 << 6, 2 * task + step)  # an address is used again

    def move(
        self,
        data: bytes,
        number: int,
        *,
        sends: bool,
        on: int,
        tid: int = 7,
        ago: float = 0.0,
        task: int = 0,
        place: Stack = PLACE,
        step: int = 0,
        peer: str = "",
    ) -> None:
        """Bytes on a connection; `ago`: ms since they were moved; `peer`: the other end's address."""
        self.world.clock += 1
        made = batch(self._op(self.app, tid, task, place, ago, step))
        made.payloads = {0: payload(on, data, number, sends=sends)}
        if peer:
            made.segments[0, 1] = Segment({"network.peer.address": peer, "network.peer.port": 1024})
        made.hidden, made.ops["fd"] = np.ones(1, bool), on
        self._take(made)

    def asks(self, number: int, target: str = "/a", on: int = 100, **more: Any) -> None:
        self.move(head(target), number, sends=True, on=on, **more)

    def told(self, on: int = 100, **more: Any) -> None:
        self.move(ANSWER, 0, sends=False, on=on, **more)

    def receives(self, number: int, target: str = "/a", on: int = 1, headers: str = "", **more: Any) -> None:
        self.move(head(target, headers), number, sends=False, on=on, **more)

    def answers(self, on: int = 1, *, failed: bool = False, **more: Any) -> None:
        self.move(FAILURE if failed else ANSWER, 0, sends=True, on=on, **more)

    def tick(self) -> None:
        now = at(self.world.clock)
        for each in self.hold.sift(self.tracer.tick(now)):
            self.found += spans(each)
        self.world.joins.settle(now)
        for each in self.hold.release():
            self.found += spans(each)

    def end(self) -> None:
        for each in [*self.hold.sift(self.tracer.close(at(self.world.clock))), *self.hold.flush()]:
            self.found += spans(each)

    def shown(self) -> list[int]:
        """Numbers of the operations that were exported."""
        return [span.number for span in self.found if span.number]

    def request(self, kind: str = "SERVER", path: str = "/a") -> Span:
        (one,) = [span for span in self.found if is_request(span, kind) and path_of(span) == path]
        return one

    def owner(self, number: int) -> str:
        """The path of the request that it is below; empty: of none."""
        by_id: dict[int, Span] = {span.span: span for span in self.found}
        (span,) = [span for span in self.found if span.number == number]
        while (above := by_id.get(span.parent)) is not None:
            span = above
            if is_request(span, "SERVER"):
                return str(span.attributes["url.path"])
        return ""


def head(target: str, headers: str = "") -> bytes:
    return f"GET {target} HTTP/1.1\r\nHost: shop\r\n{headers}\r\n".encode()


def is_request(span: Span, kind: str) -> bool:
    return ("url.path" if kind == "SERVER" else "url.full") in span.attributes


def path_of(span: Span) -> str:
    return str(span.attributes.get("url.path", "") or str(span.attributes["url.full"]).removeprefix("http://shop"))


def joined(server: Span, client: Span) -> bool:
    return (server.trace, server.parent) == (client.trace, client.span)
