# SPDX-License-Identifier: Apache-2.0
"""System calls by the kernel's own functions (`__x64_sys_openat`): fentry at the entry of each, fexit at its return.

What is not armed pays nothing, and what is armed less than by its tracepoints. But a program is loaded for one function and
one end of it, so a group's programs are loaded for each call anew, each with a scratch of its own: one may interrupt another
(bpf/include/scratch.h). And a tail call goes only to what was loaded for a function of the same prototype, by the number that
this has in BTF, and the same end: walkers are loaded once for each of these (a Home).
"""

from __future__ import annotations

import platform
import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any

from kernelspan_agent.errors import MachineError
from kernelspan_agent.probes import bpf, fentry
from kernelspan_agent.probes.btf import FUNC, FUNC_PROTO, PTR, STRUCT, Btf, BtfError
from kernelspan_agent.probes.constants import MOST_FUNCTIONS
from kernelspan_agent.probes.loader import Load
from kernelspan_agent.probes.source import GROUP_PROGRAMS
from kernelspan_agent.probes.syscalls import BODY, PREFIXES, function_of
from kernelspan_agent.probes.tracefs import CALL_NAMES
from kernelspan_api.operations import Group

WALKERS = "ks_walkers_fentry"
RESTART = "restart_syscall"
SCRATCHES = "ks_scratches"
_SEAT = "ks_seats"  # in bpf/include/scratch.h
_NO_RETURN = frozenset(("exit", "exit_group"))  # whose functions do not come back: the kernel attaches no fexit to them
# Of what the kernel goes on with after a stop only these begin anew by restart_syscall; others by their own call.
_RESTARTED = frozenset(("nanosleep", "clock_nanosleep", "poll", "futex"))
_FIRST_PLACE = 1  # after KS_SCRATCH_EXEC
MOST_SEATS = 2 * MOST_FUNCTIONS


@dataclass(frozen=True, slots=True)
class CallFunction:
    """A system call's function: its number in BTF, and that of its prototype."""

    call: str
    name: str
    number: int
    prototype: int


@dataclass(frozen=True, slots=True)
class Home:
    """Where a set of walkers is loaded: behind which suffix, with which maps, as what. `returns`: of returns."""

    suffix: str = ""
    maps: Mapping[str, str] | None = None
    target: bpf.Target = bpf.ANYWHERE
    returns: bool = True


@dataclass(frozen=True, slots=True)
class Seat:
    """A group's program at one end of a call's function."""

    program: str
    function: CallFunction
    returns: bool
    place: int

    @property
    def suffix(self) -> str:
        """Of the names of what is this seat's alone."""
        return f".{self.function.call}"

    @property
    def target(self) -> bpf.Target:
        """What its program is loaded for."""
        return fentry.target(self.function.number, returns=self.returns)

    @property
    def home(self) -> Home:
        """Where the walkers are that it can go on to."""
        suffix = f".{'x' if self.returns else 'e'}{self.function.prototype}"
        return Home(suffix, {WALKERS: WALKERS + suffix}, self.target, self.returns)


@dataclass(frozen=True, slots=True)
class Seats:
    """Of all calls of a plan; returns first, as they are attached."""

    seats: tuple[Seat, ...] = field(default=())

    @classmethod
    def of(cls, calls: Mapping[Group, Sequence[str]]) -> Seats:
        """Those of each group's calls, which this kernel has. Raises MachineError."""
        wanted = [(group, call) for group, names in calls.items() for call in names]
        restarts = [(group, RESTART) for group, names in calls.items() if _RESTARTED & set(names)]
        found = {each.call: each for each in call_functions(frozenset(call for _, call in wanted + restarts))}
        if missing := {call for _, call in wanted + restarts} - found.keys():
            raise MachineError(f"no type information of {', '.join(sorted(missing))}", reason="MechanismUnsupported")
        # What begins anew is there for as long as what it goes on with.
        returns = [
            (GROUP_PROGRAMS[group][1], call, True) for group, call in wanted + restarts if call not in _NO_RETURN
        ]
        entries = [(GROUP_PROGRAMS[group][0], call, False) for group, call in restarts + wanted]
        ends = [(program, found[call], at_return) for program, call, at_return in returns + entries]
        if len(ends) > MOST_SEATS:
            raise MachineError(f"{len(ends)} ends of calls: there is room for {MOST_SEATS}", reason="TooManyProbes")
        return cls(tuple(Seat(*end, place) for place, end in enumerate(ends, _FIRST_PLACE)))

    @property
    def scratches(self) -> int:
        """How many there must be room for."""
        return _FIRST_PLACE + len(self.seats)

    def homes(self, walking_entries: frozenset[str]) -> list[Home]:
        """Of walkers, each once. `walking_entries`: programs of entries that go on to them, as every return does."""
        found = (each.home for each in self.seats if each.returns or each.program in walking_entries)
        return list({each.suffix: each for each in found}.values())

    def loads(self, module: Mapping[str, Any]) -> Iterator[Load]:
        """A built group's programs, each for its seats."""
        for seat in self.seats:
            if seat.program in module["programs"]:
                only = {**module, "programs": {seat.program: module["programs"][seat.program]}}
                maps = {**(seat.home.maps or {}), _SEAT: f"{_SEAT}.s{seat.place}"}
                values = {_SEAT: struct.pack("<I", seat.place)}
                yield Load(only, fentry.KIND, seat.suffix, maps, seat.target, values=values)


@cache
def call_functions(calls: frozenset[str]) -> tuple[CallFunction, ...]:
    """The functions of those of these system calls that type information has whole. Raises MachineError.

    Older kernels have it of some with a type of the registers that is only declared: no program may look at these then.
    """
    prefix = PREFIXES[platform.machine()]
    found = []
    try:
        with Btf.of_kernel() as btf:
            for call in sorted(calls):
                body = BODY + CALL_NAMES.get(call, call)  # of a call without arguments BTF has this alone
                for name in (function_of(call), body):
                    if (number := btf.find(name, FUNC)) is not None:
                        prototype = btf.record(number).value
                        found += (
                            [CallFunction(call, name, number, prototype)] if _takes_registers(btf, prototype) else []
                        )
                        break
    except BtfError as error:
        raise MachineError(f"{prefix}*: {error}", reason="KernelTooOld") from error
    return tuple(found)


def _takes_registers(btf: Btf, prototype: int) -> bool:
    """Whether its first parameter points to a struct whose members are known."""
    record = btf.record(prototype)
    if record.kind != FUNC_PROTO or not record.count:
        return False
    pointer = btf.plain(btf.trailer(record, 0, 2)[1])
    return pointer.kind == PTR and btf.plain(pointer.value).kind == STRUCT
