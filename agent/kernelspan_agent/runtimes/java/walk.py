# SPDX-License-Identifier: Apache-2.0
"""All threads' stacks as they are now, read from outside: for people who look, never for tracing.

The kernel's way (bpf/runtimes/java.bpf.h), but that nothing stops the threads meanwhile: a stack counts once two readings agree. A
thread that runs in Java has left no anchor, and so no frames that can be told. Memory may be hostile: every list is bounded.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from kernelspan_agent.process.errors import MemoryReadError
from kernelspan_agent.process.memory import read_u64
from kernelspan_agent.runtimes.registry import COMPLETE, RUNNING, TRUNCATED, UNREADABLE, LiveStack

from .layout import ABSENT, COMPILED, INTERPRETED, WRAPPER
from .methods import CorruptMethodError, read_method

if TYPE_CHECKING:
    from collections.abc import Iterator

    from kernelspan_agent.process.memory import Memory
    from kernelspan_agent.runtimes.registry import DetectedRuntime

    from .layout import JavaOffsets

MAX_THREADS, MAX_FRAMES, MAX_STEPS, MAX_HOPS, MAX_HEAPS = 4096, 512, 2048, 64, 4
READINGS = 4
_MAX_FRAME_WORDS = 65536
_ROW = np.dtype([("code", "<u8"), ("pc", "<u8"), ("globals", "<u8"), ("check", "<u4"), ("owner", "u1")])
_Row = tuple[int, int, int, int, int]
_NAMES = {b"nmethod\0": COMPILED, b"native n": WRAPPER}


class _TruncatedError(ValueError):
    """What is further out is not on this stack."""


@dataclass(frozen=True, slots=True)
class _Places:
    """Where the JVM's code is. `heaps`: (low, high, segment map, log2 of a segment)."""

    call_stub: int
    interpreter: tuple[int, int]
    heaps: tuple[tuple[int, int, int, int], ...]


def read_stacks(found: DetectedRuntime, memory: Memory) -> list[LiveStack]:
    """One for each thread of the JVM's. Raises MemoryReadError where its own structures cannot be read."""
    offsets: JavaOffsets = found.details.offsets
    variables = {name: found.address + int(found.layout[0][name]) for name in _VARIABLES}
    places = _places(memory, offsets, variables)
    return [_stack(memory, offsets, places, thread) for thread in _threads(memory, offsets, variables["thread_list"])]


_VARIABLES = ("thread_list", "code_heaps", "call_stub", "interpreter")


def _u32(memory: Memory, address: int) -> int:
    return int.from_bytes(memory.read(address, 4), "little")


def _places(memory: Memory, offsets: JavaOffsets, variables: dict[str, int]) -> _Places:
    at = offsets.at
    heaps = [read_u64(memory, variables["code_heaps"])]
    if at["array_data"] != ABSENT:
        count = min(_u32(memory, heaps[0] + at["array_length"]), MAX_HEAPS)
        data = read_u64(memory, heaps[0] + at["array_data"])
        heaps = [read_u64(memory, data + 8 * number) for number in range(count)]
    queue = read_u64(memory, variables["interpreter"])
    first = read_u64(memory, queue + at["queue_buffer"])
    return _Places(
        read_u64(memory, variables["call_stub"]),
        (first, first + _u32(memory, queue + at["queue_limit"])),
        tuple(
            (
                read_u64(memory, heap + at["heap_memory"] + at["space_low"]),
                read_u64(memory, heap + at["heap_memory"] + at["space_high"]),
                read_u64(memory, heap + at["heap_segments"] + at["space_low"]),
                _u32(memory, heap + at["heap_shift"]) & 31,
            )
            for heap in heaps
        ),
    )


def _threads(memory: Memory, offsets: JavaOffsets, variable: int) -> list[int]:
    at, first = offsets.at, read_u64(memory, variable)
    if at["list_threads"] != ABSENT:
        count = min(_u32(memory, first + at["list_length"]), MAX_THREADS)
        data = memory.read(read_u64(memory, first + at["list_threads"]), 8 * count)
        return list(struct.unpack(f"<{count}Q", data))
    found: list[int] = []
    while first and len(found) < MAX_THREADS:
        found.append(first)
        first = read_u64(memory, first + at["thread_next"])
    return found[::-1]  # the newest comes first


