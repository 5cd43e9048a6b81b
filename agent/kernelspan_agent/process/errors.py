# SPDX-License-Identifier: Apache-2.0
"""What can go wrong while a process is read. All of it is expected: processes end and files are crafted."""

from __future__ import annotations

from kernelspan_agent.errors import KernelspanError


class ProcessError(KernelspanError):
    """A process could not be read."""

    reason = "NoMatchingProcesses"


class ProcessEndedError(ProcessError):
    """The process is gone, or its pid belongs to another one by now."""


class MemoryReadError(ProcessError):
    """Less than what was asked for could be read at `address`: nothing is returned, never a part."""

    def __init__(self, address: int, size: int, why: str) -> None:
        super().__init__(f"cannot read {size} bytes at {address:#x}: {why}")
        self.address = address
        self.size = size


class ElfError(ProcessError):
    """The file is not an ELF file that we can read, or contradicts itself."""

    reason = "BinaryNotFound"


class SymbolError(ProcessError):
    """What a user's probe is to be attached to is not in the file, or may not be probed; `reason` says which."""

    reason = "SymbolNotFound"
