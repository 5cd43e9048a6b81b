# SPDX-License-Identifier: Apache-2.0
"""Requests: spans of what protocols say on connections, and which context works on one.

A context works on a request that it has received for as long as the response is on its way, where that is known: a task
or a greenlet that received it itself, and a thread outside of any event loop. What such a thread receives meanwhile as
another request shows that it is a loop after all: then it works on neither. What a loop has received a task of it may answer
(adopt.py).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

import numpy as np

from kernelspan_agent.model import ProcessInfo, ResolvedBatch, Stack, StackState, WireProtocol
from kernelspan_agent.protocols.connections import Connections
from kernelspan_agent.protocols.exchanges import Exchange
from kernelspan_agent.ring.records import ContextKind
from kernelspan_agent.trace.contexts import Context, ContextTable
from kernelspan_agent.trace.ends import Ends, ends_of
from kernelspan_agent.trace.ids import IdSource, ratio_bound
from kernelspan_agent.trace.joins import Asked, Party, Waiting
from kernelspan_agent.trace.keep import Keep
from kernelspan_agent.trace.protocolspans import SPANS
from kernelspan_agent.trace.segments import CORRELATION
from kernelspan_agent.trace.settings import TraceSettings
from kernelspan_agent.trace.spans import Closed, OpenSpan, Trace
from kernelspan_api import semconv
from kernelspan_api.operations import BY_NAME, Group
from kernelspan_api.subjects import Request, Role

CLOSE = BY_NAME[Group.NETWORK, "Close"].number
MAX_OPEN = 16384
IDLE_NS = 1_000_000_000  # without a byte, after which a response whose length was not told has ended
MAX_LENGTH_NS = 3600_000_000_000
# Frames of event loops, by the beginnings of their names: which callback runs under them, nobody has said.
_LOOPS = ("asyncio.", "twisted.internet.", "tornado.ioloop", "eventlet.", "gevent.", "curio.", "trio.")
_SYNCHRONOUS = {"cpython", "php"}  # runtimes whose threads do one thing after another, but for those loops


@dataclass(slots=True, eq=False)
class Followed:
    """An exchange that a profile wants, and its span."""

    exchange: Exchange
    wanted: Request
    root: OpenSpan
    parent_id: int
    process: ProcessInfo
    ends: Ends
    fd: int  # of the connection
    context: Context | None = None  # that works on it
    correlation: str = "None"
    answers: Context | None = None  # the task that has begun to answer it
    asked: Asked | None = None  # what the other end may find
    waiting: Waiting | None = None  # for the other end


@dataclass(slots=True)
class Marks:
    """What the operations of a batch mean for requests, by their rows."""

    began: dict[int, list[Exchange]] = field(default_factory=dict)
    answered: dict[int, list[Exchange]] = field(default_factory=dict)
    ended: dict[int, list[Exchange]] = field(default_factory=dict)
    closed: set[int] = field(default_factory=set)  # descriptors
    rows: set[int] = field(default_factory=set)  # all of these


class Requests:
    """Of one profile. `out` receives the spans that close; `party`: where it finds the other ends, if it is to; `keep`: what
    decides on those of traces that are not sampled.
    """

    def __init__(
        self,
        settings: TraceSettings,
        new_trace: Callable[[ProcessInfo], Trace],
        ids: IdSource,
        out: list[Closed],
        party: Party | None = None,
        keep: Keep | None = None,
        contexts: ContextTable | None = None,
    ) -> None:
        self._settings, self._new_trace, self._ids, self._out = settings, new_trace, ids, out
        self._party, self._keep, self._contexts = party, keep, contexts
        self._bound_of_ids = ratio_bound(settings.percent)
        self._connections = Connections({WireProtocol[each.protocol.name] for each in settings.requests})
        self._open: dict[Exchange, Followed] = {}
        self._by_fd: dict[tuple[ProcessInfo, int], dict[Followed, None]] = {}
        self._loose: dict[ProcessInfo, dict[Followed, None]] = {}  # that nobody is known to work on, the oldest first
        self.greenlets: dict[tuple[ProcessInfo, int, int], Context] = {}
        # Those that work on a request, by what stays the same of their keys meanwhile: each step has a generation of its
        # own, but as a greenlet lives its address is nobody else's. Goroutines and tasks are known by theirs.
        self.seen = self.ambiguous = self.evicted = 0

    def read(self, batch: ResolvedBatch) -> tuple[ResolvedBatch, Marks]:
        """What the bytes of these operations say; and the batch without what says nothing and is not to be shown."""
        marks = Marks()
        for row, payload in batch.payloads.items():
            told = self._connections.feed(payload, int(batch.start_ns[row]), int(batch.end_ns[row]))
            if told is not None:
                if told.began:
                    marks.began[row] = told.began
                if told.answered:
                    marks.answered[row] = told.answered
                if told.ended:
                    marks.ended[row] = told.ended
        closes = np.flatnonzero(batch.ops["op"] == CLOSE).tolist()
        marks.closed = set(closes)
        if batch.hidden is not None:
            kept = ~batch.hidden
            kept[[*marks.began, *marks.answered, *marks.ended, *closes]] = True
            if not kept.all():
                at = (np.cumsum(kept) - 1).tolist()
                marks.began = {at[row]: told for row, told in marks.began.items()}
                marks.answered = {at[row]: told for row, told in marks.answered.items()}
                marks.ended = {at[row]: told for row, told in marks.ended.items()}
                marks.closed = {at[row] for row in closes}
                batch = batch.only(kept)
        marks.rows = marks.began.keys() | marks.answered.keys() | marks.ended.keys() | marks.closed
        return batch, marks

    def began(
        self, exchanges: Iterable[Exchange], context: Context, span: OpenSpan, batch: ResolvedBatch, row: int
    ) -> None:
        """The operation in this row, of this context and below this span, has brought or sent them."""
        ends = ends_of(batch, row)
        for exchange in exchanges:
            wanted = self._wants(exchange, ends)
            if wanted is None:
                continue
            self.seen += 1
            if exchange.is_server:
                self._serve(exchange, wanted, ends, context, batch, row)
            else:
                span.asked = True
                root = OpenSpan(span.trace, self._ids.one(), exchange.start_ns, exchange.start_ns)
                info, fd = context.process.info, int(batch.ops["fd"][row])
                followed = Followed(exchange, wanted, root, span.span_id, info, ends, fd)
                if self._party is not None:
                    followed.asked = self._party.asked(exchange, root.trace, root.span_id)
                self._follow(followed)

    def _serve(
        self,
        exchange: Exchange,
        wanted: Request,
        ends: Ends,
        context: Context,
        batch: ResolvedBatch,
        row: int,
    ) -> None:
        info = context.process.info
        spans = SPANS[exchange.protocol]
        parent = spans.parent_of(exchange) if self._settings.traceparent else None
        if parent is None:
            fresh, parent_id = self._new_trace(info), 0
            trace = Trace(fresh.high, fresh.low, fresh.sampled, info, is_request=True)
        else:
            sampled = parent.sampled if self._settings.parent_based else parent.low < self._bound_of_ids
            trace, parent_id = Trace(parent.high, parent.low, sampled, info, is_request=True), parent.span_id
        root = OpenSpan(trace, self._ids.one(), exchange.start_ns, exchange.start_ns)
        followed = Followed(exchange, wanted, root, parent_id, info, ends, int(batch.ops["fd"][row]))
        if parent is None and self._party is not None:
            followed.waiting = self._party.received(exchange, trace, root.span_id)
        if self._keep is not None and followed.waiting is None and not trace.sampled:
            self._keep.began(trace, root.span_id)
        self._follow(followed)
        bound = context.request
        if bound is not None:
            self.leave(bound)
            if not bound.exchange.is_open_ended:  # it is not answered: the thread has several at a time
                self.ambiguous += 1
                bound.correlation = "None"
                return
            self._close(bound)
        if spans.is_owner and works_alone(context, batch.stacks[row]):
            followed.context, followed.correlation = context, CORRELATION[ContextKind(context.key[1])]
            context.bind(followed, root, self._out)
            if context.key[1] == ContextKind.GREENLET:
                self.greenlets[context.key[:3]] = context
        elif spans.is_owner:
            self._loose.setdefault(info, {})[followed] = None

    def may_be_awaited(self, info: ProcessInfo, since_ns: int) -> bool:
        """Whether a request of the process that nobody is known to work on was there at that time."""
        oldest = next(iter(self._loose.get(info, ())), None)
        return oldest is not None and oldest.exchange.start_ns <= since_ns

    def answered(self, exchanges: Iterable[Exchange], context: Context) -> None:
        """This context has begun to send their responses."""
        for exchange in exchanges:
            followed, adoption = self._open.get(exchange), context.adoption
            if followed is None or adoption is None or adoption.settled or not exchange.is_server:
                continue
            if adoption.followed is not None:  # it works on several
                self.ambiguous += 1
                adoption.is_void, adoption.followed.correlation = True, "None"
            elif followed.context is None and exchange.start_ns <= adoption.first_ns:
                adoption.followed, followed.answers = followed, context
                followed.correlation = "Connection"
                self._tighten(followed)

    def _tighten(self, followed: Followed) -> None:
        loose = self._loose.get(followed.process)
        if loose is not None:
            loose.pop(followed, None)
            if not loose:
                del self._loose[followed.process]

    def ended(self, exchanges: Iterable[Exchange]) -> None:
        """Their responses are complete."""
        for exchange in exchanges:
            followed = self._open.get(exchange)
            if followed is not None:
                self._close(followed)

    def closed(self, info: ProcessInfo, fd: int) -> None:
        """A descriptor of a process is closed: what was not answered on it will not be."""
        for followed in list(self._by_fd.get((info, fd), ())):
            self._close(followed)

    def leave(self, followed: Followed) -> None:
        """Its context works on it no more."""
        if followed.context is not None:
            followed.context.unbind(self._out, followed.exchange.end_ns)
            self.greenlets.pop(followed.context.key[:3], None)
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
        self._by_fd.setdefault((followed.process, followed.fd), {})[followed] = None
        if len(self._open) > MAX_OPEN:
            self.evicted += 1
            self._close(next(iter(self._open.values())))

    def _close(self, followed: Followed) -> None:
        self.leave(followed)
        self._tighten(followed)
        if followed.answers is not None and self._contexts is not None:
            self._contexts.retire(followed.answers)
        del self._open[followed.exchange]
        key = followed.process, followed.fd
        del self._by_fd[key][followed]
        if not self._by_fd[key]:
            del self._by_fd[key]
        root, exchange = followed.root, followed.exchange
        if followed.asked is not None:
            followed.asked.party.joins.answered(followed.asked)
        if not root.trace.sampled:
            return
        told = SPANS[exchange.protocol].segment(
            exchange, followed.wanted, followed.ends, followed.correlation, self._settings.hidden_headers
        )
        end = max(exchange.end_ns, exchange.start_ns)
        self._decide(followed, failed=bool(told.error), took_ns=end - exchange.start_ns)
        parent_id = followed.parent_id if followed.waiting is None else followed.waiting.parent_id
        self._out.append(
            Closed(root.trace, root.span_id, parent_id, exchange.start_ns, end, root.operations, told, False)
        )

    def _decide(self, followed: Followed, *, failed: bool, took_ns: int) -> None:
        """Whether its trace is kept may be known now."""
        if self._keep is None or not followed.exchange.is_server:
            return
        if followed.waiting is not None and not followed.waiting.settled:
            followed.waiting.over = failed, took_ns
        else:
            self._keep.ended(followed.root.trace, failed=failed, took_ns=took_ns)

    def _wants(self, exchange: Exchange, ends: Ends) -> Request | None:
        role = Role.SERVER if exchange.is_server else Role.CLIENT
        port = ends[1] if exchange.is_server else ends[3]
        for wanted in self._settings.requests:
            if wanted.protocol.name != exchange.protocol.name:
                continue
            if role in wanted.roles and (not wanted.ports or port in wanted.ports):
                return None if SPANS[exchange.protocol].is_ignored(exchange, wanted) else wanted
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
