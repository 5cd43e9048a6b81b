# SPDX-License-Identifier: Apache-2.0
"""The machines of the tests that judge what a guest left behind: booted once for all of them."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import pytest

from tests.support import kernels
from tests.support.require import require
from tests.vm.guests import Guest, visit

AT_ONCE = 2


@pytest.fixture(scope="session")
def guests(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dict[str, Future[Guest]]]:
    """A machine for each kernel that the selected tests ask for, some of them at once."""
    chosen = {item.callspec.params.get("guest") for item in request.session.items if hasattr(item, "callspec")}
    labels = [label for label in kernels.SUITES if label in chosen]
    with ThreadPoolExecutor(AT_ONCE) as pool:
        yield {label: pool.submit(visit, label, tmp_path_factory.mktemp(f"kernel-{label}")) for label in labels}


@pytest.fixture(scope="session", params=kernels.wanted_labels())
def guest(request: pytest.FixtureRequest, guests: dict[str, Future[Guest]]) -> Guest:
    """A machine with another kernel, when it has done its work."""
    try:
        return guests[request.param].result()
    except kernels.KernelsError as error:
        require("vm", False, str(error))
        raise
