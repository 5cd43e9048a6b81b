# SPDX-License-Identifier: Apache-2.0
"""One stream of batches to several outputs, each with its own bounded queue and thread, counted as one.

An operation is exported when every output took it, and dropped when any output dropped it; the reason is that of the
output that dropped it first. It is in flight until the last output has decided. A slow output holds up no other one.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Sequence

import numpy as np

from kernelspan_agent.export.base import Output
from kernelspan_agent.export.batches import concat, operation_mask, part
from kernelspan_agent.export.counters import ExportCounters, Fate, failed
from kernelspan_agent.export.queue import QueueLimits, SpanQueue
from kernelspan_agent.model import SpanBatch

_log = logging.getLogger(__name__)

ABORT_GRACE_S = 1.0  # a cancelled call returns within milliseconds; a write into a pipe nobody reads never does


class _Delivery:
    """One batch on its way to all outputs: the fates of its rows so far."""

    def __init__(self, batch: SpanBatch, outputs: int, counters: ExportCounters) -> None:
        self.batch = batch
        self.operations = operation_mask(batch)
        self._counters = counters
        self._undecided = outputs * len(batch)
        self._fates: np.ndarray | None = None
        self._lock = threading.Lock()

    def settle(self, start: int, stop: int, fates: np.ndarray | None) -> None:
        """One output has decided about rows start to stop."""
        with self._lock:
            if fates is not None and fates.any():
                if self._fates is None:
                    self._fates = np.zeros(len(self.batch), np.uint8)
                mine = self._fates[start:stop]
                mine[mine == Fate.EXPORTED] = fates[mine == Fate.EXPORTED]
            self._undecided -= stop - start
            if self._undecided:
                return
        self._counters.settle(self.operations, self._fates)


class _Parcel:
    """Rows start to stop of a delivery, for one output."""

    __slots__ = ("delivery", "start", "stop")

    def __init__(self, delivery: _Delivery, start: int, stop: int) -> None:
        self.delivery, self.start, self.stop = delivery, start, stop

    def batch(self) -> SpanBatch:
        return part(self.delivery.batch, self.start, self.stop)


class _Worker:
    """The queue and the thread of one output."""

    def __init__(self, output: Output, limits: QueueLimits) -> None:
        self.output = output
        self._limits = limits
        self.queue: SpanQueue[_Parcel] = SpanQueue(limits.max_queue_spans)
        self._busy: list[_Parcel] = []
        self._abandoned = False
        self._lock = threading.Lock()
        self.thread = threading.Thread(target=self._run, name=f"export-{output.name}", daemon=True)
        self.thread.start()

    def offer(self, delivery: _Delivery) -> None:
        """Queue as many rows as fit; the rest is dropped."""
        count = len(delivery.batch)
        self.output.counters.accept(count, int(np.count_nonzero(delivery.operations)))
        stop = min(self.queue.room(), count)
        if stop and not self.queue.put(_Parcel(delivery, 0, stop), stop):
            stop = 0
        if stop < count:
            self.output.counters.error("the export queue is full")
            self._settle(_Parcel(delivery, stop, count), np.full(count - stop, Fate.QUEUE_FULL, np.uint8))

    def abandon(self) -> None:
        """Whatever the thread still has, and is stuck with, is lost; what it says later does not count."""
        with self._lock:
            self._abandoned = True
            lost, self._busy = self._busy + self.queue.drain(), []
        self._lose(lost)

    def _lose(self, parcels: list[_Parcel]) -> None:
        for parcel in parcels:
            self._settle(parcel, failed(parcel.stop - parcel.start))

    def _run(self) -> None:
        while parcels := self._take():
            batch = concat([parcel.batch() for parcel in parcels])
            try:
                fates = self.output.deliver(batch)
            except Exception as error:  # noqa: BLE001 - an output's fault must cost its batch, never the thread
                _log.exception("export.fault output=%s", self.output.name)
                self.output.counters.error(f"{type(error).__name__}: {error}")
                fates = failed(len(batch))
            self._settle_all(parcels, fates)
            self.output.counters.cpu_seconds = time.thread_time()

    def _take(self) -> list[_Parcel]:
        parcels = self.queue.take(self._limits.max_batch_spans, self._limits.schedule_delay_s)
        with self._lock:
            if not self._abandoned:
                self._busy = parcels
                return parcels
        self._lose(parcels)
        return []

    def _settle_all(self, parcels: list[_Parcel], fates: np.ndarray | None) -> None:
        with self._lock:
            if self._busy is not parcels:
                return
            self._busy = []
        at = 0
        for parcel in parcels:
            count = parcel.stop - parcel.start
            self._settle(parcel, None if fates is None else fates[at : at + count])
            at += count

    def _settle(self, parcel: _Parcel, fates: np.ndarray | None) -> None:
        self.output.counters.settle(parcel.delivery.operations[parcel.start : parcel.stop], fates)
        parcel.delivery.settle(parcel.start, parcel.stop, fates)


class Pipeline:
    """The Exporter of any number of outputs, none included: then everything counts as exported.

    Not thread-safe but for `counters`: one thread exports and closes.
    """

    def __init__(self, outputs: Sequence[Output], limits: QueueLimits | None = None) -> None:
        self.counters = ExportCounters()
        self.outputs = tuple(outputs)
        for output in outputs:
            output.counters.whole = self.counters
        self._workers = [_Worker(output, limits or QueueLimits()) for output in outputs]

    def export(self, batch: SpanBatch) -> None:
        """Queue the batch for every output; returns at once. After `close` everything is dropped."""
        if not len(batch):
            return
        delivery = _Delivery(batch, max(1, len(self._workers)), self.counters)
        self.counters.accept(len(batch), int(np.count_nonzero(delivery.operations)))
        for worker in self._workers:
            worker.offer(delivery)
        if not self._workers:
            delivery.settle(0, len(batch), None)

    def close(self, timeout_s: float) -> None:
        """Send what is queued, at most `timeout_s`, then give up on the rest: nothing is in flight afterwards.

        Ctrl-C while waiting gives up at once and is raised when everything is accounted for.
        """
        for worker in self._workers:
            worker.queue.close()
        try:
            self._join(timeout_s)
        finally:
            for worker in self._workers:
                if worker.thread.is_alive():
                    worker.output.abort()
            try:
                self._join(ABORT_GRACE_S)
            finally:
                for worker in self._workers:
                    worker.abandon()
                    if not worker.thread.is_alive():
                        worker.output.close()

    def _join(self, timeout_s: float) -> None:
        deadline = time.monotonic() + timeout_s
        for worker in self._workers:
            worker.thread.join(max(0.0, deadline - time.monotonic()))
