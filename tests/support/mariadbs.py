# SPDX-License-Identifier: Apache-2.0
"""A real MariaDB, Debian's, in a root of its own, as `databases` has the others."""

from __future__ import annotations

import contextlib
import functools
import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import trustme

from tests.support import databases
from tools import debian

USER, UID = "mysql", 54322
DATABASES = ["first", "second"]
_SERVER = "/usr/sbin/mariadbd"
_SCRIPTS = ["mysql_system_tables.sql", "mysql_system_tables_data.sql"]
_ACCOUNTS = """
FLUSH PRIVILEGES;
CREATE DATABASE first;
CREATE DATABASE second;
CREATE USER shop@'%' IDENTIFIED BY 's3cret';
CREATE USER shop@localhost IDENTIFIED BY 's3cret';
GRANT ALL ON *.* TO shop@'%';
GRANT ALL ON *.* TO shop@localhost;
"""


@functools.cache
def root() -> Path:
    """The root of Debian's MariaDB, fetched and unpacked if it is not. Raises debian.DebianError."""
    found = databases.root_of("mariadb", ["mariadb-server-core"], [[_SERVER, "--version"]])
    (found / "etc" / "passwd").write_text(f"{USER}:x:{UID}:{UID}::/tmp:/bin/sh\n")
    (found / "tmp").chmod(0o1777)
    return found


@contextlib.contextmanager
def data(*, tls: bool = False) -> Iterator[str]:
    """A new server's folder, as the root has it; its user `shop` has the password `s3cret`. `tls`: it has a certificate."""
    template = root() / "var" / "lib" / "template"
    if not template.exists():
        with debian.own_folder(root(), UID) as folder:
            (folder / "data").mkdir()
            os.chown(folder / "data", UID, UID)
            scripts = [(root() / "usr" / "share" / "mysql" / each).read_text() for each in _SCRIPTS]
            text = "\n".join(["CREATE DATABASE mysql;\nUSE mysql;", *scripts, _ACCOUNTS])
            options = ["--bootstrap", "--innodb-log-file-size=8M", f"--datadir=/tmp/{folder.name}/data"]
            done = subprocess.run(
                [*_chroot(), *options], input=text, capture_output=True, text=True, timeout=120, check=False
            )
            assert done.returncode == 0, done.stderr
            template.parent.mkdir(parents=True, exist_ok=True)
            with contextlib.suppress(OSError):  # another session was faster
                (folder / "data").rename(template)
    with debian.own_folder(root(), UID) as folder:
        subprocess.run(["cp", "-a", str(template), str(folder / "data")], check=True)
        if tls:
            issued = trustme.CA().issue_cert("127.0.0.1")
            for name, pem in (("key.pem", issued.private_key_pem), ("cert.pem", issued.cert_chain_pems[0])):
                pem.write_to_path(folder / name)
                os.chown(folder / name, UID, UID)
        yield f"/tmp/{folder.name}"


def command(port: int, folder: str, *more: str) -> list[str]:
    """What runs a MariaDB on a port, in its root; its Unix socket is `socket_of(folder)`."""
    options = [f"--datadir={folder}/data", f"--port={port}", "--bind-address=127.0.0.1", f"--socket={folder}/sock"]
    options += ["--innodb-log-file-size=8M", "--innodb-buffer-pool-size=8M", "--innodb-flush-log-at-trx-commit=0"]
    options += ["--max-allowed-packet=64M", "--local-infile=1", f"--pid-file={folder}/pid", "--skip-name-resolve"]
    if (root() / folder.lstrip("/") / "key.pem").exists():
        options += [f"--ssl-key={folder}/key.pem", f"--ssl-cert={folder}/cert.pem"]
    return [*_chroot(), *options, *more]


def socket_of(folder: str) -> str:
    """The server's Unix socket as this machine has it."""
    return f"{root()}{folder}/sock"


@contextlib.contextmanager
def mariadb(*more: str, tls: bool = False) -> Iterator[tuple[int, str]]:
    """A MariaDB that nobody traces; gives its port and its Unix socket."""
    with (
        data(tls=tls) as folder,
        databases.reserved_port() as port,
        databases.running(command(port, folder, *more), signal.SIGTERM),
    ):
        databases.until(lambda: databases.is_listening(port), "MariaDB answers")
        yield port, socket_of(folder)


def _chroot() -> list[str]:
    return [
        "chroot",
        f"--userspec={UID}:{UID}",
        str(root()),
        _SERVER,
        "--no-defaults",
        "--lc-messages-dir=/usr/share/mysql",
    ]
