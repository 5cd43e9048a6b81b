# SPDX-License-Identifier: Apache-2.0
"""The number of an exchange: the same at both ends, wherever on the wheel of sequence numbers."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from kernelspan_agent.resolve.payloads import PayloadTable
from kernelspan_agent.ring.records import BYTES_HEADER, OPERATION, BytesFlag

U = 0xFFFFFFFF
U32 = st.integers(0, 2**32 - 1)
DATA = b"GET"


def exchange_id(*, sends: bool, moved: int, position: int, other: int, placed: bool = True) -> int:
    """Of the payload that the operation with the record's thread and time gets."""
    record, ops = np.zeros(1, BYTES_HEADER), np.zeros(1, OPERATION)
    record["flags"] = (BytesFlag.SENDS if sends else 0) | (BytesFlag.PLACED if placed else 0)
    record["moved"], record["position"], record["other"] = moved, position & U, other & U
    record["length"], record["time"], record["tid"] = len(DATA), 77, 9
    ops["time"], ops["tid"] = 77, 9
    table = PayloadTable()
    table.learn(record.tobytes() + DATA)
    payload = table.of(ops)[0]
    assert (payload.data, payload.sends, payload.moved) == (DATA, sends, moved)
    return payload.exchange_id


@given(U32, U32, st.integers(3, 2**31), st.integers(3, 2**31))
def test_both_ends_say_the_same(asked: int, answered: int, sent: int, received: int) -> None:
    """Whatever part of the request each has moved by its first call; and no other exchange of the connection does."""
    client = exchange_id(sends=True, moved=sent, position=asked + sent, other=answered)
    assert client == exchange_id(sends=False, moved=received, position=asked + received, other=answered)
    assert client != exchange_id(sends=True, moved=sent, position=asked + sent + 1, other=answered)


def test_what_is_no_tcp_has_none() -> None:
    """A unix socket has no such numbers."""
    assert exchange_id(sends=True, moved=5, position=0, other=0, placed=False) == 0
