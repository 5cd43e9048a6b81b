# SPDX-License-Identifier: Apache-2.0
"""What a node must do for one profile: the part of it that the kernel decides, and the part that user space decides."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

import msgspec

from .operations import BY_NAME, OPERATIONS, Group, Operation
from .subjects import Request

if TYPE_CHECKING:
    from .resource import Spec
    from .userprobes import UserProbe

_T = TypeVar("_T", str, int)

_NETWORK = frozenset(operation.number for operation in OPERATIONS if operation.group is Group.NETWORK)
_MOVES = frozenset(BY_NAME[Group.NETWORK, name].number for name in ("Send", "Receive", "Close"))

DEFAULT_BURST_SECONDS = 2
# A program's start is a burst of its own: it may spend two seconds' worth at once, then the rate holds.


@dataclass(frozen=True, slots=True)
class NetworkSpans:
    """Which operations on the network are spans of their own."""

    operations: frozenset[int]
    min_duration_ns: int
    ports: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Wanted:
    """What one profile wants of the processes it selects."""

    name: str
    operations: frozenset[int]  # Operation.number
    min_duration_ns: dict[Group, int]
    paths: tuple[str, ...]  # globs; empty: any
    ports: tuple[int, ...]  # empty: any
    cidrs: tuple[str, ...]  # empty: any
    max_depth: int  # 0: no stacks
    events_per_second: int
    spans_per_second: int
    burst_events: int
    probes: tuple[UserProbe, ...] = ()
    runtimes: tuple[str, ...] = ()  # whose processes it selects, in small letters; empty: of any
    requests: tuple[Request, ...] = ()
    spans: NetworkSpans | None = None  # where requests make the kernel see more of the network than is to be shown

    @property
    def mask(self) -> int:
        """The operations as the kernel's bit mask."""
        return sum(1 << number for number in self.operations)

    @property
    def by_executable(self) -> bool:
        """Whether a probe asks whose program it is."""
        return any(match.binaries for probe in self.probes for match in probe.match)

    @property
    def groups(self) -> tuple[Group, ...]:
        """The groups that have an operation in it, in their order."""
        return tuple(group for group in Group if any(op.group is group for op in self.wanted()))

    def wanted(self) -> list[Operation]:
        """The operations, in the order of the table."""
        return [operation for operation in OPERATIONS if operation.number in self.operations]


def key_of(probe: UserProbe) -> bytes:
    """The same for probes that are alike in everything."""
    return msgspec.json.encode(probe, order="sorted")


def together(all_wanted: Sequence[Wanted]) -> Wanted:
    """What several profiles want of one process: everything that one of them wants. None of them: nothing."""
    groups = {group for each in all_wanted for group in each.groups}
    durations = {
        group: min(each.min_duration_ns.get(group, 0) for each in all_wanted if group in each.groups)
        for group in groups
    }
    network = [each for each in all_wanted if Group.NETWORK in each.groups]
    files = [each for each in all_wanted if Group.FILES in each.groups]
    return Wanted(
        name="+".join(each.name for each in all_wanted),
        operations=frozenset().union(*(each.operations for each in all_wanted)),
        min_duration_ns=durations,
        paths=_union([each.paths for each in files]),
        ports=_union([each.ports for each in network]),
        cidrs=_union([each.cidrs for each in network]),
        max_depth=max((each.max_depth for each in all_wanted), default=0),
        events_per_second=sum(each.events_per_second for each in all_wanted),
        spans_per_second=sum(each.spans_per_second for each in all_wanted),
        burst_events=sum(each.burst_events for each in all_wanted),
        probes=tuple({key_of(probe): probe for each in all_wanted for probe in each.probes}.values()),
        runtimes=_union([each.runtimes for each in all_wanted]),
        requests=tuple(request for each in all_wanted for request in each.requests),
    )


def _union(filters: Sequence[tuple[_T, ...]]) -> tuple[_T, ...]:
    """All values; none, which is any, where one of the filters is."""
    return tuple(dict.fromkeys(value for each in filters for value in each)) if all(filters) else ()


def wanted(name: str, spec: Spec) -> Wanted:
    """What the kernel and the resolver must know of a validated profile."""
    subjects = {
        Group.FILES: spec.files,
        Group.NETWORK: spec.network,
        Group.PROCESSES: spec.processes,
        Group.WAITS: spec.waits,
    }
    numbers: set[int] = set()
    durations: dict[Group, int] = {}
    for group, subject in subjects.items():
        if subject is None:
            continue
        names = list(subject.operations) or [op.name for op in OPERATIONS if op.group is group]
        numbers.update(BY_NAME[group, each].number for each in names)
        durations[group] = getattr(subject, "min_duration_microseconds", 0) * 1000
    files, network = spec.files, spec.network
    ports = tuple(network.ports) if network else ()
    spans = None
    if spec.requests:  # what is sent and received anywhere must be seen
        spans = NetworkSpans(frozenset(numbers & _NETWORK), durations.get(Group.NETWORK, 0), ports)
        numbers |= _MOVES
        durations[Group.NETWORK] = 0
        ports = ()
    return Wanted(
        name=name,
        operations=frozenset(numbers),
        min_duration_ns=durations,
        paths=tuple(files.paths) if files else (),
        ports=ports,
        cidrs=tuple(network.cidrs) if network else (),
        max_depth=0 if spec.code.stacks.value == "None" else spec.code.max_depth,
        events_per_second=spec.limits.events_per_second,
        spans_per_second=spec.limits.spans_per_second,
        burst_events=spec.limits.events_per_second * DEFAULT_BURST_SECONDS,
        probes=tuple(spec.probes),
        runtimes=tuple(runtime.value.lower() for runtime in spec.process_selector.runtimes),
        requests=spec.requests,
        spans=spans,
    )
