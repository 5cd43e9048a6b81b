# SPDX-License-Identifier: Apache-2.0
"""The profiles that stand for Tetragon's policies, each run on a kernel that has functions to probe; in `make matrix` alone."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support import kernels
from tests.vm.guests import Visits, run, visited

ROOT = Path(__file__).resolve().parents[2]
PROFILES = sorted((ROOT / "examples" / "tetragon").glob("*.yaml"))
MARK = "tetragon "
# Nothing here has what these look for: a program of one's own, a library that is not loaded, or a function of a module that is not.
ABSENT = {"FunctionNotFound", "FileNotFound", "SymbolNotFound", "TracepointNotFound", "ProbeNotFound", "NotLoaded"}


def guest() -> None:
    """What runs in a machine: a line for each profile, with its exit status and what became of its probes."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder, "report")
        for profile in PROFILES:
            report.unlink(missing_ok=True)
            ran = subprocess.run(
                [
                    Path(sys.executable).with_name("kernelspan"),
                    "run",
                    "-q",
                    "-f",
                    profile,
                    "--report",
                    report,
                    "--",
                    "/bin/true",
                ],
                capture_output=True,
                text=True,
                check=False,
            )
            found = json.loads(report.read_text())["probes"] if report.exists() else []
            print(MARK + json.dumps([profile.name, ran.returncode, found, ran.stderr]), flush=True)


def _visit(kernel: kernels.Kernel, folder: Path) -> dict[str, Any]:
    ran = run(kernel, [sys.executable, "-m", "tests.vm.test_tetragon"], folder)
    lines = (json.loads(line.removeprefix(MARK)) for line in ran.output.splitlines() if line.startswith(MARK))
    return {name: (status, probes, said) for name, status, probes, said in lines} or {"": ran.output}


VISITS = (Visits("found", _visit),)


@pytest.fixture(params=["newest"])
def found(request: pytest.FixtureRequest) -> dict[str, Any]:
    """By the name of a profile's file."""
    return visited(request, VISITS[0], request.param)


def test_each_is_attached(found: dict[str, Any]) -> None:
    """Every probe, but for those of which there is nothing; of each profile at least one, or it says so of all."""
    assert sorted(found) == [each.name for each in PROFILES], found
    assert list(_wrong(found)) == []


def _wrong(found: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    for name, (status, probes, said) in found.items():
        if status or not probes:
            yield name, (status, said)
        for probe in probes:
            if probe["state"] != "Attached" and probe.get("reason") not in ABSENT:
                yield name, probe


if __name__ == "__main__":
    guest()
