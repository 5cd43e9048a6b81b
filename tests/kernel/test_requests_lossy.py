# SPDX-License-Identifier: Apache-2.0
"""Requests of which much is not told, by a limit in the kernel or behind it: no operation is below another request."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.kernel.test_requests import APP, SERVERS, read, serve, wrong
from tests.support import runs, venvs
from tests.support.generators import compiled_go

pytestmark = pytest.mark.root


@pytest.mark.parametrize("limit", ["eventsPerSecond", "spansPerSecond"])
@pytest.mark.parametrize(("kind", "correlation"), [("threads", "Thread"), ("gevent", "Fiber"), ("go", "Goroutine")])
def test_nothing_is_below_another_request(kind: str, correlation: str, limit: str, tmp_path: Path) -> None:
    """An answer and the next request are lost at times, and what is done for that is seen."""
    python = venvs.library_venv() / "bin" / "python"
    command = (
        [compiled_go("requests_go"), "BIND"] if kind == "go" else [python, "-m", *SERVERS[kind], "-b", "BIND", APP]
    )
    limits = {**runs.UNLIMITED, limit: 500}
    _, ran = serve(tmp_path, command, {"clients": 8, "each": 60}, correlation, limits=limits)
    found = read(ran)
    assert ran.balance["rateLimited"] > 0
    assert found.owners
    assert not wrong(found)
