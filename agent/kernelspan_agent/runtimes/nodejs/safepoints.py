# SPDX-License-Identifier: Apache-2.0
"""Where optimised code may be left: from the place that a call returns to, to the number of its exit.

Behind the instructions stand a header and an entry for each such place: the place, the exit's number, and the place of the jump
to the exit, which V8 writes over the return address of code that it has given up. How many bytes each of these takes the header
says. Layouts: src/codegen/safepoint-table.h and maglev-safepoint-table.h of V8.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING

from kernelspan_agent.process.memory import MAX_READ_BYTES

if TYPE_CHECKING:
    from kernelspan_agent.process.memory import Memory

MAX_ENTRIES = 1 << 16
_MAGLEV_HEADER = 16


@dataclass(frozen=True, slots=True)
class Safepoint:
    """A place, in bytes from the code's first instruction. `exit`: -1 where the code cannot be left; so is `jump`."""

    place: int
    exit: int
    jump: int


def safepoint_at(memory: Memory, table: int, place: int, lead: int, *, maglev: bool) -> Safepoint | None:
    """The entry of a place, or of the jump that stands for it; None: it has none. `lead`: bytes before the header's two words.

    Raises MemoryReadError.
    """
    count, sizes = struct.unpack("<II", memory.read(table + lead, 8))
    exits, registers, width, exit_width = sizes & 1, sizes >> 1 & 7, sizes >> 4 & 7, sizes >> 7 & 7
    step = width + exits * (exit_width + width) + maglev + registers
    if not 0 < count <= MAX_ENTRIES or not 0 < width <= 4 or exit_width > 4 or count * step > MAX_READ_BYTES:
        return None
    entries = memory.read(table + (_MAGLEV_HEADER if maglev else lead + 8), count * step)
    for at in range(0, count * step, step):
        found = int.from_bytes(entries[at : at + width], "little")
        number = jump = -1
        if exits:
            number = int.from_bytes(entries[at + width : at + width + exit_width], "little") - 1
            begin = at + width + exit_width
            jump = int.from_bytes(entries[begin : begin + width], "little") - 1
        if place in (found, jump):
            return Safepoint(found, number, jump)
    return None
