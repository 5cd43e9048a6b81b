# SPDX-License-Identifier: Apache-2.0
"""What must be known of a Go program before a probe reads its arguments.

Facts: src/debug/buildinfo for the version's place, src/cmd/compile/abi-internal.md for the versions that use registers.
"""

from __future__ import annotations

import enum
import re
import struct
from dataclasses import dataclass

from kernelspan_agent.process.elf import EM_AARCH64, EM_X86_64, PT_LOAD, Elf, read_address, read_at, read_elf
from kernelspan_agent.process.errors import ElfError

from .gopclntab import SECTIONS, go_table
from .where import Binary

MAX_VERSION_BYTES = 256
_MAGIC = b"\xff Go buildinf:"
_SCAN_BYTES = 1 << 20  # buildinfo lies at the start of the data
_VERSION = re.compile(r"go(\d{1,3})(?:\.(\d{1,3}))?")
_REGISTERS_SINCE = {EM_X86_64: (1, 17), EM_AARCH64: (1, 18)}


class Abi(enum.Enum):
    """How arguments are passed between Go's functions."""

    STACK = "stack"
    REGISTERS = "registers"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class GoProgram:
    """A Go program's version as it says itself (empty: not known), and its ABI."""

    version: str
    abi: Abi
    machine: int


def go_program(binary: Binary) -> GoProgram | None:
    """None: it is no Go program. Raises ElfError."""
    elf = read_elf(binary.fd)
    version = _version(elf)
    if not version and not _has_table(elf):
        return None
    return GoProgram(version, _abi(elf.machine, version), elf.machine)


def _abi(machine: int, version: str) -> Abi:
    match = _VERSION.search(version)
    since = _REGISTERS_SINCE.get(machine)
    if match is None or since is None:
        return Abi.UNKNOWN
    return Abi.REGISTERS if (int(match[1]), int(match[2] or 0)) >= since else Abi.STACK


def _has_table(elf: Elf) -> bool:
    try:
        return any(elf.section(name) for name in SECTIONS) or go_table(elf) is not None
    except ElfError:
        return False


def _version(elf: Elf) -> str:
    place = _build_info(elf)
    if place is None:
        return ""
    try:
        header = read_at(elf.fd, place, 32)
        if header[15] & 2:
            return _inline_string(read_at(elf.fd, place + 32, 2), elf.fd, place + 32)
        if header[14] != 8 or header[15] & 1:
            return ""
        (string,) = struct.unpack_from("<Q", header, 16)
        data, length = struct.unpack("<QQ", read_address(elf, string, 16))
        if length > MAX_VERSION_BYTES:
            return ""
        return read_address(elf, data, length).decode("ascii", "replace")
    except ElfError:
        return ""


def _inline_string(length: bytes, fd: int, at: int) -> str:
    size, used = length[0] & 127, 1
    if length[0] & 128:
        size, used = size | length[1] << 7, 2
    return read_at(fd, at + used, size).decode("ascii", "replace") if size <= MAX_VERSION_BYTES else ""


def _build_info(elf: Elf) -> int | None:
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
