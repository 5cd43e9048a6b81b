# SPDX-License-Identifier: Apache-2.0
"""Which PID namespace the agent is in, as the kernel's programs must know it: its depth below the initial one, its number.

A process has an id in its own namespace and in each above it; helpers give programs the initial one's. In a container
without the host's PID namespace, and in a node that is itself a container (kind), the ids in /proc are others. So the
programs read the id of the agent's own level (bpf/include/ks.h). /proc does not tell how deep that is: the kernel's own
struct of the running process does.

Standard library only: the compiling child runs this with Debian's Python.
"""

from __future__ import annotations

import os
from collections.abc import Mapping

try:
    from kernelspan_agent.probes import direct
except ModuleNotFoundError:  # in the compiling child it is beside this file
    import direct  # type: ignore[no-redef]

INITIAL = 0xEFFFFFFC  # PROC_PID_INIT_INO, include/linux/proc_ns.h


def own_number(proc_root: str = "/proc") -> int:
    """The number of this process's PID namespace. Raises OSError without /proc."""
    return os.stat(f"{proc_root}/self/ns/pid").st_ino  # noqa: PTH116 - the link's target, a number


def constants(offsets: Mapping[str, int]) -> dict[str, int]:
    """KS_PID_LEVEL (0: the initial namespace) and KS_PID_NS. Raises OSError where the kernel refuses to say."""
    number = own_number()
    level = 0
    if number != INITIAL:
        with direct.memory() as (word, task):
            pid = word(task + offsets["KS_TASK_THREAD_PID"])
            level = word(pid + offsets["KS_PID_OWN_LEVEL"]) & 0xFFFF_FFFF
    return {"KS_PID_LEVEL": level, "KS_PID_NS": number if level else 0}
