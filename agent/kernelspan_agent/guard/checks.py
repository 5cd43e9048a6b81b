# SPDX-License-Identifier: Apache-2.0
"""What a check of the machine comes to, and the checks that only read files: the kernel's own words about itself."""

from __future__ import annotations

import ctypes
import enum
import errno
import os
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kernelspan_agent.guard import capabilities
from kernelspan_agent.probes import children, pidns
from kernelspan_agent.probes.btf import Btf, BtfError
from kernelspan_agent.probes.build import INSTALL
from kernelspan_agent.probes.tracefs import TRACEFS, Tracefs

_SYS_IO_URING_SETUP = 425  # on every architecture since Linux 5.1
_CHILD_TIMEOUT_SECONDS = 30
_libc = ctypes.CDLL(None, use_errno=True)


class State(enum.Enum):
    """How a check came out."""

    OK = "ok"
    NO = "no"
    UNKNOWN = "unknown"  # the machine does not say
    UNTRIED = "untried"  # something else that it needs is missing


@dataclass(frozen=True, slots=True)
class Check:
    """One thing the machine can do or cannot. `required`: `run` needs it; else it costs a part, named in `detail`."""

    name: str
    state: State
    detail: str = ""
    reason: str = ""
    hint: str = ""
    required: bool = True

    @property
    def fails(self) -> bool:
        """Whether `run` cannot work for this."""
        return self.required and self.state is State.NO

    def as_json(self) -> dict[str, Any]:
        """For check --json."""
        return {
            "name": self.name,
            "state": self.state.value,
            "required": self.required,
            "detail": self.detail,
            "reason": self.reason,
            "hint": self.hint,
        }


@dataclass(frozen=True, slots=True)
class Places:
    """Where the kernel says things; other roots are for tests."""

    proc: Path = Path("/proc")
    sys: Path = Path("/sys")
    include: Path = Path("/usr/include")
    compiler_python: str = children.PYTHON
    tracefs: tuple[Path, ...] = TRACEFS


def read(places: Places) -> list[Check]:
    """Every check that needs no bpf(2)."""
    each: list[Callable[[Places], list[Check]]] = [
        _capabilities,
        _namespaces,
        _btf,
        _bcc,
        _headers,
        _tracefs,
        _lockdown,
    ]
    return [check for look in each for check in look(places)] + [_unprivileged(places), _jit(places)]


def _capabilities(places: Places) -> list[Check]:
    held = capabilities.held(str(places.proc))
    found = []
    for need in capabilities.NEEDS:
        if need.is_met(held):
            by = need.name if need.name in held else f"by {need.instead}"
            found.append(Check(need.name, State.OK, "" if by == need.name else by))
        else:
            hint = capabilities.how_to_grant([need.name])
            found.append(Check(need.name, State.NO, f"missing: needed to {need.why}", "PermissionDenied", hint))
    return found


def _namespaces(places: Places) -> list[Check]:
    root, user, pid = str(places.proc), "user-namespace", "pid-namespace"
    if capabilities.in_initial_user_namespace(root):
        found = [Check(user, State.OK, "the host's")]
    else:
        hint = "run on the host, or without user namespaces"
        found = [Check(user, State.NO, "not the host's", "PermissionDenied", hint)]
    whose = "the host's" if pidns.own_number(root) == pidns.INITIAL else "its own: only processes in it can be traced"
    return [*found, Check(pid, State.OK, whose)]


def _btf(places: Places) -> list[Check]:
    path = places.sys / "kernel/btf/vmlinux"
    try:
        size = Btf.of_kernel(path).size("task_struct")
    except BtfError as error:
        return [Check("btf", State.NO, str(error), "KernelTooOld", "a kernel with CONFIG_DEBUG_INFO_BTF=y has it")]
    return [Check("btf", State.OK, f"{path.stat().st_size >> 10} KiB, task_struct has {size} bytes")]


