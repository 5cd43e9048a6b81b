# SPDX-License-Identifier: Apache-2.0
"""When processes are looked for whose records were lost: not before what is on its way has been taken on."""

from __future__ import annotations

from typing import Any, cast

from kernelspan_agent.lost import LostProcesses


class Machine:
    """A session, an intake and a table of processes, all in one."""

    def __init__(self) -> None:
        self.lost, self.now, self.told, self.taken_on = 0, 1000, 0, 0
        self.looked: list[int] = []

    def lost_processes(self) -> int:
        return self.lost

    def mark(self) -> int:
        return self.told

    def is_through(self, mark: int) -> bool:
        return self.taken_on >= mark

    def catch_up(self, before_ns: int, _now_ns: object) -> None:
        self.looked.append(before_ns)


def test_a_loss_is_made_good_once_all_is_taken_on() -> None:
    """What was told by then is taken on first; a loss meanwhile is made good after it."""
    machine = Machine()
    part = cast("Any", machine)
    lost = LostProcesses(part, part, part, lambda: machine.now)
    lost.tick()
    machine.lost, machine.now = 3, 2000
    lost.tick()
    machine.told, machine.now = 10, 3000
    for _ in range(3):
        lost.tick()
    assert machine.looked == []
    machine.lost, machine.told, machine.taken_on = 4, 20, 10
    lost.tick()
    assert machine.looked == [2000]
    for _ in range(3):
        lost.tick()
    assert machine.looked == [2000]
    machine.taken_on = 20
    lost.tick()
    lost.tick()
    assert machine.looked == [2000, 3000]
