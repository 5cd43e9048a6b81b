# SPDX-License-Identifier: Apache-2.0
"""Which calls are taken out of a map of the kernel's, and which are left alone."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator

import pytest

from kernelspan_agent.probes import bpf
from kernelspan_agent.probes.own.sweep import CALL, KEY, Calls, Sweeper

IMAGE, CLASS, OTHER_CLASS = 77, 3, 4
SECOND = 1_000_000_000


class Map:
    """A map as a probe has one, and calls in it by a name: the place of their frame."""

    def __init__(self, room: int) -> None:
        self.fd = bpf.map_create(bpf.MAP_TYPES["hash"], KEY.size, CALL.size, room, 0, "ks_test")
        self.calls = Calls(self.fd, CALL.size, room)

    def put(
        self, frame: int, tid: int, *, ago: float = 2.0, image: int = IMAGE, space: int = 0, cls: int = CLASS
    ) -> None:
        start = 0 if ago < 0 else max(1, time.monotonic_ns() - int(ago * SECOND))
        bpf.map_update(self.fd, KEY.pack(frame, tid, space), CALL.pack(start, image, 0, os.getpid(), tid, cls, 0))

    @property
    def frames(self) -> set[int]:
        return {KEY.unpack(key)[0] for key in bpf.map_keys(self.fd, KEY.size)}


@pytest.fixture
def sweeper() -> Sweeper:
    return Sweeper({os.getpid(): IMAGE}.get)


@pytest.fixture
def small() -> Iterator[Map]:
    made = Map(8)
    yield made
    os.close(made.fd)


def _ended_thread() -> int:
    thread = threading.Thread(target=lambda: None)
    thread.start()
    thread.join()
    assert thread.native_id is not None
    return thread.native_id


def test_what_cannot_end(sweeper: Sweeper, small: Map) -> None:
    """Of a thread that has ended, of one that has its number since, of another program: those go, each counted once."""
    time.sleep(0.1)
    me = threading.get_native_id()
    small.put(1, me, ago=0.02)
    small.put(2, _ended_thread(), ago=2)
    small.put(3, me, ago=1e6, cls=OTHER_CLASS)  # before we began
    small.put(4, me, ago=0.02, image=IMAGE + 1)
    small.put(5, _ended_thread(), ago=2, space=os.getpid())  # of Go: another thread may go on with it
    small.put(6, _ended_thread(), ago=-1)  # of which a program is writing what it is
    sweeper.sweep([small.calls], min_age_ns=0)
    assert small.frames == {1, 5, 6}
    assert sweeper.gone == {CLASS: 2, OTHER_CLASS: 1}
    sweeper.sweep([small.calls], min_age_ns=0)
    assert sum(sweeper.gone.values()) == 3
    assert not sweeper.left


def test_what_is_young(sweeper: Sweeper, small: Map) -> None:
    """Is not looked at."""
    small.put(1, _ended_thread(), ago=0)
    sweeper.sweep([small.calls])
    assert small.frames == {1}


def test_a_map_that_fills_up(sweeper: Sweeper, small: Map) -> None:
    """Below a later call of the same thread there is nothing any more; where there is room, nobody minds."""
    me = threading.get_native_id()
    begun = 0.05  # in this process's life
    time.sleep(begun * 2)
    for place, frame in enumerate([900, 800, 700]):  # one in another
        small.put(frame, me, ago=begun - place / 1000)
    small.put(850, me, ago=begun / 2)  # begun later, further out than 800 and 700
    sweeper.sweep([small.calls], min_age_ns=0)
    assert small.frames == {900, 850, 800, 700}
    small.put(600, me, ago=begun / 3)
    sweeper.sweep([small.calls], min_age_ns=0)
    assert small.frames == {900, 850, 600}
    assert sweeper.left == {CLASS: 2}
    assert not sweeper.gone


def test_a_sweep_is_bounded_and_goes_on(sweeper: Sweeper) -> None:
    """Several maps, a few looks a time: in the end all were looked at."""
    maps = [Map(16) for _ in range(3)]
    try:
        for each in maps:
            for frame in range(10):
                each.put(frame, _ended_thread())
        for _ in range(12):
            before = sum(sweeper.gone.values())
            sweeper.sweep([each.calls for each in maps], 5)
            assert sum(sweeper.gone.values()) - before <= 5
        assert [each.frames for each in maps] == [set(), set(), set()]
    finally:
        for each in maps:
            os.close(each.fd)


def test_ticks_are_rare(sweeper: Sweeper, small: Map) -> None:
    """Whoever asks more often waits."""
    sweeper.tick(100.0, [small.calls])
    small.put(1, _ended_thread())
    sweeper.tick(104.9, [small.calls])
    assert small.frames == {1}
    sweeper.tick(105.0, [small.calls])
    assert small.frames == set()
