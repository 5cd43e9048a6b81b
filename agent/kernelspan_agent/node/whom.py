# SPDX-License-Identifier: Apache-2.0
"""Which processes of the node are traced for which profiles: by their pod, their container and processSelector.

A process is looked at when it starts another program, when a plan comes, and each few seconds for whatever changed
otherwise. Children follow their parents, as in the kernel: a process that a profile has is not asked its selector again.
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from pathlib import PurePosixPath
from typing import TYPE_CHECKING

from kernelspan_agent.errors import BudgetError
from kernelspan_agent.node.desired import uid_of
from kernelspan_agent.node.trouble import Trouble
from kernelspan_agent.process import procfs
from kernelspan_agent.process.errors import ProcessError
from kernelspan_agent.targets.pods import PodTarget, PodTargets
from kernelspan_agent.targets.select import Selection, all_processes, process_or_none

if TYPE_CHECKING:
    from kernelspan_agent.engine import Engine
    from kernelspan_agent.node.desired import Desired
    from kernelspan_agent.node.unobserved import Unobserved
    from kernelspan_agent.process.procfs import Process
    from kernelspan_api.control.control_pb2 import NodePlan

SCAN_SECONDS = 5.0


class Whom:
    """The processes of one plan."""

    def __init__(self, plan: NodePlan, desired: Sequence[Desired], unobserved: Unobserved) -> None:
        """`desired`: of the plan, those that are traced."""
        self._targets = PodTargets(plan)
        self._keys = {each.uid: each.key for each in desired}
        self._selections = {each.uid: _selection(each) for each in desired}
        self._unobserved = unobserved
        self._next_scan = 0.0
        self.refused: Trouble | None = None  # why a process is not traced that should be

    def scan(self, engine: Engine, now: float) -> None:
        """Looks at all processes, where it is time to. `now`: time.monotonic()."""
        if now < self._next_scan:
            return
        self._next_scan = now + SCAN_SECONDS
        for process in all_processes():
            self.consider(engine, process)

    def started(self, engine: Engine, pid: int, when_ns: int) -> None:
        """Looks at a process that became another program at `when_ns` (CLOCK_MONOTONIC)."""
        process = process_or_none(pid)
        if process is not None:
            self.consider(engine, process, when_ns + boot_ahead_ns())

    def consider(self, engine: Engine, process: Process, began_ns: int = 0) -> None:
        """Traces a process for whom it is to be traced, and for nobody else.

        `began_ns`: when its program did, CLOCK_BOOTTIME; 0: when the process did.
        """
        try:
            self._consider(engine, process, began_ns)
        except BudgetError as error:
            self.refused = Trouble(error.reason, f"{error} {error.hint}")

    def _consider(self, engine: Engine, process: Process, began_ns: int) -> None:
        target = self._targets.of_process(process)
        traced = engine.processes.latest(process.pid)
        if traced is None and (target is None or process.pid == os.getpid()):
            return
        have = traced.wanted_by if traced is not None else frozenset[str]()
        keys = self._wanted(process, target, have)
        surroundings = self._targets.resource(target) if target is not None else {}
        if traced is not None:
            engine.want(traced, keys)
            if target is not None and traced.surroundings != surroundings:
                traced.surroundings = surroundings
                traced.looks += 1
        elif keys and target is not None:
            engine.trace(process.pid, _name_of(process), keys, surroundings=surroundings)
            now_ns = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
            self._unobserved.began(target.pod, began_ns or _began_ns(process), now_ns)

    def _wanted(self, process: Process, target: PodTarget | None, have: frozenset[str]) -> frozenset[str]:
        if target is None:
            return frozenset()
        return frozenset(
            self._keys[uid]
            for uid in target.profiles
            if uid in self._keys and (_has(have, uid) or self._selects(uid, process))
        )

    def _selects(self, uid: str, process: Process) -> bool:
        selection = self._selections[uid]
        return selection is None or selection.wants(process)

    def pods(self, uid: str) -> int:
        """How many pods here have containers that run for a profile."""
        return self._targets.running(uid)


def _selection(desired: Desired) -> Selection | None:
    assert desired.profile is not None
    selector = desired.profile.spec.process_selector
    if not selector.executables and not selector.runtimes:
        return None
    return Selection(selector.executables, needs_runtime=bool(selector.runtimes))


def _has(have: frozenset[str], uid: str) -> bool:
    """Whether one of these keys is of the profile, of whatever generation."""
    return any(uid_of(key) == uid for key in have)


def _began_ns(process: Process) -> int:
    """When the process began, on CLOCK_BOOTTIME; in steps of a clock tick (10 ms)."""
    return process.start_ticks * (1_000_000_000 // os.sysconf("SC_CLK_TCK"))


def boot_ahead_ns() -> int:
    """What CLOCK_BOOTTIME shows more than CLOCK_MONOTONIC: the time asleep."""
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME) - time.monotonic_ns()


def _name_of(process: Process) -> str:
    try:
        return PurePosixPath(procfs.read_executable(process)[0]).name
    except ProcessError:
        return "?"


def counts_of(engine: Engine, key: str) -> tuple[int, Mapping[str, tuple[int, int]]]:
    """Processes traced for a profile, and by runtime: how many, and of how many the stacks are read."""
    alive = [each for each in engine.processes.alive() if key in each.wanted_by]
    runtimes: dict[str, tuple[int, int]] = {}
    for traced in alive:
        if traced.runtime is not None:
            count, unwinding = runtimes.get(traced.runtime.runtime, (0, 0))
            runtimes[traced.runtime.runtime] = (count + 1, unwinding + 1)
    return len(alive), runtimes
