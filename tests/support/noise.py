# SPDX-License-Identifier: Apache-2.0
"""A process's memory of bytes that mean nothing, for what must read any without harm."""

from __future__ import annotations

from kernelspan_agent.process.errors import MemoryReadError


class Noise:
    """Memory whose every byte follows from its address and a seed; words are often addresses of itself. `holes`: at each
    multiple of that nothing is there; 0: nowhere.
    """

    def __init__(self, data: bytes, *, holes: int) -> None:
        self.data, self.holes, self.reads = data, holes, 0

    def read(self, address: int, size: int) -> bytes:
        """So many bytes. Raises MemoryReadError in a hole, and where there are far too many."""
        self.reads += 1
        if size > 1 << 20 or (self.holes and address % self.holes == 0):
            raise MemoryReadError(address, size, "a hole")
        start = address % len(self.data)
        return (self.data[start:] + self.data * (size // len(self.data) + 1))[:size]
