# SPDX-License-Identifier: Apache-2.0
"""Probes on instructions of a file: uprobe and uretprobe, with the semaphore of a USDT probe where it has one.

The kernel patches a breakpoint into the file's page in every process that maps it, now and later, and takes it back when
the descriptor closes, however that happens; a semaphore (a 16-bit counter in the program's data, by which the program knows
that somebody listens) it raises and lowers itself, so a killed agent leaves none raised. Source: kernel/events/core.c
(perf_uprobe), kernel/events/uprobes.c; kernel/trace/bpf_trace.c (uprobe.multi, Linux 6.6).

Since 2025 perf_event_open(2) wants CAP_SYS_ADMIN for it, where CAP_PERFMON was enough, and uprobe.multi does not: where the
first refuses, the second is used. Its programs are loaded for it (`target`).
"""

from __future__ import annotations

import ctypes
import errno
import os
import stat
import struct
from functools import cache, partial

from kernelspan_agent.errors import MachineError
from kernelspan_agent.probes import bpf, perf, specimen
from kernelspan_agent.probes.attach import Attachment
from kernelspan_agent.probes.loader import with_locked_memory
from kernelspan_agent.probes.refusals import refused

PMU = "uprobe"
KIND = bpf.PROG_KPROBE
_MULTI = bpf.Target(bpf.ATTACH_UPROBE_MULTI)
_MULTI_AT_RETURN = 1  # BPF_F_UPROBE_MULTI_RETURN
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


@cache
def target() -> bpf.Target:
    """What the programs are loaded for that `uprobe` attaches: found out by attaching one that does nothing, once."""
    for chosen in (bpf.ANYWHERE, _MULTI):
        try:
            program = with_locked_memory(partial(bpf.prog_load, KIND, bpf.NOTHING, "ks_try", chosen))
        except OSError:
            continue
        try:
            with specimen.file() as file:
                os.close(_attached(chosen, file, specimen.FUNCTION, program, False, 0, perf.EVERY_PROCESS))
        except OSError as error:
            if error.errno not in (errno.EACCES, errno.EPERM):
                break
        else:
            return chosen
        finally:
            os.close(program)
    return bpf.ANYWHERE


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
    """Attaches a program (loaded for `target()`) to the instruction at `offset` of the file open at `file` (also O_PATH).

    `returns`: where the function that begins there returns; never on Go code, and see uretprobe.require_safe.
    `semaphore`: its offset in the file, 0 for none. `pid`: one process alone; else every process, as the programs
    themselves know whom they are for. Twice at one place, by whatever path or overlay, runs a program twice.
    Raises MachineError: MechanismUnsupported, BinaryNotFound, SymbolNotFound, PermissionDenied.
    """
    label = f"{name or f'file {file}'}+{offset:#x}{':return' if returns else ''}"
    size = os.fstat(file).st_size
    if not 0 <= offset < size:  # the kernel takes an offset beyond 63 bits for one before the file
        hint = "give the offset of an instruction in the file, not its address in memory"
        raise MachineError(f"{label}: the file has {size} bytes", reason="SymbolNotFound", hint=hint)
    if not 0 <= semaphore < 1 << 32:
        raise MachineError(f"{label}: its semaphore is at {semaphore:#x}", reason="UsdtNotFound")
    try:
        return Attachment(label, _attached(target(), file, offset, program_fd, returns, semaphore, pid))
    except OSError as error:
        raise _refused(label, error) from error


def _attached(how: bpf.Target, file: int, offset: int, program: int, returns: bool, semaphore: int, pid: int) -> int:
    path = ctypes.create_string_buffer(f"/proc/self/fd/{file}".encode())
    at = ctypes.addressof(path)
    if how is _MULTI:
        place, counter = ctypes.c_uint64(offset), ctypes.c_uint64(semaphore)
        rest = struct.pack(
            "<QQQQIII",
            at,
            ctypes.addressof(place),
            ctypes.addressof(counter) if semaphore else 0,
            0,  # cookies
            1,  # how many
            _MULTI_AT_RETURN if returns else 0,
            max(pid, 0),
        )
        return bpf.link_create(program, bpf.ATTACH_UPROBE_MULTI, rest)
    config = (1 << _bit("retprobe") if returns else 0) | (semaphore << _bit("ref_ctr_offset") if semaphore else 0)
    return perf.attached(perf.pmu_type(PMU), config, program, words=(at, offset), pid=pid)


def _bit(field: str) -> int:
    bit = perf.first_bit(PMU, field)
    if bit is None:
        raise MachineError(f"this kernel's uprobes have no {field}", reason="MechanismUnsupported")
    return bit


def _refused(label: str, error: OSError) -> MachineError:
    if error.errno == errno.ESRCH:
        return MachineError(f"uprobe {label}: the process has ended", reason="NoMatchingProcesses")
    if error.errno in (errno.ENOENT, errno.ESTALE):
        return MachineError(f"uprobe {label}: the file is gone", reason="BinaryNotFound", hint=_REMEDY)
    if error.errno == errno.EINVAL:
        return MachineError(
            f"uprobe {label}: not an instruction of the file, or probed already with another semaphore",
            reason="SymbolNotFound",
            hint="give the offset of an instruction in the file, not its address in memory",
        )
    if error.errno == errno.EIO:
        return MachineError(f"uprobe {label}: the file's file system cannot be probed", reason="MechanismUnsupported")
    failure = refused(f"uprobe {label}", error)
    if failure.reason == "PermissionDenied" and "CAP_SYS_ADMIN" not in failure.hint:
        failure.hint = (
            "run as root, or grant CAP_SYS_ADMIN: newer kernels want it for user probes, CAP_PERFMON was enough"
        )
    return failure
