# SPDX-License-Identifier: Apache-2.0
"""Begins the visits to kernels while tests of other tiers run, and ends what is left of them."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from tests.support.tiers import vm_lacks
from tests.vm.guests import MADE, Made, Visits

HERE = Path(__file__).parent
OF_MINUTES = ["test_kernel_tier.py", "test_tetragon.py"]
collect_ignore = [] if os.environ.get("KERNELSPAN_MATRIX") else OF_MINUTES


def pytest_collection_finish(session: pytest.Session) -> None:
    """What the selected tests of this folder will ask for, in their order."""
    session.config.stash[MADE] = made = Made()
    mine = [item for item in session.items if isinstance(item, pytest.Function) and item.path.is_relative_to(HERE)]
    if not mine or session.items[0] is mine[0] or session.config.option.collectonly or vm_lacks():
        return
    for module in dict.fromkeys(item.module for item in mine):
        visits: tuple[Visits[Any], ...] = getattr(module, "VISITS", ())
        for own in visits:
            for label in own.labels(mine, module):
                made.begin(own, module, label, ahead=True)


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Ctrl-C included."""
    if MADE in session.config.stash:
        session.config.stash[MADE].close()


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """What was made again took its time twice."""
    made = terminalreporter.config.stash.get(MADE, None)
    for visit in made.repeated if made else ():
        terminalreporter.write_line(f"a visit to a kernel, made ahead, was made again: {visit}")
