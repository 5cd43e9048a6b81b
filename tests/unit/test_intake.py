# SPDX-License-Identifier: Apache-2.0
"""The queue behind the ring: that operations were dropped is said where they were."""

from __future__ import annotations

import queue
import threading
from collections import deque
from unittest.mock import Mock

import numpy as np

from kernelspan_agent.intake import MAX_WAITING_OPERATIONS, Intake
from kernelspan_agent.probes.constants import MAX_CLASSES
from kernelspan_agent.ring.reader import Drained
from kernelspan_agent.ring.records import OPERATION, RecordKind

NAMES = [(int(RecordKind.STACK), b"one")]


def reading(*counts: int) -> Intake:
    """One whose ring gives so many operations each time."""
    made = Intake.__new__(Intake)
    made._queue, made._ahead = queue.SimpleQueue(), deque()
    made._given = made._through = made._put = 0
    made._waiting, made._received, made._queue_full = (np.zeros(MAX_CLASSES, np.int64) for _ in range(3))
    made._lock, made._ring = threading.Lock(), Mock(left=0, size=1 << 22)
    made._ring.drain.side_effect = [Drained(np.zeros(count, OPERATION), NAMES, end=count) for count in counts]
    return made


def test_a_full_queue_says_what_it_dropped_where_it_did() -> None:
    """The piece keeps its place and its names, also when it was looked at ahead of its turn."""
    intake = reading(MAX_WAITING_OPERATIONS, 5, 0)
    intake._drain()
    intake._drain()
    intake._drain()
    intake.look_ahead(lambda records, _held: (records, set()))
    found = [intake.next(0.0) for _ in range(3)]
    said = [(len(each.operations), each.others, each.is_cut) for each in found if each is not None]
    assert said == [(MAX_WAITING_OPERATIONS, NAMES, False), (0, NAMES, True), (0, NAMES, False)]
    assert int(intake.counts()[2].sum()) == 5
