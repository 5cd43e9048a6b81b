# SPDX-License-Identifier: Apache-2.0
"""Own probes in servers: what they see belongs to the request that it was done for, as operations of the built-in groups do."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.kernel.test_requests import APP, SERVERS, check_owned
from tests.support import venvs
from tests.support.generators import compiled_go

TOUCH: dict[str, Any] = {
    "name": "touch",
    "kprobe": {"call": "newfstatat", "syscall": True},
    "args": [{"index": 1, "type": "String", "attribute": "file.path"}],
    "match": [{"args": [{"index": 1, "operator": "Prefix", "values": ["/kernelspan-request/"]}]}],
}


@pytest.mark.parametrize(
    ("server", "mode"), [("threads", "Span"), ("gevent", "Event"), ("tasks", "Span"), ("goroutines", "Event")]
)
def test_what_own_probes_see_belongs_to_its_request(server: str, mode: str, tmp_path: Path) -> None:
    """By threads that serve one after another, greenlets, tasks of a loop, goroutines; with nothing but the probe to see it."""
    bin_folder = venvs.library_venv() / "bin"
    commands: dict[str, tuple[list[str | Path], str]] = {
        "threads": ([bin_folder / "gunicorn", *SERVERS["threads"][1:], "-b", "BIND", APP], "Thread"),
        "gevent": ([bin_folder / "gunicorn", *SERVERS["gevent"][1:], "-b", "BIND", APP], "Fiber"),
        "tasks": ([bin_folder / "uvicorn", "--host", "127.0.0.1", "--port", "PORT", "requests_app:asgi"], "Connection"),
        "goroutines": ([compiled_go("requests_go"), "BIND"], "Goroutine"),
    }
    command, correlation = commands[server]
    check_owned(tmp_path, command, correlation, files=None, probes=[{**TOUCH, "mode": mode}])
