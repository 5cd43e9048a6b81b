# SPDX-License-Identifier: Apache-2.0
"""What is kept of a call between its entry and its return, and sent: the generated struct, and how many of them there is room
for.
"""

from __future__ import annotations

from collections.abc import Sequence

from kernelspan_agent.probes.own.conditions import SUFFIX_ROOM
from kernelspan_agent.resolve.arguments import Slot
from kernelspan_agent.ring.records import ARGUMENT, ARGUMENTS_HEADER, RING_HEADER, SLOT

MAX_CALL_BYTES = 4 << 20  # of the kernel's memory, for calls of one probe that have begun
MIN_CALLS, MAX_CALLS = 256, 8192
_FEW_CALLS = 256  # of mode Event: as many as programs that run at this moment


def declarations(slots: Sequence[Slot], ends: Sequence[Slot], *, is_span: bool) -> str:
    """Its C. `ends`: slots of texts that are compared by their ends."""
    count = len(slots)
    data = sum((slot.data_bytes + 7) & ~7 for slot in slots)
    record = ARGUMENTS_HEADER.itemsize + count * ARGUMENT.itemsize + data
    ring_slots = -(-(record + RING_HEADER) // SLOT)
    sent = ring_slots * SLOT - RING_HEADER
    room = sent - record + (_suffix_room(ends) if ends else 0)
    value = 64 + record + room
    calls = min(max(MAX_CALL_BYTES // value, MIN_CALLS), MAX_CALLS) if is_span else _FEW_CALLS
    lines = [
        f"#define KS_OWN_ARGUMENTS {count}",
        f"#define KS_OWN_RECORD {sent}",
        f"#define KS_OWN_ENTRIES {calls}",
        '#include "own.h"',
        "struct ks_own_value {",
        "\tstruct ks_own_call call;",
        "\tstruct ks_own_rec record;",
    ]
    if count:
        lines.append(f"\tstruct ks_own_arg arguments[{count}];")
    lines.append(f"\tu8 data[{data + room + 8 & ~7}];")
    return "\n".join([*lines, "};\n"])


def fits_on_stack(slots: Sequence[Slot]) -> bool:
    """Whether a call is so small that a program may make it, and its operation, on its stack of 512 bytes: numbers alone."""
    record = ARGUMENTS_HEADER.itemsize + len(slots) * ARGUMENT.itemsize
    return record + RING_HEADER <= SLOT and not any(slot.data_bytes for slot in slots)


def _suffix_room(slots: Sequence[Slot]) -> int:
    largest = max(slot.data_bytes for slot in slots)
    return SUFFIX_ROOM + (1 << largest.bit_length())
