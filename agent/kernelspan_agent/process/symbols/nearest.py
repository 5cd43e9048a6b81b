# SPDX-License-Identifier: Apache-2.0
"""Which of very many names look like the one that is not there: difflib's answer, asked of those that share most with it."""

from __future__ import annotations

import difflib
import heapq
from collections.abc import Iterable

_COMPARED = 200  # difflib takes 0.1 ms and more for each
_SIMILAR = 0.6


def nearest(text: str, names: Iterable[str], count: int) -> list[str]:
    """At most `count` of `names`, best first, whatever their case; none where none is similar."""
    wanted = _pairs(text.lower())
    by_lower = {name.lower(): name for name in names}

    def shared(name: str) -> float:
        found = _pairs(name)
        return len(wanted & found) / (len(wanted | found) or 1)

    close = difflib.get_close_matches(text.lower(), heapq.nlargest(_COMPARED, by_lower, key=shared), count, _SIMILAR)
    return [by_lower[name] for name in close]


def _pairs(text: str) -> set[str]:
    """Neighbouring letters; each letter besides, so that two that changed places still share something."""
    return {text[index : index + 2] for index in range(len(text))} | set(text)
