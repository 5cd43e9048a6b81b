# SPDX-License-Identifier: Apache-2.0
"""What must be known of a Go program before a probe reads its arguments or waits for a return.

A uretprobe writes its own address into the stack, which Go moves and walks: it ends the program. So a return is probed at
every RET of the function, found by disassembly, and refused where that is not certain. A function whose stack is too
small begins anew once it has grown: its entry is passed twice, what lies behind the check (`body`) once. Facts:
src/cmd/compile/abi-internal.md for the registers.
"""

from __future__ import annotations

import enum
import re
from dataclasses import dataclass

from kernelspan_agent.process.elf import Elf, read_address, read_elf
from kernelspan_agent.process.errors import ElfError, SymbolError

from .functions import Function
from .gobuildinfo import build_info
from .gopclntab import SECTIONS, go_table
from .reading import returns
from .where import Binary

MAX_CODE_BYTES = 1 << 20  # of one function; the largest of the standard library have some 30,000
MAX_RETURNS = 256
_EM_X86_64, _EM_AARCH64 = 62, 183
_VERSION = re.compile(r"go(\d{1,3})(?:\.(\d{1,3}))?")
_REGISTERS_SINCE = {_EM_X86_64: (1, 17), _EM_AARCH64: (1, 18)}


class Abi(enum.Enum):
    """How arguments are passed between Go's functions."""

    STACK = "stack"
    REGISTERS = "registers"
    UNKNOWN = "unknown"


# Integer registers of arguments and results in their order, as struct pt_regs of the kernel names them.
ARGUMENT_REGISTERS = {
    _EM_X86_64: ("ax", "bx", "cx", "di", "si", "r8", "r9", "r10", "r11"),
    _EM_AARCH64: tuple(f"regs[{number}]" for number in range(16)),
}
GOROUTINE_REGISTER = {_EM_X86_64: "r14", _EM_AARCH64: "regs[28]"}  # with Abi.REGISTERS: the address of the goroutine


@dataclass(frozen=True, slots=True)
class GoProgram:
    """A Go program's version as it says itself (empty: not known), and its ABI."""

    version: str
    abi: Abi
    machine: int


@dataclass(frozen=True, slots=True)
class GoReturns:
    """Offsets in the file: every RET, and where to probe instead of the entry to see each call once."""

    offsets: tuple[int, ...]
    body_offset: int


def go_program(binary: Binary) -> GoProgram | None:
    """None: it is no Go program. Raises ElfError."""
    elf = read_elf(binary.fd)
    found = build_info(elf)
    version = found.version if found else ""
    if not version and not _has_table(elf):
        return None
    return GoProgram(version, _abi(elf.machine, version), elf.machine)


def go_returns(binary: Binary, function: Function) -> GoReturns:
    """Where the function returns. Raises SymbolError (UretprobeUnsafe) where that is not certain."""
    elf = read_elf(binary.fd)
    if elf.machine != _EM_X86_64:
        raise _unsafe(function, "returns are found in code of x86-64 only")
    if not 0 < function.size <= MAX_CODE_BYTES:
        raise _unsafe(function, f"its size is {function.size or 'not known'}")
    code = read_address(elf, function.address, function.size)
    found, body = returns(function.address, code)
    if not 0 < len(found) <= MAX_RETURNS:
        raise _unsafe(function, "it never returns" if not found else f"it returns in {len(found)} places")
    skew = function.offset - function.address
    return GoReturns(tuple(address + skew for address in found), body + skew)


def _unsafe(function: Function, why: str) -> SymbolError:
    return SymbolError(
        f"the return of {function.demangled or function.name} cannot be probed: {why}",
        reason="UretprobeUnsafe",
        hint="use mode Event, or probe another function",
    )


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
