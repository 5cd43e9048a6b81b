# SPDX-License-Identifier: Apache-2.0
"""The Output that speaks OTLP: encode, send, retry, over any transport that can carry one request.

What may be retried is the transport's to say, by the list of the OTLP specification ("Failures", opentelemetry.io/docs/
specs/otlp); how often and when is decided here: exponential backoff with jitter, the server's own RetryInfo or
Retry-After where it gives one, at most `export_timeout_s` for one request in all.
"""

from __future__ import annotations

import enum
import logging
import math
import random
import threading
import time
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from kernelspan_agent.export.base import Once
from kernelspan_agent.export.batches import operation_mask
from kernelspan_agent.export.counters import ExportCounters, Fate
from kernelspan_agent.export.encode import Bounds, Request, encode
from kernelspan_agent.model import SpanBatch
from kernelspan_agent.selftrace import span

_log = logging.getLogger(__name__)


LONGEST_THROTTLE_S = 300.0  # a server that says more, by mistake or malice, must not silence an agent for good


class Answer(enum.Enum):
    """What one attempt came to."""

    TAKEN = "taken"  # but for Outcome.rejected spans
    RETRY = "retry"
    REFUSED = "refused"


@dataclass(frozen=True, slots=True)
class Outcome:
    """The answer to one attempt. `retry_after_s`: what the server asked for; None: nothing."""

    answer: Answer
    message: str = ""
    rejected: int = 0
    retry_after_s: float | None = None


class Transport(Protocol):
    """Carries serialised ExportTraceServiceRequests. `cancel` may come from another thread, and lasts."""

    def send(self, payload: bytes, timeout_s: float) -> Outcome:
        """One attempt; never raises for what the far end does. `timeout_s` may be infinite."""

    def cancel(self) -> None:
        """End the attempt that runs; later ones fail at once."""

    def close(self) -> None:
        """Release the connection."""


@dataclass(frozen=True, slots=True)
class Backoff:
    """Waits between attempts: from `first_s`, times `factor`, at most `longest_s`, each spread by `jitter`."""

    first_s: float = 0.2
    factor: float = 2.0
    longest_s: float = 5.0
    # A collector's restart takes a second or two: a longer wait would only fill the queue.
    jitter: float = 0.3
    # Agents of all nodes lose their collector in the same moment, and must not come back in the same.

    def delay_s(self, attempt: int) -> float:
        """The wait after attempt number `attempt`, counted from 0."""
        wait = min(self.longest_s, self.first_s * self.factor ** min(attempt, 64))
        return wait * random.uniform(1 - self.jitter, 1 + self.jitter)  # noqa: S311 - no secret


class OtlpOutput:
    """An Output (see base) over one transport."""

    def __init__(
        self,
        name: str,
        transport: Transport,
        *,
        timeout_s: float = 10.0,
        export_timeout_s: float = 30.0,
        bounds: Bounds | None = None,
        backoff: Backoff | None = None,
    ) -> None:
        """`timeout_s`: for one attempt; `export_timeout_s`: for one request with all its attempts."""
        self.name = name
        self.counters = ExportCounters()
        self._transport = transport
        self._timeout_s, self._export_timeout_s = timeout_s, export_timeout_s
        self._bounds = bounds or Bounds()
        self._backoff = backoff or Backoff()
        self._aborted = threading.Event()
        self._not_before_s = 0.0  # a throttling server's wish holds for the next request too
        self._once = Once(_log, name)

    def deliver(self, batch: SpanBatch) -> np.ndarray | None:
        """See Output."""
        fates: np.ndarray | None = None
        operations: np.ndarray | None = None
        for request in encode(batch, self._bounds):
            lost = self._lost(request)
            if not lost:
                continue
            if fates is None or operations is None:
                fates, operations = np.zeros(len(batch), np.uint8), operation_mask(batch)
            mine = operations[request.rows]
            fates[np.concatenate((request.rows[mine], request.rows[~mine]))[:lost]] = Fate.EXPORT_FAILED
        return fates

    def abort(self) -> None:
        """See Output."""
        self._aborted.set()
        self._transport.cancel()

    def close(self) -> None:
        """See Output."""
        self._transport.close()

    def _lost(self, request: Request) -> int:
        """Sends the request until it is taken or given up: how many of its spans are lost."""
        outcome = self._send(request.payload)
        if outcome.answer is not Answer.TAKEN:
            self.counters.error(outcome.message)
            self._once.warn("export.failed", outcome.message)
            return len(request.rows)
        self.counters.request(len(request.payload))
        if outcome.rejected or outcome.message:
            message = f"partial success: {outcome.rejected} spans rejected: {outcome.message}"
            self._once.warn("export.partial" if outcome.rejected else "export.advice", message)
            if outcome.rejected:
                self.counters.error(message)
        else:
            self._once.forget()
        return min(outcome.rejected, len(request.rows))

    def _send(self, payload: bytes) -> Outcome:
        deadline_s = time.monotonic() + self._export_timeout_s
        outcome = Outcome(Answer.REFUSED, "given up before it was sent: the server asked to wait")
        attempt, told = 0, outcome.message
        while True:
            wait_s = self._not_before_s - time.monotonic()
            if self._pause(min(wait_s, deadline_s - time.monotonic())):
                return Outcome(Answer.REFUSED, f"given up at shutdown: {outcome.message}")
            left_s = deadline_s - time.monotonic()
            if left_s <= 0:
                return Outcome(Answer.REFUSED, f"given up after {self._export_timeout_s:g} s: {told}")
            with span("agent.export", output=self.name, bytes=len(payload), attempt=attempt):
                outcome = self._transport.send(payload, min(self._timeout_s, left_s))
            if outcome.answer is not Answer.RETRY:
                return outcome
            if attempt == 0 or time.monotonic() < deadline_s:  # else it is us who ended it, which says nothing
                told = outcome.message
            self.counters.retry(outcome.message)
            self._once.warn("export.retry", outcome.message)
            asked_s = outcome.retry_after_s
            delay_s = self._backoff.delay_s(attempt) if asked_s is None else min(asked_s, LONGEST_THROTTLE_S)
            self._not_before_s = time.monotonic() + delay_s
            attempt += 1

    def _pause(self, seconds: float) -> bool:
        """Waits; whether the export was aborted."""
        if seconds <= 0 or math.isnan(seconds):
            return self._aborted.is_set()
        return self._aborted.wait(min(seconds, threading.TIMEOUT_MAX))
