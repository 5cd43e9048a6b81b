# SPDX-License-Identifier: Apache-2.0
"""Every PHP that tests run against: those of Debian's suites, each in a root and a PID namespace of its own.

Each is unpacked once, with the libc and libraries it needs, into the user's cache folder: the command line, fpm and cgi
programs, opcache and what the tests' targets use.
"""

from __future__ import annotations

import contextlib
import functools
import os
import stat
import tempfile
from pathlib import Path

from tests.support.pythons import Interpreter
from tools import debian

# Label to suite and version: sid has 8.4 as well, experimental what comes next.
VERSIONS = {"7.4": "bullseye", "8.2": "bookworm", "8.4": "trixie", "8.5": "experimental", "8.6": "experimental"}
_WIKI_SUITE = "bookworm"
_WIKI = ("dokuwiki", "libphp-simplepie", "php-geshi", "php-phpseclib", "php-random-compat")
_EXTENSIONS = ("cli", "fpm", "cgi")
_MORE = {"7.4": ("opcache", "json"), "8.2": ("opcache",), "8.4": ("opcache",)}  # in later ones they are built in
_OPCACHE_BUILT_IN = ("8.5", "8.6")
_RECIPE = "1"  # part of the cache's name: a change here makes new roots


class PhpsError(Exception):
    """A suite cannot be had on this machine; says why."""


def labels() -> list[str]:
    """Every PHP's label, without fetching any: for parametrisation."""
    return [f"{suite}-{version}" for version, suite in VERSIONS.items()]


@functools.cache
def interpreter(label: str, program: str = "/usr/bin/php") -> Interpreter:
    """The PHP with this label, fetched and unpacked if it is not: its command line. Raises PhpsError."""
    version = label.rpartition("-")[2]
    return Interpreter(label, int(version.split(".")[1]), f"{program}{version}", root(version))


def options(version: str, *settings: str, opcache: bool = False) -> list[str]:
    """Of the command line: these settings, and what the version needs for json and, if it is wanted, for opcache."""
    found = ["extension=json.so"] if version == "7.4" else []
    if opcache:
        found += [] if version in _OPCACHE_BUILT_IN else ["zend_extension=opcache.so"]
        found += ["opcache.enable=1", "opcache.enable_cli=1"]
    return [part for setting in [*found, *settings] for part in ("-d", setting)]


def root(version: str) -> Path:
    """The root of a version of PHP. Raises PhpsError."""
    if os.geteuid():
        raise PhpsError("chroot needs root")
    suite = VERSIONS[version]
    found = _cache_folder() / f"{suite}-{version}-{_RECIPE}"
    if not found.exists():
        found.parent.mkdir(parents=True, exist_ok=True)
        wanted = [*_EXTENSIONS, *_MORE.get(version, ())]
        proofs = [
            [f"/usr/bin/php{version}", *options(version), "-r", "echo json_encode([1]);"],
            [f"/usr/sbin/php-fpm{version}", "-v"],
        ]
        try:
            debian.make_root(suite, [f"php{version}-{each}" for each in wanted], found, proofs)
        except debian.DebianError as error:
            raise PhpsError(str(error)) from error
        _furnish(found)
    return found


def wiki() -> Path:
    """A root with PHP 8.2's fpm and DokuWiki as Debian has it. Raises PhpsError."""
    if os.geteuid():
        raise PhpsError("chroot needs root")
    found = _cache_folder() / f"dokuwiki-{_RECIPE}"
    if not found.exists():
        found.parent.mkdir(parents=True, exist_ok=True)
        try:
            debian.make_root(_WIKI_SUITE, [f"php8.2-{each}" for each in ("fpm", "xml", "mbstring")], found)
            with debian.suite(_WIKI_SUITE, found.parent) as apt:
                for package in apt.fetch(*_WIKI):
                    debian.unpack(package, found)
        except debian.DebianError as error:
            raise PhpsError(str(error)) from error
        _furnish(found)
    return found


def _furnish(root: Path) -> None:
    """What fpm's workers want."""
    os.mknod(root / "dev" / "null", 0o666 | stat.S_IFCHR, os.makedev(1, 3))
    for name, line in (("passwd", "root:x:0:0:root:/:/bin/sh\n"), ("group", "root:x:0:\n")):
        (root / "etc" / name).write_text(line)


def headers(version: str) -> Path:
    """The folder of a version's own headers, fetched if it is not there. Raises PhpsError."""
    made = _cache_folder() / f"headers-{version}-{_RECIPE}"
    if not made.exists():
        made.parent.mkdir(parents=True, exist_ok=True)
        try:
            with (
                debian.suite(VERSIONS[version], made.parent) as apt,
                tempfile.TemporaryDirectory(dir=made.parent) as into,
            ):
                for package in apt.fetch(f"php{version}-dev"):
                    debian.unpack(package, Path(into, "root"))
                with contextlib.suppress(OSError):  # another session was faster
                    Path(into, "root").rename(made)
        except debian.DebianError as error:
            raise PhpsError(str(error)) from error
    return next((made / "usr/include/php").iterdir())


def embedded(version: str) -> str:
    """The path, in its root, of the library by which a version is embedded, fetched if it is not there. Raises PhpsError."""
    path = f"/usr/lib/libphp{version}.so"
    if not (root(version) / path.lstrip("/")).exists():
        try:
            with debian.suite(VERSIONS[version], _cache_folder()) as apt:
                for package in apt.fetch(f"libphp{version}-embed"):
                    debian.unpack(package, root(version))
        except debian.DebianError as error:
            raise PhpsError(str(error)) from error
    return path


def _cache_folder() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "kernelspan" / "phps"
