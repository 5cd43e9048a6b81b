# SPDX-License-Identifier: Apache-2.0
"""Where functions return, and which files must not have their return addresses changed.

A uretprobe puts an address of its own in the place of the return address. An exception (C++'s, a panic of Rust's) that is
to pass such a frame finds no way on, and ends the program; a coroutine that goes on with another stack makes the kernel
forget such a frame, and kills the program when it returns; Go moves and walks its stacks, and ends the program. A probe on
the RET instructions changes nothing on the stack. It is for functions whose code is all there and leads nowhere else but
by calls; the others are told of. A function of Go whose stack is too small begins anew once it has grown: its entry is
passed twice, what lies behind the check (`body`) once.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from kernelspan_agent.process.elf import EM_X86_64, Elf, read_address, read_elf, section_chunks
from kernelspan_agent.process.errors import ElfError, SymbolError

from .functions import Function, find_functions
from .reading import returns_of
from .where import Binary

MAX_CODE_BYTES = 1 << 20  # of one function; the largest of Go's standard library have some 30,000
MAX_RETURNS = 256  # of one function
_MAX_ALL_CODE_BYTES = 16 << 20  # of the functions of one probe
_MAX_PARTS = 8  # of static functions of one name
COLD = ".cold"  # how compilers call what they put aside of a function
_TABLES = (".dynstr", ".strtab")
_UNWINDERS = (
    b"\0__gxx_personality_v0\0",
    b"\0_Unwind_Resume\0",
    b"\0_Unwind_RaiseException\0",
    b"\0rust_eh_personality\0",
)


@dataclass(frozen=True, slots=True)
class GoReturns:
    """Offsets in the file: every RET, and where to probe instead of the entry to see each call once."""

    offsets: tuple[int, ...]
    body_offset: int


def go_returns(binary: Binary, functions: Sequence[Function]) -> list[GoReturns]:
    """Where each function returns. Raises SymbolError (UretprobeUnsafe) where that is not certain, ElfError."""
    elf = read_elf(binary.fd)
    parts: list[list[tuple[int, bytes]]] = []
    room = _MAX_ALL_CODE_BYTES
    for function in functions:
        if elf.machine != EM_X86_64:
            raise _unsafe(function, "returns are found in code of x86-64 only")
        if not 0 < function.size <= MAX_CODE_BYTES:
            raise _unsafe(function, f"its size is {function.size or 'not known'}")
        room -= function.size
        if room < 0:
            raise _unsafe(function, f"{len(functions)} functions have more than {_MAX_ALL_CODE_BYTES} bytes of code")
        parts.append([(function.address, read_address(elf, function.address, function.size))])
    found = []
    for function, answer in zip(functions, returns_of(parts), strict=True):
        if isinstance(answer, str):
            raise _unsafe(function, f"it is not certain, {answer}")
        addresses, body = answer
        if not 0 < len(addresses) <= MAX_RETURNS:
            raise _unsafe(function, f"it returns in {len(addresses)} places" if addresses else "it never returns")
        skew = function.offset - function.address
        found.append(GoReturns(tuple(address + skew for address in addresses), body + skew))
    return found


def _unsafe(function: Function, why: str) -> SymbolError:
    return SymbolError(
        f"the return of {function.demangled or function.name} cannot be probed: {why}",
        reason="UretprobeUnsafe",
        hint="use mode Event, or probe another function",
    )


def plain_returns(binary: Binary, functions: Iterable[Function]) -> dict[int, tuple[int, ...]]:
    """By the function's offset, those of its RET instructions; of functions whose returns are certain. Raises ElfError."""
    elf = read_elf(binary.fd)
    if elf.machine != EM_X86_64:
        return {}
    known: list[Function] = []
    parts: list[list[tuple[int, bytes]]] = []
    room = _MAX_ALL_CODE_BYTES
    for function in functions:
        code = _code(elf, function, room)
        if code:
            room -= len(code)
            known.append(function)
            parts.append([(function.address, code)])
    answers = returns_of(parts)
    aside = _put_aside(binary, [each for each, answer in zip(known, answers, strict=True) if isinstance(answer, str)])
    again = [index for index, each in enumerate(known) if each.name in aside and isinstance(answers[index], str)]
    for index in again:
        parts[index] += [(each.address, code) for each in aside[known[index].name] if (code := _code(elf, each, room))]
    for index, answer in zip(again, returns_of([parts[each] for each in again]), strict=True):
        answers[index] = answer
    found: dict[int, tuple[int, ...]] = {}
    for function, answer in zip(known, answers, strict=True):
        if not isinstance(answer, str) and 0 < len(answer[0]) <= MAX_RETURNS:
            skew = function.offset - function.address
            found[function.offset] = tuple(address + skew for address in answer[0])
    return found


def _code(elf: Elf, function: Function, most: int) -> bytes:
    if not 0 < function.size <= min(MAX_CODE_BYTES, most):
        return b""
    try:
        return read_address(elf, function.address, function.size)
    except ElfError:
        return b""


def _put_aside(binary: Binary, functions: Iterable[Function]) -> dict[str, tuple[Function, ...]]:
    """What of these functions lies elsewhere since it seldom runs, by their names, where the file still says so."""
    names = sorted({each.name for each in functions})
    found = find_functions(binary, [name + COLD for name in names]) if names else []
    return {name: each.functions[:_MAX_PARTS] for name, each in zip(names, found, strict=True) if each.functions}


def may_unwind(binary: Binary) -> bool:
    """Whether the file says that exceptions pass its functions: it names a personality or the unwinder. Raises ElfError."""
    elf = read_elf(binary.fd)
    return any(_has_any(elf, table) for table in _TABLES)


def _has_any(elf: Elf, name: str) -> bool:
    section = elf.section(name)
    if section is None:
        return False
    overlap = max(map(len, _UNWINDERS))
    return any(word in chunk for _, chunk in section_chunks(elf, section, overlap) for word in _UNWINDERS)
