# SPDX-License-Identifier: Apache-2.0
"""Nothing is left behind by the tests of this folder."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from tests.support import leftovers, runtimes_page


@pytest.fixture(scope="session", autouse=True)
def nothing_left_behind() -> Iterator[None]:
    """At the end there are no programs, maps, links, perf events, pins, mounts and processes that these tests made."""
    before = leftovers.mounts() if os.geteuid() == 0 else set()
    yield
    if os.geteuid() == 0:
        leftovers.check(before)


def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    """`make matrix` says what it found."""
    if os.environ.get("KERNELSPAN_MATRIX") and exitstatus == pytest.ExitCode.OK:
        runtimes_page.write({item.path for item in session.items})
