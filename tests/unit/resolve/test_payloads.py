# SPDX-License-Identifier: Apache-2.0
"""The number of an exchange: the same at both ends, wherever on the wheel of sequence numbers."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from kernelspan_agent.resolve.payloads import PayloadTable, exchange_id
from kernelspan_agent.ring.records import BYTES_HEADER, OPERATION

U = 0xFFFFFFFF
U32 = st.integers(0, 2**32 - 1)


def header(*, sends: bool, moved: int, written: int, copied: int) -> np.ndarray:
    made = np.zeros(1, BYTES_HEADER)
    made["sends"], made["moved"], made["written"], made["copied"] = sends, moved, written & U, copied & U
    return made


@given(U32, U32, st.integers(1, 2**31), st.integers(1, 2**31))
def test_both_ends_say_the_same(asked: int, answered: int, sent: int, received: int) -> None:
    """Whatever part of the request each has moved by its first call; and no other exchange of the connection does."""
    client = header(sends=True, moved=sent, written=asked + sent, copied=answered)[0]
    server = header(sends=False, moved=received, written=answered, copied=asked + received)[0]
    assert exchange_id(client) == exchange_id(server)
    later = header(sends=True, moved=sent, written=asked + sent + 1, copied=answered)[0]
    assert exchange_id(later) != exchange_id(client)


def test_what_is_no_tcp_has_none() -> None:
    """A unix socket has no such numbers."""
    assert exchange_id(header(sends=True, moved=5, written=0, copied=0)[0]) == 0


def test_it_comes_with_the_payload() -> None:
    """Of the operation whose thread and time the record has."""
    record, ops = header(sends=True, moved=3, written=10, copied=20), np.zeros(1, OPERATION)
    record["length"], record["time"], record["tid"] = 3, 77, 9
    ops["time"], ops["tid"] = 77, 9
    table = PayloadTable()
    table.learn(record.tobytes() + b"GET")
    payload = table.of(ops)[0]
    assert (payload.data, payload.sends, payload.exchange_id) == (b"GET", True, 7 << 32 | 20)
