# SPDX-License-Identifier: Apache-2.0
"""Symbol tables that are kept apart from the file: its debug file, and the small one inside it (MiniDebugInfo).

A debug file is found as gdb finds it, below the root of the process: by build id, then by the name in .gnu_debuglink.
It is believed only where its build id is the file's own, or where there is none, its CRC. Facts: gdb's manual, "Debugging
Information in Separate Files" and "MiniDebugInfo".
"""

from __future__ import annotations

import lzma
import os
import zlib
from collections.abc import Iterator
from contextlib import contextmanager

from kernelspan_agent.process.elf import SHT_NOBITS, Elf, build_id, read_at, read_elf
from kernelspan_agent.process.errors import ElfError
from kernelspan_agent.process.rootfs import Root

MAX_LINK_BYTES = 4096
MAX_CRC_BYTES = 1 << 30
MAX_PACKED_BYTES = 16 << 20
MAX_UNPACKED_BYTES = 32 << 20  # of MiniDebugInfo: names of a program's own functions; it counts as the agent's memory
_LZMA_MEMORY_BYTES = 20 << 20  # what xz -7 needs to be read, and a little; distributions use -6
_PIECE_BYTES = 1 << 20


@contextmanager
def debug_file(elf: Elf, path: str, root: str) -> Iterator[Elf | None]:
    """The debug file of the file `path` of the tree `root`; None: there is none that is its own."""
    if not root:
        yield None
        return
    identity, (link, crc) = _build_id(elf), _debug_link(elf)
    try:
        tree = Root(root)
    except OSError:
        yield None
        return
    with tree:
        for place in _places(identity, link, path):
            try:
                with tree.opened(place) as fd:
                    found = _believed(fd, identity, crc)
                    if found is not None:
                        yield found
                        return
            except (OSError, ValueError):
                continue
    yield None


@contextmanager
def mini_debug_info(elf: Elf) -> Iterator[Elf | None]:
    """The ELF file packed into .gnu_debugdata, in memory that is no part of this process; None: there is none."""
    section = elf.section(".gnu_debugdata")
    if section is None or section.kind == SHT_NOBITS or not section.size:
        yield None
        return
    if section.size > MAX_PACKED_BYTES:
        raise ElfError(f".gnu_debugdata of {section.size} bytes")
    fd = os.memfd_create("minidebuginfo", os.MFD_CLOEXEC)
    try:
        _unpack(elf.fd, section.offset, section.size, fd)
        yield read_elf(fd)
    finally:
        os.close(fd)


def _unpack(fd: int, offset: int, size: int, into: int) -> None:
    unpacker = lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=_LZMA_MEMORY_BYTES)
    written = position = 0
    try:
        while not unpacker.eof:
            packed = b""
            if unpacker.needs_input:
                packed = read_at(fd, offset + position, min(_PIECE_BYTES, size - position))
                position += len(packed)
                if not packed:
                    raise ElfError(".gnu_debugdata ends too early")
            piece = unpacker.decompress(packed, _PIECE_BYTES)
            written += len(piece)
            if written > MAX_UNPACKED_BYTES:
                raise ElfError(f".gnu_debugdata holds more than {MAX_UNPACKED_BYTES} bytes")
            os.write(into, piece)
    except lzma.LZMAError as error:
        raise ElfError(f".gnu_debugdata cannot be unpacked: {error}") from error


def _places(identity: str, link: str, path: str) -> list[str]:
    places = [f"/usr/lib/debug/.build-id/{identity[:2]}/{identity[2:]}.debug"] if len(identity) > 2 else []
    if link and "/" not in link:
        folder = os.path.dirname(path)
        named = [f"{each}/{link}" for each in (folder, f"{folder}/.debug", f"/usr/lib/debug{folder}")]
        places += [each for each in named if each != path]
    return places


def _build_id(elf: Elf) -> str:
    try:
        return build_id(elf)
    except ElfError:
        return ""


def _debug_link(elf: Elf) -> tuple[str, int]:
    section = elf.section(".gnu_debuglink")
    if section is None or section.kind == SHT_NOBITS or not 8 <= section.size <= MAX_LINK_BYTES:
        return "", 0
    data = read_at(elf.fd, section.offset, section.size)
    name = data.split(b"\0", 1)[0]
    return os.fsdecode(name), int.from_bytes(data[-4:], "little")


def _believed(fd: int, identity: str, crc: int) -> Elf | None:
    try:
        found = read_elf(fd)
        if identity:
            return found if build_id(found) == identity else None
        return found if _crc(fd) == crc else None
    except ElfError:
        return None


def _crc(fd: int) -> int | None:
    value = position = 0
    while position <= MAX_CRC_BYTES:
        piece = os.pread(fd, _PIECE_BYTES, position)
        if not piece:
            return value
        value = zlib.crc32(piece, value)
        position += len(piece)
    return None
