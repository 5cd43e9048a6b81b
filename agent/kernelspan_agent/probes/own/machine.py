# SPDX-License-Identifier: Apache-2.0
"""Where a probe of the kernel attaches on this machine: what its programs are, and how each is attached.

The mechanism is the cheapest that this very function takes (`functions.place`), unless the profile forces one. A system call
of a kernel without any is seen by its tracepoints.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from kernelspan_agent.errors import MachineError
from kernelspan_agent.probes import bpf, functions
from kernelspan_agent.probes.attach import Attachment, raw_tracepoint, tracepoint
from kernelspan_agent.probes.kfunctions import KernelFunctions
from kernelspan_agent.probes.ktypes import KernelTypes, Leaf
from kernelspan_agent.probes.own.located import Places
from kernelspan_agent.probes.own.sources import (
    ArgumentError,
    KernelFunction,
    RawTracepoint,
    Source,
    SystemCallFunction,
    TracepointRecord,
    Trampoline,
)
from kernelspan_agent.probes.syscalls import SystemCall, function_of, system_call
from kernelspan_agent.probes.tracefs import Tracefs
from kernelspan_agent.probes.typeparse import typed
from kernelspan_api.conditions import NamespaceType
from kernelspan_api.userprobes import Argument, Kprobe, Mechanism, Mode, UserProbe
from kernelspan_api.userprobes import Tracepoint as TracepointSpec

Attach = Callable[[int], list[Attachment]]
"""Attaches the program of that descriptor."""
# Where a function's return address lies, seen from what a program at its return is given: behind the registers. Before
# Linux 5.16 the registers lie over it (kretprobe_trampoline and its successors, arch/x86/kernel/kprobes/core.c, rethook.c).
RETURN_SLOT, OLD_RETURN_SLOT = 168, 152
_NEW_TRAMPOLINES = ("arch_rethook_trampoline", "__kretprobe_trampoline")
_INSTEAD = {"MechanismUnsupported", "FunctionNotFound", "FunctionBlacklisted"}  # a call has its tracepoints still
_PARAMETER_BYTES = 8


@dataclass(slots=True)
class Plan:
    """How a probe gets to see its calls. `enters`, `exits`: how each program is attached, as `places` has them.

    `entry`, `exit`: what programs are loaded for, beyond their kind. `alone`: another program may begin on the CPU while one
    of these is at work (fentry's and, since 6.13, those of system calls' tracepoints can be preempted; of raw tracepoints each is kept
    from beginning twice, and no other). Holds descriptors until `close`.
    """

    mechanism: str
    places: Places
    enters: Sequence[Attach]
    exits: Sequence[Attach] = ()
    entry: bpf.Target = bpf.ANYWHERE
    exit: bpf.Target = bpf.ANYWHERE
    alone: bool = False
    close: Callable[[], None] = field(default=lambda: None, repr=False)


class Machine:
    """What this machine says of itself, asked for once for all probes of a plan. `close` it."""

    def __init__(self) -> None:
        self._opened: KernelTypes | None = None

    @property
    def types(self) -> KernelTypes:
        """The kernel's types. Raises MachineError."""
        if self._opened is None:
            self._opened = KernelTypes.open()
        return self._opened

    @cached_property
    def functions(self) -> KernelFunctions:
        """The kernel's functions."""
        return KernelFunctions()

    @cached_property
    def tracefs(self) -> Tracefs:
        """Raises MachineError."""
        return Tracefs.find()

    @cached_property
    def return_slot(self) -> int:
        """See RETURN_SLOT."""
        return RETURN_SLOT if self.functions.known(_NEW_TRAMPOLINES) else OLD_RETURN_SLOT

    def expect(self, calls: Iterable[Kprobe]) -> None:
        """Looks for all of these in one pass over the kernel's functions, with what else their plans ask for."""
        names = {function_of(each.call) if each.syscall else each.call for each in calls}
        with contextlib.suppress(MachineError):  # of that each will tell for itself
            self.functions.known(names and names | {*_NEW_TRAMPOLINES})

    def close(self) -> None:
        """Gives the types' memory back."""
        if self._opened is not None:
            self._opened.close()
            self._opened = None


def plan_of(probe: UserProbe, machine: Machine) -> Plan:
    """A probe of the kernel's. Raises MachineError, ArgumentError: this machine has nothing to attach it to."""
    if probe.tracepoint is not None:
        wanted = probe.tracepoint
        for event in (wanted.event, wanted.exit_event):
            is_one = (wanted.category, event) in _IN_INTERRUPTS
            is_one |= wanted.raw and event in {name for _, name in _IN_INTERRUPTS}
            _refuse_interrupts(f"tracepoint {wanted.category}:{event}", is_one=is_one)
        return (
            _raw(probe.tracepoint, machine) if probe.tracepoint.raw else _tracepoint(probe, probe.tracepoint, machine)
        )
    assert probe.kprobe is not None
    if not probe.kprobe.syscall:
        _refuse_interrupts(f"function {probe.kprobe.call}", is_one=probe.kprobe.call in _FUNCTIONS_IN_INTERRUPTS)
        return _function(probe, probe.kprobe, machine)
    call = system_call(probe.kprobe.call, machine.types, _tracefs(machine))
    try:
        return _function(probe, probe.kprobe, machine, call)
    except MachineError as error:
        if probe.kprobe.mechanism is not Mechanism.AUTO or error.reason not in _INSTEAD:
            raise
        return _call_events(probe, call, machine)


