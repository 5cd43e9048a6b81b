# SPDX-License-Identifier: Apache-2.0
"""How a group's programs get to see its operations: a row of ALL, chosen for the whole plan by `choose`.

* Fentry: the kernel's functions of the calls, a program for each end of each (probes/callfunctions.py). Only what is armed
  pays, and less than by its tracepoints.
* RawTracepoint: sys_enter and sys_exit, one attachment each for all calls. Every system call of the machine pays for it
  (0.3-0.4 us measured), but an armed call pays less than by its own tracepoint (0.45-0.55 us).
* Tracepoint: two attachments a call; a call that is not armed pays 0.05 us. The kernel takes some 80 ms to take back
  each (it waits for every task to have left it), 5 s for the calls of the files group.

So few calls are armed one by one (by their functions where the kernel can, else by their tracepoints), many by the raw pair,
and all of them where tracefs is not mounted or this process may not use perf_event_open(2), by which tracepoints are attached
and raw ones are not; docs/design/mechanisms.md has the measurements. Return programs are attached before entry programs and detached after
them: an entry without its return would stay in flight for ever.
"""

from __future__ import annotations

import contextlib
import itertools
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from kernelspan_agent.errors import MachineError
from kernelspan_agent.probes import bpf, callfunctions, fentry, perf, proofs
from kernelspan_agent.probes.attach import Attachment, raw_tracepoint, tracepoint
from kernelspan_agent.probes.constants import MOST_SINGLE_CALLS
from kernelspan_agent.probes.source import GROUP_PROGRAMS, MAPS_PROGRAM, syscalls
from kernelspan_agent.probes.tracefs import CALL_NAMES, Tracefs
from kernelspan_api.operations import BY_NAME, Group
from kernelspan_api.plan import Wanted
from kernelspan_api.userprobes import Mechanism as ByFunction

RESTART = callfunctions.RESTART
SWITCH_PROGRAM = "ks_switch"
_RESOLVE = BY_NAME[Group.NETWORK, "Resolve"].number
_RESOLVE_PARTS = {BY_NAME[Group.NETWORK, name].number for name in ("Send", "Receive")}
_OFF_CPU = BY_NAME[Group.WAITS, "OffCPU"].number

Link = Callable[[str, int, str], None]
"""Puts a program, by name, into a program array at an index."""
Attach = Callable[[Wanted, Mapping[str, int], Link], Iterator[Attachment]]
VARIABLE = "KERNELSPAN_MECHANISM"


@dataclass(frozen=True, slots=True)
class Mechanism:
    """One way to attach a plan's groups. `program_kind`: what its programs are loaded as."""

    name: str
    raw: bool  # KS_RAW of bpf/include/ks.h
    program_kind: int
    walkers: str  # the program array whose type its programs may call into
    attach: Attach  # of what is not seated
    fentry: bool = False  # KS_FENTRY

    @property
    def flags(self) -> dict[str, bool]:
        """What its programs are compiled with: options of constants.defines."""
        return {"raw": self.raw, "fentry": self.fentry}

    def seats(self, wanted: Wanted) -> callfunctions.Seats | None:
        """Where its programs are loaded for a plan; None: each once. Raises MachineError."""
        if not self.fentry:
            return None
        return callfunctions.Seats.of(_there(wanted))


def calls_of(group: Group, wanted: Wanted) -> list[str]:
    """The system calls whose entry and return the group's wanted operations need."""
    numbers = set(wanted.operations)
    if _RESOLVE in numbers:
        numbers |= _RESOLVE_PARTS
    return [call.name for call in syscalls(group) if call.operation.number in numbers]


def has_call(tracefs: Tracefs, call: str) -> bool:
    """Whether this kernel has a tracepoint of the system call."""
    return tracefs.event_id("syscalls", call_tracepoint("enter", call)) is not None


