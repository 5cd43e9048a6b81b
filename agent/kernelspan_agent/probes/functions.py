# SPDX-License-Identifier: Apache-2.0
"""By which mechanism a function of the kernel is probed: found out by attaching a program that does nothing.

Cheapest first: fentry, kprobe.multi, kprobe. A mechanism that the kernel has (`proofs`) may still refuse one function:
no type information, more arguments than it takes, several functions of one name. So each is tried on the function itself,
entry and return, before a program is made for it: what a program is loaded as, and what its context is, follow from this.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial

from kernelspan_agent.errors import MachineError
from kernelspan_agent.probes import bpf, fentry, kprobe, proofs
from kernelspan_agent.probes.attach import Attachment
from kernelspan_agent.probes.kfunctions import KernelFunction
from kernelspan_agent.probes.ktypes import KernelTypes
from kernelspan_agent.probes.loader import with_locked_memory
from kernelspan_agent.probes.refusals import refused
from kernelspan_api.userprobes import Mechanism

_KINDS = {
    Mechanism.FENTRY: fentry.KIND,
    Mechanism.KPROBE_MULTI: bpf.PROG_KPROBE,
    Mechanism.KPROBE: bpf.PROG_KPROBE,
}


@dataclass(slots=True)
class Placement:
    """A function with the mechanism that takes it. Holds a descriptor for a module's function: close it after loading."""

    function: KernelFunction
    mechanism: Mechanism
    number: int = 0  # in BTF, for fentry
    module_fd: int = field(default=0, repr=False)

    @property
    def kind(self) -> int:
        """What its programs are loaded as: bpf.PROG_*. A fentry program's context is the arguments, else pt_regs."""
        return _KINDS[self.mechanism]

    def target(self, *, returns: bool = False) -> bpf.Target:
        """What its program is loaded for, at the entry or at the return."""
        if self.mechanism is Mechanism.FENTRY:
            return fentry.target(self.number, returns=returns, module_fd=self.module_fd)
        return kprobe.MULTI if self.mechanism is Mechanism.KPROBE_MULTI else bpf.ANYWHERE

    def attach(self, program_fd: int, *, returns: bool = False) -> list[Attachment]:
        """Attaches a program loaded so: one attachment, or one for each function of the name. Raises MachineError."""
        name = self.function.name
        several = len(self.function.addresses) > 1
        if self.mechanism is Mechanism.FENTRY:
            return [fentry.attach(program_fd, kprobe.spelled(name, returns=returns))]
        if several and not all(self.function.addresses):
            raise MachineError(
                f"{len(self.function.addresses)} functions are called {name}, and the kernel hides where they are",
                reason="PermissionDenied",
                hint="grant CAP_SYSLOG",
            )
        if self.mechanism is Mechanism.KPROBE_MULTI:
            return [kprobe.multi(self.function.addresses if several else [name], program_fd, returns=returns)]
        with contextlib.ExitStack() as undo:
            made = []
            for each in self.function.addresses if several else (name,):
                made.append(kprobe.kprobe(each, program_fd, returns=returns))
                undo.callback(made[-1].close)
            undo.pop_all()
        return made

    def close(self) -> None:
        """Gives the module's descriptor back."""
        if self.module_fd:
            os.close(self.module_fd)
            self.module_fd = 0


def place(
    function: KernelFunction,
    wanted: Mechanism = Mechanism.AUTO,
    *,
    returns: bool = False,
    types: KernelTypes | None = None,
) -> Placement:
    """The function with the cheapest mechanism that takes it, or with the one that is `wanted`.

    `returns`: its return is probed as well. `types`: where the caller has them open.
    Raises MachineError: FunctionBlacklisted, MechanismUnsupported (says which there are), FunctionNotFound,
    PermissionDenied, LockdownActive, KernelTooOld.
    """
    refusals: list[MachineError] = []
    for mechanism in proofs.usable(wanted):
        try:
            return _tried(function, mechanism, returns, types)
        except MachineError as error:
            refusals.append(error)
    raise _worst(function, refusals)


def _worst(function: KernelFunction, refusals: list[MachineError]) -> MachineError:
    """What to tell of several refusals: that nobody may probe it, then the last one's, which is of the widest mechanism."""
    if function.blacklisted:
        return MachineError(
            f"the kernel forbids probes on {function.name}",
            reason="FunctionBlacklisted",
            hint="probe a caller or a callee instead; debugfs' kprobes/blacklist lists what is forbidden",
        )
    told = refusals[-1]
    if told.reason == "FunctionNotFound":  # it is there, but not for this mechanism
        return MachineError(str(told), hint=told.hint)
    if len(refusals) > 1:
        told.details = "\n".join(str(error) for error in refusals)
    return told


def _tried(function: KernelFunction, mechanism: Mechanism, returns: bool, types: KernelTypes | None) -> Placement:
    placement = _looked_up(function, mechanism, types)
    try:
        for at_return in (False, True) if returns else (False,):
            with _nothing(placement, at_return) as program:
                for attachment in placement.attach(program, returns=at_return):
                    attachment.close()
    except BaseException:
        placement.close()
        raise
    return placement


def _looked_up(function: KernelFunction, mechanism: Mechanism, types: KernelTypes | None) -> Placement:
    if mechanism is not Mechanism.FENTRY:
        return Placement(function, mechanism)
    if len(function.addresses) > 1:
        raise MachineError(
            f"{len(function.addresses)} functions are called {function.name}: type information knows one of them",
            reason="MechanismUnsupported",
            hint="leave mechanism at Auto, or take Kprobe, which probes all of them",
        )
    with contextlib.ExitStack() as stack:
        described = (types or stack.enter_context(KernelTypes.open())).function(function.name, function.module)
    if described is None:
        raise MachineError(
            f"fentry {function.name}: this kernel has no type information of it",
            reason="MechanismUnsupported",
            hint="leave mechanism at Auto, or take Kprobe, which needs none",
        )
    module_fd = fentry.module_btf(described.module) if described.module else 0
    return Placement(function, mechanism, described.number, module_fd)


@contextlib.contextmanager
def _nothing(placement: Placement, returns: bool) -> Iterator[int]:
    """A program that does nothing, loaded for the placement."""
    try:
        fd = with_locked_memory(
            partial(bpf.prog_load, placement.kind, bpf.NOTHING, "ks_try", placement.target(returns=returns))
        )
    except OSError as error:
        raise refused(f"{placement.mechanism.value} {placement.function.name}", error) from error
    try:
        yield fd
    finally:
        os.close(fd)
