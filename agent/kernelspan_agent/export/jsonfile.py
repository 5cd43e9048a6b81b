# SPDX-License-Identifier: Apache-2.0
"""OTLP/JSON lines into a file or, for `-`, to standard output.

A line is written as a whole or not at all: what a full disk cut off is taken back, so that the file stays readable.
The failure is logged once, its spans are counted ExportFailed, and the next batch is tried again: a disk can be emptied.
"""

from __future__ import annotations

import contextlib
import logging
import os
import stat

import numpy as np

from kernelspan_agent.errors import UsageError
from kernelspan_agent.export.base import DirectOutput, Once
from kernelspan_agent.export.counters import Fate
from kernelspan_agent.export.jsontext import lines
from kernelspan_agent.model import SpanBatch

_log = logging.getLogger(__name__)

STDOUT = "-"


class JsonFileExporter(DirectOutput):
    """An Output and an Exporter (see base) that writes to `path`, which is made or emptied."""

    def __init__(self, path: str) -> None:
        """Raises UsageError if the file cannot be written to."""
        super().__init__(f"file {path}")
        self._path = path
        self._fd = _open(path)
        self._can_cut = stat.S_ISREG(os.fstat(self._fd).st_mode)
        self._torn = False  # the last line has no end and cannot be taken back
        self._once = Once(_log, self.name)

    def deliver(self, batch: SpanBatch) -> np.ndarray | None:
        """See Output."""
        fates: np.ndarray | None = None
        for line in lines(batch):
            try:
                self._write(line.text)
            except OSError as error:
                message = f"{self._path}: cannot be written: {error.strerror}"
                self.counters.error(message)
                self._once.warn("export.failed", message)
                if fates is None:
                    fates = np.zeros(len(batch), np.uint8)
                fates[line.rows] = Fate.EXPORT_FAILED
            else:
                self.counters.request(len(line.text))
                self._once.forget()
        return fates

    def close(self, timeout_s: float = 0.0) -> None:  # noqa: ARG002 - Exporter's
        """Close the file; standard output itself stays open."""
        if self._fd >= 0:
            fd, self._fd = self._fd, -1
            with contextlib.suppress(OSError):
                os.close(fd)

    def _write(self, line: bytes) -> None:
        left = memoryview(b"\n" + line if self._torn else line)
        whole = len(left)
        try:
            while left:
                left = left[os.write(self._fd, left) :]
        except OSError:
            self._take_back(whole - len(left))
            raise
        self._torn = False

    def _take_back(self, written: int) -> None:
        if not written:
            return
        with contextlib.suppress(OSError):
            if self._can_cut:
                end = os.lseek(self._fd, 0, os.SEEK_CUR) - written
                os.ftruncate(self._fd, end)
                os.lseek(self._fd, end, os.SEEK_SET)
                return
        self._torn = True


def _open(path: str) -> int:
    try:
        if path == STDOUT:
            return os.dup(1)
        return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o644)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise UsageError(f"--output {path!r}: {reason}", hint="Name a file that can be written to, or -.") from error
