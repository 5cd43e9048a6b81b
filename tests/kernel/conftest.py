# SPDX-License-Identifier: Apache-2.0
"""What the tests of this folder need of the machine is there, and nothing is left behind by them."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator

import pytest

from kernelspan_agent.probes.tracefs import TRACEFS, Tracefs
from kernelspan_agent.ring import size as ring_size
from tests.support import leftovers, runtimes_page


@pytest.fixture(scope="session", autouse=True)
def tracefs() -> Iterator[None]:
    """Mounted, as systemd has it, where the machine has not; and then unmounted again."""
    if os.geteuid() != 0 or Tracefs.mounted() is not None:
        yield
        return
    subprocess.run(["mount", "-t", "tracefs", "tracefs", str(TRACEFS[0])], check=True)
    yield
    subprocess.run(["umount", "--lazy", str(TRACEFS[0])], check=True)


@pytest.fixture(scope="session", autouse=True)
def roomy_rings() -> Iterator[None]:
    """Agents have room for what is told while the machine gives them no CPU: that it may be lost is test_lost_processes' subject."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv(ring_size.VARIABLE, "32")
        yield


@pytest.fixture(scope="session", autouse=True)
def nothing_left_behind(tracefs: None) -> Iterator[None]:  # noqa: ARG001 - it is to end later
    """At the end there are no programs, maps, links, perf events, pins, mounts and processes that these tests made."""
    before = leftovers.mounts() if os.geteuid() == 0 else set()
    yield
    if os.geteuid() == 0:
        leftovers.check(before)


def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    """`make matrix` says what it found."""
    if os.environ.get("KERNELSPAN_MATRIX") and exitstatus == pytest.ExitCode.OK:
        runtimes_page.write({item.path for item in session.items})
