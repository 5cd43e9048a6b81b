# SPDX-License-Identifier: Apache-2.0
"""Tiers in a pytest of their own: left out with the reason and named, or failed where everything was promised."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest_plugins = ["pytester"]

ROOT = Path(__file__).resolve().parents[3]
_CONFTEST = """
pytest_plugins = ["tests.support.tiers"]


def pytest_configure(config):
    config.addinivalue_line("markers", "root: needs root")
    plugin = config.pluginmanager.get_plugin("tests.support.tiers")
    plugin._LACKS["kernel"] = lambda: {reason!r}
"""
_TEST = "import pytest\ndef test_plain(): pass\n@pytest.mark.root\ndef test_marked(): pass\n"


def _run(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, reason: str, required: str
) -> tuple[dict[str, int], str]:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("KERNELSPAN_REQUIRE", required)
    monkeypatch.delenv("PYTEST_ADDOPTS", raising=False)
    pytester.makeconftest(_CONFTEST.format(reason=reason))
    for tier in ("kernel", "unit"):
        (pytester.mkdir(tier) / f"test_{tier}.py").write_text(_TEST, encoding="utf-8")
    result = pytester.runpytest_subprocess("--import-mode=importlib")
    return result.parseoutcomes(), result.stdout.str()


def test_what_the_machine_lacks_is_left_out_and_named(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The whole kernel tier and a marked test elsewhere are skipped; the summary says why."""
    outcomes, output = _run(pytester, monkeypatch, "no moon tonight", "")
    assert outcomes == {"passed": 1, "skipped": 3}
    assert "kernel: 2 tests, left out: no moon tonight" in output


def test_what_is_left_out_fails_where_all_is_required(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    """KERNELSPAN_REQUIRE=all turns each of them into a failure."""
    outcomes, _ = _run(pytester, monkeypatch, "no moon tonight", "all")
    assert outcomes == {"passed": 1, "errors": 3}


def test_nothing_is_left_out_of_an_able_machine(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    """No reason, no skip; the last line is pytest's own summary."""
    outcomes, output = _run(pytester, monkeypatch, "", "all")
    assert outcomes == {"passed": 4}
    assert "4 passed" in output.rstrip().splitlines()[-1]
