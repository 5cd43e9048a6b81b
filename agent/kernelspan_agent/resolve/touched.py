# SPDX-License-Identifier: Apache-2.0
"""What each library touches: the destinations it speaks with and the folders its files are in, as exact counts.

The number of places of a library is bounded, and no operation is lost to that: where there are too many, they become
coarser until they fit. A folder becomes the folder above it, deepest first; a destination loses its port, then its
address. So the counts of a library's folders are always all of its operations on files whose path is known.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from kernelspan_agent.resolve.segments import Cache
from kernelspan_agent.ring.records import OWN_OPERATION
from kernelspan_api import semconv

if TYPE_CHECKING:
    from collections.abc import Sequence

    from kernelspan_agent.model import ResolvedBatch, Segment

MAX_PLACES = 64  # of one kind, of one library
MAX_LEVEL = 8  # folders below one another that are kept apart
_NUMBER_BITS = 10  # more numbers than acts.MAX_LIBRARIES and its two others
_ALIGNMENT_BITS = 4  # objects lie at multiples of 16
_OBJECTS = 4096
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

    A library that goes everywhere takes some 20 KB, up to 0.3 MB where every name is as long as a name can be.
    """

    def __init__(self) -> None:
        self.folders: dict[int, Places] = {}  # by the library's number, see acts
        self.destinations: dict[int, Places] = {}
        self._of_object = Cache(_places_of, _OBJECTS)

    def add(self, batch: ResolvedBatch, numbers: np.ndarray) -> None:
        """Takes operations in. `numbers`: of their libraries, as Acts.add gives them."""
        objects = batch.segments[:, 2]
        rows = np.flatnonzero((batch.ops["op"] < OWN_OPERATION) & (objects != None))  # noqa: E711 - each of them
        if not len(rows):
            return
        mine = objects[rows]
        addresses = np.fromiter(map(id, mine), np.uint64, len(rows))
        keys = addresses >> np.uint64(_ALIGNMENT_BITS) << np.uint64(_NUMBER_BITS) | numbers[rows].astype(np.uint64)
        _, first, counts = np.unique(keys, return_index=True, return_counts=True)
        for at, count in zip(first.tolist(), counts.tolist(), strict=True):
            folder, destination = self._of_object[mine[at]]
            number = int(numbers[rows[at]])
            if folder:
                _add(self.folders, number, folder, count)
            if destination:
                _add(self.destinations, number, destination, count)


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
