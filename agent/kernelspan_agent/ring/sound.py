# SPDX-License-Identifier: Apache-2.0
"""Whether a record is one that our programs write. What is not is counted and passed over, never guessed at.

Only the kernel writes into the ring, so this guards against a mistake of ours, or another version's programs: a stage
behind may rely on sizes, enumerations and times being what the layouts say.
"""

from __future__ import annotations

import struct

import numpy as np

from kernelspan_agent.ring.records import (
    ARGUMENT,
    ARGUMENTS_HEADER,
    BYTES_HEADER,
    CODE_HEADER,
    FRAME_SIZE,
    MAX_CLASSES,
    MAX_DEPTH,
    MAX_OWN_PROBES,
    OP_SIZE,
    PATH_HEADER,
    STACK_HEADER,
    VERSION,
    BytesFlag,
    ContextKind,
    FrameState,
    PathFlag,
    ProcessEvent,
    RecordKind,
)

MAX_TIME_NS = 1 << 62  # a sum of two such times is still an int64's
_HEADER = struct.Struct("<HHIQII")
_STACK = struct.Struct("<QHBB")  # after the header: stack, count, state, runtime
_ARGUMENTS = struct.Struct("<QHHI")  # id, probe, count, reserved
_PATH = struct.Struct("<QHHH")  # file, length, count, flags
_BYTES = struct.Struct("<QIHHH")  # connection, moved, length, tail, flags
_HEADERS_BYTES = 32  # of the datagrams of one call that are copied: see copy_datagrams in requests.bpf.c
_PROCESS = struct.Struct("<IIiIQ")  # event, parent, exit code, pad, start
_ALL_FLAGS = sum(PathFlag)
_STATES, _EVENTS = set(FrameState), set(ProcessEvent)


def is_sound(kind: int, record: bytes) -> bool:
    """Whether a whole record of that kind, no operation, can be taken in."""
    if len(record) < _HEADER.size:
        return False
    own_kind, version, size, when, _, _ = _HEADER.unpack_from(record)
    if (own_kind, version) != (kind, VERSION) or size > len(record) or when >= MAX_TIME_NS:
        return False
    if kind == RecordKind.STACK:
        return _is_stack(record)
    if kind == RecordKind.PATH:
        return _is_path(record)
    if kind == RecordKind.PROCESS:
        return _is_process(record)
    if kind == RecordKind.ARGUMENTS:
        return _is_arguments(record)
    if kind == RecordKind.BYTES:
        return _is_bytes(record)
    # Its runtime reads the rest, and passes over what makes no sense.
    return kind == RecordKind.CODE and len(record) >= CODE_HEADER.itemsize


def _is_stack(record: bytes) -> bool:
    if len(record) < STACK_HEADER.itemsize:
        return False
    _, count, state, _ = _STACK.unpack_from(record, _HEADER.size)
    return state in _STATES and count <= MAX_DEPTH and STACK_HEADER.itemsize + count * FRAME_SIZE <= len(record)


def _is_path(record: bytes) -> bool:
    if len(record) < PATH_HEADER.itemsize:
        return False
    _, length, _, flags = _PATH.unpack_from(record, _HEADER.size)
    return PATH_HEADER.itemsize + length <= len(record) and not flags & ~_ALL_FLAGS


def _is_arguments(record: bytes) -> bool:
    if len(record) < ARGUMENTS_HEADER.itemsize:
        return False
    _, probe, count, _ = _ARGUMENTS.unpack_from(record, _HEADER.size)
    rows_end = ARGUMENTS_HEADER.itemsize + count * ARGUMENT.itemsize
    return bool(probe < MAX_OWN_PROBES and rows_end <= len(record))


def _is_bytes(record: bytes) -> bool:
    if len(record) < BYTES_HEADER.itemsize:
        return False
    _, moved, length, tail, flags = _BYTES.unpack_from(record, _HEADER.size)
    if flags & BytesFlag.MANY:
        moved += _HEADERS_BYTES
    return bool(BYTES_HEADER.itemsize + length + tail <= len(record) and length + tail <= moved)


def _is_process(record: bytes) -> bool:
    if len(record) != OP_SIZE:
        return False
    event, _, _, _, start = _PROCESS.unpack_from(record, _HEADER.size)
    return event in _EVENTS and start < MAX_TIME_NS


def sound_operations(operations: np.ndarray, known: np.ndarray) -> np.ndarray:
    """Which rows can be taken on: a mask of shape (n,).

    `operations`: OPERATION, shape (n,). `known`: which numbers are operations, bool, shape (k,).
    """
    numbers = operations["op"]
    found: np.ndarray = (
        (operations["version"] == VERSION)
        & (operations["time"] < MAX_TIME_NS)
        & (operations["start"] <= operations["time"])
        & (numbers < len(known))
        & known[np.minimum(numbers, len(known) - 1)]
        & (operations["frame_state"] <= max(FrameState))
        & (operations["context_kind"] <= max(ContextKind))
        & (operations["cls"] < MAX_CLASSES)
    )
    return found
