# SPDX-License-Identifier: Apache-2.0
"""The status of a profile: written by the operator, read by people. Counters are of operations, since the plan began."""

from __future__ import annotations

import enum
from typing import Annotated

import msgspec
from msgspec import Meta

from .fields import Count, DnsLabel, DnsSubdomain, Part
from .reasons import Reason
from .selectors import Runtime

MAX_NODES = 50  # of a profile's nodes in its status, failing first

Text = Annotated[str, Meta(max_length=1024)]
Name = Annotated[str, Meta(max_length=253)]


class ConditionStatus(enum.Enum):
    """As metav1.Condition has it."""

    TRUE = "True"
    FALSE = "False"
    UNKNOWN = "Unknown"


class ProbeState(enum.Enum):
    """Where a probe stands on a node."""

    ATTACHED = "Attached"
    PENDING = "Pending"
    FAILED = "Failed"
    DETACHED = "Detached"


class Condition(Part, frozen=True, kw_only=True):
    """As metav1.Condition has it."""

    type: Annotated[Name, Meta(description="Accepted, Attached, Exporting, Ready, Paused or Expired.")]
    status: Annotated[ConditionStatus, Meta(description="Whether it holds.")]
    observed_generation: Annotated[Count, Meta(description="The generation of the spec it was found for.")] = 0
    last_transition_time: Annotated[str, Meta(max_length=64, description="When `status` last changed (RFC 3339).")]
    reason: Annotated[Name, Meta(description="One of the status reasons, or the condition's own name if all is well.")]
    message: Annotated[Text, Meta(description="What to do.")] = ""


class Summary(Part, frozen=True, kw_only=True):
    """The profile over all nodes."""

    pods: Annotated[Count, Meta(description="Pods selected.")] = 0
    processes: Annotated[Count, Meta(description="Processes traced.")] = 0
    nodes_ready: Annotated[Count, Meta(description="Nodes that hold the whole plan.")] = 0
    nodes_desired: Annotated[Count, Meta(description="Nodes with selected pods.")] = 0
    probes_attached: Annotated[Count, Meta(description="Probes attached.")] = 0
    probes_failed: Annotated[Count, Meta(description="Probes that could not be attached.")] = 0


class Events(Part, frozen=True, kw_only=True):
    """Operations: seen is the sum of the others. Refreshed at most once a minute."""

    seen: Annotated[Count, Meta(description="Seen in the kernel.")] = 0
    exported: Annotated[Count, Meta(description="Delivered to the collector.")] = 0
    filtered: Annotated[Count, Meta(description="Not wanted by a filter of the profile.")] = 0
    sampled_out: Annotated[Count, Meta(description="Of traces that sampling left out.")] = 0
    rate_limited: Annotated[Count, Meta(description="Beyond a limit.")] = 0
    in_flight: Annotated[Count, Meta(description="On the way.")] = 0
    dropped: Annotated[Count, Meta(description="Lost against our will.")] = 0


class RuntimeSummary(Part, frozen=True, kw_only=True):
    """Traced processes of one runtime."""

    runtime: Annotated[Runtime, Meta(description="The runtime.")]
    processes: Annotated[Count, Meta(description="Processes traced.")] = 0
    unwinding: Annotated[Count, Meta(description="Of them, those whose stacks are read.")] = 0
    reason: Annotated[Reason | None, Meta(description="Why those of the others are not, by one of them.")] = None
    message: Annotated[Text, Meta(description="Which one that is.")] = ""


class ProbeStatus(Part, frozen=True, kw_only=True):
    """One probe on one node."""

    name: Annotated[DnsLabel, Meta(description="The probe's name, or its group's.")]
    state: Annotated[ProbeState, Meta(description="Where it stands.")]
    mechanism: Annotated[Name, Meta(description="How it is attached.")] = ""
    reason: Annotated[Reason | None, Meta(description="Why it is not attached.")] = None
    message: Annotated[Text, Meta(description="What to do.")] = ""


class NodeStatus(Part, frozen=True, kw_only=True):
    """The profile on one node."""

    node: Annotated[DnsSubdomain, Meta(description="The node.")]
    ready: Annotated[bool, Meta(description="It holds the whole plan.")] = False
    kernel: Annotated[Name, Meta(description="The kernel's release.")] = ""
    agent_version: Annotated[Name, Meta(description="The agent's version.")] = ""
    reason: Annotated[Reason | None, Meta(description="Why it is not ready.")] = None
    message: Annotated[Text, Meta(description="What to do.")] = ""
    probes: Annotated[tuple[ProbeStatus, ...], Meta(max_length=64, description="Its probes, failing first.")] = ()


class Status(Part, frozen=True, kw_only=True):
    """What became of the profile."""

    observed_generation: Annotated[Count, Meta(description="The generation of the spec this is about.")] = 0
    plan_hash: Annotated[str, Meta(max_length=128, description="Hash of what the nodes are told.")] = ""
    summary: Annotated[Summary, Meta(description="The profile over all nodes.")] = Summary()
    events: Annotated[Events, Meta(description="The accounting.")] = Events()
    runtimes: Annotated[tuple[RuntimeSummary, ...], Meta(max_length=7, description="By runtime.")] = ()
    conditions: Annotated[
        tuple[Condition, ...],
        Meta(max_length=8, extra={"list": "map:type"}, description="Accepted, Attached, Exporting, Ready, and so on."),
    ] = ()
    nodes: Annotated[tuple[NodeStatus, ...], Meta(max_length=MAX_NODES, description="Nodes, failing first.")] = ()


def read_status(found: object) -> Status | None:
    """What an object's status says; None: there is none, or none of a form that is known here (a newer operator's)."""
    try:
        return msgspec.convert(found, Status) if isinstance(found, dict) else None
    except msgspec.ValidationError:
        return None
