# SPDX-License-Identifier: Apache-2.0
"""Which file the kernel means when a user probe is attached: the inode below every overlay.

Containers of one image have a file each, on an overlay each, and all of them are one inode of the layer below: that is
what the kernel patches (d_real_inode), so to attach through each container would run a program once for each of them.
What stat(2) says of a file on an overlay tells two containers apart; what is below it only the kernel knows, in the
struct of the opened file (fs/overlayfs/file.c: private_data is the real file, since Linux 6.13 in a struct of its own).
"""

from __future__ import annotations

import ctypes
import os
import stat
from collections.abc import Callable
from functools import cache

from kernelspan_agent.errors import MachineError
from kernelspan_agent.probes import direct
from kernelspan_agent.probes.btf import Btf, BtfError

OVERLAY = 0x794C7630  # OVERLAYFS_SUPER_MAGIC
_DEEPEST = 4  # overlays on overlays: FILESYSTEM_MAX_STACK_DEPTH is 2
_PATHS = (
    "task_struct.files",
    "files_struct.fdt",
    "fdtable.fd",
    "file.private_data",
    "file.f_inode",
    "inode.i_sb",
    "inode.i_mode",
    "inode.i_mapping",
    "address_space.host",
    "super_block.s_magic",
)
_libc = ctypes.CDLL(None, use_errno=True)

Identity = tuple[int, ...]
Read = Callable[[int], int]


def identity(fd: int) -> Identity:
    """What two descriptors have in common if and only if a user probe on one is one on the other.

    `fd` may be O_PATH. It holds for as long as something holds the inode, as an attached probe does. Where the kernel's
    memory may not be read it is what stat(2) says, and for a file on an overlay a guess from what is passed through from
    the layer below (number, size, times). Raises MachineError where a file on an overlay cannot be opened for reading.
    """
    if not _on_overlay(fd):
        found = os.fstat(fd)
        return _below(fd) or (found.st_dev, found.st_ino)
    try:
        opened = os.open(
            f"/proc/self/fd/{fd}", os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK
        )  # O_PATH opens nothing below
    except OSError as error:
        raise MachineError(f"the file cannot be read: {error.strerror}", reason="BinaryNotFound") from error
    try:
        return _below(opened) or _guess(opened)
    finally:
        os.close(opened)


def _guess(fd: int) -> Identity:
    found = os.fstat(fd)
    return (found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns)


def _on_overlay(fd: int) -> bool:
    """Whether fstatfs(2) says so; its first word is the file system's magic number."""
    buffer = ctypes.create_string_buffer(256)
    return _libc.fstatfs(fd, buffer) == 0 and int.from_bytes(buffer.raw[:8], "little") == OVERLAY


def _below(fd: int) -> Identity | None:
    """The address of the inode; None where it cannot be found out. Its number is one of its file system, or of a part of it."""
    try:
        at = _offsets()
        with direct.memory() as (word, task):
            table = word(word(word(task + at["task_struct.files"]) + at["files_struct.fdt"]) + at["fdtable.fd"])
            file = word(table + 8 * fd)
            for _ in range(_DEEPEST):
                inode = word(file + at["file.f_inode"])
                if not _is_file(word, inode):
                    return None
                if word(word(inode + at["inode.i_sb"]) + at["super_block.s_magic"]) != OVERLAY:
                    return (inode,)
                private = word(file + at["file.private_data"])
                real = (each for each in (private, word(private)) if _is_file(word, word(each + at["file.f_inode"])))
                file = next(real, 0)
    except (OSError, BtfError):
        return None
    return None


def _is_file(word: Read, inode: int) -> bool:
    """Whether this is the inode of a regular file: what its pages belong to leads back to it."""
    at = _offsets()
    pages = word(inode + at["inode.i_mapping"])
    return stat.S_ISREG(word(inode + at["inode.i_mode"]) & 0xFFFF) and (word(pages + at["address_space.host"]) == inode)


@cache
def _offsets() -> dict[str, int]:
    btf = Btf.of_kernel()
    return {path: btf.offset(path) for path in _PATHS}
