# SPDX-License-Identifier: Apache-2.0
"""Probes on instructions of a file: uprobe and uretprobe, with the semaphore of a USDT probe where it has one.

The kernel patches a breakpoint into the file's page in every process that maps it, now and later, and takes it back when
the descriptor closes, however that happens; a semaphore (a 16-bit counter in the program's data, by which the program knows
that somebody listens) it raises and lowers itself, so a killed agent leaves none raised. Source: kernel/events/core.c
(perf_uprobe), kernel/events/uprobes.c.
"""

from __future__ import annotations

import ctypes
import errno
import os
import stat

from kernelspan_agent.errors import MachineError
from kernelspan_agent.probes import perf
from kernelspan_agent.probes.attach import Attachment
from kernelspan_agent.probes.refusals import refused

PMU = "uprobe"
_REMEDY = "give the path as the container sees it"


def open_file(path: str) -> int:
    """A descriptor of a file to probe, without opening it (O_PATH): a FIFO or a device does not stir.

    `path` may go through /proc/PID/root, so a container's own files are reached. Raises MachineError: BinaryNotFound.
    """
    try:
        fd = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except (OSError, ValueError) as error:
        words = getattr(error, "strerror", None) or str(error)
        raise MachineError(f"{path!r}: {words}", reason="BinaryNotFound", hint=_REMEDY) from error
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        raise MachineError(f"{path!r} is no regular file", reason="BinaryNotFound", hint=_REMEDY)
    return fd


def uprobe(
    file: int,
    offset: int,
    program_fd: int,
    *,
    returns: bool = False,
    semaphore: int = 0,
    pid: int = perf.EVERY_PROCESS,
    name: str = "",
) -> Attachment:
    """Attaches to the instruction at `offset` of the file open at `file` (any descriptor of it, also O_PATH).

    `returns`: where the function that begins there returns; never on Go code, and see uretprobe.require_safe.
    `semaphore`: its offset in the file, 0 for none. `pid`: one process alone; else every process, as the programs
    themselves know whom they are for. Twice at one place runs a program twice: `UserProbes` attaches once.
    Raises MachineError: MechanismUnsupported, BinaryNotFound, SymbolNotFound, PermissionDenied.
    """
    label = f"{name or f'file {file}'}+{offset:#x}{':return' if returns else ''}"
    kind, config = perf.pmu_type(PMU), 0
    if returns:
        config |= 1 << _bit("retprobe")
    if semaphore:
        if not 0 < semaphore < 1 << 32:
            raise MachineError(f"{label}: its semaphore is at {semaphore:#x}", reason="UsdtNotFound")
        config |= semaphore << _bit("ref_ctr_offset")
    path = ctypes.create_string_buffer(f"/proc/self/fd/{file}".encode())
    try:
        fd = perf.attached(kind, config, program_fd, words=(ctypes.addressof(path), offset), pid=pid)
    except OSError as error:
        raise _refused(label, error, semaphore) from error
    return Attachment(label, fd)


def _bit(field: str) -> int:
    bit = perf.first_bit(PMU, field)
    if bit is None:
        raise MachineError(f"this kernel's uprobes have no {field}", reason="MechanismUnsupported")
    return bit


def _refused(label: str, error: OSError, semaphore: int) -> MachineError:
    if error.errno == errno.ESRCH:
        return MachineError(f"uprobe {label}: the process has ended", reason="NoMatchingProcesses")
    if error.errno in (errno.ENOENT, errno.ESTALE):
        return MachineError(f"uprobe {label}: the file is gone", reason="BinaryNotFound", hint=_REMEDY)
    if error.errno == errno.EINVAL:
        what = "the place or its semaphore is not in the file" if semaphore else "the place is not in the file"
        return MachineError(
            f"uprobe {label}: {what}, or the instruction cannot be probed",
            reason="SymbolNotFound",
            hint="give the offset of an instruction in the file, not its address in memory",
        )
    if error.errno == errno.EIO:
        return MachineError(f"uprobe {label}: the file's file system cannot be probed", reason="MechanismUnsupported")
    return refused(f"uprobe {label}", error)
