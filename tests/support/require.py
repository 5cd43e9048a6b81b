# SPDX-License-Identifier: Apache-2.0
"""The rule for what a machine cannot run: left out with the reason, or a failure where everything was promised.

KERNELSPAN_REQUIRE is empty (leave out), `all`, or a list of tiers (unit kernel vm cluster chart e2e) by comma or space.
"""

from __future__ import annotations

import os

import pytest

TIERS = frozenset({"unit", "kernel", "vm", "cluster", "chart", "e2e"})
VARIABLE = "KERNELSPAN_REQUIRE"


def require(tier: str, condition: object, reason: str) -> None:
    """Goes on if the condition is true; else skips the test, or fails it where KERNELSPAN_REQUIRE asks for the tier.

    Raises ValueError for a tier that is none, be it here or in the variable: a misspelt one would skip for ever.
    """
    wanted = _wanted(os.environ.get(VARIABLE, ""))
    if tier not in TIERS:
        raise ValueError(f"no such tier: {tier!r}; there are {', '.join(sorted(TIERS))}")
    if condition:
        return
    if tier in wanted:
        pytest.fail(f"{reason} ({VARIABLE} asks for {tier})", pytrace=False)
    pytest.skip(f"{tier}: {reason}")


def _wanted(text: str) -> frozenset[str]:
    names = frozenset(text.replace(",", " ").split())
    if unknown := names - TIERS - {"all"}:
        raise ValueError(f"{VARIABLE}: no such tier: {', '.join(sorted(unknown))}; there are all, {sorted(TIERS)}")
    return TIERS if "all" in names else names
