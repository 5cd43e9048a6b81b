# SPDX-License-Identifier: Apache-2.0
"""Directories that hold distributions, for people who look: around files in use, and where Python looks below a prefix."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from kernelspan_agent.process.rootfs import Root

if TYPE_CHECKING:
    from kernelspan_agent.libraries.base import LibraryContext

MAX_NAMES = 100_000
_NAMES = ("site-packages", "dist-packages")
_DISTRIBUTIONS = (".dist-info", ".egg-info", ".egg")


def find_sites(files: Sequence[str], prefixes: Sequence[str], context: LibraryContext) -> dict[str, int]:
    """Each such directory that is there, with how many distributions it has. Raises OSError: the root is gone."""
    version = ".".join(map(str, context.version[:2]))
    candidates = [_site_of(path) for path in files]
    for prefix in prefixes:
        for library in ("lib", "lib64"):
            candidates += [f"{prefix}/{library}/python{version}/{name}" for name in _NAMES]
        candidates += [f"{prefix}/lib/python3/dist-packages", f"{prefix}/local/lib/python{version}/dist-packages"]
    sites: dict[str, int] = {}
    with Root(context.root) as root:
        for path in filter(None, candidates):
            entry = root.find(path)
            if entry is not None and entry.is_directory and entry.path not in sites:
                names = root.names(entry.path, MAX_NAMES)
                sites[entry.path] = sum(name.endswith(_DISTRIBUTIONS) for name in names)
    return sites


def _site_of(path: str) -> str:
    parts = path.split("/")
    at = next((index for index, part in enumerate(parts) if part in _NAMES), 0)
    return "/".join(parts[: at + 1]) if at and path.startswith("/") else ""
