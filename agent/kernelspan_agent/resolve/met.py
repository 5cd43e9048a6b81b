# SPDX-License-Identifier: Apache-2.0
"""Objects by the place that they are given when they are met: small numbers, by which a batch is counted at once."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


class Met(dict[Any, int]):
    """The place of each object, as `look` gives it at the first look. A plain look-up: `map` its `__getitem__`.

    It grows until it is cleared: whoever has it knows how many places there are.
    """

    def __init__(self, look: Callable[[Any], int]) -> None:
        super().__init__()
        self._look = look

    def __missing__(self, key: Any) -> int:
        found = self[key] = self._look(key)
        return found
