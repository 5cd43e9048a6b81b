# SPDX-License-Identifier: Apache-2.0
"""Where a Go program's own text begins, as its runtime is told: the field `text` of runtime.firstmoduledata.

The section .text is no substitute: where C was linked in, the C library's start-up code comes first, and a probe set in the
middle of an instruction breaks the program. The structure is known by its first two words, which point at the table of
functions and at its names; in a position-independent program they may stand among the relocations only. Facts:
`moduledata` in src/runtime/symtab.go, the same from Go 1.16 on up to that field.
"""

from __future__ import annotations

import struct

import numpy as np

from kernelspan_agent.process.elf import EM_AARCH64, EM_X86_64, PF_W, PT_LOAD, Elf, read_at
from kernelspan_agent.process.errors import ElfError

from .tables import WINDOW_BYTES

MAX_SCAN_BYTES = 1 << 30
MAX_RELOCATIONS = 4 << 20
_NAMES, _FIRST_ENTRY, _TEXT = 8, 160, 176  # offsets of the fields funcnametab, minpc and text
_RELOCATION = np.dtype([("offset", "<u8"), ("info", "<u8"), ("addend", "<i8")])
_RELATIVE = {EM_X86_64: 8, EM_AARCH64: 1027}  # R_X86_64_RELATIVE, R_AARCH64_RELATIVE
SHT_RELA = 4


def text_start(elf: Elf, table: int, names: int) -> int:
    """The address that the program's table of functions, at `table` of the file with its names at `names`, counts from.

    Raises ElfError where the file does not say.
    """
    return module_word(elf, table, names, _TEXT)


def module_word(elf: Elf, table: int, names: int, field: int) -> int:
    """The address in the word at `field` bytes of the structure, unrelocated. Raises ElfError where the file does not say."""
    wanted = _address(elf, table), _address(elf, names)
    found = _in_data(elf, *wanted, field) or _in_relocations(elf, *wanted, field)
    if not found:
        raise ElfError("the table of Go's functions does not say where the text begins")
    return found


def _address(elf: Elf, offset: int) -> int:
    for segment in elf.segments:
        if segment.kind == PT_LOAD and segment.offset <= offset < segment.offset + segment.file_bytes:
            return segment.address + offset - segment.offset
    raise ElfError("the table of Go's functions is not loaded")


def _in_data(elf: Elf, table: int, names: int, wanted: int) -> int:
    sought, room = struct.pack("<QQ", table, names), max(_TEXT, wanted) + 8
    remaining = MAX_SCAN_BYTES
    for segment in sorted(
        elf.segments, key=lambda segment: not segment.flags & PF_W
    ):  # it lies among what is written to
        if segment.kind != PT_LOAD or segment.is_code:
            continue
        position = 0
        while position + room <= segment.file_bytes and remaining > 0:
            size = min(WINDOW_BYTES, segment.file_bytes - position)
            remaining -= size
            data = read_at(elf.fd, segment.offset + position, size)
            at = data.find(sought)
            while 0 <= at <= size - room:
                first, text, word = (
                    struct.unpack_from("<Q", data, at + field)[0] for field in (_FIRST_ENTRY, _TEXT, wanted)
                )
                if _is_text(elf, first, text):
                    return int(word)
                at = data.find(sought, at + 1)
            position += max(size - room, 1)
    return 0


def _in_relocations(elf: Elf, table: int, names: int, wanted: int) -> int:
    kind = _RELATIVE.get(elf.machine)
    section = next((each for each in elf.sections if each.kind == SHT_RELA and each.name == ".rela.dyn"), None)
    if kind is None or section is None or section.size > MAX_RELOCATIONS * _RELOCATION.itemsize:
        return 0
    size = section.size - section.size % _RELOCATION.itemsize
    rows = np.frombuffer(read_at(elf.fd, section.offset, size), _RELOCATION)
    rows = rows[rows["info"] == kind]
    starts = rows["offset"][rows["addend"] == table]
    starts = starts[np.isin(starts + np.uint64(_NAMES), rows["offset"][rows["addend"] == names])]
    for start in starts[:16].tolist():
        fields = [rows["addend"][rows["offset"] == start + field] for field in (_FIRST_ENTRY, _TEXT, wanted)]
        if all(len(field) for field in fields) and _is_text(elf, int(fields[0][0]), int(fields[1][0])):
            return int(fields[2][0])
    return 0


def _is_text(elf: Elf, first: int, text: int) -> bool:
    return any(
        segment.is_code and segment.address <= text <= first < segment.address + segment.file_bytes
        for segment in elf.segments
    )
