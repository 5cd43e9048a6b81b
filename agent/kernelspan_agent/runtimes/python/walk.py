# SPDX-License-Identifier: Apache-2.0
"""The stacks of all threads as they are now, read from outside: for people who look, never for tracing.

The kernel's programs walk a thread that has stopped in the kernel; here nothing stops it: see `readings`. Memory may be
hostile: every list is bounded.

The number of a thread is `native_thread_id`, the word after `thread_id` from 3.11 on (Include/cpython/pystate.h);
before that a thread has its pthread_self() only.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from kernelspan_agent.process.errors import MemoryReadError
from kernelspan_agent.process.memory import read_u64
from kernelspan_agent.runtimes.readings import MAX_FRAMES, agreed
from kernelspan_agent.runtimes.registry import UNREADABLE, LiveStack

from .layout import ABSENT
from .symbolise import read_check

if TYPE_CHECKING:
    from collections.abc import Iterator

    from kernelspan_agent.process.memory import Memory
    from kernelspan_agent.runtimes.registry import DetectedRuntime

    from .layout import Offsets

MAX_INTERPRETERS, MAX_THREADS = 64, 16384
_FIRST_WITH_NATIVE_ID = 11
_ROW = np.dtype([("code", "<u8"), ("pc", "<u8"), ("globals", "<u8"), ("check", "<u4"), ("owner", "u1")])


@dataclass(frozen=True, slots=True)
class _Seen:
    """A frame in one reading."""

    address: int
    code: int
    pc: int
    namespace: int
    check: int
    owner: int


def read_stacks(found: DetectedRuntime, memory: Memory) -> list[LiveStack]:
    """A stack for each thread state of each interpreter, in the order of the runtime's lists, newest first.

    Raises MemoryReadError where the list itself cannot be read.
    """
    offsets: Offsets = found.details.offsets
    return [_stack(memory, thread, offsets) for thread in _threads(memory, found.address, offsets)]


def _threads(memory: Memory, head: int, offsets: Offsets) -> list[int]:
    found: dict[int, None] = {}
    interpreter, interpreters = read_u64(memory, head), 0
    while interpreter and interpreters < MAX_INTERPRETERS:
        thread = read_u64(memory, interpreter + offsets.interp_threads_head)
        while thread and thread not in found and len(found) < MAX_THREADS:
            found[thread] = None
            try:
                thread = read_u64(memory, thread + offsets.ts_next)
            except MemoryReadError:  # it ended between two reads
                break
        interpreter, interpreters = read_u64(memory, interpreter + offsets.interp_next), interpreters + 1
    return list(found)


def _stack(memory: Memory, thread: int, offsets: Offsets) -> LiveStack:
    key = native = 0
    try:
        key = read_u64(memory, thread + offsets.ts_thread_id)
        if offsets.minor >= _FIRST_WITH_NATIVE_ID:
            native = read_u64(memory, thread + offsets.ts_thread_id + 8)
    except MemoryReadError:
        return LiveStack(0, 0, _rows([]), UNREADABLE)
    frames, state = agreed(lambda: _frames(memory, thread, offsets))
    return LiveStack(key, native, _rows(frames), state)


def _frames(memory: Memory, thread: int, offsets: Offsets) -> Iterator[_Seen]:
    """Innermost first, at most one more than MAX_FRAMES. Raises MemoryReadError."""
    frame = read_u64(memory, thread + offsets.ts_frame)
    if offsets.cframe_current != ABSENT and frame:
        frame = read_u64(memory, frame + offsets.cframe_current)
    count = 0
    while frame and count <= MAX_FRAMES:
        header = memory.read(frame, offsets.frame_header_bytes)
        if offsets.frame_owner != ABSENT:
            owner = header[offsets.frame_owner]
        else:
            owner = int(_word(header, offsets.frame_generator) != 0)
        if offsets.frame_owner == ABSENT or owner < offsets.owner_skip:
            code = _word(header, offsets.frame_code) & ~offsets.tag_mask
            pc = int.from_bytes(header[offsets.frame_pc : offsets.frame_pc + offsets.frame_pc_bytes], "little")
            check = read_check(memory, code, offsets)
            yield _Seen(frame, code, pc, _word(header, offsets.frame_globals), check, owner)
        frame = _word(header, offsets.frame_previous)
        count += 1


def _word(data: bytes, offset: int) -> int:
    value: int = struct.unpack_from("<Q", data, offset)[0]
    return value


def _rows(frames: list[_Seen]) -> np.ndarray:
    return np.array([(each.code, each.pc, each.namespace, each.check, each.owner) for each in frames], _ROW)
