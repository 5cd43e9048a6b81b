# SPDX-License-Identifier: Apache-2.0
"""A real server of MongoDB's protocol: FerretDB with SQLite, built from its source; MongoDB's own is in no registry of packages."""

from __future__ import annotations

import contextlib
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

from tests.support import databases
from tests.support.generators import compiled_go


def command(port: int, folder: Path) -> list[str | Path]:
    """What runs one on a port, with its data in the folder."""
    return [compiled_go("mongo_server", "-tags=ferretdb_no_postgresql"), str(port), str(folder)]


@contextlib.contextmanager
def mongodb(folder: Path) -> Iterator[int]:
    """One that nobody traces; gives its port."""
    with (
        databases.reserved_port() as port,
        subprocess.Popen(
            command(port, folder), cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        ) as server,
    ):
        try:
            databases.until(lambda: databases.is_listening(port), "FerretDB answers")
            yield port
        finally:
            server.send_signal(signal.SIGTERM)
