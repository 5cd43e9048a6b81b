# SPDX-License-Identifier: Apache-2.0
"""The examples are valid and can be run as they stand; the generated page is what the types say."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from kernelspan_api import profile, reference

ROOT = Path(__file__).parents[3]
EXAMPLES = sorted((ROOT / "examples").glob("*.yaml"))
LATER = sorted((ROOT / "examples" / "later").glob("*.yaml"))


def test_there_are_examples() -> None:
    """The parametrised tests below have something to test."""
    assert len(EXAMPLES) >= 6
    assert LATER


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.name)
@pytest.mark.parametrize("standalone", [True, False])
def test_example_is_valid_and_available(path: Path, standalone: bool) -> None:
    """Every example holds for the API server and for a run, and asks for nothing that is not there."""
    loaded = profile.load(path.read_bytes(), standalone=standalone)
    assert profile.unavailable(loaded) == []
    assert path.stem.partition("-")[2] == loaded.metadata.name


@pytest.mark.parametrize("path", LATER, ids=lambda path: path.name)
def test_later_example_is_valid_and_refused(path: Path) -> None:
    """What waits for a later version is valid, and is refused by name."""
    assert profile.unavailable(profile.load(path.read_bytes())) != []


def test_readme_names_every_example() -> None:
    """The table lists each example once, in order."""
    text = (ROOT / "examples" / "README.md").read_text(encoding="utf-8")
    assert re.findall(r"^\| \[(.+?)\]", text, re.MULTILINE) == [path.name for path in EXAMPLES]


def test_reference_page_is_current() -> None:
    """Run `python -m kernelspan_api.reference docs/reference/traceprofile.md` after a change of the types."""
    written = (ROOT / "docs" / "reference" / "traceprofile.md").read_text(encoding="utf-8")
    assert written == reference.page()


def test_reference_page_links_to_its_own_sections() -> None:
    """Every link leads to a heading of the page."""
    page = reference.page()
    headings = {line[3:].lower().replace(" ", "-") for line in page.splitlines() if line.startswith("## ")}
    assert set(re.findall(r"\]\(#([^)]+)\)", page)) <= headings
