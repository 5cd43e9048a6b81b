# SPDX-License-Identifier: Apache-2.0
"""What function spans and activities say of themselves: Segments, built once and shared by all spans alike.

A function span names its function, its file and whose code it is. It gives no line: a frame's line is where one
operation found it, a span covers many such lines, and the line of the definition is not in a stack.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from kernelspan_agent.model import Attributes, AttributeValue, Frame, Kind, Segment
from kernelspan_agent.resolve.segments import library_attributes
from kernelspan_agent.ring.records import ContextKind
from kernelspan_api import semconv

_LIMIT = 8192  # functions, or activity names, kept for sharing; beyond it the oldest are made anew when met again

# What ties an activity's operations together. A whole process is no context: they have only their process in common.
CORRELATION = {
    None: "None",
    ContextKind.THREAD: "Thread",
    ContextKind.TASK: "Task",
    ContextKind.GREENLET: "Fiber",
    ContextKind.GOROUTINE: "Goroutine",
}


@dataclass(frozen=True, slots=True, eq=False)
class Function:
    """A function that makes spans, with the Segment of each bound its spans can have."""

    inner: Segment  # all seen inside was one call
    merged: Segment  # several calls cannot be told apart from one


@dataclass(slots=True)
class SegmentCache:
    """Segments of functions and activities by what they say; bounded."""

    functions: dict[tuple[object, ...], Function] = field(default_factory=dict)
    activities: dict[tuple[object, ...], Segment] = field(default_factory=dict)

    def function(self, frame: Frame) -> Function:
        """The Function of a frame; frames that differ in line only share it."""
        key = (frame.function, frame.file, frame.origin, frame.library)
        found = self.functions.get(key)
        if found is None:
            _forget_oldest(self.functions)
            attributes = _function_attributes(frame)
            name = frame.function or "unknown"
            found = self.functions[key] = Function(
                Segment({**attributes, semconv.SPAN_BOUND: "Inner"}, name, Kind.INTERNAL),
                Segment({**attributes, semconv.SPAN_BOUND: "Merged"}, name, Kind.INTERNAL),
            )
        return found

    def activity(self, kind: ContextKind | None, process: str, thread: str) -> Segment:
        """The Segment of an activity: of one context of this kind, or (None) of a whole process.

        `thread`: the thread's name where the context is a thread and its name is known, else "".
        """
        key = (kind, process, thread)
        found = self.activities.get(key)
        if found is None:
            _forget_oldest(self.activities)
            attributes: dict[str, AttributeValue] = {semconv.CORRELATION: CORRELATION[kind]}
            if process:
                attributes[semconv.PROCESS_EXECUTABLE_NAME] = process
            if thread:
                attributes[semconv.THREAD_NAME] = thread
            name = f"activity {thread or process or 'unknown'}"
            found = self.activities[key] = Segment(attributes, name, Kind.INTERNAL)
        return found


def _function_attributes(frame: Frame) -> Attributes:
    attributes: dict[str, AttributeValue] = {semconv.CODE_ORIGIN: frame.origin.value}
    if frame.function:
        attributes[semconv.CODE_FUNCTION_NAME] = frame.function
    if frame.file:
        attributes[semconv.CODE_FILE_PATH] = frame.file
    if frame.library is not None:
        attributes.update(library_attributes(frame.library))
    return attributes


def _forget_oldest(cache: dict[tuple[object, ...], Function] | dict[tuple[object, ...], Segment]) -> None:
    if len(cache) >= _LIMIT:
        del cache[next(iter(cache))]
