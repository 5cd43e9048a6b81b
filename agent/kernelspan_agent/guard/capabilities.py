# SPDX-License-Identifier: Apache-2.0
"""Which capabilities the agent has, which it needs, and how to grant what is missing. Never CAP_SYS_RESOURCE.

A capability counts only in the initial user namespace: in any other one (rootless containers, unshare -U) a process
may hold all of them, and the kernel still refuses bpf(2). Sources: capabilities(7), include/uapi/linux/capability.h;
the namespaces' numbers: include/linux/proc_ns.h.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from kernelspan_agent.errors import MachineError

_BITS = {
    "CAP_DAC_OVERRIDE": 1,
    "CAP_DAC_READ_SEARCH": 2,
    "CAP_SYS_PTRACE": 19,
    "CAP_SYS_ADMIN": 21,
    "CAP_PERFMON": 38,
    "CAP_BPF": 39,
}
_INITIAL_USER_NAMESPACE = 0xEFFFFFFD


@dataclass(frozen=True, slots=True)
class Need:
    """A capability the agent needs: `instead` does as well, `why` says what for."""

    name: str
    instead: str
    why: str

    def is_met(self, held: frozenset[str]) -> bool:
        """Whether `held` is enough."""
        return self.name in held or self.instead in held


NEEDS = (
    Need("CAP_BPF", "CAP_SYS_ADMIN", "make maps, load programs"),
    Need("CAP_PERFMON", "CAP_SYS_ADMIN", "attach programs, read kernel memory in them"),
    Need("CAP_SYS_PTRACE", "", "read the memory and mappings of other users' processes"),
    Need("CAP_DAC_READ_SEARCH", "CAP_DAC_OVERRIDE", "read other users' program files, and tracefs"),
)


def held(proc_root: str = "/proc") -> frozenset[str]:
    """The effective capabilities of this process, of those that matter here. Raises OSError without /proc."""
    for line in Path(f"{proc_root}/self/status").read_text("ascii", "replace").splitlines():
        if line.startswith("CapEff:"):
            bits = int(line.split()[1], 16)
            return frozenset(name for name, bit in _BITS.items() if bits >> bit & 1)
    return frozenset()


def missing(found: frozenset[str]) -> list[Need]:
    """What of NEEDS is not met."""
    return [need for need in NEEDS if not need.is_met(found)]


def in_initial_user_namespace(proc_root: str = "/proc") -> bool:
    """Whether capabilities of this process count for the kernel at large."""
    return _namespace(proc_root, "user") == _INITIAL_USER_NAMESPACE


def _namespace(proc_root: str, kind: str) -> int:
    return os.stat(f"{proc_root}/self/ns/{kind}").st_ino  # noqa: PTH116 - the link's target, a number


def how_to_grant(names: list[str]) -> str:
    """One sentence for people who miss these."""
    flags = ",".join(f"+{name.removeprefix('CAP_').lower()}" for name in names)
    return (
        f"run as root (sudo kernelspan …); or `setpriv --reuid USER --clear-groups --inh-caps {flags} --ambient-caps {flags} "
        f"kernelspan …` from root; in Kubernetes: securityContext.capabilities.add: [{', '.join(_short(names))}]"
    )


def _short(names: list[str]) -> list[str]:
    return [name.removeprefix("CAP_") for name in names]


def require(proc_root: str = "/proc", found: Callable[[str], frozenset[str]] = held) -> None:
    """Raises MachineError (PermissionDenied) that names every missing capability, and where they do not count."""
    if not in_initial_user_namespace(proc_root):
        raise MachineError(
            "this process is in a user namespace of its own, where capabilities do not reach bpf(2)",
            reason="PermissionDenied",
            hint="run on the host, or in a container without user namespaces (no rootless engine, no userns-remap)",
        )
    if lacking := missing(found(proc_root)):
        words = "; ".join(f"{need.name} (to {need.why})" for need in lacking)
        raise MachineError(
            f"missing {words}", reason="PermissionDenied", hint=how_to_grant([need.name for need in lacking])
        )
