# SPDX-License-Identifier: Apache-2.0
"""What must be known of a Go program before a probe reads its arguments.

Facts: src/cmd/compile/abi-internal.md for the versions that use registers.
"""

from __future__ import annotations

import enum
import re
from dataclasses import dataclass

from kernelspan_agent.process.elf import EM_AARCH64, EM_X86_64, Elf, read_elf
from kernelspan_agent.process.errors import ElfError

from .gobuildinfo import build_info
from .gopclntab import SECTIONS, go_table
from .where import Binary

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
    found = build_info(elf)
    version = found.version if found else ""
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
