# SPDX-License-Identifier: Apache-2.0
"""What one of the user's own probes may take of the machine, however it came to ask for it.

A profile's fields are bounded, so no valid one comes near most of these: they hold where the generator, the compiler or a
machine with hundreds of CPUs makes more of them than was thought of. How long a compile may take is said in compiler.py.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from kernelspan_agent.errors import BudgetError

MOST_TEXT_BYTES = 256 << 10  # of a generated text; the longest of a valid profile is a tenth of it
MOST_INSTRUCTIONS = 200_000  # of a program as it is compiled; the kernel's verifier follows a million
MOST_PROBE_BYTES = 64 << 20  # of a probe's maps
MOST_BYTES = 512 << 20  # of all of them
_PER_CPU = frozenset({5, 6, 10})  # BPF_MAP_TYPE_PERCPU_HASH, PERCPU_ARRAY, LRU_PERCPU_HASH
_ENTRY_BYTES = 64  # what the kernel keeps beside a value, about
_BYTES_OF_INSTRUCTION = 8
_HINT = "take fewer arguments, or smaller maxBytes"


def require_text(text: str) -> None:
    """Raises BudgetError: the text is longer than any template makes it."""
    if len(text) > MOST_TEXT_BYTES:
        raise BudgetError(f"its program's text has {len(text):,} bytes of {MOST_TEXT_BYTES:,}", hint=_HINT)


def require_programs(name: str, programs: Mapping[str, bytes]) -> None:
    """Raises BudgetError: a compiled program is too long."""
    longest = max((len(code) // _BYTES_OF_INSTRUCTION for code in programs.values()), default=0)
    if longest > MOST_INSTRUCTIONS:
        raise BudgetError(f"{name}: its program has {longest:,} instructions of {MOST_INSTRUCTIONS:,}", hint=_HINT)


def map_bytes(maps: Iterable[Mapping[str, Any]], cpus: int) -> int:
    """The kernel's memory for maps of these shapes, about."""
    return sum(
        each["entries"] * (each["key"] + each["value"] * (cpus if each["type"] in _PER_CPU else 1) + _ENTRY_BYTES)
        for each in maps
    )


def require_room(name: str, wanted: int, have: int) -> None:
    """Raises BudgetError: the maps of a probe, or of it and all others (`have`), are too large."""
    if wanted > MOST_PROBE_BYTES:
        raise BudgetError(f"{name}: its maps take {wanted >> 20} MiB of {MOST_PROBE_BYTES >> 20}", hint=_HINT)
    if wanted + have > MOST_BYTES:
        raise BudgetError(
            f"{name}: the maps of this node's probes take {have >> 20} MiB, and {wanted >> 20} more would be beyond "
            f"{MOST_BYTES >> 20}",
            reason="TooManyProbes",
            hint="merge or narrow profiles",
        )
