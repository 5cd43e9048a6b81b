# SPDX-License-Identifier: Apache-2.0
"""Records as the kernel's programs write them."""

from __future__ import annotations

import numpy as np

from kernelspan_agent.ring import records
from kernelspan_agent.ring.records import FRAME, OPERATION, PATH_HEADER, PROCESS, STACK_HEADER, RecordKind

STAT = 7


def _head(row: np.void, kind: int, size: int, time: int, tgid: int) -> None:
    row["kind"], row["version"], row["size"], row["time"], row["tgid"], row["tid"] = (
        kind, records.VERSION, size, time, tgid, tgid,
    )  # fmt: skip


def path_record(number: int, names: bytes, *, flags: int = 0, length: int | None = None, time: int = 100) -> bytes:
    """A PATH record; `length`: what it claims."""
    row = np.zeros(1, PATH_HEADER)[0]
    _head(row, RecordKind.PATH, PATH_HEADER.itemsize + len(names), time, 5)
    row["file"], row["length"], row["flags"] = number, len(names) if length is None else length, flags
    return row.tobytes() + names


def stack_record(number: int, frames: list[tuple[int, ...]], *, count: int | None = None, state: int = 1) -> bytes:
    """A STACK record; `count`: what it claims."""
    rows = np.array(frames, FRAME)
    row = np.zeros(1, STACK_HEADER)[0]
    _head(row, RecordKind.STACK, STACK_HEADER.itemsize + rows.nbytes, 100, 5)
    row["stack"], row["count"], row["state"] = number, len(frames) if count is None else count, state
    return row.tobytes() + rows.tobytes()


def process_record(
    kind: int,
    tgid: int,
    *,
    parent: int = 0,
    start: int = 50,
    time: int = 60,
    event: int | None = None,
    executable: int = 0,
) -> bytes:
    """A PROCESS record."""
    row = np.zeros(1, PROCESS)[0]
    _head(row, RecordKind.PROCESS, records.OP_SIZE, time, tgid)
    row["event"], row["parent"], row["start"] = kind if event is None else event, parent, start
    row["comm"], row["executable"] = b"program", executable
    return row.tobytes()


def operations(count: int, **fields: object) -> np.ndarray:
    """OPERATION rows of one process, one after another; `fields` are set in each."""
    rows = np.zeros(count, OPERATION)
    rows["kind"], rows["version"], rows["size"] = RecordKind.OPERATION, records.VERSION, records.OP_SIZE
    rows["tgid"] = rows["tid"] = 5
    rows["op"], rows["cls"] = STAT, 1
    rows["start"] = 100 + 10 * np.arange(count)
    rows["time"] = rows["start"] + 5
    for name, value in fields.items():
        rows[name] = value
    return rows
