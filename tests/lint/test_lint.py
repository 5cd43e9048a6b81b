# SPDX-License-Identifier: Apache-2.0
"""Every check of `make lint` as a test of its own, so that the summary of `make test` speaks for them too."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
_LINT_RULE = re.compile(r"^lint:((?: lint-[a-z]+)+)", re.MULTILINE)


def _checks() -> list[str]:
    rule = _LINT_RULE.search((ROOT / "Makefile").read_text(encoding="utf-8"))
    return rule[1].split() if rule else []


@pytest.mark.parametrize("check", _checks())
def test_lint(check: str) -> None:
    """The check finds nothing; what it finds is the test's output."""
    # A make that started this run must not lend its job server or its variables to the one inside.
    environment = {
        name: value for name, value in os.environ.items() if name not in {"MAKEFLAGS", "MFLAGS", "MAKELEVEL"}
    }
    run = subprocess.run(
        ["make", check],
        cwd=ROOT,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    if run.returncode:
        print(run.stdout)
        pytest.fail(f"make {check} found something: see its output", pytrace=False)


def test_there_are_checks() -> None:
    """The Makefile's rule is read right: an empty list would pass for ever."""
    assert {"lint-ruff", "lint-types", "lint-layers"} <= set(_checks())
