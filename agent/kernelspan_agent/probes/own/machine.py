# SPDX-License-Identifier: Apache-2.0
"""Where a probe attaches on this machine: what its programs are, and how each is attached.

The choice of mechanism is made here, by what the machine really has, unless the profile forces one.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from kernelspan_agent.errors import MachineError
from kernelspan_agent.probes.attach import Attachment, Tracefs, raw_tracepoint, tracepoint
from kernelspan_agent.probes.mechanisms import call_tracepoint
from kernelspan_agent.probes.own.codegen import Places
from kernelspan_agent.probes.own.sources import Field, RawTracepoint, Source, TracepointRecord
from kernelspan_api.conditions import NamespaceType
from kernelspan_api.userprobes import Kprobe, Mechanism, Mode, UserProbe
from kernelspan_api.userprobes import Tracepoint as TracepointSpec

MAX_RAW_ARGUMENTS = 12  # include/trace/bpf_probe.h
Attach = Callable[[int], Attachment]
"""Attaches the program of that descriptor."""


@dataclass(frozen=True, slots=True)
class Plan:
    """How a probe gets to see its calls. `enters`, `exits`: how each program is attached, as `places` has them."""

    mechanism: str
    places: Places
    enters: Sequence[Attach]
    exits: Sequence[Attach] = ()


def plan_of(probe: UserProbe) -> Plan:
    """Raises MachineError, ArgumentError: this machine has nothing to attach it to."""
    if probe.tracepoint is not None:
        return _raw(probe.tracepoint) if probe.tracepoint.raw else _tracepoint(probe, probe.tracepoint)
    if probe.kprobe is not None and probe.kprobe.syscall:
        return _system_call(probe, probe.kprobe)
    raise MachineError("not available in this version")


def _attach(category: str, event: str) -> Attach:
    def attach(program: int) -> Attachment:
        found = tracepoint(Tracefs.find(), category, event, program)
        if found is None:
            raise MachineError(f"tracepoint {category}:{event} is gone", reason="TracepointNotFound")
        return found

    return attach


def record_of(tracefs: Tracefs, category: str, event: str) -> TracepointRecord:
    """A tracepoint's fields. Raises MachineError (TracepointNotFound)."""
    fields = _fields(tracefs, category, event)
    return TracepointRecord(f"{category}:{event}", fields, "ret" if any(one.name == "ret" for one in fields) else "")


_FIELD = re.compile(r"^\tfield:(.*?)\s(\w+)(\[\w*\])?;\toffset:(\d+);\tsize:(\d+);\tsigned:([01]);", re.MULTILINE)


def _fields(tracefs: Tracefs, category: str, event: str) -> list[Field]:
    try:
        text = (tracefs.root / "events" / category / event / "format").read_text()
    except OSError as error:
        raise MachineError(f"tracepoint {category}:{event}: not in this kernel", reason="TracepointNotFound") from error
    own = text.partition("\n\n")[2]  # behind the common ones
    found = []
    for kind, name, array, offset, size, signed in _FIELD.findall(own):
        located = kind.startswith("__data_loc")
        found.append(Field(name, int(offset), int(size), signed == "1", bool(array) and not located, located))
    return found


def _tracepoint(probe: UserProbe, wanted: TracepointSpec) -> Plan:
    tracefs = Tracefs.find()
    enter: list[Source] = [record_of(tracefs, wanted.category, wanted.event)]
    attach = [_attach(wanted.category, wanted.event)]
    if probe.mode is Mode.EVENT:
        return Plan("Tracepoint", Places(enter), attach)
    leave: list[Source] = [record_of(tracefs, wanted.category, wanted.exit_event)]
    return Plan("Tracepoint", Places(enter, leave), attach, [_attach(wanted.category, wanted.exit_event)])


def _raw(wanted: TracepointSpec) -> Plan:
    source = RawTracepoint(wanted.event, MAX_RAW_ARGUMENTS)
    return Plan("RawTracepoint", Places([source]), [lambda program: raw_tracepoint(wanted.event, program)])


def _system_call(probe: UserProbe, wanted: Kprobe) -> Plan:
    if wanted.mechanism is not Mechanism.AUTO:
        raise MachineError("not available in this version")
    tracefs = Tracefs.find()
    events = [call_tracepoint(side, wanted.call) for side in ("enter", "exit")]
    enter, leave = (record_of(tracefs, "syscalls", event) for event in events)
    enter = TracepointRecord(enter.event, enter.fields[1:])  # __syscall_nr is no argument
    attach = [_attach("syscalls", event) for event in events]
    if probe.mode is Mode.EVENT:
        return Plan("Tracepoint", Places([enter]), attach[:1])
    return Plan("Tracepoint", Places([enter], [leave]), attach[:1], attach[1:])


def host_namespace(kind: NamespaceType, root: Path = Path("/proc/1/ns")) -> int:
    """Inode number of the first process's namespace of a kind, as the agent sees it. Raises MachineError."""
    try:
        return (root / kind.value.lower()).stat().st_ino
    except OSError as error:
        raise MachineError(
            f"namespaces of process 1 cannot be read: {error.strerror}",
            reason="PermissionDenied",
            hint="grant CAP_SYS_PTRACE, or give the namespace's number instead of Host",
        ) from error
