# SPDX-License-Identifier: Apache-2.0
"""Completion scripts are ones that the shell takes, and the command answers what they ask."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys

import pytest
from click.testing import CliRunner

from kernelspan_agent.cli import COMMANDS, cli
from kernelspan_agent.cli.list import KINDS

_MAIN = [sys.executable, "-c", "from kernelspan_agent.cli import main; main()"]


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_script_is_one_the_shell_reads(shell: str) -> None:
    """Checked by the shell itself where it is installed."""
    run = CliRunner().invoke(cli, ["completion", shell], prog_name="kernelspan")
    assert run.exit_code == 0
    assert f"_KERNELSPAN_COMPLETE={shell}_complete" in run.output
    if (program := shutil.which(shell)) is not None:
        checked = subprocess.run([program, "-n"], input=run.output, capture_output=True, text=True, check=False)
        assert (checked.returncode, checked.stderr) == (0, "")


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("kernelspan ", set(COMMANDS)),
        ("kernelspan re", {"render"}),
        ("kernelspan list ", set(KINDS)),
        ("kernelspan completion ", {"bash", "zsh", "fish"}),
    ],
)
def test_the_command_answers_the_script(words: str, expected: set[str]) -> None:
    """As bash asks: words and the index of the one to complete."""
    parts = words.split(" ")
    asked = {"_KERNELSPAN_COMPLETE": "bash_complete", "COMP_WORDS": words, "COMP_CWORD": str(len(parts) - 1)}
    run = subprocess.run(_MAIN, env=os.environ | asked, capture_output=True, text=True, check=True)
    assert {line.partition(",")[2] for line in run.stdout.splitlines()} == expected
