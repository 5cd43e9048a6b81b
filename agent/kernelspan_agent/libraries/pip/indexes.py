# SPDX-License-Identifier: Apache-2.0
"""Indexes of directories and archives, read once and shared by all processes that see the same unchanged one.

The key is device and inode, so a hundred workers behind as many `/proc/PID/root` share an index; another time of change
is another index. What was changed just before it was read may
have been read in the middle of an install (RECORD is written last): such an index is read again after a while.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from kernelspan_agent.libraries.base import Clock
from kernelspan_agent.libraries.pip.claims import ArchiveIndex, SiteIndex
from kernelspan_agent.libraries.pip.dpkg import SITE_DIRECTORY, debian_lists
from kernelspan_agent.libraries.pip.index import build_index, no_lists
from kernelspan_agent.libraries.pip.trees import DirectoryTree
from kernelspan_agent.process.rootfs import Entry, Root

SITE_NAMES = frozenset({"site-packages", "dist-packages"})
RECHECK_NS = 5_000_000_000  # how long an answer about a changing directory may be old
SETTLE_NS = 30_000_000_000  # longer than between the first and the last file of one distribution's metadata
MAX_INDEXES = 512
MAX_WEIGHT = 250_000  # entries of all indexes together, about 100 bytes each

MAX_COST_NS = 10_000_000_000  # more is no reading but a clock that was set
COST_FACTOR = 20  # a tree that changes all the time is read for at most a twentieth of the time
_Index = SiteIndex | ArchiveIndex


@dataclass(frozen=True, slots=True)
class _Held:
    index: _Index
    key: tuple[int, int, int, int]  # Entry.key, as it was read
    read_ns: int
    cost_ns: int


class Indexes:
    """The bounded cache. One object a manager."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._held: OrderedDict[tuple[int, int], _Held] = OrderedDict()  # by device and inode
        self._weight = 0

    def of_directory(self, root: Root, entry: Entry) -> SiteIndex:
        """The index of the directory `entry` of `root`."""
        index = self._get(entry, partial(self._read_directory, root, entry))
        return index if isinstance(index, SiteIndex) else SiteIndex({}, {}, has_metadata=False)

    def of_archive(self, root: Root, entry: Entry) -> ArchiveIndex:
        """The index of the file `entry` of `root`."""
        from kernelspan_agent.libraries.pip.archives import read_archive  # noqa: PLC0415 - as its docstring says

        index = self._get(entry, partial(read_archive, root, entry.path))
        return index if isinstance(index, ArchiveIndex) else ArchiveIndex(readable=False)

    def __len__(self) -> int:
        return len(self._held)

    def _read_directory(self, root: Root, entry: Entry) -> SiteIndex:
        return build_index(
            DirectoryTree(root, entry.path),
            partial(debian_lists, root) if entry.path == SITE_DIRECTORY else no_lists,
            by_name=entry.path.rpartition("/")[2] in SITE_NAMES,
            now_ns=self._clock(),
            settle_ns=SETTLE_NS,
        )

    def _get(self, entry: Entry, read: Callable[[], _Index]) -> _Index:
        place = (entry.device, entry.inode)
        now_ns = self._clock()
        held = self._held.get(place)
        if held and _is_fresh(held, entry, now_ns):
            self._held.move_to_end(place)
            return held.index
        index = read()
        end_ns = self._clock()
        self._drop(place)
        self._held[place] = _Held(index, entry.key, end_ns, min(end_ns - now_ns, MAX_COST_NS))
        self._weight += index.weight
        while len(self._held) > 1 and (len(self._held) > MAX_INDEXES or self._weight > MAX_WEIGHT):
            self._drop(next(iter(self._held)))
        return index

    def _drop(self, place: tuple[int, int]) -> None:
        if held := self._held.pop(place, None):
            self._weight -= held.index.weight


def _is_fresh(held: _Held, entry: Entry, now_ns: int) -> bool:
    age_ns = now_ns - held.read_ns
    if held.key == entry.key:
        return held.index.settled or 0 <= age_ns < RECHECK_NS
    return 0 <= age_ns < held.cost_ns * COST_FACTOR
