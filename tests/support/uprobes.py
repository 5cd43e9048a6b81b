# SPDX-License-Identifier: Apache-2.0
"""Counts how often the kernel passes a place of a file: a uprobe that nothing but a counter hangs on."""

from __future__ import annotations

import ctypes
import os
import platform
import struct
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

_SYS_PERF_EVENT_OPEN = {"x86_64": 298, "aarch64": 241}[platform.machine()]
_TYPE = Path("/sys/bus/event_source/devices/uprobe/type")
_CLOSE_ON_EXEC = 8  # PERF_FLAG_FD_CLOEXEC
_ATTRIBUTE_BYTES = 128
_SEMAPHORE_SHIFT = 32  # of ref_ctr_offset in the configuration


class Counter:
    """One place, on every CPU."""

    def __init__(self, fds: list[int]) -> None:
        self._fds = fds

    def count(self) -> int:
        """How often it was passed so far."""
        return sum(struct.unpack("<Q", os.read(fd, 8))[0] for fd in self._fds)


@contextmanager
def counted(path: str, offset: int, semaphore_offset: int = 0) -> Iterator[Counter]:
    """While this lasts the place `offset` of the file is counted. Raises OSError where the kernel will not."""
    libc = ctypes.CDLL(None, use_errno=True)
    name = ctypes.create_string_buffer(path.encode())
    attribute = bytearray(_ATTRIBUTE_BYTES)
    struct.pack_into(
        "<IIQ", attribute, 0, int(_TYPE.read_text()), _ATTRIBUTE_BYTES, semaphore_offset << _SEMAPHORE_SHIFT
    )
    struct.pack_into("<QQ", attribute, 56, ctypes.addressof(name), offset)
    buffer = ctypes.create_string_buffer(bytes(attribute), _ATTRIBUTE_BYTES)
    with ExitStack() as stack:
        fds = []
        for cpu in sorted(os.sched_getaffinity(0)):
            fd = libc.syscall(_SYS_PERF_EVENT_OPEN, buffer, -1, cpu, -1, _CLOSE_ON_EXEC)
            if fd < 0:
                raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()), path)
            stack.callback(os.close, fd)
            fds.append(fd)
        yield Counter(fds)
