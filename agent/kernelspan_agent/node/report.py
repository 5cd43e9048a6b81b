# SPDX-License-Identifier: Apache-2.0
"""How each profile of the plan stands on this node, as the operator is told."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from kernelspan_agent.accounting import Accounting
from kernelspan_agent.guard.control import Phase
from kernelspan_agent.guard.measured import OPERATIONS, Told, part_of
from kernelspan_agent.node.desired import uid_of
from kernelspan_agent.node.trouble import Trouble
from kernelspan_agent.node.whom import OfRuntime, Whom, counts_of
from kernelspan_agent.probes.own.probe import Standing
from kernelspan_api.control.control_pb2 import Counters, ProbeState, ProfileState, RuntimeCount
from kernelspan_api.operations import Group
from kernelspan_api.reasons import Reason
from kernelspan_api.selectors import Runtime
from kernelspan_api.status import ProbeState as State

if TYPE_CHECKING:
    from kernelspan_agent.engine import Engine
    from kernelspan_agent.node.desired import Desired
    from kernelspan_api.userprobes import UserProbe

GRACE_SECONDS = 10.0  # a container that has started has no process of its own program for a moment
COUNTERS_SECONDS = 10.0
MAX_MESSAGE = 1024  # as a status has it
_GROUPS = frozenset(group.value for group in Group)
_RUNTIMES = {runtime.value.lower(): runtime.value for runtime in Runtime}


@dataclass(slots=True)
class _Export:
    exported: int = 0
    failed: int = 0
    unreachable: bool = False


@dataclass(slots=True)
class Reports:
    """Makes the states of a plan's profiles; remembers what was told before. Not for several threads."""

    _exports: dict[str, _Export] = field(default_factory=dict)
    _counters: dict[str, tuple[float, Counters]] = field(default_factory=dict)
    _past: dict[str, Counters] = field(default_factory=dict)
    _empty_since: dict[str, float] = field(default_factory=dict)

    def states(
        self,
        desired: list[Desired],
        engine: Engine | None,
        whom: Whom | None,
        troubles: Mapping[str, Trouble],
        now: float,
    ) -> list[ProfileState]:
        """One for each. `troubles`: by key. `now`: time.monotonic()."""
        counts = counts_of(engine) if engine is not None else {}
        if engine is not None:
            self._count(engine, now)
        return [
            self._state(each, engine, whom, troubles.get(each.key), now, *counts.get(each.key, (0, {})))
            for each in desired
        ]

    def _state(
        self,
        one: Desired,
        engine: Engine | None,
        whom: Whom | None,
        trouble: Trouble | None,
        now: float,
        processes: int,
        runtimes: Mapping[str, OfRuntime],
    ) -> ProfileState:
        state = ProfileState(uid=one.uid, generation=one.generation, reason=one.reason, message=one.message)
        if one.profile is None:
            return state
        if trouble is None and whom is not None:
            trouble = whom.refused
        if trouble is not None:
            state.reason, state.message = trouble.reason, trouble.message
        is_traced = engine is not None and one.key in engine.profiles
        state.probes.extend(_probes(one, engine if is_traced else None, trouble))
        if engine is None or not is_traced:
            return state
        if (told := engine.guard.told(one.key)) is not None:
            _say_limits(state, told)
        state.processes = processes
        for runtime, found in sorted(runtimes.items()):
            name = _RUNTIMES.get(runtime, runtime)
            count = RuntimeCount(runtime=name, processes=found.running, unwinding=found.walked)
            if found.why is not None:
                count.reason, count.message = found.why.reason, found.why.message[:MAX_MESSAGE]
            state.runtimes.append(count)
        if one.uid in self._counters:
            state.counters.CopyFrom(self._counters[one.uid][1])
        state.export_reason = self._export_reason(one, engine)
        if not state.reason and whom is not None:
            self._say_empty(one, state, whom, now)
        return state

    def _count(self, engine: Engine, now: float) -> None:
        """Balances over all of a profile's specs, no older than COUNTERS_SECONDS: each is a look at every CPU's counters."""
        due: dict[str, list[str]] = {}
        for key in engine.profiles:
            uid = uid_of(key)
            if now - self._counters.get(uid, (-COUNTERS_SECONDS, None))[0] >= COUNTERS_SECONDS:
                due.setdefault(uid, []).append(key)
        in_flight = engine.session.in_flight() if due else {}
        for uid, keys in due.items():
            counters = Counters()
            counters.CopyFrom(self._past.get(uid, counters))
            for key in keys:
                _add(counters, counters_of(engine.accounting_of(key, in_flight)))
            self._counters[uid] = (now, counters)

    def _export_reason(self, one: Desired, engine: Engine) -> str:
        snapshot = engine.profiles[one.key].exporter.counters.snapshot()
        before = self._exports.setdefault(one.key, _Export())
        failed = snapshot.retries + sum(snapshot.spans_dropped.values())
        if snapshot.spans_exported > before.exported:
            before.unreachable = False
        elif failed > before.failed:
            before.unreachable = True
        before.exported, before.failed = snapshot.spans_exported, failed
        return Reason.COLLECTOR_UNREACHABLE.value if before.unreachable else ""

    def _say_empty(self, one: Desired, state: ProfileState, whom: Whom, now: float) -> None:
        if state.processes or not whom.pods(one.uid):
            self._empty_since.pop(one.key, None)
            return
        since = self._empty_since.setdefault(one.key, now)
        if now - since >= GRACE_SECONDS:
            reason = Reason.NO_MATCHING_PROCESSES
            state.reason, state.message = reason.value, f"{reason.meaning} {reason.remedy}"

    def leaves(self, key: str, found: Accounting) -> None:
        """The engine has the profile no more; what is in flight of it is nobody's."""
        counters = counters_of(found)
        counters.seen -= counters.in_flight
        counters.in_flight = 0
        _add(self._past.setdefault(uid_of(key), Counters()), counters)
        self._exports.pop(key, None)
        self._empty_since.pop(key, None)

    def keep(self, uids: set[str]) -> None:
        """Only these profiles are in the plan."""
        for table in (self._past, self._counters):
            for uid in set(table) - uids:
                del table[uid]


