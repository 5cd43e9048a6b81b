# SPDX-License-Identifier: Apache-2.0
"""The ring's thread, and the bounded queue behind it.

The thread only copies records out, so the kernel never waits for Python's slower half. Operations beyond the queue's
bound are dropped and counted (QueueFull), records that carry names never are. Of every process that starts the thread
takes a glance before anything else: it may live for milliseconds only. Of pieces that wait for their turn the stages take in
first what names stacks (`look_ahead`): code is read where it lies, and the program may move or drop it.
"""

from __future__ import annotations

import queue
import threading
from collections import deque
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from kernelspan_agent.probes.constants import MAX_CLASSES
from kernelspan_agent.resolve.clock import TICK_NS, boot_ahead_ns
from kernelspan_agent.resolve.glance import Glance, glance
from kernelspan_agent.ring.reader import MOST_SLOTS, Drained, RingReader
from kernelspan_agent.ring.records import PROCESS, ProcessEvent, RecordKind
from kernelspan_agent.ring.size import RING_BYTES
from kernelspan_agent.ring.sound import is_sound

if TYPE_CHECKING:
    from kernelspan_agent.probes.session import Session

MAX_WAITING_OPERATIONS = 65536  # 10 MB of records
AGAIN_BYTES = 1 << 20  # so much is left in the ring that it is read on at once
IDLE_WAIT_SECONDS = 0.05

Records = list[tuple[int, bytes]]  # kind and bytes
LearnAhead = Callable[[Records, frozenset[int]], tuple[Records, set[int]]]


