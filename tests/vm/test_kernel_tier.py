# SPDX-License-Identifier: Apache-2.0
"""Tests of tests/kernel inside virtual machines, in `make matrix` alone: an emulated machine takes minutes for what this one
does in seconds.
"""

from __future__ import annotations

import re
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.support import kernels
from tests.vm.guests import Visits, run, visited

FILES = [
    "test_own_probes.py",
    "test_own_crowd.py",
    "test_own_values.py",
    "test_own_limits.py",
    "test_own_matches.py",
    "test_own_entries.py",
]
FILES += ["test_user_probes.py", "test_filters.py", "test_files.py", "test_network.py", "test_processes.py"]
FILES += ["test_waits.py"]
# One processor gives too few threads a number that was another's for the test to mean anything.
LEFT_OUT = "tests/kernel/test_own_probes.py::test_threads_that_end_inside"


@dataclass(frozen=True, slots=True)
class Tier:
    """What pytest said, and its exit status."""

    status: int
    output: str


def _visit(kernel: kernels.Kernel, folder: Path) -> Tier:
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--color=no", "--basetemp=/run/pytest"]
    ran = run(kernel, [*command, "--deselect", LEFT_OUT, *(f"tests/kernel/{name}" for name in FILES)], folder)
    return Tier(ran.status, ran.output)


VISITS = (Visits("tier", _visit),)


@pytest.fixture(params=kernels.wanted_labels())
def tier(request: pytest.FixtureRequest) -> Tier:
    """Of one of the kernels."""
    return visited(request, VISITS[0], request.param)


def test_the_kernel_tier(tier: Tier) -> None:
    """Nothing fails there, and something was tried."""
    assert tier.status == 0, tier.output
    passed = re.search(r"(\d+) passed", tier.output)
    assert passed is not None
    assert int(passed[1]) > 0
