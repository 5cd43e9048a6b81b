# SPDX-License-Identifier: Apache-2.0
"""The fixture of these tests: an empty container."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.unit.libraries.making import Container


@pytest.fixture
def box(tmp_path: Path) -> Container:
    """A container with nothing in it."""
    return Container(tmp_path)
