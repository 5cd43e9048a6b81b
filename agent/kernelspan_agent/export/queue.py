# SPDX-License-Identifier: Apache-2.0
"""A queue that is bounded in spans, between the thread that makes batches and the thread that sends them.

A batch that does not fit as a whole is taken as far as it fits: its first rows, which are its operations.
"""

from __future__ import annotations

import math
import threading
import time
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Generic, TypeVar

from kernelspan_agent.errors import UsageError

SETTLE_S = 0.02  # what comes together goes together

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class QueueLimits:
    """OpenTelemetry's batch settings. Larger defaults than an SDK's: an agent exports for a whole machine."""

    max_queue_spans: int = 65536
    # About 8 MB of columns at most; at the 5,000 spans a second of a profile's default limit: 13 s of a deaf collector.
    max_batch_spans: int = 8192
    # About 2 MiB of request, half of what a gRPC server takes by default.
    schedule_delay_s: float = 0.2
    # Between two requests. Of the 5 s of an SDK a user would wait in front of an empty page; 5 a second cost nothing.
    export_timeout_s: float = 30.0
    # The specification's: how long one request is tried, retries included.


_VARIABLES = {
    "OTEL_BSP_MAX_QUEUE_SIZE": ("max_queue_spans", 1, 1),
    "OTEL_BSP_MAX_EXPORT_BATCH_SIZE": ("max_batch_spans", 1, 1),
    "OTEL_BSP_SCHEDULE_DELAY": ("schedule_delay_s", 0, 1000),
    "OTEL_BSP_EXPORT_TIMEOUT": ("export_timeout_s", 1, 1000),
}
_LARGEST = 1 << 31  # ms or spans: whoever writes more has mistaken the unit


def limits_from(environ: Mapping[str, str]) -> QueueLimits:
    """QueueLimits from OTEL_BSP_*. Raises UsageError that names the variable and what is allowed."""
    values: dict[str, float] = {}
    for variable, (name, least, divisor) in _VARIABLES.items():
        raw = environ.get(variable, "").strip()
        if not raw:
            continue
        if not (raw.isascii() and raw.isdigit()) or len(raw) > 10 or not least <= int(raw) <= _LARGEST:
            unit = "milliseconds" if divisor != 1 else "spans"
            raise UsageError(f"{variable}={raw[:40]!r}: must be a whole number of {unit}, {least} to {_LARGEST}")
        values[name] = int(raw) if divisor == 1 else int(raw) / divisor
    limits = QueueLimits(**values)  # type: ignore[arg-type]
    if limits.max_batch_spans <= limits.max_queue_spans:
        return limits
    if "max_batch_spans" not in values:
        return QueueLimits(**{**values, "max_batch_spans": limits.max_queue_spans})  # type: ignore[arg-type]
    raise UsageError(
        f"OTEL_BSP_MAX_EXPORT_BATCH_SIZE={limits.max_batch_spans}: must be at most OTEL_BSP_MAX_QUEUE_SIZE "
        f"({limits.max_queue_spans})"
    )


class SpanQueue(Generic[T]):
    """Items with a number of spans each, first in first out."""

    def __init__(self, max_spans: int) -> None:
        self._max_spans = max_spans
        self._items: deque[tuple[T, int, float]] = deque()
        self._spans = 0
        self._closed = False
        self._taken_s = -math.inf
        self._changed = threading.Condition()

    def room(self) -> int:
        """How many spans fit now; 0 once closed. Only one thread may put."""
        with self._changed:
            return 0 if self._closed else self._max_spans - self._spans

    def put(self, item: T, spans: int) -> bool:
        """Whether the item was taken: not if it does not fit, or the queue is closed."""
        with self._changed:
            if self._closed or self._spans + spans > self._max_spans:
                return False
            self._items.append((item, spans, time.monotonic()))
            self._spans += spans
            self._changed.notify()
            return True

    def take(self, max_spans: int, delay_s: float) -> list[T]:
        """Waits for `max_spans`, or until `delay_s` after the last time and a moment after the oldest item came, which waits no
        longer than `delay_s`; [] once closed and empty.

        Whole items, together at most `max_spans` unless the first alone has more.
        """
        with self._changed:
            while not self._closed and self._spans < max_spans:
                if not self._items:
                    self._changed.wait()
                    continue
                came_s = self._items[0][2]
                due_s = min(max(came_s + SETTLE_S, self._taken_s + delay_s), came_s + delay_s)
                left = due_s - time.monotonic()
                if left <= 0:
                    break
                self._changed.wait(left)
            self._taken_s = time.monotonic()
            return self._pop(max_spans)

    def close(self) -> None:
        """No more is taken in; `take` no longer waits."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def drain(self) -> list[T]:
        """Everything that is left."""
        with self._changed:
            return self._pop(self._spans)

    def _pop(self, max_spans: int) -> list[T]:
        taken: list[T] = []
        spans = 0
        while self._items and (not taken or spans + self._items[0][1] <= max_spans):
            item, count, _ = self._items.popleft()
            taken.append(item)
            spans += count
        self._spans -= spans
        return taken