class Intake:
    """Drains one session's ring from now on. `stop` it, then `close` it."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._ring = RingReader(session.ring_fd, session.ring_bytes)
        self._given = self._through = 0  # up to where pieces were given to the stages, and have been taken on by them
        self._put = 0  # up to where they are in the queue
        self._queue: queue.SimpleQueue[Drained] = queue.SimpleQueue()
        # looked at, not yet taken on; with the processes whose records wait there
        self._ahead = deque[tuple[Drained, set[int]]]()
        self._waiting = np.zeros(MAX_CLASSES, np.int64)
        self._lock = threading.Lock()
        self._received = np.zeros(MAX_CLASSES, np.int64)
        self._queue_full = np.zeros(MAX_CLASSES, np.int64)
        self._glances: dict[tuple[int, int], Glance | None] = {}
        self._stopping = threading.Event()
        self._reader = threading.Thread(target=self._loop, name="ring", daemon=True)
        self._reader.start()

    def next(self, timeout_seconds: float) -> Drained | None:
        """The next drained piece, once the last one is taken on; None: there was none in that time. To be followed by `done`."""
        self._through = self._given
        try:
            if self._ahead:
                found = self._ahead.popleft()[0]
            elif timeout_seconds > 0:
                found = self._queue.get(timeout=timeout_seconds)
            else:
                found = self._queue.get_nowait()
        except queue.Empty:
            return None
        self._given = found.end
        return found

    def look_ahead(self, learn: LearnAhead) -> None:
        """Shows `learn` the records of each piece that came since the last look.

        With them come the processes (tgid) of which a piece that waits tells that they began, became another program or ended,
        or holds names that had to wait for that: a stack is read with the names of code that were sent before it. `learn` gives
        the records that have to wait for their turn, and the processes whose names are among them.
        """
        held = set[int]().union(*(processes for _, processes in self._ahead))
        for _ in range(self._queue.qsize()):  # what comes meanwhile is the next look's
            drained = self._queue.get_nowait()
            held |= (changing := _processes_in(drained.others))
            rest, waiting = learn(drained.others, frozenset(held))
            self._ahead.append((replace(drained, others=rest), changing | waiting))

    def done(self, drained: Drained) -> None:
        """The stages have taken a piece on."""
        classes = _by_class(drained.operations)
        with self._lock:
            self._waiting -= classes

    def mark(self) -> int:
        """Names what the kernel has told by now, for `is_through`."""
        return self._ring.produced

    def is_through(self, mark: int) -> bool:
        """Whether the stages have taken on all that had been told at a mark. For the thread of the stages."""
        nothing_waits = self._put >= mark and self._queue.empty() and not self._ahead
        return self._through >= mark or nothing_waits

    @property
    def waiting(self) -> int:
        """Operations that were drained and wait for the stages."""
        with self._lock:
            return int(self._waiting.sum())

    def fill(self) -> float:
        """Share of the ring buffer that waits to be drained."""
        return self._ring.fill()

    def counts(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Operations drained, those of them that wait, those dropped as the queue was full: each (MAX_CLASSES,), by class."""
        with self._lock:
            return self._received.copy(), self._waiting.copy(), self._queue_full.copy()

    def glance_of(self, tgid: int, start_ns: int) -> Glance | None:
        """What was seen of an image (CLOCK_MONOTONIC) when its record came, else what can be seen now."""
        if (tgid, start_ns) in self._glances:
            return self._glances.pop((tgid, start_ns))
        return self._looked_at(tgid, start_ns)

    # --- the thread ---------------------------------------------------------------------------------------------------

    def _loop(self) -> None:
        while not self._stopping.is_set():
            self._ring.wait(IDLE_WAIT_SECONDS)
            while self._drain() and self._ring.left > AGAIN_BYTES and not self._stopping.is_set():
                pass

    def _drain(self, *, rest: bool = False) -> bool:
        """Puts a piece into the queue; False: there is none, or it can wait in the ring. `rest`: it cannot, and is the last."""
        if (
            not rest
            and self.waiting > MAX_WAITING_OPERATIONS - MOST_SLOTS
            and self._ring.left < self._ring.size - RING_BYTES
        ):
            return False  # a larger ring than usual has room for what the queue has none for
        drained = self._ring.drain()
        count = len(drained.operations)
        if not count and not drained.others:
            self._put = drained.end
            return False
        classes = _by_class(drained.operations)
        with self._lock:
            self._received += classes
            if not rest and self._waiting.sum() + count > MAX_WAITING_OPERATIONS:
                self._queue_full += classes
                nothing = drained.operations[:0].copy()  # a view would keep all of them
                drained = Drained(nothing, drained.others, drained.end, is_cut=True)
            else:
                self._waiting += classes
        self._look_at(drained.others)
        self._queue.put(drained)
        self._put = drained.end
        return True

    def _look_at(self, records: Records) -> None:
        for kind, record in records:
            if kind == RecordKind.PROCESS:
                row = np.frombuffer(record, PROCESS, 1)[0]
                tgid, start = int(row["tgid"]), int(row["start"])
                if int(row["event"]) == ProcessEvent.EXIT or not start:
                    continue
                self._glances[tgid, start] = self._looked_at(tgid, start)

    def _looked_at(self, tgid: int, start_ns: int) -> Glance | None:
        seen = glance(tgid)
        if seen is not None and not self._is_image(seen, tgid, start_ns):
            seen.close()
            seen = None
        return seen

    def _is_image(self, seen: Glance, tgid: int, start_ns: int) -> bool:
        """Whether a glance is of the image that began at `start_ns`: not of a later one, nor of a pid used again.

        Only where the kernel still says so: what has ended since may have become another program in between.
        """
        now = self._session.process_start(tgid)
        began_ns = seen.process.start_ticks * TICK_NS - boot_ahead_ns()
        return now == start_ns and began_ns <= start_ns + TICK_NS

    # --- the end ------------------------------------------------------------------------------------------------------

    def stop(self, *, rest: bool) -> None:
        """Ends the thread. `rest`: what is still in the ring is drained."""
        self._stopping.set()
        if self._reader.is_alive():
            self._reader.join()
        while rest and self._drain(rest=True):
            pass

    def close(self) -> None:
        """Lets go of the ring."""
        self.stop(rest=False)
        self._ring.close()
        for seen in self._glances.values():
            if seen is not None:
                seen.close()


def _processes_in(records: Records) -> set[int]:
    return {
        int(np.frombuffer(record, PROCESS, 1)[0]["tgid"])
        for kind, record in records
        if kind == RecordKind.PROCESS and is_sound(kind, record)
    }


def _by_class(operations: np.ndarray) -> np.ndarray:
    counted: np.ndarray = np.bincount(operations["cls"], minlength=MAX_CLASSES)[:MAX_CLASSES]
    return counted
