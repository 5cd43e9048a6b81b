# SPDX-License-Identifier: Apache-2.0
"""Places in the kernel's arrays: nobody has two others' at once, and what was given back rests before another has it."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from kernelspan_agent.runtimes.native.room import QUARANTINE_NS, Extent, Room

PLACES = 32


def test_what_is_given_back_rests() -> None:
    """A walk may read it still."""
    now = [0]
    room = Room(PLACES, lambda: now[0])
    taken = room.take(PLACES)
    assert taken == Extent(0, PLACES)
    room.give_back(taken)
    now[0] = QUARANTINE_NS
    assert room.take(1) is None
    now[0] = QUARANTINE_NS + 1
    assert room.take(PLACES) == taken


@given(st.lists(st.one_of(st.integers(1, 12), st.integers(-9, -1)), max_size=60))
def test_any_order(acts: list[int]) -> None:
    """Takes (how many) and returns (which); in the end all is there again."""
    now, had = [0], list[Extent]()
    room = Room(PLACES, lambda: now[0])
    for act in acts:
        now[0] += QUARANTINE_NS + 1
        if act > 0 and (taken := room.take(act)) is not None:
            assert taken.count == act
            had.append(taken)
        elif act < 0 and had:
            room.give_back(had.pop(act % len(had)))
        places = [place for each in had for place in range(each.first, each.first + each.count)]
        assert len(places) == len(set(places))
        assert all(place < PLACES for place in places)
    for each in had:
        room.give_back(each)
    now[0] += QUARANTINE_NS + 1
    assert room.take(PLACES) == Extent(0, PLACES)
