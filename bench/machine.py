# SPDX-License-Identifier: Apache-2.0
"""What a result must say of the machine it was made on, and which core does what."""

from __future__ import annotations

import os
import platform
import re
import subprocess
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

WORK_CORE, LOAD_CORE = 0, 1
_PROGRAMS = (("bpftrace", "--version"), ("strace", "--version"), ("perf", "--version"), ("cc", "--version"))
_PACKAGES = ("numpy", "grpcio", "kernelspan")


def describe() -> dict[str, Any]:
    """Kernel, CPU, versions, load: facts of this machine at this moment."""
    return {
        "kernel": platform.release(),
        "cpu": _cpu(),
        "cores": os.cpu_count(),
        "virtual": "hypervisor" in Path("/proc/cpuinfo").read_text(),
        "load1": os.getloadavg()[0],
        "steal_ticks": steal_ticks(),
        "work_core": WORK_CORE,
        "load_core": LOAD_CORE,
        "python": platform.python_version(),
        "versions": {name: _version([name, option]) for name, option in _PROGRAMS}
        | {n: metadata.version(n) for n in _PACKAGES},
    }


def steal_ticks() -> int:
    """Clock ticks that the hypervisor gave to others since boot."""
    return int(Path("/proc/stat").read_text().splitlines()[0].split()[8])


def _cpu() -> str:
    found = re.search(r"^model name\s*: (.*)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    return found[1] if found else platform.machine()


def _version(command: Sequence[str]) -> str:
    """The first line that a program says of itself; empty where it is not there."""
    try:
        said = subprocess.run(command, capture_output=True, text=True, timeout=10, check=False).stdout
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return said.splitlines()[0].strip() if said else ""


def cpu_seconds(pid: int) -> float:
    """CPU time of a process, all its threads, user and system."""
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def anonymous_bytes(pid: int) -> int:
    """RssAnon of a process."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("RssAnon:"):
            return int(line.split()[1]) * 1024
    return 0
