# SPDX-License-Identifier: Apache-2.0
"""Names near one that is not there: for the hint of an error."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

MOST = 3
_COMPARED = 2000  # by difflib, which takes 20 us for each; the kernel has 60,000 functions


def nearest(name: str, names: Iterable[str], most: int = MOST) -> list[str]:
    """The names that are most like it, best first; none where none is like it."""
    wanted = _pairs(name)
    shared = sorted(
        ((len(wanted & _pairs(each)) - abs(len(each) - len(name)) / 4, each) for each in set(names)), reverse=True
    )
    likely = [each for score, each in shared[:_COMPARED] if score > 0]
    return difflib.get_close_matches(name, likely, most, 0.6)


def hint(name: str, names: Iterable[str]) -> str:
    """The same as a hint, empty where there is none."""
    found = nearest(name, names)
    return f"near it: {', '.join(found)}" if found else ""


def _pairs(name: str) -> set[str]:
    """Two letters that follow each other, each once."""
    return {name[at : at + 2].lower() for at in range(len(name) - 1)} or {name}
