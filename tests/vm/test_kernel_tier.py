# SPDX-License-Identifier: Apache-2.0
"""Tests of tests/kernel inside virtual machines: own probes and their limits on every kernel of the matrix, a few files
of them else: an emulated machine takes minutes for what this one does in seconds.
"""

from __future__ import annotations

import os
import re
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.support import kernels
from tests.vm.guests import Visits, run, visited

LABELS = kernels.wanted_labels() if os.environ.get("KERNELSPAN_MATRIX") else [kernels.NEWEST]
FILES = ["test_own_probes.py"]
MORE = ["test_own_values.py", "test_own_limits.py", "test_own_matches.py", "test_own_entries.py", "test_user_probes.py"]
MORE += ["test_filters.py", "test_files.py", "test_network.py", "test_processes.py", "test_waits.py"]


@dataclass(frozen=True, slots=True)
class Tier:
    """What pytest said, and its exit status."""

    status: int
    output: str


def _visit(kernel: kernels.Kernel, folder: Path) -> Tier:
    files = [*FILES, *(MORE if os.environ.get("KERNELSPAN_MATRIX") else ())]
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--basetemp=/run/pytest"]
    ran = run(kernel, [*command, *(f"tests/kernel/{name}" for name in files)], folder)
    return Tier(ran.status, ran.output)


VISITS = (Visits("tier", _visit),)


@pytest.fixture(params=LABELS)
def tier(request: pytest.FixtureRequest) -> Tier:
    """Of one of the kernels."""
    return visited(request, VISITS[0], request.param)


def test_the_kernel_tier(tier: Tier) -> None:
    """Nothing fails there, and something was tried."""
    assert tier.status == 0, tier.output
    passed = re.search(r"(\d+) passed", tier.output)
    assert passed is not None
    assert int(passed[1]) > 0