# What the kernel does on nobody's behalf, in timers and in the work behind interrupts. What only sometimes runs there is probed,
# and its hits there are counted apart (KS_C_NOT_TASK).
_IN_INTERRUPTS = {
    ("tcp", "tcp_retransmit_skb"),
    ("tcp", "tcp_retransmit_synack"),
    *(("irq", event) for event in ("irq_handler_entry", "irq_handler_exit", "softirq_entry", "softirq_exit")),
    *(("timer", event) for event in ("timer_expire_entry", "timer_expire_exit", "hrtimer_expire_entry")),
    *(("net", event) for event in ("netif_receive_skb", "napi_gro_receive_entry", "netif_rx")),
    ("napi", "napi_poll"),
}
_FUNCTIONS_IN_INTERRUPTS = {
    *("tcp_retransmit_skb", "__tcp_retransmit_skb", "tcp_retransmit_timer", "tcp_write_timer_handler"),
    *("__netif_receive_skb_core", "tcp_v4_rcv", "tcp_v6_rcv", "udp_rcv", "ip_rcv", "net_rx_action"),
}


def _refuse_interrupts(what: str, *, is_one: bool) -> None:
    if is_one:
        raise MachineError(
            f"{what} happens in timers and interrupts: the process that runs then is not the one it concerns",
            reason="SoftirqContext",
            hint="probe the call that begins it, such as tcp_sendmsg, which the process makes itself",
        )


def _tracefs(machine: Machine) -> Tracefs | None:
    try:
        return machine.tracefs
    except MachineError:
        return None


# --- tracepoints ----------------------------------------------------------------------------------------------------------


def _attach(machine: Machine, category: str, event: str) -> Attach:
    def attach(program: int) -> list[Attachment]:
        found = tracepoint(machine.tracefs, category, event, program)
        if found is None:
            raise MachineError(f"tracepoint {category}:{event} is gone", reason="TracepointNotFound")
        return [found]

    return attach


def _tracepoint(probe: UserProbe, wanted: TracepointSpec, machine: Machine) -> Plan:
    enter = TracepointRecord(machine.tracefs.tracepoint(wanted.category, wanted.event))

    def type_of(argument: Argument) -> Leaf | None:
        # What a system call is given points into the process's memory.
        return typed(machine.types, enter.field(argument).type, user=wanted.category == "syscalls")

    attach, alone = [_attach(machine, wanted.category, wanted.event)], wanted.category in ("syscalls", "raw_syscalls")
    if probe.mode is Mode.EVENT:
        return Plan("Tracepoint", Places([enter], type_of=type_of), attach, alone=alone)
    leave: list[Source] = [TracepointRecord(machine.tracefs.tracepoint(wanted.category, wanted.exit_event))]
    places = Places([enter], leave, type_of)
    return Plan("Tracepoint", places, attach, [_attach(machine, wanted.category, wanted.exit_event)], alone=alone)


def _raw(wanted: TracepointSpec, machine: Machine) -> Plan:
    found = machine.types.raw_tracepoint(wanted.event)
    if found is None:
        raise MachineError(
            f"this kernel has no raw tracepoint {wanted.event}",
            reason="TracepointNotFound",
            hint="kernelspan list tracepoints PATTERN shows what there is",
        )

    def type_of(argument: Argument) -> Leaf | None:
        return found.parameters[argument.index or 0].type if (argument.index or 0) < len(found.parameters) else None

    source = RawTracepoint(wanted.event, len(found.parameters))
    return Plan(
        "RawTracepoint",
        Places([source], type_of=type_of),
        [lambda program: [raw_tracepoint(wanted.event, program)]],
        alone=True,
    )


def _call_events(probe: UserProbe, call: SystemCall, machine: Machine) -> Plan:
    enter = TracepointRecord(machine.tracefs.tracepoint("syscalls", f"sys_enter_{call.event}"), is_call=True)
    attach = [_attach(machine, "syscalls", f"sys_{side}_{call.event}") for side in ("enter", "exit")]
    if probe.mode is Mode.EVENT:
        return Plan("Tracepoint", Places([enter], type_of=_of_call(call)), attach[:1], alone=True)
    leave = TracepointRecord(machine.tracefs.tracepoint("syscalls", f"sys_exit_{call.event}"), is_call=True)
    return Plan("Tracepoint", Places([enter], [leave], _of_call(call)), attach[:1], attach[1:], alone=True)


def _of_call(call: SystemCall) -> Callable[[Argument], Leaf | None]:
    def type_of(argument: Argument) -> Leaf | None:
        found = next((each for each in call.parameters or () if each.slot == argument.index), None)
        return found.type if found else None

    return type_of


# --- functions ------------------------------------------------------------------------------------------------------------


def _function(probe: UserProbe, wanted: Kprobe, machine: Machine, call: SystemCall | None = None) -> Plan:
    name = call.function if call else wanted.call
    function = machine.functions.function(name)
    is_span = probe.mode is Mode.SPAN
    placement = functions.place(function, wanted.mechanism, returns=is_span, types=machine.types)
    described = machine.types.function(name)

    def type_of(argument: Argument) -> Leaf | None:
        if described is None:
            return None
        return next((each.type for each in described.parameters if each.slot == argument.index), None)

    source: Source
    if placement.mechanism is Mechanism.FENTRY:
        if described is None:
            raise ArgumentError(f"the kernel does not describe {name}: its arguments cannot be told apart for fentry")
        words = sum(max(1, -(-each.type.size // _PARAMETER_BYTES)) for each in described.parameters)
        source = Trampoline(words, is_call=call is not None)
    else:
        source = (SystemCallFunction if call else KernelFunction)(machine.return_slot)
    return Plan(
        placement.mechanism.value,
        Places([source], [source] if is_span else [], _of_call(call) if call else type_of),
        [placement.attach],
        [lambda program: placement.attach(program, returns=True)] if is_span else [],
        placement.target(),
        placement.target(returns=True) if is_span else bpf.ANYWHERE,
        placement.mechanism is Mechanism.FENTRY,
        placement.close,
    )


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
