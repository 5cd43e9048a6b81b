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

import trustme

from tests.support import venvs
from tests.support.otlp_json import ReceivedSpan
from tests.support.ports import PortReservation
from tests.support.runs import Run
from tools import debian, postgresql

SUITE = "bookworm"
_RECIPE = "1"  # part of the cache's name: a change here makes new roots
_TIMEOUT_SECONDS = 60


def python() -> Path:
    """The Python of a virtual environment that has clients of databases."""
    return venvs.library_venv(Path(__file__).with_name("databases_venv.txt")) / "bin" / "python"


@functools.cache
def redis_root() -> Path:
    """The root of Debian's Redis, fetched and unpacked if it is not. Raises debian.DebianError."""
    return root_of("redis", ["redis-server"], [["/usr/bin/redis-server", "--version"]])


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
            until(lambda: is_listening(port), "Redis answers")
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


def requests_of(ran: Run) -> list[ReceivedSpan]:
    """The spans of what was asked of databases, in the order of their start."""
    return sorted((span for span in ran.spans if "db.system.name" in span.attributes), key=lambda span: span.start_ns)


def names_above(span: ReceivedSpan, by_id: dict[str, ReceivedSpan]) -> set[str]:
    """Names of the functions that a span is below, of the client's own."""
    names = set()
    above = by_id.get(span.parent_span_id)
    while above is not None:
        assert above.trace_id == span.trace_id
        names.add(above.name.rpartition(".")[2])
        above = by_id.get(above.parent_span_id)
    return names


@contextlib.contextmanager
def postgres_data(*, tls: bool = False) -> Iterator[str]:
    """A new cluster's folder, as its root has it; it asks for passwords: `s3cret`. `tls`: it has a certificate."""
    with postgresql.cluster() as data:
        if tls:
            folder = Path(f"{postgresql.root()}{data}")
            issued = trustme.CA().issue_cert("127.0.0.1")
            for name, pem in (("server.key", issued.private_key_pem), ("server.crt", issued.cert_chain_pems[0])):
                pem.write_to_path(folder / name)
                os.chown(folder / name, postgresql.UID, postgresql.UID)
                (folder / name).chmod(0o600)
            with (folder / "postgresql.conf").open("a") as settings:
                settings.write("ssl = on\n")
        yield data


@contextlib.contextmanager
def postgres(*, tls: bool = False) -> Iterator[int]:
    """A PostgreSQL that nobody traces; gives its port."""
    with postgres_data(tls=tls) as data, postgresql.server(data) as port:
        yield port


@contextlib.contextmanager
def running(command: list[str], ends_by: int = signal.SIGINT) -> Iterator[int]:
    """A server, until the block ends; gives its process' id."""
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as server:
        try:
            yield server.pid
        finally:
            server.send_signal(ends_by)


def root_of(name: str, packages: list[str], proofs: list[list[str]]) -> Path:
    """A root of these packages, fetched and unpacked if it is not, in which the commands `proofs` succeed."""
    return debian.kept_root(SUITE, name, packages, proofs, recipe=_RECIPE)


def until(condition: Callable[[], bool], what: str) -> None:
    """Waits."""
    deadline = time.monotonic() + _TIMEOUT_SECONDS
    while not condition():
        assert time.monotonic() < deadline, f"never: {what}"
        time.sleep(0.02)
