# SPDX-License-Identifier: Apache-2.0
"""Attaching by perf_event_open(2): tracepoints, and what the kernel's dynamic PMUs `kprobe` and `uprobe` make.

A probe made so has no name and belongs to its descriptor alone: nothing is written to tracefs, and it is gone with the
process. Source: perf_event_open(2); Documentation/ABI/testing/sysfs-bus-event_source-devices-format.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import platform
import struct
from pathlib import Path

from kernelspan_agent.errors import MachineError
from kernelspan_agent.probes import bpf

TRACEPOINT_TYPE = 2  # PERF_TYPE_TRACEPOINT
_SOFTWARE, _DUMMY = 1, 9  # PERF_TYPE_SOFTWARE, PERF_COUNT_SW_DUMMY
PMUS = Path("/sys/bus/event_source/devices")
EVERY_PROCESS = -1

_SYS_PERF_EVENT_OPEN = {"x86_64": 298, "aarch64": 241}[platform.machine()]
_FLAG_FD_CLOEXEC = 8
_IOC_ENABLE, _IOC_SET_BPF = 0x2400, 0x40042408
_ATTR_BYTES = 128
# type, size, config, sample_period (at 16), config1 (at 56), config2 (at 64)
_ATTR = struct.Struct("<IIQQ32xQQ")
_libc = ctypes.CDLL(None, use_errno=True)


def pmu_type(name: str, root: Path = PMUS) -> int:
    """The number of a PMU. Raises MachineError (MechanismUnsupported) where the kernel has none of that name."""
    try:
        return int((root / name / "type").read_text())
    except (OSError, ValueError) as error:
        hint = {"kprobe": "a kernel with CONFIG_KPROBE_EVENTS=y", "uprobe": "a kernel with CONFIG_UPROBE_EVENTS=y"}
        raise MachineError(f"this kernel has no {name} events", hint=hint.get(name, "")) from error


def first_bit(pmu: str, field: str, root: Path = PMUS) -> int | None:
    """The first bit of a field of a PMU's `config`, from its format such as config:32-63; None where it has no such field."""
    try:
        word, _, bits = (root / pmu / "format" / field).read_text().strip().partition(":")
        return int(bits.split("-")[0]) if word == "config" else None
    except (OSError, ValueError):
        return None


def is_permitted() -> bool:
    """Whether this process may open events of every process: asked with one that counts nothing.

    Debian's kernels and others refuse it at their level 3 of kernel.perf_event_paranoid without CAP_SYS_ADMIN, and the usual
    seccomp filters of containers as well; what is attached by bpf(2) is not refused there.
    """
    attributes = _ATTR.pack(_SOFTWARE, _ATTR_BYTES, _DUMMY, 0, 0, 0).ljust(_ATTR_BYTES, b"\0")
    fd = _open(attributes, EVERY_PROCESS, 0)
    if fd < 0:
        return ctypes.get_errno() not in (errno.EACCES, errno.EPERM)
    os.close(fd)
    return True


def _open(attributes: bytes, pid: int, cpu: int) -> int:
    return int(_libc.syscall(_SYS_PERF_EVENT_OPEN, attributes, pid, cpu, -1, _FLAG_FD_CLOEXEC))


def attached(
    kind: int, config: int, program_fd: int, *, words: tuple[int, int] = (0, 0), pid: int = EVERY_PROCESS
) -> int:
    """A descriptor that keeps a program attached. `words`: config1 and config2. Raises OSError as the kernel does.

    A program runs for every process on every CPU, whatever CPU the event is of; a user probe with a pid in that one alone.
    """
    attributes = _ATTR.pack(kind, _ATTR_BYTES, config, 1, *words).ljust(_ATTR_BYTES, b"\0")
    cpu = 0 if pid == EVERY_PROCESS else -1
    fd = _open(attributes, pid, cpu)
    if fd < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    try:
        return _linked(fd, program_fd)
    except OSError:
        os.close(fd)
        raise


def _linked(event: int, program_fd: int) -> int:
    """The event with its program: as a link (Linux 5.15), which counts what it missed and keeps the event; else itself."""
    try:
        link = bpf.link_create(program_fd, bpf.ATTACH_PERF_EVENT, target_fd=event)
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
        fcntl.ioctl(event, _IOC_SET_BPF, program_fd)
        link = -1
    fcntl.ioctl(event, _IOC_ENABLE, 0)
    if link < 0:
        return event
    os.close(event)
    return link