def _there(wanted: Wanted) -> dict[Group, list[str]]:
    """A plan's calls that this kernel has: its type information has some that it was built without, too."""
    tracefs = Tracefs.find()
    return {group: [call for call in calls_of(group, wanted) if has_call(tracefs, call)] for group in wanted.groups}


def call_tracepoint(side: str, call: str) -> str:
    """The tracepoint of a system call's `enter` or `exit`."""
    return f"sys_{side}_{CALL_NAMES.get(call, call)}"


def _single(wanted: Wanted, programs: Mapping[str, int], _link: Link) -> Iterator[Attachment]:
    tracefs = Tracefs.find()
    if _OFF_CPU in wanted.operations:
        yield from _some(tracepoint(tracefs, "sched", "sched_switch", programs[SWITCH_PROGRAM]))
    for group in wanted.groups:
        enter, leave, *_ = GROUP_PROGRAMS[group]
        calls = calls_of(group, wanted)
        restarts = [RESTART] if calls else []
        for program, side, names in ((leave, "exit", calls + restarts), (enter, "enter", restarts + calls)):
            for name in names:
                yield from _some(tracepoint(tracefs, "syscalls", call_tracepoint(side, name), programs[program]))


def _raw(wanted: Wanted, programs: Mapping[str, int], link: Link) -> Iterator[Attachment]:
    if _OFF_CPU in wanted.operations:
        yield raw_tracepoint("sched_switch", programs[SWITCH_PROGRAM])
    groups = chain_of(wanted)
    for group, following in itertools.pairwise(groups):
        index = list(Group).index(group)
        link("ks_enter_chain", index, GROUP_PROGRAMS[following][0])
        link("ks_exit_chain", index, GROUP_PROGRAMS[following][1])
    if groups:
        if MAPS_PROGRAM in programs:
            link("ks_exit_chain", list(Group).index(groups[-1]), MAPS_PROGRAM)
        enter, leave, *_ = GROUP_PROGRAMS[groups[0]]
        yield raw_tracepoint("sys_exit", programs[leave])
        yield raw_tracepoint("sys_enter", programs[enter])


def chain_of(wanted: Wanted) -> list[Group]:
    """The groups that see calls, in the order in which a raw pair's programs hand on to one another."""
    return [group for group in wanted.groups if calls_of(group, wanted)]


def extend(
    wanted: Wanted, have: Wanted, chain: list[Group], programs: Mapping[str, int], link: Link
) -> Iterator[Attachment]:
    """Attaches to a raw pair what else is wanted than what it has. New groups are put last in its chain, so that nothing
    that is attached is taken off meanwhile.
    """
    if _OFF_CPU in wanted.operations - have.operations:
        yield raw_tracepoint("sched_switch", programs[SWITCH_PROGRAM])
    before = tuple(chain)
    chain += [group for group in chain_of(wanted) if group not in before]
    if MAPS_PROGRAM in programs and chain:
        link("ks_exit_chain", list(Group).index(chain[-1]), MAPS_PROGRAM)
    for group, following in reversed(list(itertools.pairwise(chain))):
        if following not in before:
            link("ks_exit_chain", list(Group).index(group), GROUP_PROGRAMS[following][1])
            link("ks_enter_chain", list(Group).index(group), GROUP_PROGRAMS[following][0])
    if chain and not before:
        enter, leave, *_ = GROUP_PROGRAMS[chain[0]]
        yield raw_tracepoint("sys_exit", programs[leave])
        yield raw_tracepoint("sys_enter", programs[enter])


def _nothing(_wanted: Wanted, _programs: Mapping[str, int], _link: Link) -> Iterator[Attachment]:
    yield from ()


def _some(attachment: Attachment | None) -> Iterator[Attachment]:
    if attachment is not None:  # a call that this kernel does not have is not made either
        yield attachment


