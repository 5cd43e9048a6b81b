# SPDX-License-Identifier: Apache-2.0
"""Texts of prepared statements, of all connections, within one bound."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass

MAX_STATEMENTS, MAX_TEXT_BYTES = 16384, 16 << 20


@dataclass(frozen=True, slots=True)
class Text:
    """Of a statement, as far as it was seen."""

    sql: str
    is_cut: bool


class Texts:
    """By their connections' numbers and their names; those longest unused are forgotten. Text None: it was not seen."""

    def __init__(self) -> None:
        self._by_name: OrderedDict[tuple[int, bytes], Text | None] = OrderedDict()
        self._bytes = 0

    def get(self, connection: int, name: bytes) -> Text | None:
        """None: not known."""
        if (connection, name) not in self._by_name:
            return None
        self._by_name.move_to_end((connection, name))
        return self._by_name[connection, name]

    def put(self, connection: int, name: bytes, text: Text | None) -> None:
        """One that the server took."""
        self.pop(connection, name)
        self._by_name[connection, name] = text
        self._bytes += len(text.sql) if text else 0
        while len(self._by_name) > MAX_STATEMENTS or self._bytes > MAX_TEXT_BYTES:
            _, old = self._by_name.popitem(last=False)
            self._bytes -= len(old.sql) if old else 0

    def pop(self, connection: int, name: bytes) -> None:
        """It is not known any more."""
        old = self._by_name.pop((connection, name), None)
        self._bytes -= len(old.sql) if old else 0
