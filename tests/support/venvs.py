# SPDX-License-Identifier: Apache-2.0
"""Virtual environments with real PyPI distributions, made once and kept in the user's cache by their inputs.

The key is the requirements' text and the interpreter, so a changed lock or another Python makes another folder. A
folder counts only with its mark, which is written last; makers of the same folder wait for each other.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

REQUIREMENTS = Path(__file__).with_name("library_venv.txt")
_COMPLETE = ".kernelspan-complete"
_TIMEOUT_SECONDS = 1200  # a hundred wheels over a slow line


def cache_folder() -> Path:
    """`$XDG_CACHE_HOME/kernelspan/venvs`, or below ~/.cache where that is unset or relative."""
    base = os.environ.get("XDG_CACHE_HOME", "")
    return (Path(base) if Path(base).is_absolute() else Path.home() / ".cache") / "kernelspan" / "venvs"


def library_venv(requirements: Path = REQUIREMENTS) -> Path:
    """The root of a virtual environment of this Python that holds exactly the locked requirements.

    Raises subprocess.CalledProcessError with pip's words in `stderr` where it cannot be made.
    """
    folder = cache_folder() / _key(requirements)
    mark = folder / _COMPLETE
    with _alone(folder):
        if not mark.exists():
            shutil.rmtree(folder, ignore_errors=True)
            _make(folder, requirements)
            mark.touch()
    return folder


def site_packages(venv: Path) -> Path:
    """Where this Python's virtual environments hold their distributions."""
    return venv / "lib" / f"python{sys.version_info.major}.{sys.version_info.minor}" / "site-packages"


def _key(requirements: Path) -> str:
    text = f"{sys.version} {sys.base_prefix} {platform.machine()}\n{requirements.read_text('utf-8')}"
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _make(folder: Path, requirements: Path) -> None:
    _run([sys.executable, "-m", "venv", str(folder)])
    pip = [str(folder / "bin" / "python"), "-m", "pip", "--disable-pip-version-check", "--no-input"]
    # Wheels only: building from source would run, and could fetch, what the lock does not name.
    _run([*pip, "install", "--quiet", "--require-hashes", "--only-binary=:all:", "--no-deps", "-r", str(requirements)])


def _run(command: list[str]) -> None:
    subprocess.run(command, check=True, capture_output=True, text=True, timeout=_TIMEOUT_SECONDS)


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    folder.parent.mkdir(parents=True, exist_ok=True)
    with folder.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
