# SPDX-License-Identifier: Apache-2.0
"""Indexes of directories and archives, read once and shared by all processes that see the same unchanged one.

The key is device, inode and times of change, so a hundred workers in as many containers of one image layer, or behind
as many `/proc/PID/root`, share an index, and an install makes another. What was changed just before it was read may
have been read in the middle of an install (RECORD is written last): such an index is read again after a while.
"""

from __future__ import annotations

from collections import OrderedDict
from functools import partial

from kernelspan_agent.libraries.base import Clock
from kernelspan_agent.libraries.pip.dpkg import SITE_DIRECTORY, debian_lists
from kernelspan_agent.libraries.pip.index import ArchiveIndex, SiteIndex, build_index, no_lists
from kernelspan_agent.libraries.pip.trees import DirectoryTree
from kernelspan_agent.libraries.rootfs import Entry, Root

SITE_NAMES = frozenset({"site-packages", "dist-packages"})
RECHECK_NS = 5_000_000_000  # how long an answer about a changing directory may be old
SETTLE_NS = 30_000_000_000  # longer than between the first and the last file of one distribution's metadata
MAX_INDEXES = 512
MAX_WEIGHT = 250_000  # entries of all indexes together, about 100 bytes each

_Key = tuple[int, int, int, int]


class Indexes:
    """The bounded cache. One object a manager."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._held: OrderedDict[_Key, tuple[SiteIndex | ArchiveIndex, int]] = OrderedDict()
        self._weight = 0

    def of_directory(self, root: Root, entry: Entry) -> SiteIndex:
        """The index of the directory `entry` of `root`."""
        held = self._fresh(entry.key)
        if isinstance(held, SiteIndex):
            return held
        index = build_index(
            DirectoryTree(root, entry.path),
            partial(debian_lists, root) if entry.path == SITE_DIRECTORY else no_lists,
            by_name=entry.path.rpartition("/")[2] in SITE_NAMES,
            now_ns=self._clock(),
            settle_ns=SETTLE_NS,
        )
        self._hold(entry.key, index)
        return index

    def of_archive(self, root: Root, entry: Entry) -> ArchiveIndex:
        """The index of the file `entry` of `root`."""
        held = self._fresh(entry.key)
        if isinstance(held, ArchiveIndex):
            return held
        from kernelspan_agent.libraries.pip.archives import read_archive  # noqa: PLC0415 - as its docstring says

        index = read_archive(root, entry.path)
        self._hold(entry.key, index)
        return index

    def __len__(self) -> int:
        return len(self._held)

    def _fresh(self, key: _Key) -> SiteIndex | ArchiveIndex | None:
        index, read_ns = self._held.get(key, (None, 0))
        if index is None or not (index.settled or 0 <= self._clock() - read_ns < RECHECK_NS):
            return None
        self._held.move_to_end(key)
        return index

    def _hold(self, key: _Key, index: SiteIndex | ArchiveIndex) -> None:
        old, _ = self._held.pop(key, (None, 0))
        self._weight += index.weight - (old.weight if old else 0)
        self._held[key] = (index, self._clock())
        while len(self._held) > 1 and (len(self._held) > MAX_INDEXES or self._weight > MAX_WEIGHT):
            _, (dropped, _) = self._held.popitem(last=False)
            self._weight -= dropped.weight
