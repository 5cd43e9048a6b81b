# SPDX-License-Identifier: Apache-2.0
"""From the frames of the kernel's walk to functions and files.

A row is a file's number (FRAME["globals"]) and an address in it (FRAME["code"]), one before where a call returns to.
"""

from __future__ import annotations

import weakref
from collections import Counter, OrderedDict
from typing import TYPE_CHECKING

from kernelspan_agent.model import Origin
from kernelspan_agent.process.procfs import printable
from kernelspan_agent.runtimes.registry import RawFrame

from .names import Named, Names

if TYPE_CHECKING:
    import numpy as np

    from kernelspan_agent.runtimes.registry import Verdict

    from .objects import Object, Objects

MAX_PLACES = 16384  # of all files together
MAX_NAME_CHARS = 256
REPLACED = "CodeReplaced"
_ELLIPSIS = "…"
_NUMBER_SHIFT = 40  # above an address in a file

_APP = (Origin.APP, None)
# By a file's number, an address in it, and whether the file is the process's program: its code is the app's.
_places: OrderedDict[tuple[int, int, bool], RawFrame] = OrderedDict()
_names: weakref.WeakKeyDictionary[Object, Names] = weakref.WeakKeyDictionary()


class NativeSymboliser:
    """Symbols of one process. `objects`: set by who tells the kernel of them."""

    def __init__(self, program: str) -> None:
        """`program`: the path of the process's own."""
        self._program = program
        self.objects: Objects | None = None
        self.unresolved: Counter[str] = Counter()

    def learn(self, record: bytes) -> None:
        """Nothing: the kernel sends none, all names are in files."""

    def frames(self, rows: np.ndarray) -> list[RawFrame]:
        """Frames of the rows (fields code, globals; shape (n,)). Where a file is not known any more, one that says so."""
        numbers = rows["globals"].tolist()
        objects = {number: self.objects.numbered(number) if self.objects is not None else None for number in {*numbers}}
        if None in objects.values():
            self.unresolved[REPLACED] += 1
            return [RawFrame("", "", "", "", 0, 0, 0, REPLACED)]
        own = {number: found is not None and found.path == self._program for number, found in objects.items()}
        places = [
            (number, address, own[number]) for number, address in zip(numbers, rows["code"].tolist(), strict=True)
        ]
        for number in {place[0] for place in places if place not in _places}:
            if (found := objects[number]) is not None:
                _learn(found, [address for each, address, _ in places if each == number], own=own[number])
        frames = [_places[place] for place in places]
        for place in places:
            _places.move_to_end(place)
        while len(_places) > MAX_PLACES:
            _places.popitem(last=False)
        return frames


def _learn(found: Object, addresses: list[int], *, own: bool) -> None:
    names = _names.get(found)
    if names is None:
        names = _names[found] = Names(found.fd)
    named = names.of(addresses)
    for address in addresses:
        _places[found.number, address, own] = _frame(found, address, named.get(address), _APP if own else None)


def _frame(found: Object, address: int, named: Named | None, whose: Verdict | None) -> RawFrame:
    path = printable(found.path)
    if named is None:
        return RawFrame("", path, "", path, 0, address, found.number << _NUMBER_SHIFT, whose=whose)
    name = printable(named.name)
    if len(name) > MAX_NAME_CHARS:
        name = name[: MAX_NAME_CHARS - 1] + _ELLIPSIS
    return RawFrame(name, path, name, path, 0, address, found.number << _NUMBER_SHIFT | named.start, whose=whose)
