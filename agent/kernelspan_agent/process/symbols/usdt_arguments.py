# SPDX-License-Identifier: Apache-2.0
"""Where the arguments of a static probe are, from the assembler's operands in its note: `-4@-1204(%rbp)`, `8@%rax`, `4@$5`.

`N@OPERAND`: N bytes, signed if negative, a float with an `f` behind it; the operand as the assembler of the machine writes
it. What no code can be made for says why in `problem`. Register names are those of the kernel's struct pt_regs, so that a
generator can write `ctx->ax` or `ctx->regs[0]`. Facts: SystemTap's wiki, "User-space probe implementation"; the GNU
assembler's manual for the operands; arch/*/include/asm/ptrace.h.
"""

from __future__ import annotations

import enum
import re
from collections.abc import Mapping
from dataclasses import dataclass

from kernelspan_agent.process.elf import EM_AARCH64, EM_X86_64

MAX_ARGUMENTS = 12  # of <sys/sdt.h>
_SIZES = {1, 2, 4, 8}
_SPLIT = re.compile(r"(?:\A|\s+)(?=(?:-?\d+f?@))")
_ARGUMENT = re.compile(r"(?:(-?)(\d{1,4})(f?)@)?(.+)", re.DOTALL)
_NUMBER = r"[-+]?(?:0x[0-9a-fA-F]{1,16}|\d{1,20})"
_SYMBOL = r"[A-Za-z_.$][\w.$@]*"
_X86_MEMORY = re.compile(
    rf"(?P<before>{_NUMBER})?\s*(?P<symbol>[-+]?{_SYMBOL})?(?P<after>[-+]\d{{1,20}})?"
    r"\(\s*(?:%(?P<base>\w+))?\s*(?:,\s*%(?P<index>\w+)\s*(?:,\s*(?P<scale>[1248]))?)?\s*\)"
)
_ARM_MEMORY = re.compile(rf"\[\s*(?P<base>sp|x\d+)\s*(?:,\s*#?(?P<offset>{_NUMBER}))?\s*\]")
_ARM_REGISTER = re.compile(r"(?:([xw])(\d+)|(sp|xzr|wzr))\Z")


class Place(enum.Enum):
    """Where an argument is."""

    REGISTER = "register"
    MEMORY = "memory"
    CONSTANT = "constant"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class Argument:
    """One argument of one site.

    REGISTER: `base`, its value shifted right by `shift` bits. MEMORY: `size` bytes at `base` + `index` * `scale` + `value`;
    with `relative` there is neither and `value` is an address of the file before relocation: the instruction's address
    less the site's `address` is what to add. CONSTANT: `value`, as it reads in `size` bytes. UNKNOWN: `problem` says why.
    """

    text: str
    size: int
    signed: bool
    place: Place
    base: str = ""
    index: str = ""
    scale: int = 1
    value: int = 0
    shift: int = 0
    relative: bool = False
    floating: bool = False
    problem: str = ""


def parse_arguments(text: str, machine: int, symbols: Mapping[str, int]) -> tuple[Argument, ...]:
    """The arguments of one note; `symbols`: addresses of what `symbols_of` named. Raises nothing, whatever the text."""
    parts = [part for part in _split(text) if part][: MAX_ARGUMENTS + 1]
    return tuple(_argument(part, machine, symbols) for part in parts[:MAX_ARGUMENTS])


def symbols_of(text: str) -> set[str]:
    """Symbols whose addresses the operands need."""
    found = set()
    for part in _split(text)[:MAX_ARGUMENTS]:
        match = _X86_MEMORY.fullmatch(part.split("@", 1)[-1])
        if match and match["base"] == "rip" and match["symbol"]:
            found.add(match["symbol"].lstrip("+"))
    return found


def _split(text: str) -> list[str]:
    if "@" not in text:  # operands alone, as the oldest headers write them
        return text.split()
    return [part.strip() for part in _SPLIT.split(text)]


def _argument(text: str, machine: int, symbols: Mapping[str, int]) -> Argument:
    match = _ARGUMENT.fullmatch(text)
    assert match is not None  # any text that is not empty
    minus, digits, floating, operand = match.groups()
    size = int(digits) if digits else 8
    signed = bool(minus) or not digits
    if size not in _SIZES:
        return Argument(text, 0, signed, Place.UNKNOWN, problem=f"an argument of {size} bytes")
    if machine == EM_X86_64:
        found = _x86(operand, symbols)
    elif machine == EM_AARCH64:
        found = _arm(operand)
    else:
        found = f"operands of machine {machine}"
    if isinstance(found, str):
        return Argument(text, size, signed, Place.UNKNOWN, floating=bool(floating), problem=found)
    if floating and found["place"] is Place.REGISTER:
        return Argument(text, size, signed, Place.UNKNOWN, floating=True, problem="a floating-point register")
    if found["place"] is Place.CONSTANT:
        found["value"] = _as_sized(int(str(found["value"])), size, signed=signed)
    return Argument(text, size, signed, floating=bool(floating), **found)  # type: ignore[arg-type]


