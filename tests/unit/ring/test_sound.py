# SPDX-License-Identifier: Apache-2.0
"""What is taken in: our programs' records and nothing else."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kernelspan_agent.ring import records
from kernelspan_agent.ring.records import OPERATION, PathFlag, ProcessEvent, RecordKind
from kernelspan_agent.ring.sound import MAX_TIME_NS, is_sound, sound_operations
from kernelspan_api.operations import BY_NUMBER
from tests.unit.resolve.making import operations, path_record, process_record, stack_record

KNOWN = np.array([number in BY_NUMBER for number in range(64)])


@pytest.mark.parametrize(
    ("kind", "record"),
    [
        (RecordKind.PATH, path_record(1, b"a\0b\0")),
        (RecordKind.PATH, path_record(1, b"", flags=PathFlag.RAW)),
        (RecordKind.STACK, stack_record(1, [])),
        (RecordKind.STACK, stack_record(1, [(1, 2, 3, 4, 0, 1, 0)] * records.MAX_DEPTH)),
        (RecordKind.PROCESS, process_record(ProcessEvent.FORK, 5)),
    ],
)
def test_ours(kind: int, record: bytes) -> None:
    """What our programs write is taken; cut short, of another version or another kind it is not."""
    assert is_sound(kind, record)
    for size in range(len(record)):
        assert not is_sound(kind, record[:size]), size
    for other in set(RecordKind) - {kind}:
        assert not is_sound(other, record)
    assert not is_sound(kind, record[:2] + b"\x63\0" + record[4:])


@pytest.mark.parametrize(
    ("kind", "record"),
    [
        (RecordKind.PATH, path_record(1, b"a\0", flags=0x80)),
        (RecordKind.PATH, path_record(1, b"a\0", length=500)),
        (RecordKind.STACK, stack_record(1, [], count=1)),
        (RecordKind.STACK, stack_record(1, [], count=0xFFFF)),
        (RecordKind.STACK, stack_record(1, [], state=99)),
        (RecordKind.PROCESS, process_record(ProcessEvent.FORK, 5, event=77)),
        (RecordKind.PROCESS, process_record(ProcessEvent.FORK, 5, start=MAX_TIME_NS)),
        (RecordKind.PROCESS, process_record(ProcessEvent.FORK, 5, time=1 << 63)),
        (RecordKind.OPERATION, operations(1).tobytes()),
        (77, path_record(1, b"a\0")),
    ],
)
def test_not_ours(kind: int, record: bytes) -> None:
    """A number that means nothing, or says more than there is."""
    assert not is_sound(kind, record)


@given(st.integers(0, 99), st.binary(max_size=1000))
def test_hostile_bytes(kind: int, data: bytes) -> None:
    """Any bytes get an answer."""
    assert is_sound(kind, data) in (True, False)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("version", 9), ("time", MAX_TIME_NS), ("start", 1 << 50), ("op", 0), ("op", 9), ("op", 64), ("op", 65), ("op", 0xFFFF),
        ("frame_state", 99), ("context_kind", 9),
    ],
)  # fmt: skip
def test_operations(field: str, value: int) -> None:
    """One row that is none of ours is told apart from its neighbours."""
    rows = operations(3)
    assert sound_operations(rows, KNOWN).tolist() == [True] * 3
    rows[field][1] = value
    assert sound_operations(rows, KNOWN).tolist() == [True, False, True]


@given(st.binary(min_size=OPERATION.itemsize, max_size=20 * OPERATION.itemsize))
def test_hostile_operations(data: bytes) -> None:
    """Any bytes get an answer for each row."""
    rows = np.frombuffer(data[: len(data) // OPERATION.itemsize * OPERATION.itemsize], OPERATION)
    assert sound_operations(rows, KNOWN).shape == rows.shape
