# SPDX-License-Identifier: Apache-2.0
"""Capabilities by the bits the kernel shows, and who is told what about those that are missing."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from kernelspan_agent.errors import MachineError
from kernelspan_agent.guard import capabilities

ALL = {"CAP_BPF", "CAP_PERFMON", "CAP_SYS_PTRACE", "CAP_DAC_READ_SEARCH"}


def proc_with(tmp_path: Path, bits: int) -> str:
    """A /proc whose own process has these effective capabilities, in the real one's namespaces."""
    (tmp_path / "self").mkdir()
    (tmp_path / "self" / "status").write_text(f"Name:\tx\nCapInh:\tffff\nCapEff:\t{bits:016x}\n")
    (tmp_path / "self" / "ns").symlink_to("/proc/self/ns")
    return str(tmp_path)


@pytest.mark.parametrize(
    ("bits", "missing"),
    [
        (0, ALL),
        (1 << 39 | 1 << 38 | 1 << 19 | 1 << 2, set()),
        (1 << 21 | 1 << 19 | 1 << 1, set()),  # SYS_ADMIN and DAC_OVERRIDE instead
        (1 << 21, {"CAP_SYS_PTRACE", "CAP_DAC_READ_SEARCH"}),
        (1 << 39 | 1 << 19 | 1 << 2, {"CAP_PERFMON"}),
        ((1 << 41) - 1, set()),
    ],
)
def test_missing_ones_are_named(tmp_path: Path, bits: int, missing: set[str]) -> None:
    """Each by its name, in the message and in how to grant it."""
    root = proc_with(tmp_path, bits)
    assert {need.name for need in capabilities.missing(capabilities.held(root))} == missing
    if missing and capabilities.in_initial_user_namespace():
        with pytest.raises(MachineError) as caught:
            capabilities.require(root)
        assert caught.value.reason == "PermissionDenied"
        assert caught.value.exit_code == 3
        for name in missing:
            assert name in str(caught.value)
            assert name.removeprefix("CAP_") in caught.value.hint
        assert all(name not in str(caught.value) for name in ALL - missing)


def test_held_is_what_the_kernel_says_of_this_process() -> None:
    """Against the status file read another way."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("CapEff"))
    has_ptrace = bool(int(line.split()[1], 16) >> 19 & 1)
    assert ("CAP_SYS_PTRACE" in capabilities.held()) == has_ptrace


def test_a_user_namespace_of_its_own_is_told(tmp_path: Path) -> None:
    """There a process may have every capability and still none that counts."""
    script = "from kernelspan_agent.guard import capabilities as c; c.require()"
    run = subprocess.run(
        ["unshare", "-Ur", sys.executable, "-c", script], capture_output=True, text=True, check=False, cwd=tmp_path
    )
    if run.returncode == 1 and "unshare failed" in run.stderr:
        assert os.geteuid() != 0, run.stderr  # the machine forbids it to users
        return
    assert "user namespace of its own" in run.stderr
