# SPDX-License-Identifier: Apache-2.0
"""What the agent knows of an exporter, and what a new kind of output has to bring.

The agent calls an `Exporter`. A new kind of output is one module with an `Output`: `deliver` does the work of one batch
in the caller's thread and says what became of each row. `pipeline.Pipeline` makes an Exporter of any number of outputs;
`DirectOutput` makes one of a single output without queue or thread.
"""

from __future__ import annotations

import logging
from typing import Protocol

import numpy as np

from kernelspan_agent.export.batches import operation_mask
from kernelspan_agent.export.counters import ExportCounters
from kernelspan_agent.model import SpanBatch

_MAX_REMEMBERED = 64


class Exporter(Protocol):
    """Takes finished spans; never raises for what the far end does, never blocks the caller on a network."""

    @property
    def counters(self) -> ExportCounters:
        """What became of everything that was exported."""

    def export(self, batch: SpanBatch) -> None:
        """Take the batch; its arrays must not be changed afterwards."""

    def close(self, timeout_s: float) -> None:
        """Finish what was taken within the time; what is not finished by then is counted ExportFailed."""


class Output(Protocol):
    """One place that spans go to. All but `abort` are called by one thread at a time."""

    name: str
    counters: ExportCounters

    def deliver(self, batch: SpanBatch) -> np.ndarray | None:
        """Bring every row out, or give up: uint8 Fates, shape (n,); None: all exported."""

    def abort(self) -> None:
        """From another thread, more than once: `deliver` must return soon, now and from now on."""

    def close(self) -> None:
        """Release what is held; nothing is delivered afterwards."""


class DirectOutput:
    """An Output that is an Exporter of its own, in the caller's thread. `deliver` is the subclass's."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.counters = ExportCounters()

    def deliver(self, batch: SpanBatch) -> np.ndarray | None:
        """See Output."""
        raise NotImplementedError

    def export(self, batch: SpanBatch) -> None:
        """Deliver and count."""
        operations = operation_mask(batch)
        self.counters.accept(len(batch), int(np.count_nonzero(operations)))
        self.counters.settle(operations, self.deliver(batch))

    def abort(self) -> None:
        """Nothing waits here."""

    def close(self, timeout_s: float = 0.0) -> None:
        """Nothing is held."""


class Once:
    """Logs each message the first time only, and remembers a bounded number of them."""

    def __init__(self, logger: logging.Logger, output: str) -> None:
        self._logger = logger
        self._output = output
        self._seen: set[str] = set()

    def warn(self, event: str, message: str) -> None:
        """A warning `event` with its message, unless that was said before."""
        if message in self._seen or len(self._seen) >= _MAX_REMEMBERED:
            return
        self._seen.add(message)
        self._logger.warning("%s output=%s message=%s", event, self._output, message)

    def forget(self) -> None:
        """The trouble is over: say it again when it comes back."""
        self._seen.clear()