def _bcc(places: Places) -> list[Check]:
    script = "import bcc; print(bcc.__version__)"
    try:
        child = subprocess.run(
            [places.compiler_python, "-I", "-c", script],
            capture_output=True,
            text=True,
            errors="replace",
            timeout=_CHILD_TIMEOUT_SECONDS,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return [Check("bcc", State.NO, f"{places.compiler_python}: {error}", "MechanismUnsupported", INSTALL)]
    if child.returncode:
        words = (child.stderr.strip().splitlines() or [f"exit status {child.returncode}"])[-1]
        return [Check("bcc", State.NO, f"{places.compiler_python}: {words}", "MechanismUnsupported", INSTALL)]
    return [Check("bcc", State.OK, f"{child.stdout.strip()} of {places.compiler_python}")]


def _headers(places: Places) -> list[Check]:
    missing = [name for name in ("linux/bpf.h", "linux/types.h") if not (places.include / name).is_file()]
    if missing:
        return [
            Check(
                "linux-headers",
                State.NO,
                f"{places.include / missing[0]} is not there",
                "MechanismUnsupported",
                INSTALL,
            )
        ]
    return [Check("linux-headers", State.OK, f"{places.include}/linux")]


def _tracefs(places: Places) -> list[Check]:
    name = "tracefs"
    try:
        mounted = Tracefs.mounted(places.tracefs)
    except OSError as error:
        hint = capabilities.how_to_grant(["CAP_DAC_READ_SEARCH"])
        detail = f"{error.filename}: {error.strerror}"
        return [Check(name, State.NO, detail, "PermissionDenied", hint, required=False)]
    if mounted is None:
        detail = "not mounted: every plan uses raw tracepoints, which do not need it"
        return [
            Check(
                name,
                State.NO,
                detail,
                "TracepointNotFound",
                "mount -t tracefs tracefs /sys/kernel/tracing",
                required=False,
            )
        ]
    return [Check(name, State.OK, str(mounted.root), required=False)]


def _lockdown(places: Places) -> list[Check]:
    name = "lockdown"
    try:
        text = (places.sys / "kernel/security/lockdown").read_text("ascii", "replace")
    except OSError:
        detail = "securityfs does not say; kernel-reads below tells whether it matters"
        return [
            Check(
                name, State.UNKNOWN, detail, hint="mount -t securityfs securityfs /sys/kernel/security", required=False
            )
        ]
    level = text.partition("[")[2].partition("]")[0] or "none"
    if level == "confidentiality":
        hint = "boot without lockdown=confidentiality; lockdown=integrity is fine"
        return [Check(name, State.NO, "confidentiality: programs may not read kernel memory", "LockdownActive", hint)]
    return [Check(name, State.OK, level)]


def _setting(places: Places, name: str) -> str:
    try:
        return (places.proc / "sys" / name).read_text("ascii", "replace").strip()
    except OSError:
        return ""


def _unprivileged(places: Places) -> Check:
    meanings = {"0": "0: anybody may", "1": "1: nobody may, until the next boot", "2": "2: nobody may"}
    value = _setting(places, "kernel/unprivileged_bpf_disabled")
    state = State.OK if value in meanings else State.UNKNOWN
    return Check("unprivileged-bpf", state, meanings.get(value, "the kernel does not say"), required=False)


def _jit(places: Places) -> Check:
    value = _setting(places, "net/core/bpf_jit_enable")
    if value == "0":
        hint = "sysctl net.core.bpf_jit_enable=1"
        return Check(
            "jit", State.NO, "programs are interpreted: tracing costs several times as much", "", hint, required=False
        )
    return Check(
        "jit", State.OK if value else State.UNKNOWN, "on" if value else "the kernel does not say", required=False
    )


def not_visible(places: Places) -> list[tuple[str, str]]:
    """(what, why) of everything that programs may do here and no trace will show."""
    found = [
        ("memory-mapped files", "a page that is read or written in memory is no system call"),
        (
            "native frames",
            "stacks are those of Python, Go, Java, PHP and Ruby code; a C extension's own functions have no frame",
        ),
    ]
    if places.proc == Path("/proc") and _has_io_uring():
        disabled = _setting(places, "kernel/io_uring_disabled")
        if disabled != "2":
            found.append(
                ("io_uring", "its reads and writes are no system calls (sysctl kernel.io_uring_disabled=2 forbids it)")
            )
    if (places.proc / "sys/abi/vsyscall32").exists():
        found.append(("32-bit programs", "their system calls have other numbers; they are left out"))
    return found


def _has_io_uring() -> bool:
    """Whether the kernel knows io_uring_setup(2): asked with no entries, it refuses whoever asks."""
    result = int(_libc.syscall(_SYS_IO_URING_SETUP, 0, None))
    if result >= 0:
        os.close(result)
        return True
    return ctypes.get_errno() != errno.ENOSYS
