# SPDX-License-Identifier: Apache-2.0
"""Names near one that is not there: for the hint of an error."""

from __future__ import annotations

import difflib
import heapq
from collections.abc import Iterable

MOST = 3
_COMPARED = 300  # by difflib, which takes 20 us for each; the kernel has 60,000 functions
_LENGTH = 4  # letters in a row that a name shares with it


def nearest(name: str, names: Iterable[str], most: int = MOST) -> list[str]:
    """The names that are most like it, best first; none where none is like it."""
    pieces = _pieces(name.lower(), _LENGTH)
    few = [each for each in set(names) if any(piece in each.lower() for piece in pieces) or len(each) < 2 * _LENGTH]
    wanted = _pieces(name.lower(), 2)
    scored = ((len(wanted & _pieces(each.lower(), 2)) - abs(len(each) - len(name)) / 4, each) for each in few)
    return difflib.get_close_matches(name, [each for _, each in heapq.nlargest(_COMPARED, scored)], most, 0.6)


def hint(name: str, names: Iterable[str]) -> str:
    """The same as a hint, empty where there is none."""
    found = nearest(name, names)
    return f"near it: {', '.join(found)}" if found else ""


def _pieces(name: str, length: int) -> set[str]:
    """So many letters in a row, each once."""
    return {name[at : at + length] for at in range(len(name) - length + 1)} or {name}
