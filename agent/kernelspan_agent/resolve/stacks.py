# SPDX-License-Identifier: Apache-2.0
"""Stacks by their ids: symbolised as soon as they arrive, while the code they name still lives."""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from kernelspan_agent.libraries.base import claim
from kernelspan_agent.model import Frame, Origin, Stack, StackState
from kernelspan_agent.process.procfs import printable
from kernelspan_agent.ring.records import FRAME, STACK_HEADER, FrameState

if TYPE_CHECKING:
    from kernelspan_agent.libraries.base import Verdict
    from kernelspan_agent.runtimes.registry import RawFrame

MAX_STACKS = 16384  # as many as the kernel's ks_stacks
MAX_FRAMES = 32768

NO_FRAMES = Stack((), StackState.NONE)
_STATES = {
    FrameState.NONE: NO_FRAMES,
    FrameState.COMPLETE: NO_FRAMES,
    FrameState.RUNTIME_PENDING: Stack((), StackState.RUNTIME_PENDING, "RuntimePending"),
    FrameState.NO_THREAD_STATE: Stack((), StackState.NONE, "NoThreadState"),
    FrameState.TRUNCATED_DEPTH: Stack((), StackState.UNRESOLVED, "TruncatedDepth"),
    FrameState.TRUNCATED_READ: Stack((), StackState.UNRESOLVED, "NotResident"),
    FrameState.SCAN_LIMIT: Stack((), StackState.UNRESOLVED, "ThreadScanLimit"),
    FrameState.READ_FAILED: Stack((), StackState.UNRESOLVED, "ReadFailed"),
    FrameState.STACK_LOST: Stack((), StackState.UNRESOLVED, "StackLost"),
    FrameState.AMBIGUOUS: Stack((), StackState.UNRESOLVED, "AmbiguousInterpreter"),
    FrameState.NO_TRUE_WALK: Stack((), StackState.UNRESOLVED, "OutsideSystemCall"),
    FrameState.TRUNCATED_ELSEWHERE: Stack((), StackState.UNRESOLVED, "NotOnStack"),
    FrameState.TRUNCATED_NO_RULE: Stack((), StackState.UNRESOLVED, "NoUnwindTable"),
    FrameState.TRUNCATED_UNMAPPED: Stack((), StackState.UNRESOLVED, "CodeNotMapped"),
}
_FORGOTTEN = Stack((), StackState.UNRESOLVED, "StackUnknown")
_TRUNCATED = {
    FrameState.TRUNCATED_DEPTH: "TruncatedDepth",
    FrameState.TRUNCATED_READ: "NotResident",
    FrameState.TRUNCATED_ELSEWHERE: "NotOnStack",
    FrameState.TRUNCATED_NO_RULE: "NoUnwindTable",
    FrameState.TRUNCATED_UNMAPPED: "CodeNotMapped",
}

Symbolise = Callable[[np.ndarray], "list[RawFrame]"]
Classify = Callable[[str], "Verdict"]


class StackTable:
    """Stacks of the ids the kernel has sent, the least recently used going first."""

    def __init__(self, forget: Callable[[list[int]], None]) -> None:
        """`forget`: told which ids are no longer known here."""
        self._stacks: OrderedDict[int, Stack] = OrderedDict()
        self._forget = forget
        self.frames = Counter[str]()  # of the stacks that arrived: resolved, or why not

    def learn(self, record: bytes, symbolise: Symbolise | None, classify: Classify) -> None:
        """Takes in a STACK record. `symbolise` None: the process is gone."""
        header = np.frombuffer(record, STACK_HEADER, 1)[0]
        rows = np.frombuffer(record, FRAME, int(header["count"]), STACK_HEADER.itemsize)
        number = int(header["stack"])
        made = self._make(rows, FrameState(int(header["state"])), symbolise, classify)
        if made.state is not StackState.UNRESOLVED or number not in self._stacks:  # what is known stays known
            self._stacks[number] = made
        self._stacks.move_to_end(number)
        if len(self._stacks) > MAX_STACKS:
            gone, _ = self._stacks.popitem(last=False)
            self._forget([gone])

    def _make(self, rows: np.ndarray, state: FrameState, symbolise: Symbolise | None, classify: Classify) -> Stack:
        if symbolise is None:
            self.frames["ProcessGone"] += len(rows)
            return Stack((), StackState.UNRESOLVED, "ProcessGone")
        raw = symbolise(rows)
        broken = next((frame.unresolved for frame in raw if frame.unresolved), "")
        if broken:  # frames below a hole say nothing of who called them: all or none
            self.frames[broken] += len(raw)
            return Stack((), StackState.UNRESOLVED, broken)
        self.frames["resolved"] += len(raw)
        frames = tuple(_frame(each, classify) for each in raw)
        if state in _TRUNCATED:
            self.frames["truncated"] += 1
            return Stack(frames, StackState.TRUNCATED, _TRUNCATED[state])
        return Stack(frames) if frames else NO_FRAMES

    def get(self, number: int, state: int) -> Stack:
        """The stack of an operation by its id (0: none) and its frame_state."""
        if not number:
            return _STATES[FrameState(state)]
        found = self._stacks.get(number)
        if found is None:
            return _FORGOTTEN
        self._stacks.move_to_end(number)
        return found

    def drop_unresolved(self, number: int) -> None:
        """Asks for a stack again whose frames could not be read this time."""
        if self._stacks.pop(number, None) is not None:
            self._forget([number])


def _frame(raw: RawFrame, classify: Classify) -> Frame:
    origin, library = raw.whose or classify(raw.unit or raw.file)
    return Frame(
        function=raw.function,
        file=printable(raw.file),
        line=raw.line,
        origin=origin,
        library=library,
        call_site=raw.call_site,
        code=raw.code,
        loaded=printable(raw.unit) if raw.unit.startswith("/") and raw.unit != raw.file else "",
    )


def as_seen_by(stack: Stack, max_depth: int, app_paths: tuple[str, ...], library_paths: tuple[str, ...]) -> Stack:
    """The stack as a profile has it that walks less deep, or has paths of its own: see `libraries.base.claim`."""
    frames = tuple(_claimed(frame, app_paths, library_paths) for frame in stack.frames[:max_depth])
    if len(frames) < len(stack.frames):
        return Stack(frames, StackState.TRUNCATED, _TRUNCATED[FrameState.TRUNCATED_DEPTH])
    return stack if frames == stack.frames else Stack(frames, stack.state, stack.reason)


def _claimed(frame: Frame, app_paths: tuple[str, ...], library_paths: tuple[str, ...]) -> Frame:
    before = frame.origin, frame.library
    origin, library = claim(before, frame.file, app_paths, library_paths)
    if frame.loaded and (origin, library) == before:
        origin, library = claim(before, frame.loaded, app_paths, library_paths)
    return frame if (origin, library) == before else replace(frame, origin=origin, library=library)


def nearest_app(stack: Stack) -> Frame | None:
    """The frame of the user's own code nearest to the kernel."""
    return next((frame for frame in stack.frames if frame.origin is Origin.APP), None)


def nearest_library(stack: Stack) -> Frame | None:
    """The library frame nearest to the kernel, where it stands between the kernel and the user's own code."""
    for frame in stack.frames:
        if frame.origin is Origin.APP:
            return None
        if frame.origin is Origin.LIBRARY:
            return frame
    return None
