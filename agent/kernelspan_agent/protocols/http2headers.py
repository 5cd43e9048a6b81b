# SPDX-License-Identifier: Apache-2.0
"""Headers of HTTP/2 as an onlooker decompresses them (RFC 7541).

Most are an index into a table that both ends have built from what was sent before. Who has not seen all of that knows its
newest entries only: an index counts from the newest one, so these are right, and what lies behind them is not known. So a
header is told as it was sent, or not at all; and a table may be kept shorter than the connection's own.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from hpack import Decoder, HPACKError
from hpack.table import HeaderTable

MAX_TABLE_BYTES = 16 << 10  # that are kept: entries behind that are unknown. The usual size is 4 KiB
_MAX_SAID = 1 << 30  # of a table, as its owner says
MAX_LIST_BYTES = 64 << 10
MAX_FIELDS = 128
_UNKNOWN = b"\0"  # a name that none can have


@dataclass(frozen=True, slots=True)
class Fields:
    """Of one block. `pseudo`: those whose names begin with a colon; values of one name are joined by commas.

    `has_unknown`: there were others, of which the table did not know the name or the value.
    """

    pseudo: dict[str, str] = field(default_factory=dict)
    headers: dict[str, str] = field(default_factory=dict)
    has_unknown: bool = False


class _Table(HeaderTable):
    """Gives what it does not have as unknown, and is never larger than we keep."""

    def get_by_index(self, index: int) -> tuple[bytes, bytes]:
        if index > self.STATIC_TABLE_LENGTH + len(self.dynamic_entries):
            return _UNKNOWN, b""
        return super().get_by_index(index)

    @property
    def maxsize(self) -> int:
        return super().maxsize

    @maxsize.setter
    def maxsize(self, newmax: int) -> None:
        HeaderTable.maxsize.__set__(self, min(newmax, MAX_TABLE_BYTES))  # type: ignore[attr-defined]


class Fieldreader:
    """Of one direction of a connection. Not for several threads."""

    def __init__(self) -> None:
        self._decoder = Decoder(MAX_LIST_BYTES)
        self._decoder.max_allowed_table_size = _MAX_SAID
        self.forget()

    def forget(self) -> None:
        """Something was not seen: nothing is known of what was sent before."""
        self._decoder.header_table = table = _Table()
        table.maxsize = MAX_TABLE_BYTES

    def read(self, block: bytes) -> Fields | None:
        """A whole block's; None: it is none, or too long."""
        try:
            fields = self._decoder.decode(block, raw=True)
        except (HPACKError, IndexError, ValueError):
            self.forget()
            return None
        found = Fields()
        has_unknown = False
        for name, value in list(fields)[:MAX_FIELDS]:
            if name == _UNKNOWN:
                has_unknown = True
                continue
            key, text = name.decode("latin-1").lower(), value.decode("latin-1")
            into = found.pseudo if key.startswith(":") else found.headers
            into[key] = f"{into[key]}, {text}" if key in into else text
        return Fields(found.pseudo, found.headers, has_unknown)
