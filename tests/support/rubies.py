# SPDX-License-Identifier: Apache-2.0
"""Every Ruby that tests run against: those of Debian's suites, each in a root and a PID namespace of its own.

Each is unpacked once, with the libc and libraries it needs, into the user's cache folder.
"""

from __future__ import annotations

import functools
import os
import stat
from pathlib import Path

from tests.support import ruby_musl
from tests.support.musl import MuslError
from tests.support.pythons import Interpreter
from tools import debian

# Label to suite and version: sid has 3.3 as well.
VERSIONS = {"2.7": "bullseye", "3.1": "bookworm", "3.3": "trixie", "3.4": "experimental"}
_WEB_SUITE, _WEB_VERSION, _WEB = "bookworm", "3.1", ("puma", "ruby-sinatra")
_RECIPE = "1"  # part of the cache's name: a change here makes new roots


class RubiesError(Exception):
    """A suite cannot be had on this machine; says why."""


def labels() -> list[str]:
    """The labels of all that Debian has, without fetching any: for parametrisation."""
    return [f"{suite}-{version}" for version, suite in VERSIONS.items()]


def built_labels() -> list[str]:
    """The labels of those that are built here."""
    return [f"musl-{ruby_musl.VERSION}"]


@functools.cache
def interpreter(label: str) -> Interpreter:
    """The Ruby with this label, fetched and unpacked if it is not. Raises RubiesError."""
    version = label.rpartition("-")[2]
    minor = int(version.split(".")[1])
    if label not in built_labels():
        return Interpreter(label, minor, f"/usr/bin/ruby{version}", root(version))
    try:
        return Interpreter(label, minor, ruby_musl.PROGRAM, ruby_musl.root(_cache_folder()))
    except (debian.DebianError, MuslError) as error:
        raise RubiesError(str(error)) from error


def root(version: str) -> Path:
    """The root of a version of Ruby. Raises RubiesError."""
    if os.geteuid():
        raise RubiesError("chroot needs root")
    suite = VERSIONS[version]
    found = _cache_folder() / f"{suite}-{version}-{_RECIPE}"
    if not found.exists():
        found.parent.mkdir(parents=True, exist_ok=True)
        proofs = [[f"/usr/bin/ruby{version}", "-e", "require 'json'; puts [1].to_json"]]
        try:
            debian.make_root(suite, [f"ruby{version}"], found, proofs)
        except debian.DebianError as error:
            raise RubiesError(str(error)) from error
        os.mknod(found / "dev" / "null", 0o666 | stat.S_IFCHR, os.makedev(1, 3))
    return found


def web() -> Interpreter:
    """Ruby 3.1 in a root with puma and Sinatra as Debian has them. Raises RubiesError."""
    if os.geteuid():
        raise RubiesError("chroot needs root")
    found = _cache_folder() / f"web-{_RECIPE}"
    if not found.exists():
        found.parent.mkdir(parents=True, exist_ok=True)
        proofs = [[f"/usr/bin/ruby{_WEB_VERSION}", "-e", "require 'sinatra/base'"]]
        try:
            debian.make_root(_WEB_SUITE, [f"ruby{_WEB_VERSION}", *_WEB], found, proofs)
        except debian.DebianError as error:
            raise RubiesError(str(error)) from error
        os.mknod(found / "dev" / "null", 0o666 | stat.S_IFCHR, os.makedev(1, 3))
    return Interpreter(f"web-{_WEB_VERSION}", 1, f"/usr/bin/ruby{_WEB_VERSION}", found)


def _cache_folder() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "kernelspan" / "rubies"
