# SPDX-License-Identifier: Apache-2.0
"""Small programs written as instructions: they count their runs and add up one word of what they were given."""

from __future__ import annotations

import contextlib
import os
import struct
from collections.abc import Iterator
from dataclasses import dataclass

from kernelspan_agent.probes import bpf

_REGISTERS = {"ax": 80, "dx": 96, "si": 104, "di": 112}  # struct pt_regs of x86-64


def register(name: str) -> int:
    """Where a probe's context has a register."""
    return _REGISTERS[name]


def argument(index: int) -> int:
    """Where a fentry program's context has an argument; the result stands behind the last."""
    return 8 * index


@dataclass(frozen=True, slots=True)
class Observed:
    """How often a program ran, and the sum of what it saw."""

    runs: int
    total: int


@dataclass(frozen=True, slots=True)
class Observer:
    """A map with both numbers."""

    map_fd: int

    def seen(self) -> Observed:
        return Observed(*struct.unpack("<QQ", bpf.map_lookup(self.map_fd, bytes(4), 16) or bytes(16)))

    @contextlib.contextmanager
    def loaded(self, kind: int, at: int, target: bpf.Target = bpf.ANYWHERE, *, bits: int = 64) -> Iterator[int]:
        """A program that adds the word at `at` of its context, of which `bits` count."""
        code = (
            bpf.instruction(0x79, 6, 1, at)  # r6 = *(u64 *)(r1 + at)
            + (bpf.instruction(0xBC, 6, 6) if bits == 32 else b"")  # w6 = w6
            + bpf.instruction(0x62, 10, offset=-4)  # *(u32 *)(r10 - 4) = 0
            + bpf.instruction(0xBF, 2, 10)
            + bpf.instruction(0x07, 2, immediate=-4)
            + bpf.instruction(0x18, 1, 1, immediate=self.map_fd)
            + bpf.instruction(0)
            + bpf.instruction(0x85, immediate=1)  # bpf_map_lookup_elem
            + bpf.instruction(0x15, 0, offset=3)  # if r0 == 0 goto out
            + bpf.instruction(0xB7, 1, immediate=1)
            + bpf.instruction(0xDB, 0, 1)  # lock *(u64 *)r0 += r1
            + bpf.instruction(0xDB, 0, 6, 8)  # lock *(u64 *)(r0 + 8) += r6
            + bpf.NOTHING
        )
        fd = bpf.prog_load(kind, code, "ks_observe", target)
        try:
            yield fd
        finally:
            os.close(fd)


@contextlib.contextmanager
def observer() -> Iterator[Observer]:
    """One, for as long as it is needed."""
    fd = bpf.map_create(bpf.MAP_TYPES["array"], 4, 16, 1, 0, "ks_observe")
    try:
        yield Observer(fd)
    finally:
        os.close(fd)
