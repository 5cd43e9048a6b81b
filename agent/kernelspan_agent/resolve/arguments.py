# SPDX-License-Identifier: Apache-2.0
"""What the user's own probes read, by the id that the operation names it by: it comes in a record of its own, before it."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass

import numpy as np

from kernelspan_agent.ring.records import ARGUMENT, ARGUMENTS_HEADER, ArgumentState
from kernelspan_api.conditions import ArgumentType

_T = ArgumentType
SIGNED = frozenset({_T.INT8, _T.INT16, _T.INT32, _T.INT64, _T.FD})
NUMBERS = SIGNED | {
    *(_T.UINT8, _T.UINT16, _T.UINT32, _T.UINT64),
    *(_T.SIZE, _T.POINTER, _T.UID, _T.GID, _T.BOOL),
}  # the others are texts, bytes or structs
PATHS = frozenset({_T.FILE, _T.PATH, _T.FD})  # told by the id of a PATH record


@dataclass(frozen=True, slots=True)
class Slot:
    """Where an argument lies in its record. `at`: of its data, from the first byte behind the rows."""

    number: int
    type: ArgumentType
    data_bytes: int
    at: int


@dataclass(frozen=True, slots=True)
class Captured:
    """An argument, or the returned value, that becomes an attribute."""

    slot: Slot
    attribute: str


MAX_RECORDS = 16384  # for operations that are still on the way


@dataclass(frozen=True, slots=True)
class Arguments:
    """The arguments of one call. `rows`: ARGUMENT, shape (n,). `data`: what lies behind them."""

    rows: np.ndarray
    data: bytes

    def state(self, number: int) -> ArgumentState:
        """How reading an argument went."""
        return ArgumentState(min(int(self.rows["state"][number]), max(ArgumentState)))

    def bytes_of(self, number: int, at: int, most: int) -> bytes:
        """The data of an argument that lies at `at`."""
        return self.data[at : at + min(int(self.rows["length"][number]), most)]


class ArgumentTable:
    """Those that came last."""

    def __init__(self) -> None:
        self._records: OrderedDict[int, bytes] = OrderedDict()

    def learn(self, record: bytes) -> None:
        """Takes in an ARGUMENTS record."""
        number = int(np.frombuffer(record, ARGUMENTS_HEADER, 1)["id"][0])
        self._records[number] = record
        self._records.move_to_end(number)
        if len(self._records) > MAX_RECORDS:
            self._records.popitem(last=False)

    def get(self, number: int) -> Arguments | None:
        """The arguments of that id; None: lost."""
        record = self._records.get(number)
        if record is None:
            return None
        count = int(np.frombuffer(record, ARGUMENTS_HEADER, 1)["count"][0])
        begin = ARGUMENTS_HEADER.itemsize
        end = begin + count * ARGUMENT.itemsize
        return Arguments(np.frombuffer(record[begin:end], ARGUMENT), record[end:])
