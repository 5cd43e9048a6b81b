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

from kernelspan_agent.resolve.met import Met
from kernelspan_agent.resolve.segments import NOT_FAILURES
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
_STACKS = 4096  # as many as are at work at one time; then all are forgotten, and looked at again
_ROWS = 32
_MAX_ERRNO = 4095
_FAILS = np.ones((2, _MAX_ERRNO + 2), bool)  # by whether it is a wait, then by errno: see segments.error_segment
_FAILS[:, [0, -1]] = False  # no errno
_FAILS[:, list(NOT_FAILURES)] = False
_FAILS[1, errno.ETIMEDOUT] = False
_WAITS = np.zeros(KINDS, np.intp)
_WAITS[[each.number for each in OPERATIONS if each.group is Group.WAITS]] = _FAILS.shape[1]


class Acts:
    """The counts of one agent, whatever the profile: 0.3 MB with 256 libraries.

    Written by one thread; read by any, but for `inside`.
    """

    def __init__(self, max_libraries: int = MAX_LIBRARIES) -> None:
        self._max = max_libraries
        self._numbers: dict[Library, int] = {}
        self.libraries: list[Library] = []  # number k is at k - 2
        self._places = Met(self._look)
        self._every: list[tuple[int, ...]] = []  # by the stack's place: the libraries in it
        self._nearest, self._counts = (np.zeros(_STACKS, np.int64) for _ in range(2))  # the one that acts; operations
        self._operations = np.zeros((_ROWS, KINDS, 2), np.int64)  # those that succeeded, those that failed
        self._inside = [0] * _ROWS

    def add(self, batch: ResolvedBatch) -> np.ndarray:
        """Takes operations in; gives the number of the library of each: intp, shape (n,)."""
        kinds = np.minimum(batch.ops["op"], OWN_OPERATION).astype(np.intp)
        numbers = self._numbers_of(batch)
        cells = (numbers * KINDS + kinds) * 2 + _failed(batch, kinds)
        np.add.at(self._operations.reshape(-1), cells, 1)
        return numbers

    def _numbers_of(self, batch: ResolvedBatch) -> np.ndarray:
        if batch.stack_of is None:
            return np.zeros(len(batch.ops), np.intp)
        if len(self._places) + len(batch.distinct) > len(self._counts):
            self._fold(len(batch.distinct))
        places = np.fromiter(map(self._places.__getitem__, batch.distinct), np.intp, len(batch.distinct))
        of_operations = places[batch.stack_of]
        np.add.at(self._counts, of_operations, 1)
        numbers: np.ndarray = self._nearest[of_operations]
        return numbers

    def _look(self, stack: Stack) -> int:
        """The place of a stack that is met: of its library, of all that stand in it, of its count."""
        place = len(self._every)
        frame = nearest_library(stack)
        self._nearest[place] = self._number(frame.library) if frame is not None and frame.library else NOBODY
        every = {id(frame.library): frame.library for frame in stack.frames}  # to compare them costs ten times as much
        self._every.append(tuple({self._number(each) for each in every.values() if each is not None}))
        return place

    def _fold(self, room: int) -> None:
        """Forgets the stacks, after their counts have gone to the libraries in them; then so many can be met."""
        for every, count in zip(self._every, self._counts.tolist(), strict=False):
            for number in every:
                self._inside[number] += count
        self._places.clear()
        self._every.clear()
        self._nearest, self._counts = (np.zeros(max(room, _STACKS), np.int64) for _ in range(2))

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
        self._operations = np.concatenate([self._operations, np.zeros_like(self._operations)])
        self._inside = self._inside + [0] * rows

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
        return _named(self._operations[number].sum(axis=1))

    def failures(self, number: int) -> dict[str, int]:
        """Of these those that failed, by kind."""
        return _named(self._operations[number, :, 1])

    def inside(self, number: int) -> int:
        """Operations in whose stack it stands anywhere, whoever did them. To be asked by the thread that counts."""
        self._fold(0)
        return self._inside[number]


def _named(row: np.ndarray) -> dict[str, int]:
    kinds = np.flatnonzero(row).tolist()
    return {NAMES.get(kind, str(kind)): int(row[kind]) for kind in kinds}


def _failed(batch: ResolvedBatch, kinds: np.ndarray) -> np.ndarray:
    """Which operations' spans are errors: bool, shape (n,)."""
    codes = np.minimum(np.maximum(-batch.ops["ret"], 0), _MAX_ERRNO + 1)  # half the time of np.clip
    failed: np.ndarray = _FAILS.reshape(-1).take(_WAITS.take(kinds) + codes)
    own = np.flatnonzero(kinds == OWN_OPERATION)
    if len(own):  # theirs is the user's condition
        objects = batch.segments[own, 2].tolist()
        failed[own] = [each is not None and bool(each.error) for each in objects]
    return failed
