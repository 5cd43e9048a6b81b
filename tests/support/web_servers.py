# SPDX-License-Identifier: Apache-2.0
"""Servers of Ruby and Java that answer `/job/N/COUNT` (tests/support/programs), and what runs each on a port; and uwsgi.

A command has PORT or BIND (address and port) where these are to stand. Debian's puma, Tomcat, Jetty, Netty and uwsgi.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from tests.support import javas, rubies
from tests.support.pythons import Interpreter
from tests.support.require import require
from tools import debian

PROGRAMS = Path(__file__).with_name("programs")
_JAVA = PROGRAMS / "requests_java"
_SUITE = "bookworm"
_PACKAGES = ("libtomcat10-embed-java", "libtomcat10-java", "libjetty9-java", "libservlet-api-java", "libnetty-java")
_JARS = {
    "Tomcats": ("tomcat10-embed-core", "tomcat10-servlet-api", "tomcat10-annotations-api"),
    "Jettys": ("jetty9-server", "jetty9-http", "jetty9-io", "jetty9-util", "servlet-api"),
    "Nettys": ("netty-buffer", "netty-codec", "netty-codec-http", "netty-common", "netty-handler", "netty-resolver",
               "netty-transport"),
}  # fmt: skip
_OWN = ("Clients", "Jdk", "Loop", "Requests", "Sockets")
_RECIPE = "1"  # part of the cache's name: a change here makes new folders


def uwsgi(*arguments: str) -> list[str | Path]:
    """The machine's own: a master with two workers, whose Python is a plugin's library. It closes connections, and says so."""
    program = shutil.which("uwsgi")
    require("kernel", program, "no uwsgi (tools/apt test)")
    assert program is not None
    options = ["--plugin", "python3", "--http-socket", "BIND", "--add-header", "Connection: close", "--disable-logging"]
    options += ["--master", "--processes", "2", "--die-on-term", "--need-app", "--worker-reload-mercy", "3"]
    return [program, *options, *arguments]


@contextlib.contextmanager
def ruby(*arguments: str) -> Iterator[list[str | Path]]:
    """Ruby with arguments, of which those that begin with `./` are files of tests/support/programs."""
    try:
        found = rubies.web()
    except rubies.RubiesError as error:
        require("kernel", False, str(error))
        raise
    assert found.root is not None
    with tempfile.TemporaryDirectory(dir=found.root / "tmp") as made:
        for file in PROGRAMS.glob("requests*.r?"):
            shutil.copy(file, made)
        inside = f"/{Path(made).relative_to(found.root)}/"
        words = [f"{inside}{each[2:]}" if each.startswith("./") else each for each in arguments]
        yield ["env", "PWD=/", "chroot", found.root, found.program, "-W0", *words]


@contextlib.contextmanager
def java(label: str, server: str, *arguments: str) -> Iterator[list[str | Path]]:
    """A server of tests/support/programs/requests_java on a JVM."""
    try:
        found = javas.interpreter(label)
        folders = [_classes()] + ([_library_classes(server)] if server in _JARS else [])
    except (javas.JavasError, debian.DebianError) as error:
        require("kernel", False, str(error))
        raise
    assert found.root is not None
    with tempfile.TemporaryDirectory(dir=found.root / "tmp") as made:
        for folder in folders:
            shutil.copytree(folder, made, dirs_exist_ok=True)
        inside = f"/{Path(made).relative_to(found.root)}"
        path = ":".join([inside, *(f"{inside}/{each.name}" for each in sorted(Path(made).glob("*.jar")))])
        yield _in_root(found, "-cp", path, f"kernelspan.requests.{server}", *arguments)


def _in_root(found: Interpreter, *words: str) -> list[str | Path]:
    """A JVM looks for itself in /proc; its root's is mounted for it alone."""
    script = 'mount -t proc proc "$0/proc" && exec chroot "$0" "$@"'
    assert found.root is not None
    return ["unshare", "-m", "sh", "-c", script, found.root, found.program, *words]


@functools.cache
def _classes() -> Path:
    """Of what needs no library."""
    return _compiled([_JAVA / f"{each}.java" for each in _OWN], [])


@functools.cache
def _library_classes(server: str) -> Path:
    """Of one that does, with its jars beside."""
    jars = [_jars() / f"{each}.jar" for each in _JARS[server]]
    return _compiled([_JAVA / f"{server}.java"], jars)


def _compiled(sources: Sequence[Path], jars: Sequence[Path]) -> Path:
    words = [*(each.read_bytes() for each in sources), *(str(each).encode() for each in jars)]
    found = _cache_folder() / f"requests-{hashlib.sha256(b''.join(words)).hexdigest()[:16]}"
    if not found.exists():
        options = ["-cp", ":".join(map(str, [_classes(), *jars]))] if jars else []
        javas.compile_java(list(sources), found, *options, release=11)
        for jar in jars:
            shutil.copy(jar, found)
    return found


@functools.cache
def _jars() -> Path:
    """A folder of the libraries' jars, by their names without a version. Raises debian.DebianError."""
    found = _cache_folder() / f"jars-{_SUITE}-{_RECIPE}"
    if not found.exists():
        found.parent.mkdir(parents=True, exist_ok=True)
        with debian.suite(_SUITE, found.parent) as apt, tempfile.TemporaryDirectory(dir=found.parent) as scratch:
            for package in apt.fetch(*_PACKAGES):
                debian.unpack(package, Path(scratch, "root"))
            made = Path(scratch, "jars")
            made.mkdir()
            for name in {name for names in _JARS.values() for name in names}:
                shutil.copy(next(Path(scratch, "root/usr/share/java").rglob(f"{name}.jar")), made)
            with contextlib.suppress(OSError):  # another session was faster
                made.rename(found)
    return found


def _cache_folder() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "kernelspan" / "javas"
