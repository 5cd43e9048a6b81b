# SPDX-License-Identifier: Apache-2.0
"""Unix time of the kernel's instants, while somebody sets the wall clock."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from kernelspan_agent.resolve.clock import STEP_NS, Clock


class Clocks:
    """A monotonic and a wall clock that can be set; each look takes `cost_ns`."""

    def __init__(self, offset_ns: int = 10**18, cost_ns: int = 100) -> None:
        self.now_ns, self.offset_ns, self.cost_ns = 10**12, offset_ns, cost_ns

    def monotonic(self) -> int:
        """CLOCK_MONOTONIC."""
        self.now_ns += self.cost_ns
        return self.now_ns

    def wall(self) -> int:
        """CLOCK_REALTIME."""
        self.now_ns += self.cost_ns
        return self.now_ns + self.offset_ns


def clock_of(clocks: Clocks) -> Clock:
    """The clock under test."""
    return Clock(clocks.monotonic, clocks.wall)


@given(st.integers(0, 2**61), st.integers(0, 10_000))
def test_offset(offset_ns: int, cost_ns: int) -> None:
    """The difference of the two clocks, but for what a look at one takes."""
    clocks = Clocks(offset_ns, cost_ns)
    assert abs(clock_of(clocks).offset_ns - offset_ns) <= cost_ns


@given(st.integers(-(10**17), 10**17).filter(lambda step_ns: abs(step_ns) > 2 * STEP_NS))
def test_a_jump(step_ns: int) -> None:
    """Is told once, forwards or backwards; from then on the new time holds, and durations were never touched."""
    clocks = Clocks()
    clock = clock_of(clocks)
    before = clock.now_ns()
    assert not clock.stepped()
    clocks.offset_ns += step_ns
    assert clock.stepped()
    assert not clock.stepped()
    assert abs(clock.now_ns() - before - step_ns) < STEP_NS
    assert clock.monotonic_now_ns() == clocks.now_ns


def test_slewing_is_no_jump() -> None:
    """Two reads that a busy machine keeps apart are not taken for a clock that was set."""
    clocks = Clocks()
    clock = clock_of(clocks)
    kept = clock.offset_ns
    for _ in range(100):
        clocks.offset_ns += STEP_NS // 1000
        clocks.cost_ns = STEP_NS // 50
        assert not clock.stepped()
    assert clock.offset_ns == kept