def _as_sized(value: int, size: int, *, signed: bool) -> int:
    value &= (1 << 8 * size) - 1
    return value - (1 << 8 * size) if signed and value >> 8 * size - 1 else value


def _x86(operand: str, symbols: Mapping[str, int]) -> dict[str, object] | str:
    if re.fullmatch(rf"\${_NUMBER}", operand):
        return _constant(operand[1:])
    if operand.startswith("%") and ":" not in operand:
        register = _X86_REGISTERS.get(operand[1:])
        if register is None:
            return f"register {operand} is not among those that the kernel keeps for a probe"
        return {"place": Place.REGISTER, "base": register[0], "shift": register[1]}
    match = _X86_MEMORY.fullmatch(operand)
    if match is None:
        return f"operand {operand[:80]!r} is of an unknown form"
    return _x86_memory(match, symbols)


def _x86_memory(match: re.Match[str], symbols: Mapping[str, int]) -> dict[str, object] | str:
    value = sum(_int(part) for part in (match["before"], match["after"]) if part)
    symbol, base, index = match["symbol"], match["base"], match["index"]
    if not -(1 << 63) <= value < 1 << 63:
        return "a displacement of more than 64 bits"
    if base == "rip":
        if not symbol or symbol.startswith("-") or index:
            return "an address relative to an instruction that the note does not name"
        address = symbols.get(symbol.lstrip("+"))
        if address is None:
            return f"symbol {symbol[:80]} is not in the file's tables"
        return {"place": Place.MEMORY, "value": address + value, "relative": True}
    if symbol:
        return f"symbol {symbol[:80]} stands for an address that is not known before the program runs"
    registers = []
    for name in (base, index):
        register = _X86_REGISTERS.get(name or "", ("", 0))[0]
        if name and (not register or not name.startswith("r")):
            return f"register %{name} is no 64-bit one that the kernel keeps for a probe"
        registers.append(register)
    if not any(registers):
        return "an address of no register"
    scale = int(match["scale"] or 1)
    return {"place": Place.MEMORY, "base": registers[0], "index": registers[1], "scale": scale, "value": value}


def _arm(operand: str) -> dict[str, object] | str:
    if re.fullmatch(rf"#?{_NUMBER}", operand):
        return _constant(operand.lstrip("#"))
    if match := _ARM_REGISTER.fullmatch(operand):
        if match[3] in {"xzr", "wzr"}:
            return {"place": Place.CONSTANT, "value": 0}
        register = _arm_register(operand)
        return {"place": Place.REGISTER, "base": register} if register else f"register {operand} does not exist"
    if match := _ARM_MEMORY.fullmatch(operand):
        register = _arm_register(match["base"])
        if register:
            return {"place": Place.MEMORY, "base": register, "value": _int(match["offset"] or "0")}
    return f"operand {operand[:80]!r} is of an unknown form"


def _arm_register(name: str) -> str:
    if name == "sp":
        return "sp"
    number = int(name[1:])
    return f"regs[{number}]" if number <= 30 else ""


def _constant(text: str) -> dict[str, object] | str:
    value = _int(text)
    if not -(1 << 63) <= value < 1 << 64:
        return "a constant of more than 64 bits"
    return {"place": Place.CONSTANT, "value": value}


def _int(text: str) -> int:
    return int(text, 16 if "x" in text else 10)


def _x86_registers() -> dict[str, tuple[str, int]]:
    """Each register's name to its field of struct pt_regs and how many bits of it lie below."""
    found = {}
    for letter in "abcd":
        for name in (f"r{letter}x", f"e{letter}x", f"{letter}x", f"{letter}l"):
            found[name] = (f"{letter}x", 0)
        found[f"{letter}h"] = (f"{letter}x", 8)
    for field in ("si", "di", "bp", "sp"):
        for name in (f"r{field}", f"e{field}", field, f"{field}l"):
            found[name] = (field, 0)
    for number in range(8, 16):
        for suffix in ("", "d", "w", "b"):
            found[f"r{number}{suffix}"] = (f"r{number}", 0)
    return found


_X86_REGISTERS = _x86_registers()
