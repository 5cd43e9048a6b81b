# SPDX-License-Identifier: Apache-2.0
"""System calls by name: the kernel's function that a call enters, its tracepoints, its arguments.

The kernel's entry functions take the registers (asmlinkage long __x64_sys_openat(const struct pt_regs *regs), arch/x86/
include/asm/syscall_wrapper.h): the arguments are in them, in the order of the call. Their names and types are those of
the call's SYSCALL_DEFINE, which tracefs shows (syscalls:sys_enter_NAME), or BTF where __do_sys_NAME is not inlined.
"""

from __future__ import annotations

import platform
from dataclasses import dataclass, replace

from kernelspan_agent.errors import MachineError
from kernelspan_agent.probes import btf
from kernelspan_agent.probes.ktypes import KernelTypes, Leaf, LeafKind, Parameter
from kernelspan_agent.probes.nearest import hint as near
from kernelspan_agent.probes.tracefs import CALL_NAMES, FieldKind, Tracefs
from kernelspan_agent.probes.typeparse import typed

PREFIXES = {"x86_64": "__x64_sys_", "aarch64": "__arm64_sys_"}
REGISTERS = {  # members of pt_regs that hold a call's arguments (syscall(2)); `regs[0]` is an element
    "x86_64": ("di", "si", "dx", "r10", "r8", "r9"),
    "aarch64": ("regs[0]", "regs[1]", "regs[2]", "regs[3]", "regs[4]", "regs[5]"),
}
_ENTER, BODY = "sys_enter_", "__do_sys_"
_NO_ARGUMENT = "__unused"  # what SYSCALL_DEFINE0 calls the registers
_MAX_ARGUMENTS = 6


@dataclass(frozen=True, slots=True)
class SystemCall:
    """A system call of this kernel.

    function: the kernel's entry function, which takes a pt_regs. event: what its tracepoints are called behind sys_enter_
    and sys_exit_. parameters: names and types; `slot` is the argument's number, at REGISTERS[machine][slot] of the pt_regs;
    None: not known, as neither tracefs nor BTF says so. Pointers lead into the process's memory.
    """

    name: str
    function: str
    event: str
    parameters: tuple[Parameter, ...] | None


def function_of(name: str, machine: str = platform.machine()) -> str:
    """What the kernel calls the entry function of a system call, whether it has it or not."""
    return PREFIXES.get(machine, "") + CALL_NAMES.get(name, name)


def system_call(
    name: str, types: KernelTypes, tracefs: Tracefs | None, machine: str = platform.machine()
) -> SystemCall:
    """What this kernel says of a system call. Raises MachineError (FunctionNotFound) with the nearest names."""
    prefix = PREFIXES.get(machine)
    if prefix is None:
        raise MachineError(f"system calls of {machine} are not known", reason="MechanismUnsupported")
    event = CALL_NAMES.get(name, name)
    if not _is_there(event, prefix, types, tracefs):
        what = f"{name}: this kernel has no such system call"
        raise MachineError(what, reason="FunctionNotFound", hint=near(name, names(types, tracefs, machine)))
    return SystemCall(name, prefix + event, event, _parameters(event, types, tracefs))


def names(types: KernelTypes, tracefs: Tracefs | None, machine: str = platform.machine()) -> list[str]:
    """The system calls of this kernel, by their usual names.

    By tracefs; where it has none of them by BTF, which has also those that the kernel was built without.
    """
    defined = {name.removeprefix(_ENTER) for _, name in (tracefs.events(f"syscalls:{_ENTER}*") if tracefs else ())}
    if not defined:
        prefixes = (PREFIXES.get(machine, "-"), BODY)  # of a call without arguments BTF may have the second alone
        defined = {name.removeprefix(each) for each in prefixes for name in types.kernel.names(each)} - {"ni_syscall"}
    usual = {kernel: call for call, kernel in CALL_NAMES.items()}
    return sorted({usual.get(each, each) for each in defined})


def _is_there(event: str, prefix: str, types: KernelTypes, tracefs: Tracefs | None) -> bool:
    if tracefs is not None and tracefs.event_id("syscalls", _ENTER + "read") is not None:  # it has them
        return tracefs.event_id("syscalls", _ENTER + event) is not None
    return any(types.find(each + event, btf.FUNC, module="") for each in (prefix, BODY))


def _parameters(event: str, types: KernelTypes, tracefs: Tracefs | None) -> tuple[Parameter, ...] | None:
    if tracefs is not None and tracefs.event_id("syscalls", _ENTER + event) is not None:
        fields = tracefs.tracepoint("syscalls", _ENTER + event).fields
        given = [(each.name, each.type, each.kind) for each in fields if each.size == 8 and each.offset >= 16]
        return tuple(
            Parameter(name, typed(types, text, user=True) or _unknown(text, kind), slot)
            for slot, (name, text, kind) in enumerate(given[:_MAX_ARGUMENTS])
        )
    described = types.function(BODY + event, module="")
    if described is None:
        return None
    return tuple(
        Parameter(each.name, replace(each.type, user=each.type.kind is LeafKind.POINTER), slot)
        for slot, each in enumerate(described.parameters[:_MAX_ARGUMENTS])
        if each.name != _NO_ARGUMENT
    )


def _unknown(text: str, kind: FieldKind) -> Leaf:
    """A type that this kernel's BTF does not have: of its register all that can be said."""
    if kind is FieldKind.POINTER:
        return Leaf(LeafKind.POINTER, text, 8, of=Leaf(LeafKind.VOID, "void", 0), user=True)
    return Leaf(LeafKind.INTEGER, text, 8)
