# SPDX-License-Identifier: Apache-2.0
"""Lines of scripts: where each one ends, from the source that V8 keeps, and what they were compiled from. Bounded for all
processes together.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from kernelspan_agent.runtimes.mixing import mix, mix_lanes

if TYPE_CHECKING:
    from .maps import SourceMap

CHECKED_BYTES = 128
MAX_LINES = 2 << 20  # of all scripts, with the numbers of their maps: 8 MB
MOST_OF_ONE = MAX_LINES // 4  # that a script's map may have
_LINE_FEED, _RETURN, _SEPARATORS = 0x0A, 0x0D, (0x2028, 0x2029)


def line_ends(source: bytes, width: int) -> np.ndarray:
    """Positions of the characters that end a line (ECMA-262, 12.3), as V8 counts them: a return before a feed is none."""
    text = np.frombuffer(source, np.dtype("u1" if width == 1 else "<u2"))
    ends = text == _LINE_FEED
    returns = text == _RETURN
    if returns.any():
        returns[:-1] &= ~ends[1:]
        ends |= returns
    if width > 1:
        ends |= np.isin(text, _SEPARATORS)
    return np.flatnonzero(ends).astype(np.uint32)


def are_feeds(source: bytes, width: int, ends: np.ndarray) -> bool:
    """Whether all that ends a line is a feed."""
    text = np.frombuffer(source, np.dtype("u1" if width == 1 else "<u2"))
    return bool((text[ends] == _LINE_FEED).all())


def check_of(source: bytes) -> int:
    """A hash of how a source begins and ends, as in bpf/runtimes/nodejs_code.bpf.h."""
    ends = (each.ljust(CHECKED_BYTES, b"\0") for each in (source[:CHECKED_BYTES], source[-CHECKED_BYTES:]))
    return mix(0, *map(mix_lanes, ends)) & 0xFFFFFFFF


@dataclass(frozen=True, slots=True, eq=False)
class Lines:
    """Of one script. `ends`: what `line_ends` gives. `source_map`: of what its lines were compiled from, if that is known."""

    ends: np.ndarray
    source_map: SourceMap | None = None

    def __len__(self) -> int:
        """Numbers that it holds."""
        return len(self.ends) + 1 + (len(self.source_map) if self.source_map is not None else 0)

    def line_at(self, position: int) -> int:
        """The line, from 1, that a position is in."""
        return int(np.searchsorted(self.ends, position)) + 1

    def origin_of(self, position: int) -> tuple[str, int] | None:
        """The file and the line that a position was compiled from; None: that is not known."""
        if self.source_map is None:
            return None
        line = self.line_at(position)
        begin = int(self.ends[line - 2]) + 1 if line > 1 else 0
        return self.source_map.find(line, position - begin)


class KnownLines:
    """Those of scripts by what the caller names them, the least recently used going first."""

    def __init__(self, most: int = MAX_LINES) -> None:
        self._most, self._count = most, 0
        self._known: OrderedDict[object, Lines] = OrderedDict()

    def get(self, script: object) -> Lines | None:
        """Of one script."""
        found = self._known.get(script)
        if found is not None:
            self._known.move_to_end(script)
        return found

    def keep_all(self, scripts: Mapping[object, Lines]) -> None:
        """Takes in those of several."""
        for script, lines in scripts.items():
            self.keep(script, lines)

    def keep(self, script: object, lines: Lines) -> None:
        """Takes in one script's."""
        before = self._known.pop(script, None)
        self._count += len(lines) - (len(before) if before is not None else 0)
        self._known[script] = lines
        while self._count > self._most and len(self._known) > 1:
            _, gone = self._known.popitem(last=False)
            self._count -= len(gone)


KNOWN = KnownLines()
