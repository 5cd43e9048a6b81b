# SPDX-License-Identifier: Apache-2.0
"""Real database servers, Debian's, each in a root of its own, and a virtual environment with clients.

They are unpacked once into the user's cache folder, and never installed.
"""

from __future__ import annotations

import contextlib
import functools
import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from tests.support import debian, venvs
from tests.support.ports import PortReservation

SUITE = "bookworm"
_RECIPE = "1"  # part of the cache's name: a change here makes new roots
_TIMEOUT_SECONDS = 60


def python() -> Path:
    """The Python of a virtual environment that has clients of databases."""
    return venvs.library_venv(Path(__file__).with_name("databases_venv.txt")) / "bin" / "python"


@functools.cache
def redis_root() -> Path:
    """The root of Debian's Redis, fetched and unpacked if it is not. Raises debian.DebianError."""
    return _root("redis", ["redis-server"], [["/usr/bin/redis-server", "--version"]])


def redis_command(port: int) -> list[str]:
    """What runs a Redis on a port, in its root."""
    options = ["--port", str(port), "--save", "", "--appendonly", "no", "--requirepass", "s3cret"]
    options += ["--unixsocket", redis_socket(port, inside=True), "--unixsocketperm", "777"]
    return ["chroot", str(redis_root()), "/usr/bin/redis-server", *options]


def redis_socket(port: int, *, inside: bool = False) -> str:
    """The Unix socket of the Redis on this port, as this machine, or its root, has it."""
    name = f"/tmp/redis-{port}.sock"
    return name if inside else f"{redis_root()}{name}"


@contextlib.contextmanager
def redis() -> Iterator[int]:
    """A Redis that nobody traces; gives its port."""
    with reserved_port() as port, subprocess.Popen(redis_command(port), stdout=subprocess.DEVNULL) as server:
        try:
            _until(lambda: is_listening(port), "Redis answers")
            yield port
        finally:
            server.send_signal(signal.SIGTERM)


@contextlib.contextmanager
def reserved_port() -> Iterator[int]:
    """A port that nobody else takes."""
    with PortReservation(1) as reserved:
        yield reserved.ports[0]


def is_listening(port: int) -> bool:
    """Whether a server takes connections there."""
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
        return True
    return False


def _root(name: str, packages: list[str], proofs: list[list[str]]) -> Path:
    if os.geteuid():
        raise debian.DebianError("chroot needs root")
    found = venvs.cache_folder().parent / "databases" / f"{SUITE}-{name}-{_RECIPE}"
    if not found.exists():
        found.parent.mkdir(parents=True, exist_ok=True)
        debian.make_root(SUITE, packages, found, proofs)
    return found


def _until(condition: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + _TIMEOUT_SECONDS
    while not condition():
        assert time.monotonic() < deadline, f"never: {what}"
        time.sleep(0.02)
