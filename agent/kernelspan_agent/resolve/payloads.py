# SPDX-License-Identifier: Apache-2.0
"""The first bytes of what calls sent and received, by the operation they belong to: they come in a record before its own."""

from __future__ import annotations

import numpy as np

from kernelspan_agent.model import Payload
from kernelspan_agent.ring.records import BYTES_HEADER

MAX_BYTES = 8 << 20  # of one piece


class PayloadTable:
    """Those that came with the last two pieces of the ring, by (thread, end of the call in ns of the monotonic clock)."""

    def __init__(self) -> None:
        self._young: dict[tuple[int, int], bytes] = {}
        self._old: dict[tuple[int, int], bytes] = {}
        self._bytes = 0
        self.dropped = 0

    def learn(self, record: bytes) -> None:
        """Takes in a BYTES record."""
        header = np.frombuffer(record, BYTES_HEADER, 1)[0]
        if self._bytes + len(record) > MAX_BYTES:
            self.dropped += 1
            return
        self._young[int(header["tid"]), int(header["time"])] = record
        self._bytes += len(record)

    def age(self) -> None:
        """A piece is done: what came with the one before it has found its operations."""
        self._old, self._young, self._bytes = self._young, {}, 0

    def of(self, ops: np.ndarray) -> dict[int, Payload]:
        """Row to payload, of those rows that have one. `ops`: OPERATION, shape (n,)."""
        if not self._young and not self._old:
            return {}
        found = {}
        for row, key in enumerate(zip(ops["tid"].tolist(), ops["time"].tolist(), strict=True)):
            record = self._young.get(key) or self._old.get(key)
            if record is not None:
                found[row] = _payload(record)
        return found


def _payload(record: bytes) -> Payload:
    header = np.frombuffer(record, BYTES_HEADER, 1)[0]
    begin = BYTES_HEADER.itemsize
    data = record[begin : begin + int(header["length"])]
    return Payload(int(header["connection"]), bool(header["sends"]), int(header["moved"]), data)
