# SPDX-License-Identifier: Apache-2.0
"""What the kernel's refusal to attach means, with what to do: one place for permissions, lockdown and missing features."""

from __future__ import annotations

import errno
import os
from pathlib import Path

from kernelspan_agent.errors import MachineError

LOCKDOWN = Path("/sys/kernel/security/lockdown")
_NOT_PERMITTED = (errno.EPERM, errno.EACCES)
_NOT_THERE = (errno.EOPNOTSUPP, errno.ENOSYS, errno.ENODEV, 524)  # 524: ENOTSUPP, which has no name outside the kernel


def refused(what: str, error: OSError, *, lockdown: Path = LOCKDOWN) -> MachineError:
    """The error for `what`, such as "kprobe vfs_read", that could not be attached or loaded."""
    number = error.errno or 0
    words = "not supported by this kernel" if number == 524 else os.strerror(number)
    if number in _NOT_PERMITTED:
        if locked_down(lockdown):
            hint = "boot without lockdown=confidentiality; lockdown=integrity is fine"
            return MachineError(f"{what}: the kernel's lockdown forbids it", reason="LockdownActive", hint=hint)
        if _holds_all():  # a kernel that lacks a part says no more than this, too
            return MachineError(f"{what}: refused by this kernel, though every capability is there")
        hint = "run as root, or grant CAP_BPF and CAP_PERFMON; a seccomp filter or an LSM may forbid it as well"
        return MachineError(f"{what}: {words}", reason="PermissionDenied", hint=hint)
    if number in _NOT_THERE:
        hint = "leave mechanism at Auto; `kernelspan check` lists what this machine can do"
        return MachineError(f"{what}: {words}", reason="MechanismUnsupported", hint=hint)
    failure = MachineError(f"{what}: {words}", reason="MechanismUnsupported")
    failure.details = getattr(error, "log", "")
    return failure


def locked_down(path: Path = LOCKDOWN) -> bool:
    """Whether the kernel says that nobody may read its memory; False where it does not say."""
    try:
        return "[confidentiality]" in path.read_text("ascii", "replace")
    except OSError:
        return False


def _holds_all(status: Path = Path("/proc/self/status")) -> bool:
    """Whether this process has every capability there is to have for programs: CAP_SYS_ADMIN, CAP_PERFMON, CAP_BPF."""
    try:
        held = next(
            line.split()[1] for line in status.read_text("ascii", "replace").splitlines() if line[:7] == "CapEff:"
        )
    except (OSError, StopIteration):
        return False
    return all(int(held, 16) >> bit & 1 for bit in (21, 38, 39))
