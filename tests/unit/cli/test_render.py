# SPDX-License-Identifier: Apache-2.0
"""What `render` prints is what would be compiled."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner

from kernelspan_agent.cli.render import command
from kernelspan_agent.probes import constants
from kernelspan_agent.probes.source import module_text

EXAMPLES = sorted((Path(__file__).resolve().parents[3] / "examples").glob("0*.yaml"))


def rendered(path: Path) -> str:
    run = CliRunner().invoke(command, ["-f", str(path)])
    assert run.exit_code == 0, run.output
    return run.output


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_every_example_renders(path: Path) -> None:
    """Core and the groups that the profile names, each whole."""
    text = rendered(path)
    for group in ("files", "network", "processes", "waits"):
        named = f"\n  {group}:" in path.read_text(encoding="utf-8")
        assert (f"module {group}:" in text) == named
        assert (module_text(group) in text) == named
    assert module_text("core") in text


def test_every_constant_is_shown() -> None:
    """Ours by value, the kernel's by the member that is looked up."""
    text = rendered(EXAMPLES[0])
    for name, paths in constants.OFFSETS.items():
        assert f" * -D{name}=<{' or '.join(paths)}>" in text
    assert " * -DKS_SLOT=160\n" in text


def test_nothing_of_the_profile_but_numbers_gets_into_the_text(tmp_path: Path) -> None:
    """A name or path with C in it is nowhere but in the comment's escaped head, if at all."""
    path = tmp_path / "p.yaml"
    path.write_text(
        "apiVersion: kernelspan.io/v1alpha1\nkind: TraceProfile\nmetadata: {name: x}\n"
        'spec:\n  files: {paths: ["/evil*/; int pwned; /*"]}\n'
    )
    run = CliRunner().invoke(command, ["-f", str(path)])
    assert "pwned" not in run.output
    assert "module files" in run.output
