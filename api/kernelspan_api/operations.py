# SPDX-License-Identifier: Apache-2.0
"""The built-in operations: their names in a profile, their numbers in the kernel's records, their span names.

A new operation is a line here and a line in the table of its group's BPF file.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass


class Group(enum.Enum):
    """A probe group: the profile's field and the BPF file of the same name."""

    FILES = "files"
    NETWORK = "network"
    PROCESSES = "processes"
    WAITS = "waits"


@dataclass(frozen=True, slots=True)
class Operation:
    """`number` is below 64 (operations are a bit mask in the kernel) and never used again."""

    group: Group
    name: str
    number: int
    span_name: str  # network: the transport takes the place of `socket`
    argument: str = ""  # attribute of the record's `arg`
    result: str = ""  # attribute of the record's `ret` where it is not an error


_F, _N, _P, _W = Group.FILES, Group.NETWORK, Group.PROCESSES, Group.WAITS
_REQUESTED, _TRANSFERRED = "kernelspan.io.requested", "kernelspan.io.transferred"

OPERATIONS = (
    Operation(_F, "Open", 1, "file.open"),
    Operation(_F, "Read", 2, "file.read", _REQUESTED, _TRANSFERRED),
    Operation(_F, "Write", 3, "file.write", _REQUESTED, _TRANSFERRED),
    Operation(_F, "Sync", 4, "file.sync"),
    Operation(_F, "Rename", 5, "file.rename"),
    Operation(_F, "Remove", 6, "file.remove"),
    Operation(_F, "Stat", 7, "file.stat"),
    Operation(_F, "List", 8, "file.list", _REQUESTED, _TRANSFERRED),
    Operation(_N, "Connect", 16, "socket.connect"),
    Operation(_N, "Accept", 17, "socket.accept"),
    Operation(_N, "Send", 18, "socket.send", _REQUESTED, _TRANSFERRED),
    Operation(_N, "Receive", 19, "socket.receive", _REQUESTED, _TRANSFERRED),
    Operation(_N, "Close", 20, "socket.close"),
    Operation(_N, "Resolve", 21, "dns.resolve"),
    Operation(_P, "Exec", 32, "process.exec"),
    Operation(_P, "Fork", 33, "process.fork", "", "kernelspan.child.pid"),
    Operation(_P, "Exit", 34, "process.exit", "process.exit.code"),
    Operation(_P, "Signal", 35, "process.signal", "kernelspan.signal.number"),
    Operation(_P, "SetID", 36, "process.set_id", "kernelspan.argument"),
    Operation(_P, "Ptrace", 37, "process.ptrace", "kernelspan.argument"),
    Operation(_P, "Mount", 38, "process.mount"),
    Operation(_P, "ModuleLoad", 39, "process.module_load"),
    Operation(_W, "Lock", 48, "wait.lock"),
    Operation(_W, "Sleep", 49, "wait.sleep"),
    Operation(_W, "Poll", 50, "wait.poll", "", "kernelspan.result"),
    Operation(_W, "OffCPU", 51, "wait.off_cpu"),
)

BY_NUMBER = {op.number: op for op in OPERATIONS}
BY_NAME = {(op.group, op.name): op for op in OPERATIONS}
