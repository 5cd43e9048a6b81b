# SPDX-License-Identifier: Apache-2.0
"""Programs of random probes on each kernel (`make matrix`): they compile there, and its verifier takes them, those of trampolines too."""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path

import pytest

from tests.support import kernels, vm
from tests.vm.guests import Visits, run, visited

COUNT = 72  # one in three is loaded


def _visit(kernel: kernels.Kernel, folder: Path) -> vm.Ran:
    return run(kernel, [sys.executable, "-m", "tests.support.own_generation", str(COUNT)], folder)


VISITS = (Visits("ran", _visit),)


@pytest.fixture(params=kernels.wanted_labels())
def ran(request: pytest.FixtureRequest) -> vm.Ran:
    """What came of it on one of the kernels."""
    return visited(request, VISITS[0], request.param)


if os.environ.get("KERNELSPAN_MATRIX"):

    def test_random_programs(ran: vm.Ran) -> None:
        """None is refused; by its seed a profile can be made again."""
        assert ran.status == 0, ran.output
        made, loaded = map(int, re.findall(r"(\d+) made, (\d+) loaded, seed", ran.output)[-1])
        assert made == COUNT
        assert loaded > COUNT // 6
