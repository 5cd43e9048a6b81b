# SPDX-License-Identifier: Apache-2.0
"""What a Go program says of how it was built: the version of Go, and the modules that went into it.

Facts: src/debug/buildinfo for where it lies, src/runtime/debug/mod.go for what it says. Since Go 1.18 both texts lie behind
the header; before, the header points at the version.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

from kernelspan_agent.process.elf import PT_LOAD, Elf, read_address, read_at
from kernelspan_agent.process.errors import ElfError

MAX_VERSION_BYTES = 256
MAX_MODULES_BYTES = 1 << 20  # kubelet's has some 20,000
_MAGIC = b"\xff Go buildinf:"
_SCAN_BYTES = 1 << 20  # it lies at the start of the data
_HEADER_BYTES, _MARK_BYTES = 32, 16  # before and behind the list of modules


@dataclass(frozen=True, slots=True)
class BuildInfo:
    """Texts as they stand there. `modules`: lines of tabs; empty: none, or not known."""

    version: str
    modules: str = ""


def build_info(elf: Elf) -> BuildInfo | None:
    """What it says; None: it is no Go program, or does not say it. Never raises."""
    try:
        place = _place(elf)
        if place is None:
            return None
        header = read_at(elf.fd, place, _HEADER_BYTES)
        if header[15] & 2:
            version, at = _inline(elf.fd, place + _HEADER_BYTES, MAX_VERSION_BYTES)
            modules, _ = _inline(elf.fd, at, MAX_MODULES_BYTES)
            return BuildInfo(_text(version), _text(_unmarked(modules)))
        if header[14] != 8 or header[15] & 1:
            return None
        (string,) = struct.unpack_from("<Q", header, 16)
        data, length = struct.unpack("<QQ", read_address(elf, string, 16))
        return BuildInfo(_text(read_address(elf, data, length))) if length <= MAX_VERSION_BYTES else None
    except ElfError:
        return None


def _text(data: bytes) -> str:
    return data.decode("utf-8", "replace")


def _unmarked(modules: bytes) -> bytes:
    if len(modules) > 2 * _MARK_BYTES and modules[-_MARK_BYTES - 1 :][:1] == b"\n":
        return modules[_MARK_BYTES:-_MARK_BYTES]
    return b""


def _inline(fd: int, at: int, limit: int) -> tuple[bytes, int]:
    """The text whose length stands before it, and what follows; one that is too long counts as none."""
    size = shift = 0
    for _ in range(5):
        (byte,) = read_at(fd, at, 1)
        at += 1
        size |= (byte & 127) << shift
        shift += 7
        if byte < 128:
            break
    return (read_at(fd, at, size) if size <= limit else b""), at + size


def _place(elf: Elf) -> int | None:
    """Where it lies in the file: its section, or at the start of what can be written."""
    section = elf.section(".go.buildinfo")
    places = [(section.offset, section.size)] if section else []
    places += [
        (segment.offset, segment.file_bytes)
        for segment in elf.segments
        if segment.kind == PT_LOAD and not segment.is_code and segment.file_bytes
    ]
    for offset, size in places:
        data = read_at(elf.fd, offset, min(size, _SCAN_BYTES))
        at = data.find(_MAGIC)
        if at >= 0:
            return offset + at
    return None
