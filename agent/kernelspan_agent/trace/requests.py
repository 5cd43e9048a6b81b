# SPDX-License-Identifier: Apache-2.0
"""Requests: spans of what protocols say on connections, and which context works on one.

A context works on a request that it has received for as long as the response is on its way, where that is known: a task
or a greenlet that received it itself, and a thread outside of any event loop. What such a thread receives meanwhile as
another request shows that it is a loop after all: then it works on neither.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

import numpy as np

from kernelspan_agent.model import ProcessInfo, ResolvedBatch, Stack, StackState
from kernelspan_agent.protocols.exchanges import Connections, Exchange
from kernelspan_agent.ring.records import ContextKind
from kernelspan_agent.trace.contexts import Context
from kernelspan_agent.trace.httpspans import HttpSpans, parent_of
from kernelspan_agent.trace.ids import IdSource
from kernelspan_agent.trace.spans import Closed, OpenSpan, Trace
from kernelspan_api import semconv
from kernelspan_api.subjects import Request, Role

MAX_OPEN = 16384
IDLE_NS = 1_000_000_000  # without a byte, after which a response whose length was not told has ended
MAX_LENGTH_NS = 3600_000_000_000
# Frames of event loops, by the beginnings of their names: which callback runs under them, nobody has said.
_LOOPS = (
    "asyncio.",
    "twisted.internet.",
    "tornado.ioloop",
    "eventlet.hubs",
    "gevent.hub",
    "curio.kernel",
    "trio._core",
)
_SYNCHRONOUS = {"cpython", "php"}  # runtimes whose threads do one thing after another, but for those loops
_CORRELATION = {ContextKind.THREAD: "Thread", ContextKind.TASK: "Task", ContextKind.GREENLET: "Fiber"}


@dataclass(slots=True, eq=False)
class Followed:
    """An exchange that a profile wants, and its span. `ends`: addresses and ports (local, peer) of the connection."""

    exchange: Exchange
    wanted: Request
    root: OpenSpan
    parent_id: int
    process: ProcessInfo
    ends: tuple[str, int, str, int]
    context: Context | None = None  # that works on it
    correlation: str = "None"


@dataclass(slots=True)
class Marks:
    """What the operations of a batch mean for requests, by their rows."""

    began: dict[int, list[Exchange]] = field(default_factory=dict)
    ended: dict[int, list[Exchange]] = field(default_factory=dict)
    rows: set[int] = field(default_factory=set)


class Requests:
    """Of one profile. `out` receives the spans that close."""

    def __init__(
        self,
        wanted: tuple[Request, ...],
        new_trace: Callable[[ProcessInfo], Trace],
        ids: IdSource,
        out: list[Closed],
    ) -> None:
        self._wanted, self._new_trace, self._ids, self._out = wanted, new_trace, ids, out
        self._connections = Connections()
        self._spans = HttpSpans()
        self._open: dict[Exchange, Followed] = {}
        self.seen = self.ambiguous = self.evicted = 0

    def read(self, batch: ResolvedBatch) -> tuple[ResolvedBatch, Marks]:
        """What the bytes of these operations say; and the batch without what says nothing and is not to be shown."""
        marks = Marks()
        for row, payload in batch.payloads.items():
            told = self._connections.feed(payload, int(batch.start_ns[row]), int(batch.end_ns[row]))
            if told is not None:
                if told.began:
                    marks.began[row] = told.began
                if told.ended:
                    marks.ended[row] = told.ended
        if batch.hidden is not None:
            kept = ~batch.hidden
            kept[[*marks.began, *marks.ended]] = True
            if not kept.all():
                at = (np.cumsum(kept) - 1).tolist()
                marks.began = {at[row]: told for row, told in marks.began.items()}
                marks.ended = {at[row]: told for row, told in marks.ended.items()}
                batch = batch.only(kept)
        marks.rows = marks.began.keys() | marks.ended.keys()
        return batch, marks

    def began(
        self, exchanges: Iterable[Exchange], context: Context, span: OpenSpan, batch: ResolvedBatch, row: int
    ) -> None:
        """The operation in this row, of this context and below this span, has brought or sent them."""
        ends = _ends(batch, row)
        for exchange in exchanges:
            wanted = self._wants(exchange, ends)
            if wanted is None:
                continue
            self.seen += 1
            if exchange.is_server:
                self._serve(exchange, wanted, ends, context, batch, row)
            else:
                root = OpenSpan(span.trace, self._ids.one(), exchange.start_ns, exchange.start_ns)
                self._follow(Followed(exchange, wanted, root, span.span_id, context.process.info, ends))

    def _serve(
        self,
        exchange: Exchange,
        wanted: Request,
        ends: tuple[str, int, str, int],
        context: Context,
        batch: ResolvedBatch,
        row: int,
    ) -> None:
        info = context.process.info
        parent = parent_of(exchange.request)
        if parent is None:
            fresh, parent_id = self._new_trace(info), 0
            trace = Trace(fresh.high, fresh.low, fresh.sampled, info, is_request=True)
        else:
            trace = Trace(parent.high, parent.low, parent.sampled, info, is_request=True)
            parent_id = parent.span_id
        root = OpenSpan(trace, self._ids.one(), exchange.start_ns, exchange.start_ns)
        followed = Followed(exchange, wanted, root, parent_id, info, ends)
        self._follow(followed)
        bound = context.request
        if bound is not None:
            self.leave(bound)
            if not bound.exchange.end_ns:  # it was not answered: the thread has several at a time
                self.ambiguous += 1
                bound.correlation = "None"
                return
            self._close(bound)
        if works_alone(context, batch.stacks[row]):
            followed.context, followed.correlation = context, _CORRELATION[ContextKind(context.key[1])]
            context.bind(followed, root, self._out)

    def ended(self, exchanges: Iterable[Exchange]) -> None:
        """Their responses are complete."""
        for exchange in exchanges:
            followed = self._open.get(exchange)
            if followed is not None:
                self._close(followed)

    def leave(self, followed: Followed) -> None:
        """Its context works on it no more."""
        if followed.context is not None:
            followed.context.unbind(self._out, followed.exchange.end_ns)
            followed.context = None

    def tick(self, now_ns: int) -> None:
        """Ends those whose response has ended as far as can be told, and gives up those that never end."""
        for followed in list(self._open.values()):
            exchange = followed.exchange
            has_ended = exchange.is_open_ended and exchange.end_ns + IDLE_NS < now_ns
            if has_ended or exchange.start_ns + MAX_LENGTH_NS < now_ns:
                self._close(followed)

    def close(self) -> None:
        """Ends all that are open, as far as they are known."""
        for followed in list(self._open.values()):
            self._close(followed)

    def of_process(self, info: ProcessInfo) -> None:
        """The process has ended."""
        for followed in [each for each in self._open.values() if each.process is info]:
            self._close(followed)

    def _follow(self, followed: Followed) -> None:
        self._open[followed.exchange] = followed
        if len(self._open) > MAX_OPEN:
            self.evicted += 1
            self._close(next(iter(self._open.values())))

    def _close(self, followed: Followed) -> None:
        self.leave(followed)
        del self._open[followed.exchange]
        root, exchange = followed.root, followed.exchange
        if not root.trace.sampled:
            return
        segment = self._spans.segment(exchange, followed.wanted, followed.ends, followed.correlation)
        end = max(exchange.end_ns, exchange.start_ns)
        self._out.append(
            Closed(
                root.trace, root.span_id, followed.parent_id, exchange.start_ns, end, root.operations, segment, False
            )
        )

    def _wants(self, exchange: Exchange, ends: tuple[str, int, str, int]) -> Request | None:
        role = Role.SERVER if exchange.is_server else Role.CLIENT
        port = ends[1] if exchange.is_server else ends[3]
        for wanted in self._wanted:
            if role in wanted.roles and (not wanted.ports or port in wanted.ports):
                return None if self._spans.is_ignored(exchange, wanted) else wanted
        return None


def works_alone(context: Context, stack: Stack) -> bool:
    """Whether all that this context does until it has answered what it received is for that."""
    kind = ContextKind(context.key[1])
    if kind is not ContextKind.THREAD:
        return True
    runtime = context.process.info.resource.attributes.get(semconv.PROCESS_RUNTIME_NAME)
    if str(runtime).lower() not in _SYNCHRONOUS or stack.state is not StackState.COMPLETE or not stack.frames:
        return False
    return not any(frame.function.startswith(_LOOPS) for frame in stack.frames)


def _ends(batch: ResolvedBatch, row: int) -> tuple[str, int, str, int]:
    found: dict[str, object] = {}
    for segment in batch.segments[row]:
        if segment is not None:
            found.update(segment.attributes)
    return (
        str(found.get(semconv.NETWORK_LOCAL_ADDRESS, "")),
        int(str(found.get(semconv.NETWORK_LOCAL_PORT, 0))),
        str(found.get(semconv.NETWORK_PEER_ADDRESS, "")),
        int(str(found.get(semconv.NETWORK_PEER_PORT, 0))),
    )
