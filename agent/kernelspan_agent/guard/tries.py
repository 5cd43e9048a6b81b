# SPDX-License-Identifier: Apache-2.0
"""What the kernel lets this process do with bpf(2), found out by doing it: one small map, program or attachment each.

Nothing here is told by a version number. Everything made is given back at once.
"""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Callable, Iterator

from kernelspan_agent.errors import MachineError
from kernelspan_agent.guard import capabilities, probing
from kernelspan_agent.guard.checks import Check, State
from kernelspan_agent.probes import bpf, direct
from kernelspan_agent.probes.attach import raw_tracepoint, tracepoint
from kernelspan_agent.probes.btf import Btf, BtfError
from kernelspan_agent.probes.refusals import READ_REFUSED, READS
from kernelspan_agent.probes.tracefs import Tracefs
from kernelspan_agent.ring.reader import RingReader

_RING_BYTES = 4096
_EVENT = "sched_process_exit"  # rare, and there on every kernel
_CALL = "sys_enter_reboot"  # a system call that nobody makes while we look
_NEWER = "Linux 6.2 or newer has it; nothing else is lost"


_OPTIONAL = {"plain-loads", "tracepoint"}


def tries() -> list[Check]:
    """Every attempt, in order; one that needs what an earlier one could not do is UNTRIED."""
    found = [_attempt("bpf-map", _map)]
    if found[0].state is not State.OK:
        names = ("bpf-program", "kernel-reads", "plain-loads", "ring-buffer", "raw-tracepoint", "tracepoint")
        found += [Check(name, State.UNTRIED, "needs bpf-map", required=name not in _OPTIONAL) for name in names]
        return found + probing.untried("needs bpf-map")
    found += [
        _attempt("bpf-program", _program),
        _attempt("kernel-reads", _kernel_reads),
        _attempt("plain-loads", _plain_loads, required=False),
        _attempt("ring-buffer", _ring),
    ]
    found += [_attempt("raw-tracepoint", _raw), _attempt("tracepoint", _single, required=False)]
    loads = found[1].state is State.OK
    return found + (probing.checks() if loads else probing.untried("needs bpf-program"))


def _attempt(name: str, act: Callable[[], str], *, required: bool = True) -> Check:
    try:
        return Check(name, State.OK, act(), required=required)
    except MachineError as error:
        return Check(name, State.NO, str(error), error.reason, error.hint, required)
    except OSError as error:
        reason, hint = _explain(name, error)
        return Check(name, State.NO, error.strerror or str(error), reason, hint, required)


def _explain(name: str, error: OSError) -> tuple[str, str]:
    log = getattr(error, "log", "")
    if name == "kernel-reads" and READ_REFUSED.search(log):
        return "LockdownActive", "boot without lockdown=confidentiality; lockdown=integrity is fine"
    if error.errno in (errno.EPERM, errno.EACCES):
        needed = [need.name for need in capabilities.NEEDS[:2]]
        lacking = [need.name for need in capabilities.missing(capabilities.held()) if need.name in needed]
        if lacking:
            return "PermissionDenied", f"grant {' and '.join(lacking)}"
        hint = "a seccomp filter, an LSM or a user namespace forbids bpf(2); before Linux 5.11 also try `ulimit -l unlimited`"
        return "PermissionDenied", hint
    if error.errno == errno.ENOSYS:
        return "KernelTooOld", "a kernel with CONFIG_BPF_SYSCALL=y"
    return "MechanismUnsupported", "kernelspan needs Linux 5.10 or newer"


@contextlib.contextmanager
def _loaded(kind: int, code: bytes) -> Iterator[int]:
    fd = bpf.prog_load(kind, code, "ks_check")
    try:
        yield fd
    finally:
        os.close(fd)


def _map() -> str:
    fd = bpf.map_create(bpf.MAP_TYPES["hash"], 4, 8, 1, 0, "ks_check")
    try:
        bpf.map_update(fd, bytes(4), b"\1" * 8)
        if bpf.map_lookup(fd, bytes(4), 8) != b"\1" * 8:
            raise OSError(errno.EIO, "a map does not give back what was put in")
    finally:
        os.close(fd)
    return "made, written, read"


def _program() -> str:
    with _loaded(bpf.PROG_TRACEPOINT, bpf.NOTHING), _loaded(bpf.PROG_RAW_TRACEPOINT, bpf.NOTHING):
        return "loaded"


def _kernel_reads() -> str:
    with _loaded(bpf.PROG_RAW_TRACEPOINT, READS):
        return "programs may read kernel memory"


def _plain_loads() -> str:
    try:
        btf = Btf.of_kernel()
    except BtfError as error:
        raise MachineError(str(error), reason="KernelTooOld") from error
    cast = direct.find_cast(btf)
    if cast is None:
        raise MachineError(f"the kernel has no {direct.FUNCTION}: helpers read, at 7 times the cost", hint=_NEWER)
    if not direct.direct_map(cast, btf.offset("task_struct.mm"), btf.offset("mm_struct.pgd")):
        return "of the kernel's memory; the program's is read by a helper"
    return "of the kernel's memory, and by page tables of the program's"


def _ring() -> str:
    fd = bpf.map_create(bpf.MAP_TYPES["ringbuf"], 0, 0, _RING_BYTES, 0, "ks_check")
    try:
        RingReader(fd, _RING_BYTES).close()
    finally:
        os.close(fd)
    return "made, mapped"


def _raw() -> str:
    with _loaded(bpf.PROG_RAW_TRACEPOINT, bpf.NOTHING) as fd:
        raw_tracepoint(_EVENT, fd).close()
    return "attached, detached"


def _single() -> str:
    tracefs = Tracefs.find()
    with _loaded(bpf.PROG_TRACEPOINT, bpf.NOTHING) as fd:
        attachment = tracepoint(tracefs, "syscalls", _CALL, fd)
        if attachment is None:
            raise MachineError(
                "no tracepoints of system calls",
                reason="TracepointNotFound",
                hint="a kernel with CONFIG_FTRACE_SYSCALLS=y; every plan uses raw tracepoints without it",
            )
        attachment.close()
    return "attached, detached"
