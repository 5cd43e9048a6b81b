# SPDX-License-Identifier: Apache-2.0
"""The status of one profile, from what its nodes have reported. Pure: the same in, the same out.

A condition keeps its transition time while its status stays. Reasons are those of `kernelspan_api.reasons`, or the
condition's own name where all is well or not known yet. Of several nodes that fail, the first by name speaks for all.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from datetime import UTC, datetime

import msgspec

from kernelspan_api.control import control_pb2
from kernelspan_api.reasons import Reason
from kernelspan_api.selectors import Runtime
from kernelspan_api.status import (
    MAX_NODES,
    Condition,
    ConditionStatus,
    Events,
    NodeStatus,
    ProbeState,
    ProbeStatus,
    RuntimeSummary,
    Status,
    Summary,
)
from kernelspan_operator.models.profiles import Profile

MAX_PROBES, MAX_TEXT = 64, 1024
_TRUE, _FALSE, _UNKNOWN = ConditionStatus.TRUE, ConditionStatus.FALSE, ConditionStatus.UNKNOWN
_REASONS = {one.value: one for one in Reason}
_EVENTS = ("seen", "exported", "filtered", "sampled_out", "rate_limited", "in_flight", "dropped")


class OnNode(msgspec.Struct, frozen=True):
    """A node that has pods of the profile. `state` None: its agent has not said how the profile stands."""

    name: str
    unreachable: bool = False
    outdated: bool = False
    left_out: bool = False  # the node's plan would have been too large with it
    kernel: str = ""
    agent_version: str = ""
    state: control_pb2.ProfileState | None = None


def status_of(
    profile: Profile, pods: int, nodes: Sequence[OnNode], before: Status | None, now_seconds: float
) -> Status:
    """The status as it should be. `nodes`: all with selected pods, by name."""
    wanted = profile.is_wanted(now_seconds)
    shown = [_node(profile, one) for one in nodes] if wanted else []
    states = [one.state for one in nodes if one.state is not None]
    found = Status(
        observed_generation=profile.generation,
        plan_hash=hashlib.sha256(profile.document).hexdigest()[:32] if wanted else "",
        summary=Summary(
            pods=pods,
            processes=sum(one.processes for one in states) if wanted else 0,
            nodes_ready=sum(one.ready for one in shown),
            nodes_desired=len(shown),
            probes_attached=_probes(shown, ProbeState.ATTACHED),
            probes_failed=_probes(shown, ProbeState.FAILED),
        ),
        events=Events(**{name: sum(getattr(one.counters, name) for one in states) for name in _EVENTS}),
        runtimes=_runtimes(states) if wanted else (),
        nodes=tuple(sorted(shown, key=lambda one: (one.ready, one.node))[:MAX_NODES]),
    )
    conditions = _conditions(profile, found, states, now_seconds)
    return msgspec.structs.replace(found, conditions=_timed(conditions, profile.generation, before, now_seconds))


def _node(profile: Profile, one: OnNode) -> NodeStatus:
    state = one.state if one.state is not None and one.state.generation == profile.generation else None
    reason, message = "", ""
    if one.unreachable:
        reason = Reason.AGENT_UNREACHABLE.value
    elif state is not None and state.reason:
        reason, message = state.reason, state.message
    elif one.left_out:
        reason = Reason.TOO_MANY_PROBES.value
        message = "The node's profiles are too large for one plan; the oldest go first. Make this or others smaller."
    elif one.outdated:
        reason = Reason.AGENT_OUTDATED.value
    probes = tuple(_probe(each) for each in state.probes) if state is not None else ()
    failing = sorted(probes, key=lambda each: (each.state is not ProbeState.FAILED, each.name))
    known = _reason(reason)
    return NodeStatus(
        node=one.name,
        ready=state is not None and not reason,
        kernel=one.kernel[:253],
        agent_version=one.agent_version[:253],
        reason=known,
        message=(message or (known.remedy if known else ""))[:MAX_TEXT],
        probes=tuple(failing[:MAX_PROBES]),
    )


def _probe(one: control_pb2.ProbeState) -> ProbeStatus:
    try:
        state = ProbeState(one.state)
    except ValueError:  # of a newer agent
        state = ProbeState.PENDING
    known = _reason(one.reason)
    message = one.message or (known.remedy if known else "")
    return ProbeStatus(
        name=one.name[:63], state=state, mechanism=one.mechanism[:253], reason=known, message=message[:MAX_TEXT]
    )


def _reason(text: str) -> Reason | None:
    return _REASONS.get(text)  # one of a newer agent has no name here: its message says what it means


def _probes(nodes: Sequence[NodeStatus], state: ProbeState) -> int:
    return sum(probe.state is state for node in nodes for probe in node.probes)


def _runtimes(states: Sequence[control_pb2.ProfileState]) -> tuple[RuntimeSummary, ...]:
    found = []
    for runtime in Runtime:
        rows = [row for state in states for row in state.runtimes if row.runtime == runtime.value]
        if processes := sum(row.processes for row in rows):
            unwinding = sum(row.unwinding for row in rows)
            reason, message = min(((row.reason, row.message) for row in rows if row.reason), default=("", ""))
            summary = RuntimeSummary(
                runtime=runtime,
                processes=processes,
                unwinding=unwinding,
                reason=_reason(reason),
                message=message[:MAX_TEXT],
            )
            found.append(summary)
    return tuple(found)


# --- conditions -----------------------------------------------------------------------------------------------------------

_Said = tuple[ConditionStatus, str, str]


def _conditions(
    profile: Profile, found: Status, states: Sequence[control_pb2.ProfileState], now_seconds: float
) -> list[tuple[str, _Said]]:
    if profile.spec is None or profile.problem:
        refused = (_FALSE, profile.reason, profile.problem)
        return [(name, refused) for name in ("Accepted", "Attached", "Ready")]
    accepted = (_TRUE, "Accepted", "")
    for name, reason, holds in (
        ("Expired", Reason.EXPIRED, profile.is_expired(now_seconds)),
        ("Paused", Reason.PAUSED, profile.spec.paused),
    ):
        if holds:
            off = (_FALSE, reason.value, f"{reason.meaning} {reason.remedy}")
            on = (_TRUE, name, f"{reason.meaning} {reason.remedy}")
            return [("Accepted", accepted), ("Attached", off), ("Ready", off), (name, on)]
    attached, exporting = _attached(found), _exporting(found, states)
    first = next((one for one in (attached, exporting) if one[0] is _FALSE), attached)
    ready = (_TRUE, "Ready", "") if first[0] is _TRUE else (first[0], _own(first[1], "Ready"), first[2])
    return [("Accepted", accepted), ("Attached", attached), ("Exporting", exporting), ("Ready", ready)]


def _own(reason: str, name: str) -> str:
    """A condition that is not known yet has its own name as the reason, not another's."""
    return name if _reason(reason) is None else reason


