# SPDX-License-Identifier: Apache-2.0
"""What the kernel's refusal to attach means, with what to do: one place for permissions, lockdown and missing features."""

from __future__ import annotations

import errno
import os
import platform
import re
import resource
from pathlib import Path

from kernelspan_agent.errors import MachineError
from kernelspan_agent.probes import bpf

LOCKDOWN = Path("/sys/kernel/security/lockdown")
PARANOID = Path("/proc/sys/kernel/perf_event_paranoid")
_COUNTS_NOT_AS_LOCKED = (5, 11)  # kernel/bpf: memory of maps is the cgroup's since then
_MOST_PARANOID = 2  # of the kernel's own levels
READ_REFUSED = re.compile(r"(?:unknown func|cannot use helper) bpf_probe_read_kernel")  # kernel/bpf/verifier.c
_PROBE_READ_KERNEL = 113  # include/uapi/linux/bpf.h: bpf_probe_read_kernel
READS = (
    bpf.instruction(0xBF, 1, 10)  # r1 = r10
    + bpf.instruction(0x07, 1, immediate=-8)  # r1 += -8
    + bpf.instruction(0xB7, 2, immediate=8)
    + bpf.instruction(0xB7, 3)  # address 0 cannot be read: only the permission is asked for
    + bpf.instruction(0x85, immediate=_PROBE_READ_KERNEL)
    + bpf.NOTHING
)
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
        return MachineError(f"{what}: {words}", reason="PermissionDenied", hint=_what_to_grant())
    if number in _NOT_THERE:
        hint = "leave mechanism at Auto; `kernelspan check` lists what this machine can do"
        return MachineError(f"{what}: {words}", reason="MechanismUnsupported", hint=hint)
    failure = MachineError(f"{what}: {words}", reason="MechanismUnsupported")
    failure.details = getattr(error, "log", "")
    return failure


def not_permitted(what: str, *, release: str = "", limit: int | None = None) -> MachineError:
    """The error for a map or a program, of which bpf(2) says EPERM: for want of a capability, or of locked memory.

    Linux before 5.11 counts both as locked memory of the user, and says no more where there is too little. `release`, `limit`
    (bytes): of the kernel and of this process, unless given.
    """
    soft = resource.getrlimit(resource.RLIMIT_MEMLOCK)[0] if limit is None else limit
    numbers = re.match(r"(\d+)\.(\d+)", release or platform.release())
    counts = numbers is not None and (int(numbers[1]), int(numbers[2])) < _COUNTS_NOT_AS_LOCKED
    if not counts or soft == resource.RLIM_INFINITY:
        hint = "run as root, or grant CAP_BPF and CAP_PERFMON (before Linux 5.8: CAP_SYS_ADMIN)"
        return MachineError(f"{what}: the kernel does not permit it", reason="PermissionDenied", hint=hint)
    return MachineError(
        f"{what}: refused: this kernel counts it as locked memory, of which {soft >> 10} KiB are allowed",
        reason="PermissionDenied",
        hint="`ulimit -l unlimited` first (systemd: LimitMEMLOCK=infinity), or grant CAP_SYS_RESOURCE; where it is unlimited, "
        "grant CAP_BPF and CAP_PERFMON (before Linux 5.8: CAP_SYS_ADMIN)",
    )


def locked_down(path: Path = LOCKDOWN) -> bool:
    """Whether nobody may read the kernel's memory: as securityfs says, or as a program that would read it is refused."""
    try:
        return "[confidentiality]" in path.read_text("ascii", "replace")
    except OSError:
        pass
    try:
        os.close(bpf.prog_load(bpf.PROG_RAW_TRACEPOINT, READS, "ks_try"))
    except bpf.VerifierError as error:
        return READ_REFUSED.search(error.log) is not None
    except OSError:
        return False
    return False


def _what_to_grant(paranoid: Path = PARANOID) -> str:
    """Debian's kernels and others have levels of their own, at which perf_event_open(2) is for CAP_SYS_ADMIN alone."""
    try:
        level = int(paranoid.read_text("ascii", "replace"))
    except (OSError, ValueError):
        level = 0
    if level > _MOST_PARANOID:
        return f"sysctl kernel.perf_event_paranoid=2 (it is {level}), or grant CAP_SYS_ADMIN, which that level wants"
    return "run as root, or grant CAP_BPF and CAP_PERFMON; a seccomp filter or an LSM may forbid it as well"


def _holds_all(status: Path = Path("/proc/self/status")) -> bool:
    """Whether this process has every capability there is to have for programs: CAP_SYS_ADMIN, CAP_PERFMON, CAP_BPF."""
    try:
        held = next(
            line.split()[1] for line in status.read_text("ascii", "replace").splitlines() if line[:7] == "CapEff:"
        )
    except (OSError, StopIteration):
        return False
    return all(int(held, 16) >> bit & 1 for bit in (21, 38, 39))
