# SPDX-License-Identifier: Apache-2.0
"""Roots of a Debian suite by debootstrap, kept in the user's cache: what images begin with where no registry is.

A root is keyed by what it is made of, appears complete by one rename, and carries nothing of where it came from: no
sources, no lists, no packages. So apt finds in it what is installed and asks nobody for more.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import re
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from tools.build import cache_folder
from tools.errors import ToolError
from tools.gotool import Say

SUITE = "trixie"
_RECIPE = "1"  # part of the key: a change here makes new roots
_APT = Path("/etc/apt")
_MIRROR = re.compile(r"^(?:URIs:|deb\s+(?:\[[^]]*\])?)\s*(https?://\S+/debian)/?\s", re.MULTILINE)
_TAIL_CHARACTERS = 2000
# Nobody reads a page or another language's message in a container. Copyright files stay, as their licences ask.
_UNREAD = ("usr/share/man", "usr/share/info", "usr/share/locale", "usr/share/lintian")
_OF_THE_MAKING = (
    "etc/apt/sources.list",
    "etc/resolv.conf",
    "etc/hostname",
    "var/cache/apt/archives",
    "var/lib/apt/lists",
    "var/log",
    "var/cache/ldconfig/aux-cache",
)


def mirror() -> str | None:
    """The Debian mirror that this machine's apt names, if it names one."""
    for path in [*sorted(_APT.rglob("*sources*")), *sorted(_APT.rglob("*.list"))]:
        if path.is_file() and (match := _MIRROR.search(path.read_text(errors="replace"))):
            return match[1]
    return None


def root(packages: Sequence[str], say: Say, environment: Mapping[str, str] | None = None) -> Path:
    """The folder of a root with these packages and what they depend on, made if it is not there.

    Raises ToolError where it cannot be made.
    """
    cache = cache_folder(os.environ if environment is None else environment).parent / "roots"
    folder = cache / key(packages)
    with _alone(folder):
        if not folder.is_dir():
            started = time.monotonic()
            say(f"root of {SUITE}: debootstrap with {', '.join(packages) or 'nothing more'}")
            scratch = Path(tempfile.mkdtemp(dir=cache, prefix=".making-"))
            try:
                _make(scratch / "root", packages)
                (scratch / "root").rename(folder)
            finally:
                shutil.rmtree(scratch, ignore_errors=True)
            say(f"root of {SUITE}: {time.monotonic() - started:.0f} s")
    return folder


def key(packages: Sequence[str]) -> str:
    """Hex digits that change with what a root is made of."""
    text = json.dumps([_RECIPE, SUITE, sorted(packages), _UNREAD])
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _make(folder: Path, packages: Sequence[str]) -> None:
    source = mirror()
    if source is None:
        raise ToolError("this machine's apt names no Debian mirror")
    debootstrap = shutil.which("debootstrap") or "/usr/sbin/debootstrap"
    if os.geteuid() != 0 or not os.access(debootstrap, os.X_OK):
        raise ToolError("a root needs debootstrap and root", hint="tools/apt e2e installs it")
    include = [f"--include={','.join(packages)}"] if packages else []
    ended = subprocess.run(
        [debootstrap, "--variant=minbase", *include, SUITE, str(folder), source],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
        env={**os.environ, "LC_ALL": "C"},
    )
    if ended.returncode:
        raise ToolError(f"debootstrap ended with {ended.returncode}: {ended.stdout[-_TAIL_CHARACTERS:]}")
    for name in (*_UNREAD, *_OF_THE_MAKING):
        _empty(folder / name)
    for page in (folder / "usr/share/doc").rglob("*"):
        if (page.is_file() or page.is_symlink()) and page.name != "copyright":
            page.unlink()


def _empty(path: Path) -> None:
    """Removes a file, and all that is in a folder but the folder."""
    if path.is_dir() and not path.is_symlink():
        for inside in path.iterdir():
            if inside.is_dir() and not inside.is_symlink():
                shutil.rmtree(inside)
            else:
                inside.unlink()
    else:
        path.unlink(missing_ok=True)


@contextlib.contextmanager
def _alone(folder: Path) -> Iterator[None]:
    folder.parent.mkdir(parents=True, exist_ok=True)
    with folder.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
