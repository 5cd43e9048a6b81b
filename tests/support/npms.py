# SPDX-License-Identifier: Apache-2.0
"""Web frameworks of npm, as tests/support/node_packages locks them, made once and kept in the user's cache by that lock."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import shutil
import subprocess
import tempfile
from pathlib import Path

from tests.support.venvs import cache_folder

_LOCK = Path(__file__).with_name("node_packages")


class NpmsError(Exception):
    """They cannot be had on this machine; says why."""


@functools.cache
def folder() -> Path:
    """Where their node_modules is. Raises NpmsError."""
    lock = (_LOCK / "package-lock.json").read_bytes()
    found = cache_folder().with_name("npms") / hashlib.sha256(lock).hexdigest()[:16]
    if found.exists():
        return found
    npm = shutil.which("npm")
    if npm is None:
        raise NpmsError("this machine has no npm")
    found.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=found.parent) as scratch:
        made = shutil.copytree(_LOCK, Path(scratch, "made"))
        command = [npm, "ci", "--ignore-scripts", "--no-audit", "--no-fund"]
        done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=made)
        if done.returncode:
            raise NpmsError(f"npm cannot fetch them: {done.stderr.strip()[-300:]}")
        with contextlib.suppress(OSError):  # another session was faster
            made.rename(found)
    return found
