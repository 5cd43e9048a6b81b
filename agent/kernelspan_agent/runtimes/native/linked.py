# SPDX-License-Identifier: Apache-2.0
"""Which libraries a program holds for as long as it lives: those that it, or one of them, names as needed.

The dynamic linker maps these before the program begins, and gives back only what was loaded later (dlopen). Names are those of
the dynamic section (System V ABI, chapter 5).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from kernelspan_agent.process.elf import PT_INTERP, Elf, read_at
from kernelspan_agent.process.errors import ElfError

if TYPE_CHECKING:
    from collections.abc import Mapping

MAX_DYNAMIC_BYTES = 1 << 16
MAX_NEEDED = 256
MAX_NAME_BYTES = 256
_SHT_DYNAMIC, _NEEDED, _SONAME = 6, 1, 14


@dataclass(frozen=True, slots=True)
class Linked:
    """`name`: that others need it by; empty: its file's. `needed`: by their names, the linker itself among them."""

    name: str = ""
    needed: frozenset[str] = frozenset()


def linked(elf: Elf) -> Linked:
    """What a file says of itself. Raises ElfError."""
    name, needed = "", set[str]()
    for segment in elf.segments:
        if segment.kind == PT_INTERP and segment.file_bytes <= MAX_NAME_BYTES:
            path = read_at(elf.fd, segment.offset, segment.file_bytes).rstrip(b"\0")
            needed.add(path.rpartition(b"/")[2].decode("utf-8", "surrogateescape"))
    for section in elf.sections:
        if section.kind != _SHT_DYNAMIC or section.size > MAX_DYNAMIC_BYTES or section.link >= len(elf.sections):
            continue
        strings = elf.sections[section.link]
        words = np.frombuffer(read_at(elf.fd, section.offset, section.size // 16 * 16), "<u8").reshape(-1, 2).tolist()
        for tag, at in words:
            if tag not in {_NEEDED, _SONAME} or len(needed) >= MAX_NEEDED:
                continue
            if at >= strings.size:
                raise ElfError("a library's name lies outside of the names")
            text = read_at(elf.fd, strings.offset + at, min(MAX_NAME_BYTES, strings.size - at)).split(b"\0", 1)[0]
            if tag == _SONAME:
                name = text.decode("utf-8", "surrogateescape")
            else:
                needed.add(text.decode("utf-8", "surrogateescape"))
    return Linked(name, frozenset(needed))


def held(program: Linked, others: Mapping[str, Linked]) -> set[str]:
    """The names of those that the program holds, of `others` by their names."""
    found: set[str] = set()
    waiting = set(program.needed)
    while waiting:
        name = waiting.pop()
        if name not in found and name in others:
            found.add(name)
            waiting |= others[name].needed
    return found
