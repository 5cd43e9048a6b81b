# SPDX-License-Identifier: Apache-2.0
"""Every JVM that tests run against, each in a root and a PID namespace of its own: those of Debian's suites.

The oldest, 8, and the newest are only in sid. Each is unpacked once, with the libc and libraries it needs, into the user's
cache folder. The targets are compiled once, for JDK 8, by the javac of this machine.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import os
import shutil
import stat
import subprocess
import tempfile
from pathlib import Path

from tests.support.pythons import Interpreter
from tools import debian

# Major version to suite.
VERSIONS = {8: "sid", 11: "bullseye", 17: "bookworm", 21: "trixie", 25: "trixie", 28: "sid"}
TARGETS = Path(__file__).with_name("targets") / "java"
_RECIPE = "1"  # part of the cache's name: a change here makes new roots


class JavasError(Exception):
    """A JVM cannot be had on this machine; says why."""


def labels() -> list[str]:
    """Every JVM's label, without fetching any: for parametrisation."""
    return [f"{suite}-{version}" for version, suite in VERSIONS.items()]


def major_of(label: str) -> int:
    """The major version of the JVM with this label."""
    return int(label.rpartition("-")[2])


@functools.cache
def interpreter(label: str) -> Interpreter:
    """The JVM with this label, fetched and unpacked if it is not: its command java. Raises JavasError."""
    version = major_of(label)
    return Interpreter(label, version, f"{home(version)}/bin/java", root(version))


def home(version: int) -> str:
    """Where a version is in its root."""
    return f"/usr/lib/jvm/java-{version}-openjdk-amd64{'/jre' if version == 8 else ''}"


def root(version: int) -> Path:
    """The root of a version. Raises JavasError."""
    if os.geteuid():
        raise JavasError("chroot needs root")
    suite = VERSIONS[version]
    found = _cache_folder() / f"{suite}-{version}-{_RECIPE}"
    if not found.exists():
        found.parent.mkdir(parents=True, exist_ok=True)
        try:
            debian.make_root(suite, [f"openjdk-{version}-jre-headless"], found)
        except debian.DebianError as error:
            raise JavasError(str(error)) from error
        _furnish(found)
    return found


def _furnish(root: Path) -> None:
    """What the packages' scripts would have made."""
    for name, device in (("null", (1, 3)), ("random", (1, 8)), ("urandom", (1, 9))):
        with contextlib.suppress(FileExistsError):
            os.mknod(root / "dev" / name, 0o666 | stat.S_IFCHR, os.makedev(*device))
    with contextlib.suppress(OSError):
        (root / "etc" / "passwd").write_text("root:x:0:0:root:/:/bin/sh\n")


@functools.cache
def classes() -> Path:
    """The folder of the compiled targets. Raises JavasError."""
    sources = sorted(TARGETS.glob("*.java"))
    digest = hashlib.sha256(b"".join(source.read_bytes() for source in sources)).hexdigest()[:16]
    found = _cache_folder() / f"classes-{digest}"
    if not found.exists():
        compile_java(sources, found)
    return found


def compile_java(sources: list[Path], into: Path, *options: str, release: int = 8) -> None:
    """Compiles classes into a folder, which is there whole or not at all. Raises JavasError."""
    compiler = shutil.which("javac")
    if compiler is None:
        raise JavasError("this machine has no javac")
    into.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=into.parent) as scratch:
        made = Path(scratch, "classes")
        command = [compiler, "-g", "--release", str(release), "-nowarn", *options, "-d", str(made), *map(str, sources)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise JavasError(done.stderr[-500:])
        with contextlib.suppress(OSError):  # another session was faster
            made.rename(into)


def _cache_folder() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "kernelspan" / "javas"
