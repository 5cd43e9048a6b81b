# SPDX-License-Identifier: Apache-2.0
"""Bounded reads of another process's memory.

A read gives all that was asked for or raises: no caller ever works on half a structure. One read is at most
MAX_READ_BYTES, whatever a length found in hostile memory says. The file behind /proc/PID/mem belongs to one address
space: after an exec it reads nothing, so a reused pid or a new program cannot answer for the old one.
"""

from __future__ import annotations

import os
import struct
from typing import Protocol, Self

from .errors import MemoryReadError, ProcessEndedError, ProcessError
from .procfs import Process, read_stat

MAX_READ_BYTES = 1 << 20
MAX_ADDRESS = (1 << 63) - 1  # what pread's offset can hold; user space ends far below
_PAGE_BYTES = 4096
_U64 = struct.Struct("<Q")


class Memory(Protocol):
    """Anything that can be read by address."""

    def read(self, address: int, size: int) -> bytes:
        """Exactly `size` bytes. Raises MemoryReadError."""


class _Gone:
    """The memory of a process that has ended."""

    def read(self, address: int, size: int) -> bytes:
        """Raises MemoryReadError."""
        raise MemoryReadError(address, size, "the process has ended")


GONE: Memory = _Gone()


class ProcessMemory:
    """The memory of one process, open until closed."""

    __slots__ = ("_fd", "process")

    def __init__(self, process: Process) -> None:
        """Raises ProcessEndedError; ProcessError (PermissionDenied) without CAP_SYS_PTRACE."""
        self.process = process
        self._fd = -1
        try:
            self._fd = os.open(f"{process.path}/mem", os.O_RDONLY | os.O_CLOEXEC)
        except (FileNotFoundError, ProcessLookupError) as error:
            raise ProcessEndedError(f"process {process.pid} does not exist") from error
        except OSError as error:
            raise ProcessError(
                f"cannot open the memory of process {process.pid}: {error.strerror}",
                reason="PermissionDenied",
                hint="run as root, or with CAP_SYS_PTRACE",
            ) from error
        try:
            read_stat(process)  # the pid may have been given away before the open
        except ProcessError:
            self.close()
            raise

    def read(self, address: int, size: int) -> bytes:
        """Exactly `size` bytes (at most MAX_READ_BYTES). Raises MemoryReadError."""
        if not 0 <= size <= MAX_READ_BYTES or not 0 <= address <= MAX_ADDRESS - size:
            raise MemoryReadError(address, size, "out of bounds")
        try:
            data = os.pread(self._fd, size, address)
        except OSError as error:
            raise MemoryReadError(address, size, error.strerror or "error") from error
        if len(data) != size:
            raise MemoryReadError(address, size, f"only {len(data)} bytes are there")
        return data

    def close(self) -> None:
        """May be called twice."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def read_u64(memory: Memory, address: int) -> int:
    """The little-endian word at `address`. Raises MemoryReadError."""
    value: int = _U64.unpack(memory.read(address, 8))[0]
    return value


def read_cstring(memory: Memory, address: int, limit: int = 4096) -> bytes:
    """The bytes before the first NUL. Raises MemoryReadError, also where no NUL comes within `limit` bytes.

    Reads page by page: the string may end where the mapping does.
    """
    parts: list[bytes] = []
    left = limit
    position = address
    while left > 0:
        size = min(left, _PAGE_BYTES - position % _PAGE_BYTES)
        part, nul, _ = memory.read(position, size).partition(b"\0")
        parts.append(part)
        if nul:
            return b"".join(parts)
        position += size
        left -= size
    raise MemoryReadError(address, limit, "no end of the string")
