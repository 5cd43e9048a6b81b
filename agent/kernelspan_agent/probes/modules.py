# SPDX-License-Identifier: Apache-2.0
"""What must be compiled for a plan."""

from __future__ import annotations

from kernelspan_agent.probes.build import Module
from kernelspan_agent.probes.source import (
    CORE_PROGRAMS,
    GROUP_PROGRAMS,
    MAPS_PROGRAM,
    REQUESTS,
    REQUESTS_PROGRAM,
    walkers,
)
from kernelspan_agent.ring.records import MAX_DEPTH
from kernelspan_agent.runtimes.registry import Runtime
from kernelspan_api.operations import OPERATIONS, Group
from kernelspan_api.plan import Wanted
from kernelspan_api.subjects import Protocol, Request

EVERYTHING = Wanted(
    name="everything",
    operations=frozenset(operation.number for operation in OPERATIONS),
    min_duration_ns={},
    paths=(),
    ports=(),
    cidrs=(),
    max_depth=MAX_DEPTH,
    events_per_second=1,
    spans_per_second=1,
    burst_events=1,
    runtimes=tuple(walkers()),
    requests=(Request(protocol=Protocol.HTTP),),
)


def modules_of(wanted: Wanted) -> list[Module]:
    """What must be compiled for a plan."""
    found = [Module("core", (*CORE_PROGRAMS, MAPS_PROGRAM) if wanted.max_depth else tuple(CORE_PROGRAMS))]
    if wanted.max_depth:
        found += [Module(runtime.name, runtime.walker.programs) for runtime in walkers_of(wanted)]
    if wanted.requests:
        found.append(REQUESTS_MODULE)
    return found + [module_of(group) for group in wanted.groups]


def walkers_of(wanted: Wanted) -> list[Runtime]:
    """The runtimes whose walkers are there from the start: those that are named, else the usual ones. See Walkers."""
    return [each for each in walkers().values() if each.name in wanted.runtimes or (not wanted.runtimes and each.usual)]


def module_of(group: Group) -> Module:
    """A group's module."""
    return Module(group.value, GROUP_PROGRAMS[group])


REQUESTS_MODULE = Module(REQUESTS, (REQUESTS_PROGRAM,))
