# SPDX-License-Identifier: Apache-2.0
"""Processes: the one activity of a process that was seen from its start, and the contexts open in any process.

A process seen from its exec (or fork) is one activity until it ends or turns `max_length_ns` old, whichever is first; a
cron job is one trace. A child whose parent has such an activity open joins the parent's trace, below that activity. It
may outlive its parent: this is the only case in which a span ends after its parent does.

The activity's end is the process's end if that was seen, else the end of the last operation: no more is known. Nobody
wants to read of a process in which nothing was seen: its activity is exported only if it or a child that joined it has
an operation. Such a child may come after the parent has gone, so the parent's finished span is kept with the child.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from kernelspan_agent.model import ProcessInfo, Segment
from kernelspan_agent.trace.spans import Closed, OpenSpan, Trace, closed

if TYPE_CHECKING:
    from kernelspan_agent.trace.contexts import Context, Key

NewTrace = Callable[[ProcessInfo], Trace]


class Process:
    """What the tracer holds of a process. `root` None: it has no activity of its own (any more)."""

    __slots__ = ("contexts", "depth", "ended_ns", "finished", "info", "limit_ns", "needed", "parent", "root", "span_id")

    def __init__(self, info: ProcessInfo) -> None:
        self.info = info
        self.contexts: dict[Key, Context] = {}
        self.root: OpenSpan | None = None
        self.span_id = 0  # of `root`; children name it also after it has closed
        self.parent: Process | None = None  # whose trace it joined
        self.depth = 0  # processes above it in its trace
        self.limit_ns = 0  # up to here operations belong to `root`
        self.ended_ns = 0  # 0: not seen to have ended
        self.needed = False  # `root` is to be exported
        self.finished: Closed | None = None  # `root`, closed while it was not needed


class ProcessTable:
    """All processes with an activity or an open context."""

    def __init__(self, max_length_ns: int, max_depth: int, new_trace: NewTrace, new_id: Callable[[], int]) -> None:
        self._max_length_ns = max_length_ns
        self._max_depth = max_depth
        self._new_trace = new_trace
        self._new_id = new_id
        self._by_info: dict[ProcessInfo, Process] = {}
        self.with_activity: dict[Process, None] = {}  # in the order of their start

    def __len__(self) -> int:
        return len(self._by_info)

    def get(self, info: ProcessInfo) -> Process | None:
        """The process, if anything of it is open."""
        return self._by_info.get(info)

    def ensure(self, info: ProcessInfo) -> Process:
        """The process; a new one has no activity of its own."""
        process = self._by_info.get(info)
        if process is None:
            process = self._by_info[info] = Process(info)
        return process

    def start(self, info: ProcessInfo) -> None:
        """Open the process's activity, in its parent's trace if that has one open."""
        if info in self._by_info:
            return
        process = self._by_info[info] = Process(info)
        process.limit_ns = info.started_ns + self._max_length_ns
        parent = self._by_info.get(info.parent) if info.parent is not None else None
        trace = self._joined(process, parent) or self._new_trace(info)
        process.span_id = self._new_id()
        process.root = OpenSpan(trace, process.span_id, info.started_ns, info.started_ns)
        self.with_activity[process] = None

    def _joined(self, process: Process, parent: Process | None) -> Trace | None:
        info = process.info
        if parent is None or parent.root is None or info.started_ns > parent.limit_ns:
            return None
        if parent.depth + 1 >= self._max_depth:
            return None
        process.parent, process.depth = parent, parent.depth + 1
        above = parent.root.trace
        parent.root.end_ns = max(parent.root.end_ns, info.started_ns)  # it was alive to start this one
        return Trace(above.high, above.low, above.sampled, info)

    def need(self, process: Process) -> list[Closed]:
        """The process has an operation: export its activity and those above it. Returns those that had closed."""
        late = []
        above: Process | None = process
        while above is not None and not above.needed:
            above.needed = True
            if above.finished is not None:
                late.append(above.finished)
                above.finished = None
            above = above.parent
        return late

    def finish(self, process: Process, segment: Segment) -> Closed | None:
        """Close the activity, whose contexts are all closed; the span to export now, if any."""
        root, process.root = process.root, None
        if root is None:
            return None
        del self.with_activity[process]
        if process.ended_ns <= process.limit_ns:  # also if 0, the end was not seen
            root.end_ns = max(root.end_ns, process.ended_ns)
        if not root.trace.sampled:
            return None
        span = closed(root, process.parent.span_id if process.parent is not None else 0, segment)
        if process.needed:
            return span
        process.finished = span
        return None

    def forget(self, process: Process) -> None:
        """Drop a process of which nothing is open."""
        if process.root is None and not process.contexts:
            self._by_info.pop(process.info, None)
