# SPDX-License-Identifier: Apache-2.0
"""Requests: spans of what protocols say on connections. Which context works on one: `claims`; which task answers: `adopt`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace

import numpy as np

from kernelspan_agent.model import ProcessInfo, ResolvedBatch, carriers
from kernelspan_agent.protocols.connections import Connections
from kernelspan_agent.protocols.exchanges import Exchange, Told
from kernelspan_agent.ring.records import ContextKind
from kernelspan_agent.trace.adopt import Awaited
from kernelspan_agent.trace.begun import Begun
from kernelspan_agent.trace.claims import Claims, Followed
from kernelspan_agent.trace.contexts import Context, ContextTable
from kernelspan_agent.trace.ends import Ends, ends_of
from kernelspan_agent.trace.httpspans import Parent
from kernelspan_agent.trace.ids import IdSource, ratio_bound
from kernelspan_agent.trace.joins import Party
from kernelspan_agent.trace.keep import Keep
from kernelspan_agent.trace.protocolspans import SPANS
from kernelspan_agent.trace.settings import TraceSettings
from kernelspan_agent.trace.spans import Closed, OpenSpan, Trace
from kernelspan_agent.trace.times import with_times
from kernelspan_api.operations import BY_NAME, Group
from kernelspan_api.subjects import Request, Role

CLOSE = BY_NAME[Group.NETWORK, "Close"].number
MAX_OPEN = 16384
IDLE_NS = 1_000_000_000  # without a byte, after which a response whose length was not told has ended
MAX_LENGTH_NS = 3600_000_000_000
SEVERAL = 2  # traces that a program begins for one request: none of them is known to be its own


@dataclass(slots=True)
class Marks:
    """What the operations of a batch mean for requests, by their rows."""

    told: dict[int, Told] = field(default_factory=dict)
    closed: set[int] = field(default_factory=set)  # descriptors
    rows: set[int] = field(default_factory=set)  # all of these


class Requests:
    """Of one profile. `out` receives the spans that close; `party`: where it finds the other ends, if it is to; `keep`: what
    decides on those of traces that are not sampled; `contexts`: where those of tasks that answer are closed.
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
        self._connections = Connections({wire for each in settings.requests for wire in carriers(each.protocol.name)})
        self._open: dict[Exchange, Followed] = {}
        self._by_fd: dict[tuple[ProcessInfo, int], dict[Followed, None]] = {}
        self.claims, self.awaited, self.begun = Claims(out), Awaited(), Begun()
        self.seen = self.evicted = self.unreadable = self.untold = 0

    def read(self, batch: ResolvedBatch) -> tuple[ResolvedBatch, Marks]:
        """What the bytes of these operations say; and the batch without what says nothing and is not to be shown."""
        marks = Marks()
        for row, payload in batch.payloads.items():
            told = self._connections.feed(payload, int(batch.start_ns[row]), int(batch.end_ns[row]))
            if told is None:
                continue
            self.unreadable += told.unreadable
            self.untold += told.untold
            if told.began or told.answered or told.ended or told.given_up or told.open_ended or told.was_asked:
                told.thread = payload.thread
                marks.told[row] = told
        closes = np.flatnonzero(batch.ops["op"] == CLOSE).tolist()
        marks.closed = set(closes)
        if batch.hidden is not None:
            kept = ~batch.hidden
            kept[[*marks.told, *closes]] = True
            if not kept.all():
                at = (np.cumsum(kept) - 1).tolist()
                marks.told = {at[row]: told for row, told in marks.told.items()}
                marks.closed = {at[row] for row in closes}
                batch = batch.only(kept)
        marks.rows = marks.told.keys() | marks.closed
        return batch, marks

    def mark(
        self, marks: Marks, row: int, context: Context, span: OpenSpan, batch: ResolvedBatch, *, strays: bool
    ) -> None:
        """What the operation in this row, of this context and below this span, has brought or sent. `strays`: see Claims."""
        info, fd = batch.processes[row], int(batch.ops["fd"][row])
        if row in marks.closed:
            self._closed(info, fd, int(batch.start_ns[row]))
        told = marks.told.get(row)
        if told is None:
            return
        self._give_up(told)
        if told.answered:
            self.awaited.answered(told.answered, context, self._open)
        if told.ended:
            self.claims.answered(told, context, fd, self._open)
            self._close_ended(told, int(batch.end_ns[row]))
        if told.open_ended:
            self.claims.answering(told.open_ended, self._open)
        if told.began:
            self._began(told, context, span, batch, row, strays=strays)
            self._close_ended(told, int(batch.end_ns[row]))  # what has begun and ended here
            self._give_up(told)
        if told.was_asked:
            self.claims.completed(told, context, self._open, batch, row)
            if context.key[1] == ContextKind.THREAD:
                self._received(told, context, batch, row)

    def _received(self, told: Told, context: Context, batch: ResolvedBatch, row: int) -> None:
        """What a loop's thread has received: a task that it begins for it has the next number."""
        followed = self._open.get(told.began[0]) if len(told.began) == 1 else None
        if followed is not None and not (
            followed.exchange.is_server
            and followed.context is None
            and followed.exchange.has_head
            and self.claims.is_alone(followed.exchange, (followed.process, followed.fd))
        ):
            followed = None
        ops = batch.ops
        self.begun.received(followed, context.process.info, int(ops["tid"][row]), int(ops["generation"][row]))

    def lose(self) -> None:
        """Operations have been dropped, of whatever context: see Claims.missed."""
        for context in [each.context for each in self._open.values() if each.context is not None]:
            self.claims.missed(context)

    def take(self, followed: Followed, context: Context) -> None:
        """It is known that the task works on that alone, and on nothing else."""
        if followed.context is None and followed.answers is None:
            self.claims.take(followed, context)
            self.awaited.discard(followed)

    def _began(
        self, told: Told, context: Context, span: OpenSpan, batch: ResolvedBatch, row: int, *, strays: bool
    ) -> None:
        ends, serves = ends_of(batch, row), None if strays else context.request
        for exchange in told.began:
            wanted = self._wants(exchange, ends)
            if exchange.is_server:
                followed = None if wanted is None else self._serve(exchange, wanted, ends, context, batch, row)
                if followed is not None and exchange.start_ns == int(batch.end_ns[row]):
                    followed.first = told.thread
                bound = context.request
                if bound is not None and bound.is_answered:
                    self._close(bound)
                if SPANS[exchange.protocol].is_owner:
                    is_asked, is_only = exchange in told.asked, told.is_only(exchange)
                    self.claims.received(exchange, followed, context, batch, row, is_asked=is_asked, is_only=is_only)
                    if followed is not None and followed.context is None:
                        self.awaited.add(followed)
            elif wanted is not None:
                self._ask(exchange, wanted, ends, context, span, int(batch.ops["fd"][row]), serves)

    def _ask(
        self,
        exchange: Exchange,
        wanted: Request,
        ends: Ends,
        context: Context,
        span: OpenSpan,
        descriptor: int,
        serves: Followed | None,
    ) -> None:
        """A request that a program makes: below who made it, or, where it names a span of the program's own, below that."""
        self.seen += 1
        info = context.process.info
        trace, parent_id = self._new_trace(info), 0
        is_own, named = exchange.is_askers(context.key), self._named(exchange)
        serves = serves if is_own else None
        if named is not None and (serves is None or named != self._named(serves.exchange)):  # else it is passed on
            trace, parent_id = self._named_trace(named, serves, info), named.span_id
        elif is_own:
            span.asked = True
            trace, parent_id = span.trace, span.span_id
        root = OpenSpan(trace, self._ids.one(), exchange.start_ns, exchange.start_ns)
        followed = Followed(exchange, wanted, root, parent_id, info, ends, descriptor)
        if self._party is not None:
            followed.asked = self._party.asked(exchange, root.trace, root.span_id)
        self._follow(followed)

    def _named(self, exchange: Exchange) -> Parent | None:
        """The span that a request names as its parent; None: none, or nobody wants to know."""
        return SPANS[exchange.protocol].parent_of(exchange) if self._settings.traceparent else None

    def _named_trace(self, named: Parent, serves: Followed | None, info: ProcessInfo) -> Trace:
        """The trace that the program's own request names; the one that it works on may turn out to be of the same."""
        if serves is not None:
            served = serves.root.trace
            if (served.high, served.low) == (named.high, named.low):
                return served
            if serves.waiting is not None and len(serves.waiting.begun) < SEVERAL:
                serves.waiting.begun[named.high, named.low] = named.sampled
        sampled = (named.sampled and self._settings.parent_based) or named.low < self._bound_of_ids
        return Trace(named.high, named.low, sampled, info)

    def _serve(
        self,
        exchange: Exchange,
        wanted: Request,
        ends: Ends,
        context: Context,
        batch: ResolvedBatch,
        row: int,
    ) -> Followed:
        self.seen += 1
        info = context.process.info
        parent = self._named(exchange)
        if parent is None:
            fresh, parent_id = self._new_trace(info), 0
            trace = Trace(fresh.high, fresh.low, fresh.sampled, info, is_request=True)
        else:
            sampled = parent.sampled if self._settings.parent_based else parent.low < self._bound_of_ids
            trace, parent_id = Trace(parent.high, parent.low, sampled, info, is_request=True), parent.span_id
        root = OpenSpan(trace, self._ids.one(), exchange.start_ns, exchange.start_ns)
        followed = Followed(exchange, wanted, root, parent_id, info, ends, int(batch.ops["fd"][row]))
        if parent is None and self._party is not None:
            followed.waiting = self._party.received(exchange, trace, root.span_id, ends[2])
        if self._keep is not None and followed.waiting is None and not trace.sampled:
            self._keep.began(trace, root.span_id)
        self._follow(followed)
        return followed

    def _close_ended(self, told: Told, when_ns: int) -> None:
        """Responses are complete. `when_ns`: at the end of the call that says so."""
        for exchange in told.ended:
            followed = self._open.get(exchange)
            if followed is not None:
                if exchange.end_ns == when_ns:
                    followed.last = told.thread
                self._close(followed)

    def _give_up(self, told: Told) -> None:
        """Their answers were not seen; who works on them, and who has answered, is not known from here."""
        for exchange in told.given_up:
            followed = self._open.get(exchange)
            if followed is not None:
                self._close(followed)

    def _closed(self, info: ProcessInfo, fd: int, when_ns: int) -> None:
        """A descriptor of a process is closed: what was not answered on it will not be.

        What has begun after the call did is another socket's, which has got the number before the call returned.
        """
        for followed in list(self._by_fd.get((info, fd), ())):
            if followed.exchange.start_ns <= when_ns:
                followed.exchange.closed(when_ns)
                self._close(followed)
        self.claims.closed((info, fd))

    def tick(self, now_ns: int) -> None:
        """Ends those whose response has ended as far as can be told, and gives up those that never end."""
        self.claims.tick(now_ns)
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
        self.claims.of_process(info)
        self.begun.of_process(info)

    def _follow(self, followed: Followed) -> None:
        self._open[followed.exchange] = followed
        self._by_fd.setdefault((followed.process, followed.fd), {})[followed] = None
        if len(self._open) > MAX_OPEN:
            self.evicted += 1
            self._close(next(iter(self._open.values())))

    def _close(self, followed: Followed) -> None:
        self.claims.done(followed)
        self.awaited.discard(followed)
        self.begun.discard(followed)
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
        if not exchange.is_told:
            self._decide(followed, failed=False, took_ns=0)
            return
        told = SPANS[exchange.protocol].segment(
            exchange, followed.wanted, followed.ends, followed.correlation, self._settings.hidden_headers
        )
        if self._settings.times:
            told = with_times(told, followed)
        end = max(exchange.end_ns, exchange.start_ns)
        self._decide(followed, failed=bool(told.error), took_ns=end - exchange.start_ns)
        parent_id = followed.parent_id if followed.waiting is None else followed.waiting.parent_id
        if followed.waiting is not None and followed.waiting.told is not None:  # else hold.py gives it that
            told = replace(told, attributes={**told.attributes, **followed.waiting.told.attributes})
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
            if wanted.protocol.name not in exchange.subjects:
                continue
            if role in wanted.roles and (not wanted.ports or port in wanted.ports):
                return None if SPANS[exchange.protocol].is_ignored(exchange, wanted) else wanted
        return None
