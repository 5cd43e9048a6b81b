# SPDX-License-Identifier: Apache-2.0
"""Which libraries act: operations by the library nearest to the kernel and by kind, and how many of them failed.

Every operation that is taken in is counted once: at its library, at `OTHER` where there are more libraries than this
keeps apart, or at `NOBODY`, the program's own code and whatever has no frames. So the sum over all rows is the number of
operations that passed the profiles' filters and limits: those exported, sampled out, and lost on the way out.

Nothing is done for each operation in Python: a stack is looked at once for its library, and a batch is counted by numbers.
"""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

import numpy as np

from kernelspan_agent.model import Origin
from kernelspan_agent.resolve.segments import NOT_FAILURES, Cache
from kernelspan_agent.resolve.stacks import nearest_library
from kernelspan_agent.ring.records import OWN_OPERATION
from kernelspan_api.operations import OPERATIONS, Group

if TYPE_CHECKING:
    from collections.abc import Mapping

    from kernelspan_agent.model import Library, ResolvedBatch, Stack

NOBODY, OTHER = 0, 1
MAX_LIBRARIES = 512  # kept apart; a large web application has 200 distributions, of which a part acts
KINDS = OWN_OPERATION + 1  # the built-in operations by number, then all own probes as one
OWN_KIND = "own"
NAMES: Mapping[int, str] = {**{each.number: each.span_name for each in OPERATIONS}, OWN_OPERATION: OWN_KIND}
_FIRST = 2
_STACKS = 4096  # as many as are at work at one time; what is forgotten is looked at again
_ROWS = 32
_MAX_ERRNO = 4095
_FAILS = np.ones((2, _MAX_ERRNO + 1), bool)  # by whether it is a wait, then by errno: see segments.error_segment
_FAILS[:, list(NOT_FAILURES)] = False
_FAILS[1, errno.ETIMEDOUT] = False
_WAITS = np.zeros(KINDS, np.intp)
_WAITS[[each.number for each in OPERATIONS if each.group is Group.WAITS]] = 1


class Acts:
    """The counts of one agent, whatever the profile: 0.3 MB with 256 libraries. Written by one thread, read by any."""

    def __init__(self, max_libraries: int = MAX_LIBRARIES) -> None:
        self._max = max_libraries
        self._numbers: dict[Library, int] = {}
        self.libraries: list[Library] = []  # number k is at k - 2
        self._of_stack = Cache(self._look, _STACKS)
        self._operations = np.zeros((_ROWS, KINDS), np.int64)
        self._failures = np.zeros((_ROWS, KINDS), np.int64)
        self._inside = np.zeros(_ROWS, np.int64)

    def add(self, batch: ResolvedBatch) -> np.ndarray:
        """Takes operations in; gives the number of the library of each: intp, shape (n,)."""
        ops = batch.ops
        kinds = np.minimum(ops["op"], OWN_OPERATION).astype(np.intp)
        numbers = self._numbers_of(batch)
        cells = numbers * KINDS + kinds
        np.add.at(self._operations.reshape(-1), cells, 1)
        failed = _failed(batch, kinds)
        if failed.any():
            np.add.at(self._failures.reshape(-1), cells[failed], 1)
        return numbers

    def _numbers_of(self, batch: ResolvedBatch) -> np.ndarray:
        if batch.stack_of is None:
            return np.zeros(len(batch.ops), np.intp)
        found = [self._of_stack[stack] for stack in batch.distinct]
        for (_, inside), count in zip(found, np.bincount(batch.stack_of, minlength=len(found)).tolist(), strict=True):
            for number in inside:
                self._inside[number] += count
        numbers: np.ndarray = np.array([nearest for nearest, _ in found], np.intp)[batch.stack_of]
        return numbers

    def _look(self, stack: Stack) -> tuple[int, tuple[int, ...]]:
        """The number of the library that acts, and of all that stand in the stack."""
        frame = nearest_library(stack)
        nearest = self._number(frame.library) if frame is not None and frame.library is not None else NOBODY
        every = {frame.library for frame in stack.frames if frame.origin is Origin.LIBRARY}
        return nearest, tuple({self._number(each) for each in every if each is not None})

    def _number(self, library: Library) -> int:
        found = self._numbers.get(library)
        if found is None:
            if len(self.libraries) >= self._max:
                return OTHER
            found = _FIRST + len(self.libraries)
            if found >= len(self._inside):
                self._grow()
            self.libraries.append(library)  # before anybody can look for its row
            self._numbers[library] = found
        return found

    def _grow(self) -> None:
        rows = len(self._inside)
        self._operations = np.concatenate([self._operations, np.zeros((rows, KINDS), np.int64)])
        self._failures = np.concatenate([self._failures, np.zeros((rows, KINDS), np.int64)])
        self._inside = np.concatenate([self._inside, np.zeros(rows, np.int64)])

    # --- to be read ---------------------------------------------------------------------------------------------------

    @property
    def total(self) -> int:
        """All operations that were taken in."""
        return int(self._operations.sum())

    def rows(self) -> list[int]:
        """NOBODY, OTHER, and the number of every library."""
        return list(range(_FIRST + len(self.libraries)))

    def library(self, number: int) -> Library | None:
        """Of a number; None: NOBODY, OTHER."""
        return self.libraries[number - _FIRST] if number >= _FIRST else None

    def by_kind(self, number: int) -> dict[str, int]:
        """Operations of a library that it did itself: it stands nearest to the kernel."""
        return _named(self._operations[number])

    def failures(self, number: int) -> dict[str, int]:
        """Of these those that failed, by kind."""
        return _named(self._failures[number])

    def inside(self, number: int) -> int:
        """Operations in whose stack it stands anywhere, whoever did them."""
        return int(self._inside[number])


def _named(row: np.ndarray) -> dict[str, int]:
    kinds = np.flatnonzero(row).tolist()
    return {NAMES.get(kind, str(kind)): int(row[kind]) for kind in kinds}


def _failed(batch: ResolvedBatch, kinds: np.ndarray) -> np.ndarray:
    """Which operations' spans are errors: bool, shape (n,)."""
    results = batch.ops["ret"]
    errors = (results < 0) & (results >= -_MAX_ERRNO)
    found: np.ndarray = errors & _FAILS[_WAITS[kinds], np.where(errors, -results, 0)]
    own = kinds == OWN_OPERATION
    if own.any():  # theirs is the user's condition
        for row in np.flatnonzero(own).tolist():
            found[row] = batch.segments[row, 2] is not None and bool(batch.segments[row, 2].error)
    return found
