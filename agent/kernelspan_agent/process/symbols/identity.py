# SPDX-License-Identifier: Apache-2.0
"""Which inode a uprobe on an open file really is on: containers of one image share files that look different.

Each container has an overlay of its own, with a device number of its own, and the kernel attaches below it: what is
attached by way of two containers to a file of their image counts every call twice. The file below is told by its handle,
which overlayfs gives for what is below since Linux 6.6; a file that was copied up keeps the handle, so the time its inode
was made belongs to it. On older kernels a mapping shows device and inode of the file below. What is no overlay's is told
by device and inode. Facts: name_to_handle_at(2), statx(2), fs/overlayfs/export.c; tried on 5.10, 6.1, 6.12 and 6.18.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import platform
import struct

from kernelspan_agent.process.errors import ProcessError
from kernelspan_agent.process.procfs import Process, read_maps

Identity = tuple[int, int, bytes]
"""Device, inode, and of an overlay's file what tells the one below; equal for what must be attached to once."""

_SYS_NAME_TO_HANDLE_AT = {"x86_64": 303, "aarch64": 264}
_AT_EMPTY_PATH, _AT_HANDLE_FID = 0x1000, 0x200
_HANDLE_BYTES = 128  # MAX_HANDLE_SZ
_OVERLAY_HANDLE = 0xF8  # OVL_FILEID_V1
_STATX_BTIME, _STATX_BYTES, _BTIME_AT, _CTIME_AT = 0x800, 256, 80, 96


def identity(fd: int) -> Identity:
    """Of the open regular file. Raises ProcessError."""
    try:
        status = os.fstat(fd)
        found = _handle(fd)
        if found is None:
            return _mapped(fd, status)
        kind, handle = found
        if kind != _OVERLAY_HANDLE:
            return status.st_dev, status.st_ino, b""
        return 0, 0, handle + _made(fd)
    except (OSError, ValueError) as error:
        raise ProcessError(f"cannot tell which file it is: {error}", reason="BinaryNotFound") from error


def _handle(fd: int) -> tuple[int, bytes] | None:
    """Type and bytes of the file's handle; None: this kernel or file system gives none."""
    number = _SYS_NAME_TO_HANDLE_AT.get(platform.machine())
    if number is None:
        return None
    answer = ctypes.create_string_buffer(struct.pack("<Ii", _HANDLE_BYTES, 0), 8 + _HANDLE_BYTES)
    mount = ctypes.c_int()
    libc = ctypes.CDLL(None)
    flags = _AT_EMPTY_PATH | _AT_HANDLE_FID
    if libc.syscall(ctypes.c_long(number), fd, b"", answer, ctypes.byref(mount), flags) < 0:
        return None
    size, kind = struct.unpack_from("<Ii", answer)
    return kind, answer.raw[8 : 8 + size]


def _made(fd: int) -> bytes:
    """When the inode was made; where its file system does not say, when it was last changed."""
    answer = ctypes.create_string_buffer(_STATX_BYTES)
    if ctypes.CDLL(None).statx(fd, b"", _AT_EMPTY_PATH, _STATX_BTIME, answer) < 0:
        raise OSError("statx fails")
    (mask,) = struct.unpack_from("<I", answer)
    return answer.raw[_BTIME_AT : _BTIME_AT + 12] if mask & _STATX_BTIME else answer.raw[_CTIME_AT : _CTIME_AT + 12]


def _mapped(fd: int, status: os.stat_result) -> Identity:
    """As a mapping of our own shows it; of an empty file, which has none, as it is."""
    if not status.st_size:
        return status.st_dev, status.st_ino, b""
    # Private and never touched: nothing of it is read, whatever becomes of the file.
    with mmap.mmap(fd, min(status.st_size, mmap.PAGESIZE), access=mmap.ACCESS_COPY) as mapped:
        view = ctypes.c_char.from_buffer(mapped)
        start = ctypes.addressof(view)
        del view
        for mapping in read_maps(Process(os.getpid(), 0)):
            if mapping.start <= start < mapping.end:
                return os.makedev(*mapping.device), mapping.inode, b""
    return status.st_dev, status.st_ino, b""
