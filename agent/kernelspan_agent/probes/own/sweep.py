# SPDX-License-Identifier: Apache-2.0
"""Calls that can never end any more: their thread has ended inside, or their process became another program.

A return that never comes leaves its entry in the kernel's map, where it would count as in flight for ever and take the room
of others. Looked for seldom, a bounded number at a time, and only among calls that have gone on for a while.
"""

from __future__ import annotations

import struct
import time
from collections import Counter as Sums
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from kernelspan_agent.probes import bpf

KEY = struct.Struct("<QII")  # struct ks_own_key
CALL = struct.Struct("<QQQIIII")  # struct ks_own_call
INTERVAL_SECONDS = 5.0
MAX_LOOKS = 4096  # of one sweep
MIN_AGE_NS = 1_000_000_000
_START_AT = 19  # of the fields behind the name in stat, proc_pid_stat(5)
_TICKS_PER_SECOND = 100  # USER_HZ
_TICK_NS = 1_000_000_000 // _TICKS_PER_SECOND


class Call(NamedTuple):
    """One that has begun. `image`: the start of its program; `space`: of Go, which may go on in another thread."""

    start: int
    image: int
    tgid: int
    tid: int
    cls: int
    space: int


def call_of(key: bytes, value: bytes) -> Call:
    """What the map has."""
    start, image, _, tgid, tid, cls, _ = CALL.unpack_from(value)
    return Call(start, image, tgid, tid, cls, KEY.unpack(key)[2])


@dataclass(slots=True)
class Sweeper:
    """Of one session's maps. `process_start`: which image of a process the kernel traces now."""

    process_start: Callable[[int], int | None]
    proc_root: Path = Path("/proc")
    gone: Sums[int] = field(default_factory=Sums)  # by class: calls that were taken out
    _next: float = 0.0
    _after: int = 0  # of the maps: where the next sweep begins

    def tick(self, now: float, maps: Sequence[tuple[int, int]]) -> None:
        """Sweeps where it is time. `maps`: (descriptor, bytes of a value)."""
        if now >= self._next:
            self._next = now + INTERVAL_SECONDS
            self.sweep(maps)

    def sweep(self, maps: Sequence[tuple[int, int]], most: int = MAX_LOOKS, min_age_ns: int = MIN_AGE_NS) -> None:
        """Takes out what cannot end, of `most` calls at the most; the next sweep goes on behind them."""
        lives: dict[tuple[int, int], int | None] = {}
        ends: dict[int, int | None] = {}
        now = time.monotonic_ns()
        for turn in range(len(maps)):
            calls, size = maps[(self._after + turn) % len(maps)]
            for key, found in _calls(calls, size, most):
                most -= 1
                if found.start == 0 or now - found.start < min_age_ns:
                    continue
                if self._can_end(found, lives, ends):
                    continue
                again = bpf.map_lookup(calls, key, size)  # a new thread of that number may be at the same place
                if again is not None and call_of(key, again) == found and bpf.map_delete(calls, key):
                    self.gone[found.cls] += 1
            if most <= 0:
                self._after = (self._after + turn + 1) % len(maps)
                return

    def _can_end(self, found: Call, lives: dict[tuple[int, int], int | None], images: dict[int, int | None]) -> bool:
        if found.tgid not in images:
            images[found.tgid] = self.process_start(found.tgid)
        if images[found.tgid] != found.image:
            return False
        if found.space:
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


def _calls(calls: int, size: int, most: int) -> Iterator[tuple[bytes, Call]]:
    for key in bpf.map_keys(calls, KEY.size, max(most, 0)):
        if (value := bpf.map_lookup(calls, key, size)) is not None:
            yield key, call_of(key, value)