def _stack(memory: Memory, offsets: JavaOffsets, places: _Places, thread: int) -> LiveStack:
    at, before, key, native = offsets.at, None, 0, 0
    try:
        os_thread = read_u64(memory, thread + at["thread_os"])
        key = read_u64(memory, os_thread + at["os_pthread"])
        native = _u32(memory, os_thread + offsets.os_thread_id) if offsets.os_thread_id != ABSENT else 0
        for _ in range(READINGS):
            rows: list[_Row] = []
            state = COMPLETE
            try:
                for row in _frames(memory, offsets, places, thread, rows):
                    rows.append(row)  # noqa: PERF402 - what came before an error counts
            except _TruncatedError:
                state = TRUNCATED
            if not rows and _u32(memory, thread + at["thread_state"]) == at["in_java"]:
                return _live(key, native, [], RUNNING)
            if len(rows) > MAX_FRAMES:
                rows, state = rows[:MAX_FRAMES], TRUNCATED
            if rows == before:
                return _live(key, native, rows, state)
            before = rows
    except (MemoryReadError, CorruptMethodError):
        return _live(key, native, [], UNREADABLE)
    return _live(key, native, [], RUNNING)


def _live(key: int, native: int, rows: list[_Row], state: str) -> LiveStack:
    return LiveStack(key, native, np.array(rows, _ROW), state)


def _frames(memory: Memory, offsets: JavaOffsets, places: _Places, thread: int, rows: list[_Row]) -> Iterator[_Row]:
    """Innermost first. Raises MemoryReadError, CorruptMethodError, _TruncatedError."""
    at = offsets.at
    sp, pc, fp = _anchor(memory, thread + at["thread_anchor"])
    for _ in range(MAX_STEPS):
        if not sp or len(rows) > MAX_FRAMES:
            return
        if pc == places.call_stub:
            wrapper = read_u64(memory, fp - 8 * at["frame_wrapper"])
            sp, pc, fp = _anchor(memory, wrapper + at["wrapper_anchor"])
        elif places.interpreter[0] <= pc < places.interpreter[1]:
            words = struct.unpack("<10Q", memory.read(fp - 64, 80))
            yield _interpreted(memory, offsets, words[5], words[8 - at["frame_bcp"]])
            sp, fp, pc = words[7:]
        else:
            blob = _blob(memory, places, pc, at["block_bytes"])
            words_of_frame = _u32(memory, blob + at["blob_frame_size"])
            if not words_of_frame:
                raise _TruncatedError
            if words_of_frame > _MAX_FRAME_WORDS:
                raise CorruptMethodError("a frame")
            name = memory.read(read_u64(memory, blob + at["blob_name"]), 8)
            if name in _NAMES:
                kind = _NAMES[name]
                place = _true_pc(memory, offsets, blob, pc, sp) if kind == COMPILED else pc
                yield blob, place, 0, _u32(memory, blob + at["nmethod_number"]), kind
            sp += 8 * words_of_frame
            fp, pc = struct.unpack("<2Q", memory.read(sp - 16, 16))


def _anchor(memory: Memory, address: int) -> tuple[int, int, int]:
    sp, pc, fp = struct.unpack("<3Q", memory.read(address, 24))
    return sp, read_u64(memory, sp - 8) if sp and not pc else pc, fp


def _interpreted(memory: Memory, offsets: JavaOffsets, method: int, bcp: int) -> _Row:
    found = read_method(memory, method, offsets)
    start = read_u64(memory, method + offsets.at["method_const"]) + offsets.at["const_bytes"]
    bci = bcp if bcp < 65536 else bcp - start
    return found.identities[0], bci & 0xFFFFFFFFFFFFFFFF, method, 0, INTERPRETED


def _blob(memory: Memory, places: _Places, pc: int, block_bytes: int) -> int:
    for low, high, segments, shift in places.heaps:
        if low <= pc < high:
            segment = (pc - low) >> shift
            for _ in range(MAX_HOPS):
                tag = memory.read(segments + segment, 1)[0]
                if not tag:
                    return low + (segment << shift) + block_bytes
                if tag == 255:
                    break
                segment -= tag
    raise CorruptMethodError(f"no code at {pc:#x}")


def _true_pc(memory: Memory, offsets: JavaOffsets, blob: int, pc: int, sp: int) -> int:
    at = offsets.at
    size = at["deopt_bytes"]
    deopt = int.from_bytes(memory.read(blob + at["nmethod_deopt"], size), "little")
    if pc != (deopt if at["deopt_is_address"] else blob + deopt):
        return pc
    return read_u64(memory, sp + _u32(memory, blob + at["nmethod_orig_pc"]))
