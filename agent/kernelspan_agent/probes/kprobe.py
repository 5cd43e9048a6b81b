# SPDX-License-Identifier: Apache-2.0
"""Probes on functions of the kernel: kprobe and kretprobe, one at a time by the kernel's PMU or many at once as one link.

Source: kernel/events/core.c (perf_kprobe), kernel/trace/trace_kprobe.c, kernel/trace/bpf_trace.c (kprobe.multi, Linux 5.18,
which needs CONFIG_FPROBE: some kernels load its programs and refuse only the link).
"""

from __future__ import annotations

import ctypes
import errno
import struct
from collections.abc import Sequence

from kernelspan_agent.errors import MachineError
from kernelspan_agent.probes import bpf, perf
from kernelspan_agent.probes.attach import Attachment
from kernelspan_agent.probes.refusals import refused

PMU = "kprobe"
MULTI = bpf.Target(bpf.ATTACH_KPROBE_MULTI)  # what a program of `multi` is loaded for
_AT_RETURN = 1  # BPF_F_KPROBE_MULTI_RETURN


def kprobe(function: str | int, program_fd: int, *, offset: int = 0, returns: bool = False) -> Attachment:
    """Attaches to one function, by name or by address, `offset` bytes into it, or where it returns.

    Raises MachineError: MechanismUnsupported, FunctionNotFound, FunctionBlacklisted, PermissionDenied, LockdownActive.
    A name that several functions have means the first of them on Linux before 6.6: give addresses.
    """
    kind = perf.pmu_type(PMU)
    config = 0
    if returns:
        bit = perf.first_bit(PMU, "retprobe")
        if bit is None:
            raise MachineError("this kernel has no kretprobe events", reason="MechanismUnsupported")
        config = 1 << bit
    label = spelled(function, offset, returns)
    if isinstance(function, str):
        text = ctypes.create_string_buffer(function.encode())
        words = (ctypes.addressof(text), offset)
    else:
        words = (0, function + offset)
    try:
        return Attachment(label, perf.attached(kind, config, program_fd, words=words), returns)
    except OSError as error:
        raise _refused(label, error) from error


def multi(
    functions: Sequence[str | int],
    program_fd: int,
    *,
    returns: bool = False,
    cookies: Sequence[int] = (),
) -> Attachment:
    """Attaches one program (loaded for MULTI) to all of these, either names or addresses: all or none.

    `cookies`: a number for each, which bpf_get_attach_cookie gives to the program. Raises MachineError as `kprobe`.
    """
    names = [ctypes.create_string_buffer(each.encode()) for each in functions if isinstance(each, str)]
    words = [ctypes.addressof(name) for name in names] or [each for each in functions if isinstance(each, int)]
    places = (ctypes.c_uint64 * len(functions))(*words)
    numbers = (ctypes.c_uint64 * len(functions))(*cookies) if cookies else None
    rest = struct.pack(
        "<IIQQQ",
        _AT_RETURN if returns else 0,
        len(functions),
        ctypes.addressof(places) if names else 0,
        0 if names else ctypes.addressof(places),
        ctypes.addressof(numbers) if numbers is not None else 0,
    )
    more = f" and {len(functions) - 1} more" if len(functions) > 1 else ""
    label = f"{spelled(functions[0], 0, returns)}{more}"
    try:
        return Attachment(label, bpf.link_create(program_fd, bpf.ATTACH_KPROBE_MULTI, rest), returns)
    except OSError as error:
        if error.errno == errno.EINVAL:  # a function that cannot be traced is ENOENT or ESRCH
            hint = "leave mechanism at Auto; `kernelspan check` lists what this machine can do"
            raise MachineError(f"kprobe.multi {label}: this kernel has no kprobe.multi", hint=hint) from error
        raise _refused(label, error) from error


def spelled(function: str | int, offset: int = 0, returns: bool = False) -> str:
    """A probe's name for people, such as vfs_read+0x10 or vfs_read:return."""
    name = function if isinstance(function, str) else f"{function:#x}"
    return f"{name}{f'+{offset:#x}' if offset else ''}{':return' if returns else ''}"


def _refused(label: str, error: OSError) -> MachineError:
    """Of an attach: EINVAL and EILSEQ are the kernel's words for a place that may not be probed."""
    if error.errno in (errno.ENOENT, errno.ESRCH):
        return MachineError(
            f"{label}: this kernel has no such function that can be probed",
            reason="FunctionNotFound",
            hint="it may be inlined, or renamed in this kernel; see /proc/kallsyms",
        )
    if error.errno == errno.EADDRNOTAVAIL:
        return MachineError(
            f"{label}: several functions have this name", reason="FunctionNotFound", hint="give its address"
        )
    if error.errno in (errno.EINVAL, errno.EILSEQ):
        return MachineError(
            f"{label}: the kernel does not let it be probed",
            reason="FunctionBlacklisted",
            hint="probe a caller or a callee instead; debugfs' kprobes/blacklist lists what is forbidden",
        )
    return refused(f"kprobe {label}", error)
