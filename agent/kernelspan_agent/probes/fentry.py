# SPDX-License-Identifier: Apache-2.0
"""fentry and fexit: programs that the kernel calls straight from the function, which they are loaded for.

The function is named when the program is loaded, by its number in BTF, and the program's context is its arguments (and for
fexit its result after them), one word each. Source: kernel/bpf/trampoline.c, kernel/bpf/syscall.c. On Linux before 5.13 a
program that was detached cannot be attached again: load it anew.
"""

from __future__ import annotations

import errno
import os
from pathlib import Path

from kernelspan_agent.errors import MachineError
from kernelspan_agent.probes import bpf
from kernelspan_agent.probes.attach import Attachment
from kernelspan_agent.probes.refusals import refused

KIND = bpf.PROG_TRACING
_MOST_BTF = 4096  # objects of BTF in the kernel that are looked at: vmlinux's, modules', programs'


def target(number: int, *, returns: bool = False, module_fd: int = 0) -> bpf.Target:
    """What a program for a function (its number in BTF) is loaded for: at its entry, or at its return."""
    return bpf.Target(bpf.ATTACH_FEXIT if returns else bpf.ATTACH_FENTRY, number, module_fd)


def attach(program_fd: int, name: str) -> Attachment:
    """Attaches a program loaded for a `target`. Raises MachineError: MechanismUnsupported, PermissionDenied, …"""
    try:
        return Attachment(name, bpf.raw_tracepoint_open(program_fd))
    except OSError as error:
        if error.errno in (errno.EBUSY, errno.ENOENT):  # what stands at its entry is not what tracing leaves there
            words = f"fentry {name}: the function was not built to be traced, or a live patch has it"
            raise MachineError(
                words, reason="FunctionBlacklisted", hint="probe a caller or a callee instead"
            ) from error
        raise refused(f"fentry {name}", error) from error


def module_btf(module: str) -> int:
    """A descriptor of a module's BTF (Linux 5.11), for `target`; the caller closes it. Raises MachineError.

    The kernel gives it to CAP_SYS_ADMIN only: without it, functions of modules are probed by kprobes.
    """
    if not Path("/sys/kernel/btf", module).is_file():
        raise MachineError(f"module {module}: no type information", reason="KernelTooOld", hint="mechanism Kprobe")
    number = 0
    try:
        for _ in range(_MOST_BTF):
            number = bpf.next_btf(number)
            fd = bpf.btf_open(number)
            if bpf.btf_name(fd) == module:
                return fd
            os.close(fd)
    except FileNotFoundError:
        pass
    except OSError as error:
        raise refused(f"type information of module {module}", error) from error
    raise MachineError(f"module {module}: no type information", reason="KernelTooOld", hint="mechanism Kprobe")
