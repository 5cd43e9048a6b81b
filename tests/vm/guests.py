# SPDX-License-Identifier: Apache-2.0
"""One machine boots for each kernel and does all that the tests of this folder judge: what it left behind."""

from __future__ import annotations

import json
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.support import kernels, vm
from tests.vm.tracing import ROOT, Traced, read

SECONDS = 1200.0  # emulated, on a machine with other work


@dataclass(frozen=True, slots=True)
class Guest:
    """What a guest left behind."""

    kernel: kernels.Kernel
    folder: Path
    results: dict[str, Any]

    def traced(self, mechanism: str) -> Traced:
        """What it traced by this mechanism."""
        return read(mechanism, self.folder)


def visit(label: str, folder: Path) -> Guest:
    """Boots the kernel and has tests.vm.guest run on it."""
    kernel = kernels.kernel(label)
    ran = vm.run(
        kernel,
        [sys.executable, "-m", "tests.vm.guest", str(folder)],
        seconds=SECONDS,
        shared=folder,
        folder=ROOT,
        environ={name: os.environ[name] for name in ("PYTHONPATH",) if name in os.environ},
    )
    assert (folder / "results.json").exists(), ran.output
    return Guest(kernel, folder, json.loads((folder / "results.json").read_text()))
