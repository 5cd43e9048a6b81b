# SPDX-License-Identifier: Apache-2.0
"""Debian's own lists of files, one a binary package: dpkg(1), FILES."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from kernelspan_agent.process.rootfs import Root

INFO = "/var/lib/dpkg/info"
_ENDING = ".list"
_MAX_NAMES = 200_000  # about five a package
_MAX_LISTS = 8192
_MAX_LIST_BYTES = 4 << 20


def file_lists(root: Root) -> Iterator[tuple[str, bytes]]:
    """Each package's name, with its architecture where dpkg gives one, and its files, a line each."""
    names = [name for name in root.names(INFO, _MAX_NAMES) if name.endswith(_ENDING)]
    for name in names[:_MAX_LISTS]:
        yield name.removesuffix(_ENDING), root.read(f"{INFO}/{name}", _MAX_LIST_BYTES) or b""
