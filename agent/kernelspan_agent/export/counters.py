# SPDX-License-Identifier: Apache-2.0
"""What became of every operation and span: exact, thread-safe, per output and for all outputs together.

accepted = exported + dropped (by reason) + in flight, at every moment that `snapshot` shows.

The unit that must be exact is the operation. An output that takes a request but rejects some of its spans (OTLP's
partial success) does not say which: they are counted as if operations had been rejected first, so that no operation
counts as exported that may have been lost.
"""

from __future__ import annotations

import enum
import threading
from dataclasses import dataclass, field

import numpy as np


class Fate(enum.IntEnum):
    """What an output did with a row; the value stands in arrays of fates (uint8, shape (n,))."""

    EXPORTED = 0
    QUEUE_FULL = 1
    EXPORT_FAILED = 2


REASONS = {Fate.QUEUE_FULL: "QueueFull", Fate.EXPORT_FAILED: "ExportFailed"}


@dataclass(frozen=True, slots=True)
class ExportSnapshot:
    """Counters at one moment. `*_dropped` is by reason: QueueFull, ExportFailed."""

    operations_exported: int = 0
    operations_dropped: dict[str, int] = field(default_factory=dict)
    operations_in_flight: int = 0
    spans_exported: int = 0
    spans_dropped: dict[str, int] = field(default_factory=dict)
    spans_in_flight: int = 0
    requests: int = 0  # taken by the other end; for a file: lines
    retries: int = 0
    bytes: int = 0  # of those requests, before compression
    last_error: str = ""


class ExportCounters:
    """Counters of one output, or of all together; traffic is passed on to `whole`."""

    def __init__(self, whole: ExportCounters | None = None) -> None:
        self.whole = whole
        self._lock = threading.Lock()
        self._operations = dict.fromkeys(Fate, 0)
        self._spans = dict.fromkeys(Fate, 0)
        self._accepted_operations = self._accepted_spans = 0
        self._requests = self._retries = self._bytes = 0
        self._last_error = ""
        self.cpu_seconds = 0.0  # of the output's own thread, as that says itself

    def accept(self, spans: int, operations: int) -> None:
        """So much more is in flight."""
        with self._lock:
            self._accepted_spans += spans
            self._accepted_operations += operations

    def settle(self, operations: np.ndarray, fates: np.ndarray | None) -> None:
        """Rows leave flight. `operations`: bool, shape (n,). `fates`: uint8, shape (n,); None: all exported."""
        count, chosen = len(operations), int(np.count_nonzero(operations))
        if fates is None:
            with self._lock:
                self._spans[Fate.EXPORTED] += count
                self._operations[Fate.EXPORTED] += chosen
            return
        spans = np.bincount(fates, minlength=len(Fate)).tolist()
        of_operations = np.bincount(fates[operations], minlength=len(Fate)).tolist()
        with self._lock:
            for fate in Fate:
                self._spans[fate] += spans[fate]
                self._operations[fate] += of_operations[fate]

    def request(self, size_bytes: int) -> None:
        """One more request was taken."""
        with self._lock:
            self._requests += 1
            self._bytes += size_bytes
        if self.whole is not None:
            self.whole.request(size_bytes)

    def retry(self, message: str) -> None:
        """A request has to be sent again."""
        with self._lock:
            self._retries += 1
            self._last_error = message
        if self.whole is not None:
            self.whole.retry(message)

    def error(self, message: str) -> None:
        """Something was lost."""
        with self._lock:
            self._last_error = message
        if self.whole is not None:
            self.whole.error(message)

    def snapshot(self) -> ExportSnapshot:
        """All counters at one moment."""
        with self._lock:
            return ExportSnapshot(
                operations_exported=self._operations[Fate.EXPORTED],
                operations_dropped={name: self._operations[fate] for fate, name in REASONS.items()},
                operations_in_flight=self._accepted_operations - sum(self._operations.values()),
                spans_exported=self._spans[Fate.EXPORTED],
                spans_dropped={name: self._spans[fate] for fate, name in REASONS.items()},
                spans_in_flight=self._accepted_spans - sum(self._spans.values()),
                requests=self._requests,
                retries=self._retries,
                bytes=self._bytes,
                last_error=self._last_error,
            )


def failed(count: int) -> np.ndarray:
    """Fates of `count` rows that were all lost."""
    return np.full(count, Fate.EXPORT_FAILED, np.uint8)
