# SPDX-License-Identifier: Apache-2.0
"""Tells the kernel of one process what code it has mapped, and again where a walk has met code that was not there before."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from kernelspan_agent.process.errors import ProcessError

from .spaces import tables_of

if TYPE_CHECKING:
    from kernelspan_agent.process.memory import Memory
    from kernelspan_agent.process.procfs import Process
    from kernelspan_agent.runtimes.registry import DetectedRuntime, Tables

    from .spaces import Part, Space
    from .symbolise import NativeSymboliser

LEAST_SECONDS, MOST_SECONDS = 0.05, 10.0  # between two looks


class Mapped:
    """Of one process; asked again and again, as long as it lives."""

    def __init__(
        self, found: DetectedRuntime, process: Process, memory: Memory, symboliser: NativeSymboliser, tables: Tables
    ) -> None:
        del found, memory
        self._process, self._tables = process, tables_of(tables)
        symboliser.objects = self._tables.objects
        self._parts: tuple[Part, ...] | None = None  # read, and not told yet
        self._space: Space | None = None
        self._before: Space | None = None  # what a walk may have gone by, whose frames are still on their way
        self._pause = LEAST_SECONDS
        self._next = 0.0
        self._met_unmapped = False

    @property
    def waits(self) -> bool:
        """Whether there is something to be told soon."""
        return self._tables.are_there and (self._parts is not None or self._is_due(time.monotonic()))

    def unmapped(self) -> None:
        """What is mapped is to be read again, though not all the time: where nothing is new, ever more seldom."""
        self._met_unmapped = True

    def _is_due(self, now: float) -> bool:
        return now >= self._next and (self._space is None or self._met_unmapped)

    def words(self) -> tuple[int, int, int]:
        """The first: where the process's table is, and how long."""
        if self._tables.are_there:
            try:
                self._look()
            except ProcessError:
                self._parts = None
        return (self._space.word if self._space is not None else 0, 0, 0)

    def _look(self) -> None:
        now = time.monotonic()
        if self._parts is None and self._is_due(now):
            self._met_unmapped = False
            self._next = now + MOST_SECONDS
            self._parts = self._tables.parts_of(self._process)
            same = self._space is not None and self._parts == self._space.parts
            self._pause = min(2 * self._pause, MOST_SECONDS) if same else LEAST_SECONDS
        self._tables.objects.work()
        if self._parts is not None and all(part.object.ready for part in self._parts):
            found = self._tables.space(self._parts)
            if found is not None:
                self._next = now + self._pause
                if found is not self._space:
                    self._before, self._space = self._space, found
            self._parts = None
