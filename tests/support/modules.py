# SPDX-License-Identifier: Apache-2.0
"""Files of other projects, as Go modules: fetched by version and sum (foreign/go.mod, go.sum), never built."""

from __future__ import annotations

import json
import os
import re
import subprocess
from pathlib import Path

from tests.support.require import require
from tools.errors import ToolError
from tools.gotool import find_go

FOREIGN = Path(__file__).resolve().parent / "foreign"
_TIMEOUT_SECONDS = 300.0


def module(name: str, tier: str) -> Path:
    """The folder of a module that foreign/go.mod names; where it cannot be had, the test is left out or fails."""
    found = re.search(rf"^\s*({re.escape(name)}) (\S+)$", (FOREIGN / "go.mod").read_text("utf-8"), re.MULTILINE)
    assert found, f"{name} is not in {FOREIGN / 'go.mod'}"
    try:
        go = find_go(os.environ, FOREIGN)
    except ToolError as error:
        require(tier, False, str(error))
        raise
    ended = subprocess.run(
        [go.command, "mod", "download", "-json", f"{found[1]}@{found[2]}"],
        cwd=FOREIGN,
        env=dict(go.environment),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        timeout=_TIMEOUT_SECONDS,
    )
    require(tier, ended.returncode == 0, f"{name} cannot be had: {ended.stderr.strip()[-500:]}")
    return Path(json.loads(ended.stdout)["Dir"])