TRACEPOINT = Mechanism("Tracepoint", False, bpf.PROG_TRACEPOINT, "ks_walkers", _single)
RAW_TRACEPOINT = Mechanism("RawTracepoint", True, bpf.PROG_RAW_TRACEPOINT, "ks_walkers_raw", _raw)
FENTRY = Mechanism("Fentry", False, bpf.PROG_TRACING, callfunctions.WALKERS, _nothing, fentry=True)
MECHANISMS = (TRACEPOINT, RAW_TRACEPOINT)  # that take any plan
ALL = (FENTRY, *MECHANISMS)


def choose(wanted: Wanted) -> Mechanism:
    """The mechanism for a plan: its calls one by one while they are few, tracefs is there to name them, and we may attach so.

    KERNELSPAN_MECHANISM, in this process's environment, names one of MECHANISMS, to compare them. Raises MachineError.
    """
    if (named := os.environ.get(VARIABLE)) is not None:
        return _named(named)
    calls = sum(len(calls_of(group, wanted)) for group in wanted.groups)
    if calls > MOST_SINGLE_CALLS or not _has_tracefs():
        return RAW_TRACEPOINT
    return FENTRY if by_functions(wanted) else by_tracepoints()


def by_tracepoints() -> Mechanism:
    """For few calls, where not by their functions."""
    return TRACEPOINT if perf.is_permitted() else RAW_TRACEPOINT


def one_by_one() -> Mechanism:
    """By what this kernel sees calls one by one.

    By functions where it was seen to run programs at both ends, and keeps them from being entered twice (Linux 5.12, which
    tells how often: before, a call that slept could also return into what had been given back).
    """
    works = not _refusals and all(proofs.prove(ByFunction.FENTRY, returns=each).works for each in (False, True))
    return FENTRY if works and proofs.tells_missed() else TRACEPOINT


_refusals: list[MachineError] = []  # of functions, in this process


def refused(mechanism: Mechanism, error: MachineError) -> Mechanism:
    """What to take where the kernel refused what was chosen; it is not chosen again. Raises `error` where there is no other."""
    if not mechanism.fentry:
        raise error
    _refusals.append(error)
    return by_tracepoints()


def _named(name: str) -> Mechanism:
    found = {each.name: each for each in MECHANISMS}
    if name not in found:
        raise MachineError(
            f"{VARIABLE}={name}: there is {', '.join(found)}", hint=f"unset {VARIABLE}: the cheapest is taken"
        )
    return found[name]


def by_functions(wanted: Wanted) -> bool:
    """Whether a plan of few calls can be armed by their functions: this kernel does, it has the type of each function, and
    nothing is wanted that is no call.
    """
    if not wanted.groups or _OFF_CPU in wanted.operations or one_by_one() is not FENTRY:
        return False
    try:
        return bool(callfunctions.Seats.of(_there(wanted)).seats)
    except (OSError, MachineError):
        return False


def _has_tracefs() -> bool:
    """Whether tracefs can be read, and has system calls. Where it is not mounted, nothing is mounted: the raw pair does not
    need it.
    """
    try:
        tracefs = Tracefs.mounted()
        return tracefs is not None and has_call(tracefs, "read")
    except (OSError, MachineError):
        return False


def _seated(seats: callfunctions.Seats, programs: Mapping[str, int]) -> Iterator[Attachment]:
    for seat in seats.seats:
        name = f"{seat.function.name}:return" if seat.returns else seat.function.name
        yield fentry.attach(programs[seat.program + seat.suffix], name)


def attach(
    mechanism: Mechanism,
    wanted: Wanted,
    programs: Mapping[str, int],
    link: Link,
    seats: callfunctions.Seats | None = None,
) -> list[Attachment]:
    """Attaches a plan's groups, all of them or nothing. `seats`: the mechanism's for the plan. Raises MachineError."""
    done: list[Attachment] = []
    with contextlib.ExitStack() as stack:
        found = _seated(seats, programs) if seats is not None else mechanism.attach(wanted, programs, link)
        for attachment in found:
            stack.callback(attachment.close)
            done.append(attachment)
        stack.pop_all()
    return done
