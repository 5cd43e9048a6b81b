# SPDX-License-Identifier: Apache-2.0
"""The reader's view of a stretch of the ring: whole slots, small and large records, those not finished yet, hostile ones."""

from __future__ import annotations

import struct

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from kernelspan_agent.ring.reader import _large
from kernelspan_agent.ring.records import OP_SIZE, RING_HEADER, SLOT, RecordKind

BUSY, DISCARD = 1 << 31, 1 << 30


def slots_of(*records: tuple[int, bytes]) -> bytes:
    """What the kernel makes of records: header, content, up to whole slots. Each: (bits of the length, content)."""
    made = b""
    for bits, content in records:
        size = -(-(len(content) + RING_HEADER) // SLOT) * SLOT
        made += (struct.pack("<II", len(content) | bits, 0) + content).ljust(size, b"\xaa")
    return made


def split(copied: bytes) -> tuple[list[tuple[int, bytes]], np.ndarray, int]:
    """`_large` on a stretch as `drain` calls it."""
    slots = np.frombuffer(copied, np.uint8).reshape(-1, SLOT)
    lengths = slots[:, :4].copy().view(np.uint32)[:, 0]
    kinds = slots[:, RING_HEADER : RING_HEADER + 2].copy().view(np.uint16)[:, 0]
    return _large(copied, lengths, kinds)


def record(kind: int, size: int, fill: bytes = b"\0") -> bytes:
    """A record of that kind and size."""
    return struct.pack("<H", kind).ljust(size, fill)


records = st.lists(
    st.tuples(
        st.sampled_from([0, 0, 0, DISCARD]),
        st.builds(record, st.sampled_from(RecordKind), st.integers(2, 5 * SLOT), st.sampled_from([b"\0", b"\x01"])),
    ),
    max_size=40,
)


@given(records)
def test_every_record_is_found(made: list[tuple[int, bytes]]) -> None:
    """Records of any size come out as they went in, in order; what was discarded does not."""
    others, keep, used = split(slots_of(*made))
    operation = [len(content) == OP_SIZE and content[:2] == b"\x01\0" for _, content in made]
    wanted = [content for (bits, content), small in zip(made, operation, strict=True) if not bits and not small]
    assert [content for _, content in others] == wanted
    assert int(keep.sum()) == sum(small and not bits for (bits, _), small in zip(made, operation, strict=True))
    assert used * SLOT == len(slots_of(*made))


@given(records, records)
def test_nothing_beyond_what_is_not_finished(before: list[tuple[int, bytes]], after: list[tuple[int, bytes]]) -> None:
    """A record that is still being written ends the stretch: all before it is read, nothing after."""
    busy = (BUSY, record(RecordKind.PATH, 300))
    others, keep, used = split(slots_of(*before, busy, *after))
    alone = split(slots_of(*before))
    assert others == alone[0]
    assert keep[:used].tolist() == alone[1].tolist()
    assert used == alone[2]


def test_an_operation_inside_another_record_is_none() -> None:
    """Content that looks like the beginning of a record is content."""
    inside = struct.pack("<II", OP_SIZE, 0) + record(RecordKind.OPERATION, OP_SIZE)
    content = record(RecordKind.PATH, SLOT - RING_HEADER) + inside + inside
    others, keep, used = split(slots_of((0, content), (0, record(RecordKind.OPERATION, OP_SIZE))))
    assert others == [(RecordKind.PATH, content)]
    assert keep.tolist() == [False, False, False, True]
    assert used == 4


@given(st.binary(max_size=40 * SLOT))
def test_hostile_bytes(data: bytes) -> None:
    """Whatever the ring holds, it is taken apart in bounds and in order, and the reader comes to an end."""
    data = data[: len(data) // SLOT * SLOT]
    others, keep, used = split(data)
    assert 0 <= used <= len(data) // SLOT
    assert len(keep) == len(data) // SLOT
    assert int(keep[:used].sum()) + len(others) <= used
    assert sum(len(content) for _, content in others) <= len(data)
