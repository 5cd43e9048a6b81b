# SPDX-License-Identifier: Apache-2.0
"""The machines whose kernel's functions are probed: one boots for each kernel, when a test first asks for it."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

import pytest

from tests.support import kernels, vm
from tests.support.require import require
from tests.vm.tracing import ROOT

SECONDS = 900.0  # emulated, on a machine with other work


@dataclass(frozen=True, slots=True)
class Survey:
    """What tests.vm.probing found on a kernel."""

    kernel: kernels.Kernel
    found: dict[str, Any]


@pytest.fixture(scope="session")
def surveys(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Survey]:
    """Of a kernel by its label."""

    @cache
    def survey(label: str) -> Survey:
        try:
            kernel = kernels.kernel(label)
        except kernels.KernelsError as error:
            require("vm", False, str(error))
            raise
        folder = tmp_path_factory.mktemp(f"probing-{label}")
        result = folder / "found.json"
        command = [sys.executable, "-m", "tests.vm.probing", str(result)]
        ran = vm.run(kernel, command, seconds=SECONDS, shared=folder, folder=ROOT)
        assert ran.status == 0, ran.output
        return Survey(kernel, json.loads(result.read_text()))

    return survey


@pytest.fixture(scope="session", params=kernels.wanted_labels())
def probed(request: pytest.FixtureRequest, surveys: Callable[[str], Survey]) -> Survey:
    """One of the kernels."""
    return surveys(request.param)
