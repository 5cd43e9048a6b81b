# SPDX-License-Identifier: Apache-2.0
"""Which processes of the node are traced for which profiles: by their pod, their container and processSelector.

A process is looked at when it starts another program, when a plan comes, and each few seconds for whatever changed
otherwise. Children follow their parents, as in the kernel: a process that a profile has is not asked its selector again.
"""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from kernelspan_agent.errors import BudgetError
from kernelspan_agent.node.desired import uid_of
from kernelspan_agent.node.trouble import Trouble
from kernelspan_agent.resolve.clock import TICK_NS, boot_ahead_ns
from kernelspan_agent.runtimes.registry import Unsupported
from kernelspan_agent.targets.pods import PodTarget, PodTargets
from kernelspan_agent.targets.select import Selection, all_processes, name_of, process_or_none

if TYPE_CHECKING:
    from kernelspan_agent.engine import Engine
    from kernelspan_agent.node.desired import Desired
    from kernelspan_agent.node.unobserved import Unobserved
    from kernelspan_agent.process.procfs import Process
    from kernelspan_agent.resolve.traced import TracedProcess
    from kernelspan_api.control.control_pb2 import NodePlan

SCAN_SECONDS = 5.0
PENDING_NS = 10_000_000_000  # of a runtime that is still being found out: not told before
_SOON = Unsupported("RuntimePending", "")


class Whom:
    """The processes of one plan."""

    def __init__(self, plan: NodePlan, desired: Sequence[Desired], unobserved: Unobserved) -> None:
        """`desired`: of the plan, those that are traced."""
        self._targets = PodTargets(plan)
        self._keys = {each.uid: each.key for each in desired}
        found = {each.uid: _selection(each) for each in desired}
        self._selections = {uid: selection for uid, selection in found.items() if selection is not None}
        self._keys_of: dict[frozenset[str], tuple[frozenset[str], tuple[str, ...]]] = {}
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
            self.refused = Trouble(error.reason, error.with_hint())

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
            engine.trace(process.pid, name_of(process), keys, surroundings=surroundings)
            now_ns = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
            self._unobserved.began(target.pod, began_ns or _began_ns(process), now_ns)

    def _wanted(self, process: Process, target: PodTarget | None, have: frozenset[str]) -> frozenset[str]:
        if target is None:
            return frozenset()
        keys, choosy = self._split(target.profiles)
        if not choosy:
            return keys
        had = {uid_of(key) for key in have}  # of whatever generation
        return keys | {self._keys[uid] for uid in choosy if uid in had or self._selections[uid].wants(process)}

    def _split(self, uids: frozenset[str]) -> tuple[frozenset[str], tuple[str, ...]]:
        """The keys of those profiles that want every process, and the uids of the others."""
        found = self._keys_of.get(uids)
        if found is None:
            here = [uid for uid in uids if uid in self._keys]
            keys = frozenset(self._keys[uid] for uid in here if uid not in self._selections)
            found = self._keys_of[uids] = keys, tuple(uid for uid in here if uid in self._selections)
        return found

    def pods(self, uid: str) -> int:
        """How many pods here have containers that run for a profile."""
        return self._targets.running(uid)


def _selection(desired: Desired) -> Selection | None:
    assert desired.profile is not None
    selector = desired.profile.spec.process_selector
    if not selector.executables and not selector.runtimes:
        return None
    return Selection(selector.executables, [runtime.value for runtime in selector.runtimes])


def _began_ns(process: Process) -> int:
    """When the process began, on CLOCK_BOOTTIME; in steps of a clock tick (10 ms)."""
    return process.start_ticks * TICK_NS


@dataclass(slots=True)
class OfRuntime:
    """Processes of one runtime, of how many of them the stacks are read, and why those of one are not."""

    running: int = 0
    walked: int = 0
    why: Unsupported | None = None


def counts_of(engine: Engine) -> Mapping[str, tuple[int, Mapping[str, OfRuntime]]]:
    """By key: processes traced for a profile, and what is to say of each runtime."""
    now_ns = time.monotonic_ns()
    sets = Counter((each.wanted_by, _runtime_of(each), _why(each, now_ns)) for each in engine.processes.alive())
    counts: dict[str, int] = {}
    runtimes: dict[str, dict[str, OfRuntime]] = {}
    for (keys, runtime, why), count in sets.items():
        for key in keys:
            counts[key] = counts.get(key, 0) + count
            if runtime:
                found = runtimes.setdefault(key, {}).setdefault(runtime, OfRuntime())
                found.running += count
                found.walked += count if why is None else 0
                if why is not None and why is not _SOON:
                    found.why = why if found.why is None else min(found.why, why, key=_by_words)
    return {key: (count, runtimes.get(key, {})) for key, count in counts.items()}


def _by_words(why: Unsupported) -> tuple[str, str]:
    return why.reason, why.message


def _why(traced: TracedProcess, now_ns: int) -> Unsupported | None:
    """Why its stacks are not read; _SOON where that passes by itself, mostly in milliseconds."""
    found = traced.unsupported
    return _SOON if found is not None and found.waits and now_ns - traced.start_ns < PENDING_NS else found


def _runtime_of(traced: TracedProcess) -> str:
    if traced.runtime is not None:
        return traced.runtime.runtime
    return traced.unsupported.runtime if traced.unsupported is not None else ""
