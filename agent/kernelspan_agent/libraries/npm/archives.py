# SPDX-License-Identifier: Apache-2.0
"""A file of a zip archive, whatever the archive claims."""

from __future__ import annotations

import zipfile
import zlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from kernelspan_agent.process.rootfs import Root

MAX_ARCHIVE_BYTES = 256 << 20
MAX_MEMBERS = 65_536
_BROKEN = (OSError, ValueError, RuntimeError, NotImplementedError, EOFError, zipfile.BadZipFile, zlib.error, KeyError)


def read_member(root: Root, path: str, member: str, limit_bytes: int) -> bytes | None:
    """A member of the zip file `path`; None: there is none, or it is larger than that."""
    try:
        with root.opened(path) as fd, open(fd, "rb", closefd=False) as file:
            if file.seek(0, 2) > MAX_ARCHIVE_BYTES:
                return None
            with zipfile.ZipFile(file) as archive:
                if len(archive.NameToInfo) > MAX_MEMBERS:
                    return None
                with archive.open(member) as opened:
                    data = opened.read(limit_bytes + 1)
    except _BROKEN:
        return None
    return data if len(data) <= limit_bytes else None
