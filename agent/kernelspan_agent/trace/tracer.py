# SPDX-License-Identifier: Apache-2.0
"""The stage itself: operations in, spans out.

Every operation gets the innermost thing known to hold it as its parent: a function span if its stack says where it was,
else the activity of its context; never one of another context. Nothing here waits for anything: operations go out with
the batch they came in, function spans and activities when they close, so a parent may follow its children.

All times given to the tracer are on one scale, that of ResolvedBatch.end_ns (Unix epoch, ns).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from kernelspan_agent.model import ProcessInfo, ResolvedBatch, SpanBatch
from kernelspan_agent.ring.records import ContextKind
from kernelspan_agent.trace.adopt import Adoption, Adoptions, is_whole, works_on_one
from kernelspan_agent.trace.columns import Parents, every_one_a_root, keys_and_stacks, set_times, thread_name
from kernelspan_agent.trace.contexts import Context, ContextTable, Key
from kernelspan_agent.trace.ids import IdSource, ratio_bound
from kernelspan_agent.trace.joins import Party
from kernelspan_agent.trace.keep import Keep
from kernelspan_agent.trace.paths import PathCache
from kernelspan_agent.trace.processes import Process, ProcessTable
from kernelspan_agent.trace.segments import SegmentCache
from kernelspan_agent.trace.settings import Orphans, TraceSettings
from kernelspan_agent.trace.spans import Closed, OpenSpan, Trace, only_closed

if TYPE_CHECKING:
    from kernelspan_agent.trace.requests import Marks, Requests


@dataclass(frozen=True, slots=True)
class TraceCounters:
    """What happened so far; `contexts_open` and `processes_open` are what is held now."""

    operations_sampled_out: int
    orphans_dropped: int
    contexts_open: int
    processes_open: int
    function_spans: int
    activities: int
    contexts_evicted: int
    requests: int
    requests_ambiguous: int  # whose thread had several at once after all, or may have had by what was not told
    requests_evicted: int  # given up early because there were too many
    requests_untold: int  # of which too little is known: headers of HTTP/2 that refer to what was not seen
    requests_unreadable: int  # messages of requests or answers that were none, or not seen far enough
    traces_kept: int  # not sampled, for what came of them
    traces_evicted: int  # decided on early


class Tracer:
    """Makes spans of the operations of one profile. Not thread-safe. `ids`: for tests that want a seed.

    `party`: where its requests find their other ends; `keep`: what decides on those that are not sampled. Its spans must then
    go through a Hold. `adoptions`: what finds the tasks that answer.
    """

    def __init__(
        self,
        settings: TraceSettings | None = None,
        ids: IdSource | None = None,
        party: Party | None = None,
        keep: Keep | None = None,
        adoptions: Adoptions | None = None,
    ) -> None:
        self._settings, self._keep, self._adoptions = settings or TraceSettings(), keep, adoptions
        self._ids = ids or IdSource()
        self._bound = ratio_bound(self._settings.percent)
        self._closed: list[Closed] = []
        self._segments = SegmentCache()
        self._paths = PathCache(self._segments, self._settings.max_depth)
        self._processes = ProcessTable(
            self._settings.max_length_ns, self._settings.max_process_depth, self._new_trace, self._ids.one
        )
        self._contexts = ContextTable(
            self._processes, self._settings.max_contexts, self._settings.idle_ns, self._closed
        )
        self._requests: Requests | None = None
        if self._settings.requests:
            from kernelspan_agent.trace.requests import Requests  # noqa: PLC0415 - with all protocols, 2.5 MB resident

            self._requests = Requests(
                self._settings, self._new_trace, self._ids, self._closed, party, keep, self._contexts
            )
        self._ending: dict[Process, None] = {}  # to be closed when the batch at hand is done
        self._batch = 0
        self._sampled_out = self._dropped = self._functions = self._activities = 0

    @property
    def counters(self) -> TraceCounters:
        """A snapshot."""
        return TraceCounters(
            operations_sampled_out=self._sampled_out,
            orphans_dropped=self._dropped,
            contexts_open=len(self._contexts.by_key),
            processes_open=len(self._processes),
            function_spans=self._functions,
            activities=self._activities,
            contexts_evicted=self._contexts.evicted,
            requests=self._requests.seen if self._requests else 0,
            requests_ambiguous=(
                self._requests.claims.ambiguous + self._requests.awaited.ambiguous if self._requests else 0
            ),
            requests_evicted=self._requests.evicted if self._requests else 0,
            requests_untold=self._requests.untold if self._requests else 0,
            requests_unreadable=self._requests.unreadable if self._requests else 0,
            traces_kept=self._keep.kept if self._keep else 0,
            traces_evicted=self._keep.evicted if self._keep else 0,
        )

    def process_started(self, info: ProcessInfo) -> None:
        """To be told of every process before its first operations; its parent before it."""
        if self._settings.orphans is not Orphans.ACTIVITY or not info.observed_from_start:
            return
        active = self._processes.with_activity
        if len(active) >= self._settings.max_contexts:
            self._finish(next(iter(active)))
        self._processes.start(info)

    def process_ended(self, info: ProcessInfo, ended_ns: int) -> None:
        """The process exited or became another by exec: all of its contexts close, after the next batch or tick.

        Not at once, because operations of the process may still be in that batch.
        """
        process = self._processes.get(info)
        if process is not None:
            process.ended_ns = ended_ns
            self._ending[process] = None

    def lose(self) -> None:
        """Operations that came between those so far and those to come were dropped, after the kernel had told them."""
        if self._requests is not None:
            self._requests.lose()

    def process(self, batch: ResolvedBatch, *, is_thinned: bool = False) -> SpanBatch:
        """Spans of these operations, and whatever closed. The batch's `rows` are used up.

        Rows 0 to `operations` - 1 are the operations, in the order given, without those that were sampled out. `is_thinned`:
        some were dropped from between them.
        """
        if self._requests is not None:
            self._requests.claims.is_blind = is_thinned
            if is_thinned:
                self.lose()
        orphans = self._settings.orphans
        if orphans is Orphans.DROP and self._requests is None:
            self._dropped += len(batch.ops)
            return only_closed([])
        if orphans is Orphans.ROOT and self._requests is None:
            out = every_one_a_root(batch, self._ids, self._bound)
            self._sampled_out += len(batch.ops) - out.operations
            return out
        marks = None
        if self._requests is not None and (batch.payloads or batch.hidden is not None):
            batch, marks = self._requests.read(batch)
        set_times(batch)
        self._batch += 1
        parents = Parents(self._batch)
        places = self._place(batch, parents, marks)
        self._finish_ending()
        shown = np.ones(len(places), bool) if batch.hidden is None else ~batch.hidden
        if orphans is Orphans.DROP:
            owned = parents.in_requests(places)
            self._dropped += int((shown & ~owned).sum())
            shown &= owned
        out = parents.fill(batch, places, self._ids.many(len(places)), self._take_closed(), shown)
        self._sampled_out += int(shown.sum()) - out.operations
        return out

    def tick(self, now_ns: int) -> SpanBatch:
        """Close what has been idle or open for too long. All operations that ended before `now_ns` must be in."""
        if self._requests is not None:
            self._requests.tick(now_ns)
        self._close_old(now_ns)
        return only_closed(self._take_closed())

    def close(self, now_ns: int) -> SpanBatch:
        """Close everything that is open at `now_ns`, as in `tick`. The tracer can be used again."""
        if self._requests is not None:
            self._requests.close()
        self._close_old(now_ns)
        for context in list(self._contexts.by_key.values()):
            self._contexts.close(context)
        for process in list(self._processes.with_activity):
            self._finish(process)
        return only_closed(self._take_closed())

    def _place(  # noqa: C901, PLR0912 - calls would double its cost
        self, batch: ResolvedBatch, parents: Parents, marks: Marks | None
    ) -> list[int]:
        """For every operation the number of its parent in `parents`.

        The one loop over operations. While a context's stack stays the same object, an operation costs the look-up of
        its context and a few comparisons; min() and max() would each cost as much as all of these.
        """
        keys, stacks = keys_and_stacks(batch)
        contexts, paths, idle_ns = self._contexts.by_key, self._paths, self._settings.idle_ns
        number, new_ids, out = self._batch, self._ids.some, self._closed
        claims = self._requests.claims if self._requests is not None else None
        watched = claims.watched if claims is not None else None
        places: list[int] = []
        for key, stack, start, end, mono_start, mono_end, lost in zip(
            keys,
            stacks,
            batch.rows["start_ns"].tolist(),
            batch.end_ns.tolist(),
            batch.ops["start"].tolist(),
            batch.ops["time"].tolist(),
            batch.ops["lost"].tolist(),
            strict=True,
        ):
            context = contexts.get(key)
            if context is not None and lost != context.lost:
                context.lost = lost
                if claims is not None and context.request is not None:
                    claims.missed(context)
            strays = False
            if watched and key in watched and claims is not None and context is not None:
                strays = claims.strays(
                    context, stack, batch, len(places)
                )  # first: one that is let go may have been idle
            if context is None or end - context.end_ns > idle_ns or end > context.limit_ns:
                context = self._enter(context, key, start, end, batch, len(places))
                context.lost = lost
            span = context.span
            if strays:
                span = context.resumes[0] if context.resumes is not None else span
            elif context.follow:
                overlaps = mono_start < context.mono_end_ns < mono_end
                if stack is context.stack:
                    if not overlaps:
                        span.merged = True
                    context.mono_end_ns = mono_end
                elif context.step(paths, stack, new_ids, overlaps=overlaps, out=out):
                    span = context.span
                    context.mono_end_ns = mono_end
                else:
                    span = context.root
            if start < span.start_ns:  # noqa: PLR1730
                span.start_ns = start
            if end > span.end_ns:  # noqa: PLR1730
                span.end_ns = end
            span.operations += 1
            if end > context.end_ns:  # noqa: PLR1730
                context.end_ns = end
            if span.batch != number:
                parents.add(span)
            places.append(span.row)
            if marks is not None and len(places) - 1 in marks.rows:
                self._mark(marks, len(places) - 1, context, span, batch, strays=strays)
        return places

    def _mark(
        self, marks: Marks, row: int, context: Context, span: OpenSpan, batch: ResolvedBatch, *, strays: bool
    ) -> None:
        """Requests begin with the operation in this row, or have been answered by it."""
        requests = self._requests
        assert requests is not None
        if batch.hidden is not None and batch.hidden[row]:
            span.operations -= 1  # it is not shown
        requests.mark(marks, row, context, span, batch, strays=strays)

    def _enter(self, old: Context | None, key: Key, start: int, end: int, batch: ResolvedBatch, row: int) -> Context:
        """Open a context anew for the operation in this row, in its process's activity if that goes on."""
        if (bound := self._greenlet(key, int(batch.ops["lost"][row]))) is not None:
            return bound
        if old is not None:
            if old.adoption is not None and end <= old.limit_ns and self._is_awaited(old.adoption):
                return old
            self._contexts.close(old)
        info, kind = key[0], ContextKind(key[1])
        process = self._processes.ensure(info)
        known = None
        if kind is ContextKind.TASK and is_whole(key) and self._requests is not None:
            known = self._requests.begun.find(info, key[3], int(batch.ops["tid"][row]))
        if known is not None and not works_on_one(batch.stacks[row], key, at_once=True):
            known = None
        if known is None and kind is ContextKind.TASK and is_whole(key) and self._may_answer(key, start, batch, row):
            context = self._tentative(key, process, start, end)
        elif process.root is not None and end <= process.limit_ns:
            self._closed += self._processes.need(process)
            context = Context(key, process, process.root, process.limit_ns)
        else:
            if process.root is not None:
                self._ending[process] = None
            root = OpenSpan(self._new_trace(info), self._ids.one(), start, end)
            context = Context(key, process, root, start + self._settings.max_length_ns)
            thread = thread_name(batch, row) if kind is ContextKind.THREAD else ""
            context.segment = self._segments.activity(kind, info.name, thread)
        context.functions = self._settings.functions
        context.follow = context.functions and context.root.trace.sampled
        context.end_ns = end
        self._contexts.add(context)
        if known is not None and self._requests is not None:
            self._requests.take(known, context)
        return context

    def _greenlet(self, key: Key, lost: int) -> Context | None:
        """The context of a greenlet that works on a request, whatever its step; `lost`: of its operation."""
        bound = self._requests.claims.greenlets.get(key[:3]) if self._requests is not None else None
        if bound is None or bound.request is None or self._requests is None:
            return None
        if bound.lost == lost:
            return bound
        self._requests.claims.missed(bound)  # it may have ended, and its address be another's
        return None

    def _may_answer(self, key: Key, start_ns: int, batch: ResolvedBatch, row: int) -> bool:
        """Whether the task that begins with this operation may be one of a request that a loop has received."""
        if self._adoptions is None or self._requests is None or not self._requests.awaited.was_there(key[0], start_ns):
            return False
        return works_on_one(batch.stacks[row], key)

    def _is_awaited(self, adoption: Adoption) -> bool:
        """Whether it may yet answer; or has, and is not done with it."""
        requests = self._requests
        if adoption.is_over or adoption.is_void or requests is None:
            return False
        return adoption.followed is not None or requests.awaited.was_there(adoption.trace.process, adoption.first_ns)

    def _tentative(self, key: Key, process: Process, start: int, end: int) -> Context:
        """A context with a root of its own, whose trace is not known yet."""
        assert self._adoptions is not None
        info, (high, low) = key[0], (self._ids.one(), self._ids.one())
        own = self._new_trace(info)
        otherwise, is_sampled = (own.high, own.low, 0), own.sampled
        if process.root is not None and end <= process.limit_ns:
            self._closed += self._processes.need(process)
            trace = process.root.trace
            otherwise, is_sampled = (trace.high, trace.low, process.root.span_id), trace.sampled
        root = OpenSpan(Trace(high, low, True, info, is_request=True), self._ids.one(), start, end)
        context = Context(key, process, root, start + self._settings.max_length_ns)
        context.segment = self._segments.activity(ContextKind.TASK, info.name, "")
        must_answer = self._settings.orphans is Orphans.DROP
        context.adoption = Adoption(root.trace, root.span_id, start, otherwise, is_sampled, must_answer)
        self._adoptions.began(context.adoption)
        return context

    def _close_old(self, now_ns: int) -> None:
        self._finish_ending()
        self._contexts.close_idle(now_ns, self._is_awaited)
        for process in [one for one in self._processes.with_activity if one.limit_ns < now_ns]:
            self._finish(process)

    def _finish(self, process: Process) -> None:
        """Close the process's activity with the contexts in it; all of them if it has ended."""
        if process.ended_ns and self._requests is not None:
            self._requests.of_process(process.info)
        for context in list(process.contexts.values()):
            if process.ended_ns or context.root is process.root:
                self._contexts.close(context)
        span = self._processes.finish(process, self._segments.activity(None, process.info.name, ""))
        if span is not None:
            self._closed.append(span)
        self._processes.forget(process)

    def _finish_ending(self) -> None:
        for process in list(self._ending):
            self._finish(process)
        self._ending.clear()

    def _new_trace(self, process: ProcessInfo) -> Trace:
        high, low = self._ids.one(), self._ids.one()
        return Trace(high, low, low < self._bound, process)

    def _take_closed(self) -> list[Closed]:
        spans = [span for span in self._closed if span.trace.sampled]
        self._closed.clear()  # the same list for ever: others append to it
        functions = sum(span.is_function for span in spans)
        self._functions += functions
        self._activities += len(spans) - functions
        return spans
