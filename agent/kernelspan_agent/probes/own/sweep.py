# SPDX-License-Identifier: Apache-2.0
"""Calls that can never end any more: their thread has ended inside, or their process became another program.

A return that never comes leaves its entry in the kernel's map, where it would count as in flight for ever and take the room
of others. Looked for seldom, a bounded number at a time, and only among calls that have gone on for a while.

Where a thread lives on, a call that was left by a jump is put out by the next one at its place of the stack. Where such
places are many, a map fills up: then those go of which the same thread has begun a later call further out on its stack.
"""

from __future__ import annotations

import struct
import time
from collections import Counter as Sums
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from kernelspan_agent.probes import bpf
from kernelspan_agent.probes.constants import Counter

KEY = struct.Struct("<QII")  # struct ks_own_key
CALL = struct.Struct("<QQQIIII")  # struct ks_own_call
INTERVAL_SECONDS = 5.0
MAX_LOOKS = 4096  # of one sweep
MIN_AGE_NS = 1_000_000_000
FULL = 0.5  # of a map's room: more is taken out
_START_AT = 19  # of the fields behind the name in stat, proc_pid_stat(5)
_TICKS_PER_SECOND = 100  # USER_HZ
_TICK_NS = 1_000_000_000 // _TICKS_PER_SECOND


class Call(NamedTuple):
    """One that has begun. `image`: the start of its program; `moves`: of Go, which may go on in another thread."""

    start: int
    image: int
    tgid: int
    tid: int
    cls: int
    moves: bool
    frame: int


class Calls(NamedTuple):
    """A map of them: its descriptor, bytes of a value, and how many it has room for."""

    map_fd: int
    value_bytes: int
    room: int


def call_of(key: bytes, value: bytes) -> Call:
    """What the map has."""
    start, image, _, tgid, tid, cls, _ = CALL.unpack_from(value)
    frame, thread, space = KEY.unpack(key)  # of C: no thread; of Go: how far below the top of its stack
    return Call(start, image, tgid, tid, cls, bool(space and thread), frame)


@dataclass(slots=True)
class Sweeper:
    """Of one session's maps. `process_start`: which image of a process the kernel traces now."""

    process_start: Callable[[int], int | None]
    proc_root: Path = Path("/proc")
    gone: Sums[int] = field(default_factory=Sums)  # by class: calls that were taken out
    left: Sums[int] = field(default_factory=Sums)  # the same, of those whose thread lives on
    _next: float = 0.0
    _after: int = 0  # of the maps: where the next sweep begins

    def counted(self, match_class: int, counter: Counter) -> int:
        """What was taken out of a class's calls, as a part of that counter."""
        if counter is Counter.TARGET_GONE:
            return self.gone[match_class]
        return self.left[match_class] if counter is Counter.REPLACED else 0

    def tick(self, now: float, maps: Sequence[Calls]) -> bool:
        """Sweeps where it is time; whether it was."""
        if now < self._next:
            return False
        self._next = now + INTERVAL_SECONDS
        self.sweep(maps)
        return True

    def sweep(self, maps: Sequence[Calls], most: int = MAX_LOOKS, min_age_ns: int = MIN_AGE_NS) -> None:
        """Takes out what cannot end, of `most` calls at the most; the next sweep goes on behind them."""
        lives: dict[tuple[int, int], int | None] = {}
        images: dict[int, int | None] = {}
        for turn in range(len(maps)):
            calls = maps[(self._after + turn) % len(maps)]
            found = dict(_calls(calls, most))
            most -= len(found)
            before = time.monotonic_ns() - min_age_ns
            old = {key: call for key, call in found.items() if 0 < call.start <= before}
            ended = {key: call for key, call in old.items() if not self._can_end(call, lives, images)}
            for key, call in ended.items():
                self.gone[call.cls] += _taken_out(calls, key, call)
            if len(found) - len(ended) > calls.room * FULL:
                for key in _left(found).keys() & old.keys() - ended.keys():
                    self.left[found[key].cls] += _taken_out(calls, key, found[key])
            if most <= 0:
                self._after = (self._after + turn + 1) % len(maps)
                return

    def _can_end(self, found: Call, lives: dict[tuple[int, int], int | None], images: dict[int, int | None]) -> bool:
        if found.tgid not in images:
            images[found.tgid] = self.process_start(found.tgid)
        if images[found.tgid] != found.image:
            return False
        if found.moves:
            return True
        key = found.tgid, found.tid
        if key not in lives:
            lives[key] = self._thread_start(*key)
        begun = lives[key]
        return begun is not None and begun <= found.start + _TICK_NS

    def _thread_start(self, tgid: int, tid: int) -> int | None:
        """When the thread of that number began, by CLOCK_MONOTONIC; None: there is none."""
        try:
            stat = (self.proc_root / f"{tgid}/task/{tid}/stat").read_bytes()
            fields = stat[stat.rindex(b")") + 2 :].split()
            if fields[0] in (b"Z", b"X"):
                return None
            asleep = time.clock_gettime_ns(time.CLOCK_BOOTTIME) - time.monotonic_ns()
            return int(fields[_START_AT]) * _TICK_NS - asleep
        except (OSError, ValueError, IndexError):
            return None


def _calls(calls: Calls, most: int) -> Iterator[tuple[bytes, Call]]:
    for key in bpf.map_keys(calls.map_fd, KEY.size, max(most, 0)):
        if (value := bpf.map_lookup(calls.map_fd, key, calls.value_bytes)) is not None:
            yield key, call_of(key, value)


def _taken_out(calls: Calls, key: bytes, call: Call) -> bool:
    """Takes a call out if it still is the one at its place: by now that may be a new thread's of the same number."""
    again = bpf.map_lookup(calls.map_fd, key, calls.value_bytes)
    return again is not None and call_of(key, again) == call and bpf.map_delete(calls.map_fd, key)


def _left(found: dict[bytes, Call]) -> dict[bytes, Call]:
    """Those of which the same thread has begun a later call at a higher address, where its callers' frames are."""
    by_thread: dict[tuple[int, int], list[bytes]] = defaultdict(list)
    for key, call in found.items():
        if not call.moves and call.frame:
            by_thread[call.tgid, call.tid].append(key)
    left = {}
    for keys in by_thread.values():
        newest = 0
        for key in sorted(keys, key=lambda each: found[each].frame, reverse=True):
            if found[key].start < newest:
                left[key] = found[key]
            newest = max(newest, found[key].start)
    return left
