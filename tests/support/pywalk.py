# SPDX-License-Identifier: Apache-2.0
"""The kernel's walk of Python frames, done again from outside with nothing but a PY_LAYOUT row: an oracle for it.

For parked processes only: nothing stops the frames from changing under the reader.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Any

import numpy as np

from kernelspan_agent.process.memory import read_u64
from kernelspan_agent.ring.records import FRAME, MAX_DEPTH
from kernelspan_agent.runtimes.python.layout import ABSENT
from kernelspan_agent.runtimes.python.symbolise import read_check

if TYPE_CHECKING:
    from kernelspan_agent.process.memory import Memory
    from kernelspan_agent.runtimes.registry import DetectedRuntime

MAX_THREADS = 1000


def walk_threads(memory: Memory, found: DetectedRuntime) -> dict[int, tuple[np.ndarray, list[int]]]:
    """pthread_self() -> (FRAME rows, addresses of the frames), innermost first, of every thread it has."""
    row = found.layout[0]
    stacks: dict[int, tuple[np.ndarray, list[int]]] = {}
    interpreter = read_u64(memory, found.address)
    while interpreter:
        thread = read_u64(memory, interpreter + int(row["interp_threads_head"]))
        while thread and len(stacks) < MAX_THREADS:
            key = read_u64(memory, thread + int(row["ts_thread_id"]))
            stacks.setdefault(key, _walk(memory, found, thread))
            thread = read_u64(memory, thread + int(row["ts_next"]))
        interpreter = read_u64(memory, interpreter + int(row["interp_next"]))
    return stacks


def _walk(memory: Memory, found: DetectedRuntime, thread: int) -> tuple[np.ndarray, list[int]]:
    row = {name: int(found.layout[0][name]) for name in found.layout.dtype.names or ()}
    frame = read_u64(memory, thread + row["ts_frame"])
    if row["cframe_current"] != ABSENT and frame:
        frame = read_u64(memory, frame + row["cframe_current"])
    rows: list[Any] = []
    addresses = []
    while frame and len(rows) < MAX_DEPTH:
        header = memory.read(frame, row["frame_header_bytes"])
        code = _u64(header, row["frame_code"]) & ~row["tag_mask"]
        pc = int.from_bytes(header[row["frame_pc"] : row["frame_pc"] + row["frame_pc_bytes"]], "little")
        if row["frame_owner"] != ABSENT:
            owner = header[row["frame_owner"]]
        else:
            owner = int(_u64(header, row["frame_generator"]) != 0)
        if owner < row["owner_skip"]:
            check = read_check(memory, code, found.details.offsets)
            rows.append((code, pc, _u64(header, row["frame_globals"]), check, owner, 1, 0))
            addresses.append(frame)
        frame = _u64(header, row["frame_previous"])
    return np.array(rows, FRAME), addresses


def _u64(data: bytes, offset: int) -> int:
    value: int = struct.unpack_from("<Q", data, offset)[0]
    return value
