# SPDX-License-Identifier: Apache-2.0
"""How much the ring buffer holds of what the kernel tells and the agent has not read yet."""

from __future__ import annotations

from collections.abc import Mapping

from kernelspan_agent.errors import UsageError

RING_BYTES = 4 << 20  # a mapped ring counts twice in the resident size
MOST_MEBIBYTES = 1024
VARIABLE = "KERNELSPAN_RING_MEBIBYTES"
ROOM = "give the agent more memory (twice the ring and more: agent.resources in the chart), or a smaller ring"
_MEBIBYTE = 1 << 20


def ring_bytes(environ: Mapping[str, str]) -> int:
    """What the environment says, else RING_BYTES. Raises UsageError: it is no size of a ring."""
    said = environ.get(VARIABLE, "")
    if not said:
        return RING_BYTES
    size = int(said) if said.isascii() and said.isdecimal() and len(said) <= len(str(MOST_MEBIBYTES)) else 0
    if not 0 < size <= MOST_MEBIBYTES or size & (size - 1):
        raise UsageError(
            f"{VARIABLE}={said!r} is no size of a ring buffer",
            hint=f"a power of two from 1 to {MOST_MEBIBYTES}, in MiB; the default is {RING_BYTES // _MEBIBYTE}",
        )
    return size * _MEBIBYTE


def with_ring(environ: Mapping[str, str], mebibytes: int | None) -> dict[str, str]:
    """The environment with another size; None: as it is. Raises UsageError: it is no size of a ring."""
    found = {**environ} if mebibytes is None else {**environ, VARIABLE: str(mebibytes)}
    ring_bytes(found)
    return found