def _attached(found: Status) -> _Said:
    summary = found.summary
    if not summary.pods:
        reason = Reason.NO_MATCHING_PODS
        return _FALSE, reason.value, f"{reason.meaning} {reason.remedy}"
    failing = [node for node in found.nodes if node.reason is not None]
    if failing:
        first = failing[0]
        assert first.reason is not None
        return _FALSE, first.reason.value, f"{first.node}: {first.message}"[:MAX_TEXT]
    for node in found.nodes:
        for probe in node.probes:
            if probe.state is ProbeState.FAILED:
                name = probe.reason.value if probe.reason else "Attached"
                return _FALSE, name, f"{node.node}: {probe.name}: {probe.message}"[:MAX_TEXT]
    if not summary.nodes_desired:
        return _UNKNOWN, "Attached", "No selected pod is on a node that nodeSelector allows, or none is scheduled yet."
    if summary.nodes_ready < summary.nodes_desired:
        left = summary.nodes_desired - summary.nodes_ready
        return _UNKNOWN, "Attached", f"{left} of {summary.nodes_desired} nodes have not answered yet."
    return _TRUE, "Attached", ""


def _exporting(found: Status, states: Sequence[control_pb2.ProfileState]) -> _Said:
    for state in states:
        if (reason := _reason(state.export_reason)) is not None:
            return _FALSE, reason.value, f"{reason.meaning} {reason.remedy}"
    if found.events.exported:
        return _TRUE, "Exporting", ""
    return _UNKNOWN, "Exporting", "No span has been delivered yet."


def _timed(
    said: Sequence[tuple[str, _Said]], generation: int, before: Status | None, now_seconds: float
) -> tuple[Condition, ...]:
    known = {one.type: one for one in before.conditions} if before is not None else {}
    now = datetime.fromtimestamp(now_seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    found = []
    for name, (status, reason, message) in said:
        old = known.get(name)
        since = old.last_transition_time if old is not None and old.status is status else now
        found.append(
            Condition(
                type=name,
                status=status,
                observed_generation=generation,
                last_transition_time=since,
                reason=reason,
                message=message[:MAX_TEXT],
            )
        )
    return tuple(found)
