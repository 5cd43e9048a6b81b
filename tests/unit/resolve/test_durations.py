# SPDX-License-Identifier: Apache-2.0
"""How long calls of own probes took: buckets by powers of two, for each probe by itself."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from kernelspan_agent.resolve.durations import BUCKETS, Durations
from kernelspan_agent.ring.records import MAX_OWN_PROBES, OPERATION, OWN_OPERATION, OperationFlag


def operations(*rows: tuple[int, int, int]) -> np.ndarray:
    """Of (operation, ns that it took, flags)."""
    ops = np.zeros(len(rows), OPERATION)
    for at, (number, took, flags) in enumerate(rows):
        ops[at]["op"], ops[at]["flags"] = number, flags
        ops[at]["start"], ops[at]["time"] = 1 << 50, (1 << 50) + took
    return ops


def test_each_probe_has_its_own() -> None:
    """Built-in operations and instants are none of it; what lies between the first and the last is there, empty."""
    durations = Durations()
    durations.add(operations((OWN_OPERATION, 1000, 0), (OWN_OPERATION, 5000, 0), (3, 1000, 0)))
    durations.add(operations((OWN_OPERATION + 5, 7, 0), (OWN_OPERATION, 0, OperationFlag.INSTANT)))
    assert durations.of(0) == [(512, 1024, 1), (1024, 2048, 0), (2048, 4096, 0), (4096, 8192, 1)]
    assert durations.of(5) == [(4, 8, 1)]
    assert durations.of(1) == []


@given(st.lists(st.tuples(st.integers(0, MAX_OWN_PROBES - 1), st.integers(0, 1 << 62)), max_size=50))
def test_every_duration_is_in_its_bucket(rows: list[tuple[int, int]]) -> None:
    """Whatever it is: none is lost, none is in another probe's."""
    durations = Durations()
    durations.add(operations(*((OWN_OPERATION + number, took, 0) for number, took in rows)))
    for number in range(MAX_OWN_PROBES):
        mine = [took for probe, took in rows if probe == number]
        buckets = durations.of(number)
        assert sum(count for _, _, count in buckets) == len(mine)
        for low, high, count in buckets:
            # from 2^53 on a float is not exact: one that is nearly a power of two may be taken for it
            exact = [took for took in mine if low <= took < high and took < 1 << 53]
            assert count >= len(exact)


def test_a_clock_that_jumps() -> None:
    """An end before the start took no time, and the longest there can be has the last bucket."""
    ops = operations((OWN_OPERATION, 0, 0), (OWN_OPERATION, 0, 0))
    ops["start"][0], ops["time"][0] = 100, 50
    ops["start"][1], ops["time"][1] = 0, (1 << 63) - 1
    durations = Durations()
    durations.add(ops)
    assert [bucket for bucket in durations.of(0) if bucket[2]] == [(0, 1, 1), (1 << BUCKETS - 2, 1 << BUCKETS - 1, 1)]
