# SPDX-License-Identifier: Apache-2.0
"""The tiers as pytest plays them: what this machine cannot run is left out as a whole and named; how long each took.

A test's tier is its folder below tests/, or e2e for kind-e2e/. A marked test (`root`) needs what the kernel tier needs, wherever it stands.
"""

from __future__ import annotations

import os
import shutil
import time
from collections import Counter
from collections.abc import Callable, Generator, Iterator
from pathlib import Path

import hypothesis
import pytest

from tests.support.require import require
from tools.errors import ToolError
from tools.families import TOOLS_FOLDER
from tools.gotool import find_go

_TESTS = Path(__file__).resolve().parents[1]
_END_TO_END = _TESTS.with_name("kind-e2e")
_PROGRAMS = f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"
_MOST_SAID = 600  # characters of a failure
_DEBIAN_PACKAGES = Path("/usr/lib/python3/dist-packages")
_VIRTIOFSD = ("/usr/lib/qemu/virtiofsd", "/usr/libexec/virtiofsd")

# No deadline: a test asserts no times. The same inputs on every machine that gates, new ones on a developer's.
hypothesis.settings.register_profile("house", deadline=None)
hypothesis.settings.register_profile("ci", deadline=None, derandomize=True, print_blob=True)
hypothesis.settings.register_profile("fuzz", deadline=None, max_examples=2_000, print_blob=True)
hypothesis.settings.load_profile("ci" if os.environ.get("CI") else "house")

_seconds: Counter[str] = Counter()
_counts: Counter[str] = Counter()
_left_out: dict[str, str] = {}
_failed: list[str] = []


def kernel_lacks() -> str:
    """Why the kernel tier cannot run on this machine, or nothing."""
    if os.geteuid() != 0:
        return "needs root"
    if not (_DEBIAN_PACKAGES / "bcc").is_dir():
        return "bcc is not installed (tools/apt run)"
    if not Path("/sys/kernel/btf/vmlinux").exists():
        return "this kernel has no BTF (/sys/kernel/btf/vmlinux)"
    return ""


def vm_lacks() -> str:
    """Why the vm tier cannot run on this machine, or nothing."""
    if reason := kernel_lacks():
        return reason
    missing = [name for name in ("qemu-system-x86_64", "busybox", "dpkg-deb") if shutil.which(name) is None]
    if not any(os.access(place, os.X_OK) for place in _VIRTIOFSD):
        missing.append("virtiofsd")
    return f"{', '.join(missing)} not installed (tools/apt test)" if missing else ""


def cluster_lacks() -> str:
    """Why the cluster and the chart tier cannot run on this machine, or nothing."""
    try:
        find_go(os.environ, TOOLS_FOLDER / "kubernetes")
    except ToolError as error:
        return f"{error} {error.hint}".strip()
    return ""


def e2e_lacks() -> str:
    """Why the end-to-end tier cannot run on this machine, or nothing."""
    if reason := kernel_lacks() or cluster_lacks():
        return reason
    missing = [name for name in ("docker", "debootstrap", "iptables") if shutil.which(name, path=_PROGRAMS) is None]
    return f"{', '.join(missing)} not installed (tools/apt e2e)" if missing else ""


_LACKS: dict[str, Callable[[], str]] = {
    "kernel": kernel_lacks,
    "vm": vm_lacks,
    "cluster": cluster_lacks,
    "chart": cluster_lacks,
    "e2e": e2e_lacks,
}


def _tier(path: Path) -> str:
    if path.is_relative_to(_END_TO_END):
        return "e2e"
    inside = path.is_relative_to(_TESTS)
    return path.relative_to(_TESTS).parts[0] if inside else path.parent.name


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Leaves the test out, or fails it where KERNELSPAN_REQUIRE asks for its tier, if the machine lacks what it needs."""
    tier = _tier(item.path)
    needed = "kernel" if tier not in _LACKS and item.get_closest_marker("root") else tier
    if needed in _LACKS:
        if needed not in _left_out:
            _left_out[needed] = _LACKS[needed]()
        require(needed, not _left_out[needed], _left_out[needed])


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Iterator[None]:
    """Adds the test's wall time, fixtures included, to its tier's."""
    started = time.monotonic()
    result = yield
    _seconds[_tier(item.path)] += time.monotonic() - started
    _counts[_tier(item.path)] += 1
    return result


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Says at once why a test failed: a run that is ended from outside never comes to pytest's own section."""
    report = yield
    if report.failed:
        said = str(getattr(report.longrepr, "reprcrash", None) or report.longrepr)[:_MOST_SAID]
        terminal = _terminal(item.config)
        terminal.ensure_newline()
        _failed.append(f"{item.nodeid} ({report.when}; {_machine()}): {said}")
        terminal.write_line(_failed[-1])
    return report


def _machine() -> str:
    """How busy the machine is: a failure may come of that."""
    pressure = Path("/proc/pressure/cpu")
    waiting = pressure.read_text().split()[2] if pressure.exists() else "unknown"
    stolen = int(Path("/proc/stat").read_text().split()[8]) // os.sysconf("SC_CLK_TCK")
    load = os.getloadavg()[0]
    return f"load {load:.1f} of {os.cpu_count()} CPUs, waiting for one {waiting}, stolen {stolen} s"


@pytest.hookimpl(tryfirst=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    """All failures once more in a few words each, before pytest tells each with all that its servers wrote."""
    if _failed:
        _terminal(session.config).ensure_newline()
        _terminal(session.config).section("failures in short")
        for line in _failed:
            _terminal(session.config).write_line(line)


def _terminal(config: pytest.Config) -> pytest.TerminalReporter:
    terminal = config.pluginmanager.get_plugin("terminalreporter")
    assert isinstance(terminal, pytest.TerminalReporter)
    return terminal


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """A line a tier: how many tests, how long, or why it was left out."""
    terminalreporter.section("tiers")
    for tier, count in _counts.items():
        reason = _left_out.get(tier, "")
        outcome = f"left out: {reason}" if reason else f"{_seconds[tier]:.0f} s"
        terminalreporter.write_line(f"{tier}: {count} tests, {outcome}")
