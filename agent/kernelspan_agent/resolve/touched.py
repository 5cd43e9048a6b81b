# SPDX-License-Identifier: Apache-2.0
"""What each library touches: the destinations it speaks with and the folders its files are in, as exact counts.

The number of places of a library is bounded, and no operation is lost to that: where there are too many, they become
coarser until they fit. A folder becomes the folder above it, deepest first; a destination loses its port, then its
address. So the counts of a library's folders are always all of its operations on files whose path is known.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from kernelspan_agent.resolve.met import Met
from kernelspan_agent.ring.records import OWN_OPERATION
from kernelspan_api import semconv

if TYPE_CHECKING:
    from collections.abc import Sequence

    from kernelspan_agent.model import ResolvedBatch, Segment

MAX_PLACES = 64  # of one kind, of one library
MAX_LEVEL = 8  # folders below one another that are kept apart
_ROWS = 32
_OBJECTS = 2048  # files and sockets that are met before all of them are forgotten
_AT_ONCE = 512  # operations, so that a large batch finds room
NO_ROOT = "(no root)"
Place = tuple[str, ...]  # from the coarsest to the finest


class Places:
    """Operations by place, at most `limit` places."""

    def __init__(self, limit: int = MAX_PLACES) -> None:
        self._limit = limit
        self._level = MAX_LEVEL
        self.counts: dict[Place, int] = {}

    def add(self, place: Place, count: int) -> None:
        """Counts operations at a place."""
        place = place[: self._level]
        self.counts[place] = self.counts.get(place, 0) + count
        while len(self.counts) > self._limit:
            self._level = max(map(len, self.counts)) - 1
            coarser: dict[Place, int] = {}
            for each, counted in self.counts.items():
                coarser[each[: self._level]] = coarser.get(each[: self._level], 0) + counted
            self.counts = coarser  # another object: whoever reads has one or the other

    def most(self) -> list[tuple[Place, int]]:
        """The places, those with most operations first."""
        return sorted(self.counts.items(), key=lambda item: (-item[1], item[0]))


class Touched:
    """The places of every library of one profile. Not for several threads.

    A library takes 16 KB, and some 20 KB more if it goes everywhere, 0.3 MB where every name is as long as a name can be.
    """

    def __init__(self) -> None:
        self._folders: dict[int, Places] = {}  # by the library's number, see acts
        self._destinations: dict[int, Places] = {}
        self._objects = Met(self._look)
        self._of_objects: list[tuple[Place, Place]] = []  # by the object's place: folder, destination
        self._counts = np.zeros((_ROWS, _OBJECTS), np.int64)  # of operations, by library and object
        self._start()

    def add(self, batch: ResolvedBatch, numbers: np.ndarray) -> None:
        """Takes operations in. `numbers`: of their libraries, as Acts.add gives them."""
        if not len(numbers):
            return
        highest, rows = int(numbers.max()), len(self._counts)
        if highest >= rows:
            self._counts = np.concatenate([self._counts, np.zeros((max(rows, highest), _OBJECTS), np.int64)])
        mine = batch.segments[:, 2].copy()
        mine[batch.ops["op"] >= OWN_OPERATION] = None  # theirs are the user's attributes
        for first in range(0, len(numbers), _AT_ONCE):
            part = slice(first, first + _AT_ONCE)
            objects = mine[part].tolist()
            if len(self._objects) + len(objects) > _OBJECTS:
                self._fold()
            places = np.fromiter(map(self._objects.__getitem__, objects), np.intp, len(objects))
            np.add.at(self._counts.reshape(-1), numbers[part] * _OBJECTS + places, 1)

    @property
    def folders(self) -> dict[int, Places]:
        """By the library's number."""
        self._fold()
        return self._folders

    @property
    def destinations(self) -> dict[int, Places]:
        """By the library's number."""
        self._fold()
        return self._destinations

    def _look(self, segment: Segment) -> int:
        self._of_objects.append(_places_of(segment))
        return len(self._of_objects) - 1

    def _start(self) -> None:
        self._objects.clear()
        self._objects[None] = 0
        self._of_objects = [((), ())]

    def _fold(self) -> None:
        """Forgets the objects, after their counts have gone to their places."""
        for number, at in zip(*(each.tolist() for each in np.nonzero(self._counts)), strict=True):
            count = int(self._counts[number, at])
            for places, place in zip((self._folders, self._destinations), self._of_objects[at], strict=True):
                if place:
                    _add(places, number, place, count)
        self._counts[:] = 0
        self._start()


def _add(places: dict[int, Places], number: int, place: Place, count: int) -> None:
    found = places.get(number)
    if found is None:
        found = places[number] = Places()
    found.add(place, count)


def _places_of(segment: Segment) -> tuple[Place, Place]:
    """The folder of a file's path, and the destination of a socket; empty: it has none."""
    found = segment.attributes
    path, peer = found.get(semconv.FILE_PATH), found.get(semconv.NETWORK_PEER_ADDRESS)
    destination: Place = ()
    if isinstance(peer, str):
        port = found.get(semconv.NETWORK_PEER_PORT)
        destination = (peer,) if port is None else (peer, str(port))
        destination = (str(found.get(semconv.NETWORK_TRANSPORT, "ip")), *destination)
    return folder_of(path) if isinstance(path, str) and path else (), destination


def folder_of(path: str) -> Place:
    """The folder that a file is in, one name for each level."""
    if not path.startswith("/"):  # a pipe, or a path that does not reach the root
        return (NO_ROOT,)
    return ("/", *[name for name in path.split("/")[1:-1] if name])


def folder_text(place: Sequence[str]) -> str:
    """A folder as it is shown; what is below it is meant, too."""
    if not place:
        return "anywhere"
    return place[0] if place[0] != "/" else "/" + "".join(f"{name}/" for name in place[1:])


def destination_text(place: Sequence[str]) -> str:
    """A destination as it is shown: address and port, address, or the transport alone."""
    if len(place) == 3:
        return f"[{place[1]}]:{place[2]}" if ":" in place[1] else f"{place[1]}:{place[2]}"
    if len(place) == 2:
        return f"unix:{place[1]}" if place[0] == "unix" else place[1]
    return f"any {place[0]}" if place else "anywhere"
