# SPDX-License-Identifier: Apache-2.0
"""ELF files made of parts, for what no compiler writes."""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

from kernelspan_agent.process.files import file_key
from kernelspan_agent.process.symbols.where import Binary

BASE = 0x400000
SHT_PROGBITS, SHT_SYMTAB, SHT_STRTAB, SHT_RELA, SHT_NOTE, SHT_DYNSYM = 1, 2, 3, 4, 7, 11


@dataclass
class File:
    """An ELF file in the making: everything is loaded as code at BASE, so that offset and address differ by that."""

    kind: int = 2
    machine: int = 62
    sections: list[tuple[str, int, bytes, int]] = field(default_factory=list)  # name, kind, content, link
    flags: int = 5
    headers: bool = True  # of sections

    def section(self, name: str, content: bytes, kind: int = SHT_PROGBITS, link: int = 0) -> int:
        """Adds one; its index."""
        self.sections.append((name, kind, content, link))
        return len(self.sections)

    def offset(self, index: int) -> int:
        """Where a section's content lies in the file, once nothing more is added before it."""
        at = 64 + 56
        for _, _, content, _ in self.sections[: index - 1]:
            at = _aligned(at) + len(content)
        return _aligned(at)

    def content(self) -> bytes:
        """The file."""
        names, places = b"\0", []
        for name, _, _, _ in self.sections:
            places.append(len(names))
            names += name.encode() + b"\0"
        body = bytearray(64 + 56)
        rows = [struct.pack("<IIQQQQIIQQ", *[0] * 10)]
        for index, (_, kind, content, link) in enumerate(self.sections):
            body += bytes(_aligned(len(body)) - len(body))
            rows.append(
                struct.pack(
                    "<IIQQQQIIQQ", places[index], kind, 2, BASE + len(body), len(body), len(content), link, 0, 0, 0
                )
            )
            body += content
        rows.append(struct.pack("<IIQQQQIIQQ", 0, SHT_STRTAB, 0, 0, len(body), len(names), 0, 0, 0, 0))
        body += names
        table = len(body) if self.headers else 0
        count = len(rows) if self.headers else 0
        struct.pack_into(
            "<16sHHIQQQIHHHHHH", body, 0,
            b"\x7fELF\2\1\1", self.kind, self.machine, 1, BASE, 64, table, 0, 64, 56, 1, 64, count, max(count - 1, 0),
        )  # fmt: skip
        struct.pack_into("<IIQQQQQQ", body, 64, 1, self.flags, 0, BASE, BASE, len(body), len(body), 4096)
        return bytes(body) + (b"".join(rows) if self.headers else b"")


def symbols(entries: Sequence[tuple[int, int, int, int]]) -> bytes:
    """A symbol table: (place of the name, address, size, type) each."""
    rows = [struct.pack("<IBBHQQ", name, kind, 0, 1, address, size) for name, address, size, kind in entries]
    return b"\0" * 24 + b"".join(rows)


@contextmanager
def opened(content: bytes) -> Iterator[Binary]:
    """The file, as `where` would give it."""
    fd = os.memfd_create("crafted")
    try:
        os.write(fd, content)
        key = file_key(fd)
        yield Binary(fd, "/app/crafted", "", key, (key.device, key.inode, b""))
    finally:
        os.close(fd)


def _aligned(at: int) -> int:
    return at + 15 & ~15
