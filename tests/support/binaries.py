# SPDX-License-Identifier: Apache-2.0
"""Go programs for tests, from the cache or built into it (`make tools` builds them beforehand)."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from tests.support.require import require
from tools.build import build
from tools.errors import ToolError


def tool(name: str, tier: str, say: Callable[[str], None]) -> Path:
    """The named program's path. Where it cannot be built, the test is left out, or fails if its tier is required."""
    try:
        return build((name,), say)[name]
    except ToolError as error:
        require(tier, False, f"{error} {error.hint}".strip())
        raise
