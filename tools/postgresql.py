# SPDX-License-Identifier: Apache-2.0
"""A PostgreSQL of the distribution's packages, unpacked into a root in the user's cache and never installed.

It runs in that root as a user of its own, with a cluster that is deleted when it ends. Nothing of it needs to survive, so it does not
wait for disks.
"""

from __future__ import annotations

import contextlib
import functools
import os
import signal
import socket
import stat
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

from tools import debian

USER, PASSWORD, UID = "postgres", "s3cret", 54321
_SUITE = "bookworm"  # where there is a mirror of Debian: one version for all that is tested
_RECIPE = "2"  # part of the cache's name: a change here makes new roots
_START_SECONDS = 60.0


def is_there() -> bool:
    """Whether its root has been made."""
    return debian.kept_at(_suite(), "postgresql", recipe=_RECIPE).exists()


@functools.cache
def root() -> Path:
    """Its root, fetched and unpacked if it is not there. Raises debian.DebianError."""
    proofs = [["/bin/sh", "-c", "/usr/lib/postgresql/*/bin/postgres --version"]]
    found = debian.kept_root(_suite(), "postgresql", ["postgresql", "dash"], proofs, recipe=_RECIPE)
    (found / "etc" / "passwd").write_text(f"{USER}:x:{UID}:{UID}::/tmp:/bin/sh\n")
    (found / "tmp").chmod(0o1777)
    if not (found / "dev" / "null").exists():
        os.mknod(found / "dev" / "null", 0o666 | stat.S_IFCHR, os.makedev(1, 3))
        (found / "dev" / "null").chmod(0o666)
    return found


@contextlib.contextmanager
def cluster() -> Iterator[str]:
    """A new cluster's folder, as the root has it, until the block ends; USER has PASSWORD there.

    Raises debian.DebianError.
    """
    template = root() / "var" / "lib" / "template"
    if not template.exists():
        with debian.own_folder(root(), UID) as folder:
            (folder / "password").write_text(f"{PASSWORD}\n")
            inside = f"/tmp/{folder.name}"
            options = ["-A", "scram-sha-256", "--pwfile", f"{inside}/password", "-N", "-E", "UTF8", "--locale", "C"]
            done = subprocess.run(
                [*_chroot("initdb"), "-D", f"{inside}/pg", *options], capture_output=True, text=True, check=False
            )
            if done.returncode:
                raise debian.DebianError(f"initdb: {done.stderr.strip()[-500:]}")
            with contextlib.suppress(OSError):  # another session was faster
                (folder / "pg").rename(template)
    with debian.own_folder(root(), UID) as folder:
        subprocess.run(["cp", "-a", str(template), str(folder / "pg")], check=True)
        yield f"/tmp/{folder.name}/pg"


def command(port: int, folder: str, program: str = "postgres") -> list[str]:
    """What runs a cluster on a port of loopback, in its root."""
    options = ["-D", folder, "-p", str(port), "-k", "/tmp", "-c", "listen_addresses=127.0.0.1", "-c", "fsync=off"]
    return [*_chroot(program), *options, "-c", "dynamic_shared_memory_type=mmap", "-c", "shared_buffers=16MB"]


@contextlib.contextmanager
def server(folder: str) -> Iterator[int]:
    """Runs a cluster, in a session of its own, until the block ends; gives its port. Raises debian.DebianError."""
    with _free_port() as port, _running(command(port, folder)) as process:
        until = time.monotonic() + _START_SECONDS
        while not _is_ready(folder):
            if process.poll() is not None or time.monotonic() > until:
                raise debian.DebianError("PostgreSQL does not start")
            time.sleep(0.02)
        yield port


@contextlib.contextmanager
def _running(line: list[str]) -> Iterator[subprocess.Popen[bytes]]:
    nowhere = subprocess.DEVNULL
    with subprocess.Popen(line, stdin=nowhere, stdout=nowhere, stderr=nowhere, start_new_session=True) as process:
        try:
            yield process
        finally:
            process.send_signal(signal.SIGINT)  # ends it without waiting for clients


def _is_ready(folder: str) -> bool:
    """The last line of this file says it, as pg_ctl has it."""
    try:
        return Path(f"{root()}{folder}", "postmaster.pid").read_text().splitlines()[7].strip() == "ready"
    except (OSError, IndexError):
        return False


@contextlib.contextmanager
def _free_port() -> Iterator[int]:
    """Nobody else is given it, and a server that sets SO_REUSEADDR may listen on it."""
    with socket.socket() as held:
        held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        held.bind(("127.0.0.1", 0))
        yield held.getsockname()[1]


def _chroot(program: str) -> list[str]:
    (place,) = (root() / "usr" / "lib" / "postgresql").glob("*/bin")
    inside = f"/{place.relative_to(root())}/{program}"
    return ["chroot", f"--userspec={UID}:{UID}", str(root()), inside]


def _suite() -> str:
    return _SUITE if debian.has_mirror() else debian.OWN
