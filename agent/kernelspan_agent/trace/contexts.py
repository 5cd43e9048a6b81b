# SPDX-License-Identifier: Apache-2.0
"""Contexts: a thread, a coroutine task, a greenlet; the activity and the functions open in each.

A context's activity ends when no operation of it has ended for `idle_ns`, or `max_length_ns` after its first one began.
Both are judged by the ends of operations alone, so that it makes no difference whether the clock (`close_idle`) or the
next operation finds out. The next operation then begins another activity.

The number of open contexts is bounded: when full, those longest without an operation are closed, a sixteenth at a time
so that looking for them costs next to nothing per context.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable
from typing import TYPE_CHECKING

from kernelspan_agent.model import ProcessInfo, Segment, Stack
from kernelspan_agent.trace.paths import Path, PathCache
from kernelspan_agent.trace.processes import Process, ProcessTable
from kernelspan_agent.trace.spans import Closed, OpenSpan, closed

if TYPE_CHECKING:
    from kernelspan_agent.trace.adopt import Adoption
    from kernelspan_agent.trace.claims import Followed

Key = tuple[ProcessInfo, int, int, int]  # process, ContextKind, tid or address, generation (0 for a thread)

_NEVER_NS = (1 << 64) - 1  # start of a span that has yet to see its first operation


class Context:
    """One open context. `span` is the innermost open span, `root` the activity, both are the same if no function is open.

    `stack` and `path` are those of the last operation whose place is known. `mono_end_ns` is that operation's end on the
    kernel's monotonic clock, the only one on which two operations can be said to overlap.
    """

    __slots__ = (
        "adoption",
        "end_ns",
        "follow",
        "functions",
        "key",
        "limit_ns",
        "lost",
        "mono_end_ns",
        "open",
        "path",
        "process",
        "request",
        "resumes",
        "root",
        "segment",
        "span",
        "stack",
    )

    def __init__(self, key: Key, process: Process, root: OpenSpan, limit_ns: int) -> None:
        self.key = key
        self.process = process
        self.root = root
        self.span = root
        self.open: list[OpenSpan] = []  # function spans, outermost first
        self.stack: Stack | None = None
        self.path: Path | None = None
        self.functions = False  # spans of them are wanted
        self.follow = False  # they are made here and now: the trace is sampled
        self.segment: Segment | None = None  # of an activity of its own; None: `root` is the process's
        self.limit_ns = limit_ns
        self.end_ns = 0
        self.mono_end_ns = 0
        self.lost = 0  # OPERATION["lost"] of its last operation
        self.adoption: Adoption | None = None  # it may be a request's
        self.request: Followed | None = None  # that it works on; `root` is its span
        self.resumes: tuple[OpenSpan, int] | None = None  # activity and limit, once that is done

    def bind(self, request: Followed, root: OpenSpan, out: list[Closed]) -> None:
        """From now on it works on a request: what it does lies below that one's span."""
        self.unwind(0, out)
        self.request, self.resumes = request, (self.root, self.limit_ns)
        self.root = self.span = root
        self.follow = self.functions and root.trace.sampled
        self.stack = self.path = None
        self.end_ns = self.limit_ns = _NEVER_NS  # a request may wait as long as it likes

    def unbind(self, out: list[Closed], end_ns: int = 0) -> None:
        """It goes on with what it did before; `end_ns`: when the request was done."""
        if self.resumes is None:
            return
        self.unwind(0, out)
        (self.root, self.limit_ns), self.resumes, self.request = self.resumes, None, None
        self.span = self.root
        self.follow = self.functions and self.root.trace.sampled
        self.stack = self.path = None
        self.end_ns = max(self.root.end_ns, end_ns)

    def unwind(self, kept: int, out: list[Closed]) -> None:
        """Close all function spans but the `kept` outermost."""
        spans = self.open
        for _ in range(len(spans) - kept):
            span = spans.pop()
            parent, function = span.parent, span.function
            assert parent is not None
            assert function is not None
            span.fold_into(parent)
            if span.operations or span.asked:  # else there was only what is not shown
                out.append(closed(span, parent.span_id, function.merged if span.merged else function.inner))
        self.span = spans[-1] if spans else self.root

    def step(
        self, paths: PathCache, stack: Stack, new_ids: Callable[[int], list[int]], *, overlaps: bool, out: list[Closed]
    ) -> bool:
        """Go to another stack: close what ended, open what began. False: its place is not known, nothing was done.

        `overlaps`: the operation overlaps the last one whose place is known, so what goes on is proved to be one call.
        """
        after = paths.path(stack)
        if not after.known:
            return False
        kept = 0 if self.path is None else paths.kept(self.path, after)
        if len(self.open) > kept:
            self.unwind(kept, out)
        if not overlaps:
            self.span.merged = True  # of an activity it means nothing
        functions = after.functions[kept:]
        if functions:
            span, trace = self.span, self.root.trace
            for function, span_id in zip(functions, new_ids(len(functions)), strict=True):
                span = OpenSpan(trace, span_id, _NEVER_NS, 0, span, function)
                self.open.append(span)
            self.span = span
        self.stack, self.path = stack, after
        return True


class ContextTable:
    """All open contexts. `out` receives the spans that close."""

    def __init__(self, processes: ProcessTable, max_contexts: int, idle_ns: int, out: list[Closed]) -> None:
        self._processes = processes
        self._max_contexts = max_contexts
        self._idle_ns = idle_ns
        self._out = out
        self.by_key: dict[Key, Context] = {}
        self.evicted = 0

    def add(self, context: Context) -> None:
        """Take in a new context; closes others if there are too many."""
        context.process.contexts[context.key] = context  # first: else making room could forget the process
        if len(self.by_key) >= self._max_contexts:
            self._evict()
        self.by_key[context.key] = context

    def close(self, context: Context) -> None:
        """Close the context's functions and, if it is its own, its activity."""
        context.unbind(self._out)
        context.unwind(0, self._out)
        del self.by_key[context.key]
        process = context.process
        del process.contexts[context.key]
        if context.segment is not None:
            if context.root.trace.sampled and (context.root.operations or context.root.asked):
                parent_id = context.adoption.parent_id if context.adoption is not None else 0
                self._out.append(closed(context.root, parent_id, context.segment))
            self._processes.forget(process)
        if context.adoption is not None:
            context.adoption.is_over = True

    def retire(self, context: Context) -> None:
        """Closes it, if it is open still: what it does from now on is another's."""
        if self.by_key.get(context.key) is context:
            self.close(context)

    def close_idle(self, now_ns: int, is_awaited: Callable[[Adoption], bool]) -> None:
        """Close every context that has been idle or open for too long at this time. `is_awaited`: it may yet answer."""
        since = now_ns - self._idle_ns
        for context in [one for one in self.by_key.values() if one.end_ns < since or one.limit_ns < now_ns]:
            if context.limit_ns < now_ns or context.adoption is None or not is_awaited(context.adoption):
                self.close(context)

    def _evict(self) -> None:
        count = max(1, self._max_contexts // 16)
        for context in heapq.nsmallest(count, self.by_key.values(), key=lambda one: one.end_ns):
            self.close(context)
            self.evicted += 1
