# SPDX-License-Identifier: Apache-2.0
"""Kernels other than this machine's: those of Debian's suites, unpacked into the user's cache folder, never installed."""

from __future__ import annotations

import contextlib
import os
import re
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from tests.support.require import require
from tools import debian

SUITES = {"5.10": "bullseye", "6.1": "bookworm", "6.12": "trixie", "newest": "sid"}
OLDEST, NEWEST = "5.10", "newest"
_PACKAGE = "linux-image-cloud-amd64"  # small: no drivers of real machines
_PARTS = re.compile(r"linux-(?:image|binary|modules|base)-")  # a kernel is one package, since 7.0 three
_RECIPE = "1"  # part of the cache's name: a change here fetches anew


class KernelsError(Exception):
    """A kernel cannot be had on this machine; says why."""


@dataclass(frozen=True, slots=True)
class Kernel:
    """An unpacked kernel. `modules`: its folder of modules; `release` as uname says it."""

    label: str
    image: Path
    modules: Path

    @property
    def release(self) -> str:
        """Such as 6.1.0-50-cloud-amd64."""
        return self.modules.name


def wanted_labels(environ: dict[str, str] | os._Environ[str] = os.environ) -> list[str]:
    """The kernels tests run on: the oldest and the newest, all where KERNELSPAN_MATRIX says so."""
    return list(SUITES) if environ.get("KERNELSPAN_MATRIX") else [OLDEST, NEWEST]


def kernel(label: str) -> Kernel:
    """The kernel with this label, fetched if it is not there (20-40 MB). Raises KernelsError."""
    root = _cache_folder() / f"{SUITES[label]}-{_RECIPE}"
    if not root.exists():
        _fetch(SUITES[label], root)
    try:
        modules = next(path for top in ("lib", "usr/lib") for path in sorted(root.glob(f"{top}/modules/*")))
        image = next(path for path in (*root.glob("boot/vmlinuz*"), modules / "vmlinuz") if path.exists())
    except StopIteration:
        raise KernelsError(f"{root} holds no kernel; remove it to fetch it anew") from None
    return Kernel(label, image, modules)


def needed(label: str) -> Kernel:
    """The same; where it cannot be had the test is left out, or fails if all was promised."""
    try:
        return kernel(label)
    except KernelsError as error:
        require("vm", False, str(error))
        raise


def _fetch(suite: str, root: Path) -> None:
    try:
        with debian.suite(suite, root.parent) as apt, tempfile.TemporaryDirectory(dir=root.parent) as scratch:
            made = Path(scratch, "root")
            for package in apt.fetch(*_parts(apt)):
                debian.unpack(package, made)
            with contextlib.suppress(OSError):  # another session was faster
                made.rename(root)
    except debian.DebianError as error:
        raise KernelsError(f"kernel of {suite}: {error}") from error
    if not root.exists():
        raise KernelsError(f"{root} could not be made")


def _parts(apt: debian.Suite) -> Iterable[str]:
    """The packages that make up the kernel which the suite's name for its newest one stands for."""
    found: list[str] = []
    waiting = [_PACKAGE]
    while waiting:
        name = waiting.pop()
        if name not in found:
            found.append(name)
            waiting += [needed for needed in apt.depends(name) if _PARTS.match(needed)]
    return found


def _cache_folder() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "kernelspan" / "kernels"