def _probes(one: Desired, engine: Engine | None, trouble: Trouble | None) -> Iterator[ProbeState]:
    """The user's own, each group of operations, and what this version does not have.

    `engine` None: it does not trace the profile.
    """
    for missing in one.missing:
        reason = Reason.AGENT_OUTDATED.value
        yield ProbeState(name=missing.name, state=State.FAILED.value, reason=reason, message=missing.message)
    names = [*(probe.name for probe in one.wanted.probes), *(group.value for group in one.wanted.groups)]
    if engine is not None:
        for probe in one.wanted.probes:
            yield own_state(probe, engine)
        for group in one.wanted.groups:
            yield ProbeState(name=group.value, state=State.ATTACHED.value, mechanism=engine.session.mechanism.name)
    elif trouble is not None:
        state, reason, message = State.FAILED.value, trouble.reason, trouble.message
        yield from (ProbeState(name=name, state=state, reason=reason, message=message) for name in names)
    else:
        yield from (ProbeState(name=name, state=State.PENDING.value) for name in names)


def own_state(probe: UserProbe, engine: Engine) -> ProbeState:
    """One of the user's own. What waits for a process with its file says what was found instead."""
    own = engine.session.own.get(probe)
    if own is None:  # of a profile that is being taken out
        return ProbeState(name=probe.name, state=State.PENDING.value)
    found = ProbeState(name=probe.name, state=own.standing.value, mechanism=own.mechanism)
    if (trouble := own.trouble) is not None:
        found.reason = trouble.reason
        found.message = trouble.with_hint()[:MAX_MESSAGE]
    elif own.standing is Standing.PENDING:
        found.message = "no process that has the file has come yet"
    return found


def _say_limits(state: ProfileState, told: Told) -> None:
    """What the guard does about a profile that costs more than it may: see guard.budget."""
    if told.phase is Phase.DETACHED:
        state.reason, state.message = Reason.BUDGET_EXCEEDED.value, told.message()
    for probe in state.probes:
        part = OPERATIONS if probe.name in _GROUPS else part_of(probe.name)
        if probe.state != State.ATTACHED.value or not told.is_cut(part):
            continue
        probe.reason, probe.message = Reason.BUDGET_EXCEEDED.value, told.message(part)
        if not told.share(part):
            probe.state = State.DETACHED.value


def _add(total: Counters, more: Counters) -> None:
    for name in Counters.DESCRIPTOR.fields_by_name:
        setattr(total, name, getattr(total, name) + getattr(more, name))


def counters_of(found: Accounting) -> Counters:
    """A balance as it is told."""
    return Counters(
        seen=found.seen,
        exported=found.exported,
        filtered=found.filtered,
        sampled_out=found.sampled_out,
        rate_limited=found.rate_limited,
        in_flight=max(0, found.in_flight),
        dropped=sum(found.dropped.values()),
    )
