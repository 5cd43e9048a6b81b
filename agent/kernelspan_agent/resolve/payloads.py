# SPDX-License-Identifier: Apache-2.0
"""The first bytes of what calls sent and received, by the operation they belong to: they come in a record before its own."""

from __future__ import annotations

import socket
from collections import OrderedDict

import numpy as np

from kernelspan_agent.model import Payload, Peer, ThreadTime, WireProtocol
from kernelspan_agent.ring.records import BYTES, BytesFlag

MAX_BYTES = 8 << 20
KEPT_NS = 1_000_000_000  # an operation comes with its bytes, or as soon as its walk is done
_SENDS, _FIRST, _PLACED, _FRAMES, _AT_FRAME, _DATAGRAM, _MANY = map(
    int,
    (
        BytesFlag.SENDS,
        BytesFlag.FIRST,
        BytesFlag.PLACED,
        BytesFlag.FRAMES,
        BytesFlag.AT_FRAME,
        BytesFlag.DATAGRAM,
        BytesFlag.MANY,
    ),
)
_MAPPED = b"\0" * 10 + b"\xff\xff"  # an IPv4 address in an IPv6 one: RFC 4291, 2.5.5.2


class PayloadTable:
    """Those of the last second, by (thread, end of the call in ns of the monotonic clock)."""

    def __init__(self) -> None:
        self._records: OrderedDict[tuple[int, int], bytes] = OrderedDict()
        self._bytes = self._newest_ns = 0
        self.dropped = 0

    def learn(self, record: bytes) -> None:
        """Takes in a BYTES record."""
        _, _, _, when, _, tid, *_ = BYTES.unpack_from(record)
        key = tid, when
        if key in self._records:
            self._bytes -= len(self._records.pop(key))
        self._records[key] = record
        self._bytes += len(record)
        self._newest_ns = max(self._newest_ns, key[1])
        while self._bytes > MAX_BYTES:
            self._bytes -= len(self._records.popitem(last=False)[1])
            self.dropped += 1

    def age(self) -> None:
        """Lets go of those whose operations have come long since."""
        while self._records and next(iter(self._records))[1] < self._newest_ns - KEPT_NS:
            self._bytes -= len(self._records.popitem(last=False)[1])

    def of(self, ops: np.ndarray) -> dict[int, Payload]:
        """Row to payload, of those rows that have one. `ops`: OPERATION, shape (n,)."""
        if not self._records:
            return {}
        found = {}
        for row, key in enumerate(zip(ops["tid"].tolist(), ops["time"].tolist(), strict=True)):
            record = self._records.get(key)
            if record is not None:
                found[row] = _payload(record, ops, row)
        return found


def _payload(record: bytes, ops: np.ndarray, row: int) -> Payload:
    _, _, _, when, _, tid, connection, moved, length, tail, flags, protocol, position, other, untimed, away = (
        BYTES.unpack_from(record)
    )
    middle = BYTES.size + length
    return Payload(
        connection,
        bool(flags & _SENDS),
        moved,
        record[BYTES.size : middle],
        record[middle : middle + tail],
        WireProtocol(protocol),
        bool(flags & _FIRST),
        position=position if flags & _PLACED else None,
        other=other if flags & _PLACED else None,
        is_framed=bool(flags & _FRAMES),
        at_frame=bool(flags & _AT_FRAME),
        is_datagram=bool(flags & _DATAGRAM),
        is_many=bool(flags & _MANY),
        peer=_peer(ops, row) if flags & _DATAGRAM else None,
        thread=ThreadTime(tid, when, away, untimed),
    )


def _peer(ops: np.ndarray, row: int) -> Peer | None:
    """None: a call that does not say it. An address that means any is answered from another."""
    port, address = int(ops["peer_port"][row]), ops["peer_address"][row].tobytes()
    if ops["family"][row] == socket.AF_INET:
        address = address[:4]
    elif address.startswith(_MAPPED):
        address = address[len(_MAPPED) :]
    return (port, address) if port and any(address) else None
