# SPDX-License-Identifier: Apache-2.0
"""Folders of wheels for an image: everything that its lock names, and the project itself.

They are fetched outside of the build, by this machine's pip as it is configured, so that a build needs no network and
an image knows of no place where its packages came from. Hashes are checked here and once more by the build.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
from pathlib import Path

from tools.errors import ToolError

# What an image's Python is, and the newest glibc interface that it has (Debian 13: Python 3.13, glibc 2.41).
_PYTHON = "3.13"
_GLIBC_MINOR = 41
_OLDEST_MINOR = 17  # manylinux2014, the oldest that packages are still built for
_TAIL_CHARACTERS = 3000


def fetch(lock: str, folder: Path) -> None:
    """Fills the folder with the wheels that a lock's text names. Raises ToolError where one cannot be had."""
    folder.mkdir(parents=True, exist_ok=True)
    platforms = [f"manylinux_2_{minor}_x86_64" for minor in range(_GLIBC_MINOR, _OLDEST_MINOR - 1, -1)]
    target = [f"--platform={name}" for name in (*platforms, "manylinux2014_x86_64")]
    target += [f"--python-version={_PYTHON}", "--implementation=cp"]
    target += [f"--abi={abi}" for abi in (f"cp{_PYTHON.replace('.', '')}", "abi3", "none")]
    # Wheels only: building from source would run, and could fetch, what the lock does not name.
    rules = ["--require-hashes", "--only-binary=:all:", "--no-deps"]
    with tempfile.NamedTemporaryFile("w", suffix=".txt") as file:
        file.write(lock)
        file.flush()
        _pip("download", "--quiet", f"--dest={folder}", *rules, *target, f"--requirement={file.name}")


def entry(lock: str, package: str) -> str:
    """What a lock's text says of one package: its version and hashes."""
    found = re.search(rf"^{re.escape(package)}==.*(?:\n[ \t]+--hash=.*)+", lock, re.MULTILINE)
    if not found:
        raise ToolError(f"no lock of ours names {package}", hint="make lock")
    return f"{found[0].rstrip(chr(92) + ' ')}\n"


def build_project(source: Path, folder: Path) -> None:
    """Puts the project's own wheel into the folder, built by the tools that are installed here."""
    _pip("wheel", "--quiet", "--no-deps", "--no-build-isolation", f"--wheel-dir={folder}", str(source))


def _pip(*arguments: str) -> None:
    ended = subprocess.run(
        [sys.executable, "-m", "pip", "--disable-pip-version-check", "--no-input", *arguments],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    if ended.returncode:
        raise ToolError(f"pip {arguments[0]} ended with {ended.returncode}: {ended.stderr[-_TAIL_CHARACTERS:]}")
