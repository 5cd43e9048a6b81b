# SPDX-License-Identifier: Apache-2.0
"""The page of the command line is what the commands say; every command says enough."""

from __future__ import annotations

import re
from pathlib import Path

import click
import pytest

from kernelspan_agent.cli import COMMANDS, cli, reference

ROOT = Path(__file__).resolve().parents[3]


def test_reference_page_is_current() -> None:
    """Run `python -m kernelspan_agent.cli.reference docs/reference/cli.md` after a change of the commands."""
    assert (ROOT / "docs/reference/cli.md").read_text(encoding="utf-8") == reference.page()


def test_reference_page_links_to_its_own_sections() -> None:
    """Every link inside the page leads to a heading."""
    page = reference.page()
    headings = {line[3:].lower().replace(" ", "-") for line in page.splitlines() if line.startswith("## ")}
    links = set(re.findall(r"\]\(#([^)]+)\)", page))
    assert links
    assert links <= headings


@pytest.mark.parametrize("name", list(COMMANDS))
def test_every_option_says_what_it_does(name: str) -> None:
    """No command and no option is without its sentence."""
    command = cli.get_command(click.Context(cli), name)
    assert command is not None
    assert command.help
    assert [one.name for one in command.params if isinstance(one, click.Option) and not one.help] == []
