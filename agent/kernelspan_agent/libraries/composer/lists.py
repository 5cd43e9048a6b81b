# SPDX-License-Identifier: Apache-2.0
"""Lists of packages, read once and shared by all processes that see the same unchanged one."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import TYPE_CHECKING

from .installed import Packages, read_installed
from .pear import REGISTRY, read_registry

if TYPE_CHECKING:
    from kernelspan_agent.process.rootfs import Root

MAX_LISTS = 256
MAX_WEIGHT = 100_000  # entries of all lists together
_Key = tuple[str, tuple[int, int, int, int]]


class Lists:
    """The bounded cache. One object a manager."""

    def __init__(self) -> None:
        self._held: OrderedDict[_Key, Packages] = OrderedDict()
        self._weight = 0

    def around(self, root: Root, directory: str) -> list[Packages]:
        """The lists that stand in a directory: its own as a vendor directory, that of its vendor directory, PEAR's."""
        base = directory.rstrip("/")
        found = []
        for vendor in (base, f"{base}/vendor"):
            if vendor:
                found += self._get(root, f"{vendor}/composer/installed.json", vendor, read_installed)
        found += self._get(root, f"{base}/{REGISTRY}", base, read_registry)
        return found

    def __len__(self) -> int:
        return len(self._held)

    def _get(self, root: Root, path: str, directory: str, read: Callable[[Root, str], Packages]) -> list[Packages]:
        entry = root.find(path)
        if entry is None:
            return []
        # The path is part of it: the same file in two images may name directories of two.
        key = (directory, entry.key)
        packages = self._held.get(key)
        if packages is None:
            packages = self._held[key] = read(root, directory)
            self._weight += packages.weight
            while len(self._held) > 1 and (len(self._held) > MAX_LISTS or self._weight > MAX_WEIGHT):
                _, gone = self._held.popitem(last=False)
                self._weight -= gone.weight
        else:
            self._held.move_to_end(key)
        return [packages]
