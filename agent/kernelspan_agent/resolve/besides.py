# SPDX-License-Identifier: Apache-2.0
"""What the kernel is told of a process besides what runs it, and may change as long as it lives: see registry.Runtime."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import TYPE_CHECKING

from kernelspan_agent.process.errors import ProcessError
from kernelspan_agent.runtimes import registry

if TYPE_CHECKING:
    from kernelspan_agent.resolve.traced import TracedProcess
    from kernelspan_agent.runtimes.registry import DetectedRuntime


class Besides:
    """Asks processes for it: all from time to time, those that wait for it at once."""

    def __init__(self, tell: Callable[[TracedProcess, DetectedRuntime], None]) -> None:
        self._tell = tell
        self._waiting: dict[TracedProcess, None] = {}

    def __len__(self) -> int:
        """How many wait."""
        return len(self._waiting)

    def begin(self, traced: TracedProcess) -> None:
        """It is asked soon, if it wants to be."""
        if traced.watch is not None and traced.watch.waits and not traced.ended_ns:
            self._waiting[traced] = None

    def end(self, traced: TracedProcess) -> None:
        """It has ended."""
        self._waiting.pop(traced, None)

    def look_at_waiting(self) -> None:
        """Those that wait."""
        for traced in list(self._waiting):
            self.look(traced)

    def look(self, traced: TracedProcess) -> None:
        """Tells the kernel of a process whose flags or words are others by now."""
        if traced.runtime is None:
            return
        flags, words = traced.flags | flags_of(traced, traced.runtime), words_of(traced)
        if (flags, words) != (traced.flags, traced.words):
            traced.flags, traced.words = flags, words
            self._tell(traced, traced.runtime)
        if traced.watch is None or not traced.watch.waits:
            self._waiting.pop(traced, None)

    def met_unmapped(self, traced: TracedProcess) -> None:
        """A walk has ended at code of this process that the kernel was not told of."""
        if traced.watch is not None:
            traced.watch.unmapped()
            self.begin(traced)


def flags_of(traced: TracedProcess, found: DetectedRuntime) -> int:
    """Those of now; 0 where the process has ended."""
    if traced.process is not None:
        with contextlib.suppress(ProcessError):
            return registry.flags(found, traced.process)
    return 0


def words_of(traced: TracedProcess) -> tuple[int, ...]:
    """What is known by now; what was known of a process goes on to be known of its fork."""
    if traced.watch is None:
        return traced.words
    words = traced.watch.words()
    return tuple(now or before for now, before in zip(words, traced.words or words, strict=True))
