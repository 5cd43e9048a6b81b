# SPDX-License-Identifier: Apache-2.0
"""The rule for tiers that a machine cannot run."""

from __future__ import annotations

import pytest

from tests.support.require import TIERS, VARIABLE, require


@pytest.mark.parametrize("wanted", ["", "all", "kernel"])
def test_true_condition_goes_on(monkeypatch: pytest.MonkeyPatch, wanted: str) -> None:
    """What is there is used, whatever is required."""
    monkeypatch.setenv(VARIABLE, wanted)
    require("kernel", True, "not said")


@pytest.mark.parametrize("wanted", [None, "", " , ", "vm", "vm,chart cluster"])
def test_left_out_with_the_reason(monkeypatch: pytest.MonkeyPatch, wanted: str | None) -> None:
    """What is not required is skipped, and the reason names the tier."""
    if wanted is None:
        monkeypatch.delenv(VARIABLE, raising=False)
    else:
        monkeypatch.setenv(VARIABLE, wanted)
    with pytest.raises(pytest.skip.Exception, match="kernel: no interpreter"):
        require("kernel", False, "no interpreter")


@pytest.mark.parametrize("wanted", ["all", "kernel", "vm,kernel", "vm kernel", "all,vm"])
def test_required_tier_fails(monkeypatch: pytest.MonkeyPatch, wanted: str) -> None:
    """What is required is a failure with the same reason."""
    monkeypatch.setenv(VARIABLE, wanted)
    with pytest.raises(pytest.fail.Exception, match=r"no interpreter \(KERNELSPAN_REQUIRE asks for kernel\)"):
        require("kernel", False, "no interpreter")


@pytest.mark.parametrize("tier", sorted(TIERS))
def test_all_means_every_tier(monkeypatch: pytest.MonkeyPatch, tier: str) -> None:
    """`all` leaves no tier out."""
    monkeypatch.setenv(VARIABLE, "all")
    with pytest.raises(pytest.fail.Exception):
        require(tier, False, "no")


@pytest.mark.parametrize(("tier", "wanted"), [("kernels", ""), ("kernel", "kernels"), ("kernel", "ALL")])
def test_misspelt_tier_is_an_error(monkeypatch: pytest.MonkeyPatch, tier: str, wanted: str) -> None:
    """A misspelt tier is told at once, even where the condition holds: else it would be left out for ever."""
    monkeypatch.setenv(VARIABLE, wanted)
    with pytest.raises(ValueError, match="no such tier"):
        require(tier, True, "no")
