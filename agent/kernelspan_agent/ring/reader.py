# SPDX-License-Identifier: Apache-2.0
"""Reads the BPF ring buffer: mapped memory in, arrays out, without a call per record.

Every record fills whole slots of SLOT bytes, so a stretch between the consumer's and the producer's position is one
array of slots; only records of more than one slot (stacks, paths) are looked at one by one. Records are copied out
before the consumer's position moves. Source: Documentation/bpf/ringbuf.rst, kernel/bpf/ringbuf.c.

The data pages are mapped twice in a row, so a stretch that wraps is contiguous; a mapped ring therefore counts twice in
the process's resident size.
"""

from __future__ import annotations

import mmap
import platform
import select
from dataclasses import dataclass

import numpy as np

from kernelspan_agent.ring.records import OPERATION, RING_HEADER, SLOT, RecordKind
from kernelspan_agent.ring.size import RING_BYTES

_BUSY, _DISCARD, _LENGTH = 1 << 31, 1 << 30, (1 << 30) - 1
_PAGE = mmap.PAGESIZE
MOST_SLOTS = RING_BYTES // SLOT  # that one look takes: copies are no larger, whatever the ring is

if platform.machine() != "x86_64":  # pragma: no cover - x86 orders loads; elsewhere the reader would need a barrier
    raise ImportError("the ring reader relies on x86_64's ordering of loads")


@dataclass(frozen=True, slots=True)
class Drained:
    """What one look at the ring gave. `operations`: OPERATION, in the order of the ring. `others`: whole records. `end`: where in
    the ring, counted from its beginning for ever, it ends (bytes). `is_cut`: the operations were dropped.
    """

    operations: np.ndarray
    others: list[tuple[int, bytes]]  # (kind, record)
    end: int = 0
    is_cut: bool = False


class RingReader:
    """The one consumer of a ring buffer."""

    def __init__(self, fd: int, ring_bytes: int) -> None:
        """`fd` of the map, and its size (a power of two, of whole pages)."""
        self._size = ring_bytes
        self._consumer = mmap.mmap(fd, _PAGE, mmap.MAP_SHARED, mmap.PROT_READ | mmap.PROT_WRITE, offset=0)
        self._rest = mmap.mmap(fd, _PAGE + 2 * ring_bytes, mmap.MAP_SHARED, mmap.PROT_READ, offset=_PAGE)
        self._view: memoryview | None = memoryview(self._rest)
        # Positions as native words: a view loads and stores eight bytes at once, where struct goes byte by byte and the
        # kernel, or this reader, would now and then see half a position.
        self._produced_word = self._view[:8].cast("Q")
        self._consumer_view = memoryview(self._consumer)
        self._consumed_word = self._consumer_view[:8].cast("Q")
        self._position = self._consumed_word[0]
        self._poll = select.epoll()
        self._poll.register(fd, select.EPOLLIN)

    def wait(self, timeout_seconds: float) -> None:
        """Until the kernel wakes the reader (the ring fills, a process starts or ends), or the time is over."""
        self._poll.poll(timeout_seconds)

    def fill(self) -> float:
        """Share of the ring that waits to be read."""
        return self.left / self._size

    @property
    def left(self) -> int:
        """Bytes that wait to be read."""
        return self.produced - self._position

    @property
    def size(self) -> int:
        """Bytes that it holds."""
        return self._size

    @property
    def produced(self) -> int:
        """Bytes that have ever been put into it."""
        return self._produced_word[0]

    def drain(self) -> Drained:
        """What has been committed up to now, at most MOST_SLOTS of it."""
        assert self._view is not None
        left = self.left
        begin = _PAGE + (self._position & (self._size - 1))
        count = min(left // SLOT, MOST_SLOTS)
        # Lengths first: what is committed by then is whole in the copy, in whatever order memcpy goes.
        lengths = np.ndarray(count, np.uint32, self._view, begin, (SLOT,)).copy()
        copied = bytes(self._view[begin : begin + count * SLOT])
        slots = np.frombuffer(copied, np.uint8).reshape(count, SLOT)
        kinds = slots[:, RING_HEADER : RING_HEADER + 2].copy().view(np.uint16)[:, 0]
        others, keep, used = _large(copied, lengths, kinds)
        self._position += used * SLOT
        self._consumed_word[0] = self._position
        operations = slots[:used][keep[:used], RING_HEADER:].copy().view(OPERATION)[:, 0]
        return Drained(operations, others, self._position)

    def close(self) -> None:
        """Unmaps the ring."""
        if self._view is not None:
            for view in (self._produced_word, self._consumed_word, self._consumer_view, self._view):
                view.release()
            self._view = None
            self._poll.close()
            self._rest.close()
            self._consumer.close()


def _large(copied: bytes, lengths: np.ndarray, kinds: np.ndarray) -> tuple[list[tuple[int, bytes]], np.ndarray, int]:
    """Records that are no operations, the mask of slots that are operations, and how many slots are complete."""
    one = SLOT - RING_HEADER
    keep = (lengths == one) & (kinds == RecordKind.OPERATION)
    others: list[tuple[int, bytes]] = []
    count, at = len(lengths), 0
    special = np.flatnonzero(~keep)
    index = 0
    while index < len(special):
        at = int(special[index])
        length = int(lengths[at])
        if length & _BUSY:
            return others, keep, at  # the program that reserved it has not finished: all before it is read
        slots = -(-((length & _LENGTH) + RING_HEADER) // SLOT)
        if at + slots > count:
            return others, keep, at
        if not length & _DISCARD:
            start = at * SLOT + RING_HEADER
            others.append((int(kinds[at]), copied[start : start + (length & _LENGTH)]))
        keep[at : at + slots] = False
        index = int(np.searchsorted(special, at + slots))
    return others, keep, count
