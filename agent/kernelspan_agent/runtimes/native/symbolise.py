# SPDX-License-Identifier: Apache-2.0
"""From the frames of the kernel's walk to functions and files.

A row is a file's number (FRAME["globals"]) and an address in it (FRAME["code"]), one before where a call returns to.
"""

from __future__ import annotations

import weakref
from collections import Counter, OrderedDict
from typing import TYPE_CHECKING

from kernelspan_agent.process.procfs import printable
from kernelspan_agent.runtimes.registry import RawFrame

from .names import Named, Names

if TYPE_CHECKING:
    import numpy as np

    from .objects import Object, Objects

MAX_PLACES = 16384  # of all files together
MAX_NAME_CHARS = 256
REPLACED = "CodeReplaced"
_ELLIPSIS = "…"
_NUMBER_SHIFT = 40  # above an address in a file

_places: OrderedDict[tuple[int, int], RawFrame] = OrderedDict()
_names: weakref.WeakKeyDictionary[Object, Names] = weakref.WeakKeyDictionary()


class NativeSymboliser:
    """Symbols of one process. `objects`: set by who tells the kernel of them."""

    def __init__(self) -> None:
        self.objects: Objects | None = None
        self.unresolved: Counter[str] = Counter()

    def learn(self, record: bytes) -> None:
        """Nothing: the kernel sends none, all names are in files."""

    def frames(self, rows: np.ndarray) -> list[RawFrame]:
        """Frames of the rows (fields code, globals; shape (n,)). Where a file is not known any more, one that says so."""
        places = list(zip(rows["globals"].tolist(), rows["code"].tolist(), strict=True))
        for number in {number for number, address in places if (number, address) not in _places}:
            found = self.objects.numbered(number) if self.objects is not None else None
            if found is None:
                self.unresolved[REPLACED] += 1
                return [RawFrame("", "", "", "", 0, 0, 0, REPLACED)]
            _learn(found, [address for each, address in places if each == number])
        frames = [_places[place] for place in places]
        for place in places:
            _places.move_to_end(place)
        while len(_places) > MAX_PLACES:
            _places.popitem(last=False)
        return frames


def _learn(found: Object, addresses: list[int]) -> None:
    names = _names.get(found)
    if names is None:
        names = _names[found] = Names(found.fd, found.path, "")
    named = names.of(addresses)
    for address in addresses:
        _places[found.number, address] = _frame(found, address, named.get(address))


def _frame(found: Object, address: int, named: Named | None) -> RawFrame:
    path = printable(found.path)
    if named is None:
        return RawFrame("", path, "", path, 0, address, found.number << _NUMBER_SHIFT)
    name = printable(named.name)
    if len(name) > MAX_NAME_CHARS:
        name = name[: MAX_NAME_CHARS - 1] + _ELLIPSIS
    return RawFrame(name, path, name, path, 0, address, found.number << _NUMBER_SHIFT | named.start)
