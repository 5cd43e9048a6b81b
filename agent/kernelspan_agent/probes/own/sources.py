# SPDX-License-Identifier: Apache-2.0
"""Where a program finds what it was called with: C expressions, by what it is attached to.

An expression is made of numbers and of names of ours. x86_64; another architecture is another table of registers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from kernelspan_agent.errors import KernelspanError
from kernelspan_agent.probes import bpf

# Offsets in pt_regs are constants of the compile, from the kernel's BTF (constants.OFFSETS). System V ABI, and the order of
# a system call's registers.
_FUNCTION_REGISTERS = ("DI", "SI", "DX", "CX", "R8", "R9")
_CALL_REGISTERS = ("DI", "SI", "DX", "R10", "R8", "R9")


class ArgumentError(KernelspanError):
    """An argument or a condition that this probe, or this kernel, cannot give."""

    reason = "ArgumentUnsupported"


@dataclass(frozen=True, slots=True)
class Raw:
    """An argument as it lies there.

    `c`: a u64 expression: the value, or with `inline` the address of memory that holds it. `size`: its bytes, where the
    kernel says; 0: not known. `length`: a u64 expression of how many bytes are inline, where only the record says.
    """

    c: str
    inline: bool = False
    size: int = 0
    signed: bool = False
    length: str = ""


class Source(Protocol):
    """What one program is attached to."""

    kind: int  # bpf.PROG_*
    is_user: bool  # it runs for an instruction in user space
    uses_stack: bool  # `frame` tells calls inside calls apart

    def argument(self, index: int) -> Raw:
        """An argument by position. Raises ArgumentError."""

    def named(self, name: str) -> Raw:
        """An argument by name. Raises ArgumentError."""

    def result(self) -> str:
        """A u64 expression of the returned value; of the source where it returns."""

    def frame(self, *, returning: bool) -> str:
        """A u64 expression, the same at a call's entry and at its return; 0: a thread has one call at a time."""


def _register(name: str) -> str:
    return f"KS_OWN_REGISTER(KS_REGS_{name})"


class _Indexed:
    def named(self, name: str) -> Raw:
        """Only a tracepoint has named fields."""
        raise ArgumentError(f"no argument has the name {name!r}: only a tracepoint's have names")


@dataclass(frozen=True, slots=True)
class KernelFunction(_Indexed):
    """kprobe and kretprobe. `return_slot`: from the program's context to where the return address was, at return."""

    return_slot: int
    kind: int = bpf.PROG_KPROBE
    is_user: bool = False
    uses_stack: bool = True

    def argument(self, index: int) -> Raw:
        """The first six lie in registers, the rest behind the return address."""
        if index < len(_FUNCTION_REGISTERS):
            return Raw(_register(_FUNCTION_REGISTERS[index]))
        return Raw(f"KS_KREAD(u64, {_register('SP')} + {8 * (index - len(_FUNCTION_REGISTERS) + 1)})")

    def result(self) -> str:
        """rax."""
        return _register("AX")

    def frame(self, *, returning: bool) -> str:
        """Where the return address lies."""
        return f"(u64)ctx + {self.return_slot}" if returning else _register("SP")


@dataclass(frozen=True, slots=True)
class SystemCallFunction(_Indexed):
    """The kernel's entry function of a system call, by a kprobe: its one argument is the caller's registers."""

    return_slot: int
    kind: int = bpf.PROG_KPROBE
    is_user: bool = False
    uses_stack: bool = True

    def argument(self, index: int) -> Raw:
        """As the call's registers hold them."""
        return Raw(f"KS_KREAD(u64, {_register('DI')} + KS_REGS_{_call_register(index)})")

    def result(self) -> str:
        """rax."""
        return _register("AX")

    def frame(self, *, returning: bool) -> str:
        """Where the return address lies."""
        return f"(u64)ctx + {self.return_slot}" if returning else _register("SP")


@dataclass(frozen=True, slots=True)
class Trampoline(_Indexed):
    """fentry and fexit of a function of `count` arguments; of a system call's entry function with `is_call`."""

    count: int
    is_call: bool = False
    kind: int = bpf.PROG_TRACING
    is_user: bool = False
    uses_stack: bool = True

    def argument(self, index: int) -> Raw:
        """In the trampoline's array."""
        if self.is_call:
            return Raw(f"KS_KREAD(u64, KS_OWN_WORD(0) + KS_REGS_{_call_register(index)})")
        if index >= self.count:
            raise ArgumentError(f"the function has {self.count} arguments, from 0; there is no argument {index}")
        return Raw(f"KS_OWN_WORD({index})")

    def result(self) -> str:
        """Behind the arguments."""
        return f"KS_OWN_WORD({1 if self.is_call else self.count})"

    def frame(self, *, returning: bool) -> str:
        """One trampoline calls both programs: their context is the same place of its stack."""
        return "(u64)ctx"


def _call_register(index: int) -> str:
    if index >= len(_CALL_REGISTERS):
        raise ArgumentError(f"a system call has at most {len(_CALL_REGISTERS)} arguments; there is no argument {index}")
    return _CALL_REGISTERS[index]


@dataclass(frozen=True, slots=True)
class Field:
    """A field of a tracepoint's record, as tracefs tells."""

    name: str
    offset: int
    size: int
    signed: bool
    is_array: bool = False  # the memory is in the record itself
    is_located: bool = False  # __data_loc: offset and length of memory in the record


@dataclass(frozen=True, slots=True)
class TracepointRecord:
    """A tracepoint by its own record. `fields`: those after the common ones, in their order."""

    event: str
    fields: Sequence[Field]
    result_field: str = ""  # of an event that ends a span
    kind: int = bpf.PROG_TRACEPOINT
    is_user: bool = False
    uses_stack: bool = False
    by_name: Mapping[str, Field] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "by_name", {each.name: each for each in self.fields})

    def argument(self, index: int) -> Raw:
        """The field at that position."""
        if index >= len(self.fields):
            raise ArgumentError(f"tracepoint {self.event} has {len(self.fields)} fields; there is no field {index}")
        return self._raw(self.fields[index])

    def named(self, name: str) -> Raw:
        """The field of that name."""
        if name not in self.by_name:
            raise ArgumentError(f"tracepoint {self.event} has no field {name!r}; it has {', '.join(self.by_name)}")
        return self._raw(self.by_name[name])

    def _raw(self, at: Field) -> Raw:
        if at.is_located:
            location = f"KS_OWN_FIELD(u32, {at.offset})"
            return Raw(f"(u64)ctx + ({location} & 0xffff)", inline=True, length=f"({location} >> 16)")
        if at.is_array:
            return Raw(f"(u64)ctx + {at.offset}", inline=True, size=at.size, length=str(at.size))
        bits = {1: 8, 2: 16, 4: 32, 8: 64}.get(at.size)
        if bits is None:
            raise ArgumentError(f"tracepoint {self.event}: field {at.name} of {at.size} bytes is no number")
        kind = f"{'s' if at.signed else 'u'}{bits}"
        value = f"KS_OWN_FIELD({kind}, {at.offset})"
        return Raw(f"(u64)(s64){value}" if at.signed else f"(u64){value}", size=at.size, signed=at.signed)

    def result(self) -> str:
        """The field that says how it ended."""
        if not self.result_field:
            raise ArgumentError(f"tracepoint {self.event} has no field for a returned value (ret)")
        return self.named(self.result_field).c

    def frame(self, *, returning: bool) -> str:
        """A thread is in one such call at a time."""
        return "0"


@dataclass(frozen=True, slots=True)
class RawTracepoint(_Indexed):
    """A raw tracepoint of `count` arguments."""

    event: str
    count: int
    kind: int = bpf.PROG_RAW_TRACEPOINT
    is_user: bool = False
    uses_stack: bool = False

    def argument(self, index: int) -> Raw:
        """As the kernel hands them on."""
        if index >= self.count:
            raise ArgumentError(f"raw tracepoint {self.event} has {self.count} arguments; there is no argument {index}")
        return Raw(f"KS_OWN_WORD({index})")

    def result(self) -> str:
        """It has none."""
        raise ArgumentError("a raw tracepoint returns nothing")

    def frame(self, *, returning: bool) -> str:
        """A thread is in one such call at a time."""
        return "0"


@dataclass(frozen=True, slots=True)
class UserFunction(_Indexed):
    """uprobe and uretprobe of a function that takes its arguments as C does."""

    kind: int = bpf.PROG_KPROBE
    is_user: bool = True
    uses_stack: bool = True

    def argument(self, index: int) -> Raw:
        """The first six lie in registers, the rest behind the return address."""
        if index < len(_FUNCTION_REGISTERS):
            return Raw(_register(_FUNCTION_REGISTERS[index]))
        return Raw(f"KS_UREAD(u64, {_register('SP')} + {8 * (index - len(_FUNCTION_REGISTERS) + 1)})")

    def result(self) -> str:
        """rax."""
        return _register("AX")

    def frame(self, *, returning: bool) -> str:
        """Where the return address lies; a return has taken it off."""
        return f"{_register('SP')} - 8" if returning else _register("SP")


@dataclass(frozen=True, slots=True)
class StaticProbe(_Indexed):
    """A USDT probe, at places that take their arguments alike. `operands`: u64 expressions."""

    operands: Sequence[Raw]
    kind: int = bpf.PROG_KPROBE
    is_user: bool = True
    uses_stack: bool = False

    def argument(self, index: int) -> Raw:
        """As the note in the file says."""
        if index >= len(self.operands):
            raise ArgumentError(f"the probe has {len(self.operands)} arguments; there is no argument {index}")
        return self.operands[index]

    def result(self) -> str:
        """It has none."""
        raise ArgumentError("a USDT probe returns nothing")

    def frame(self, *, returning: bool) -> str:
        """A thread is between a probe and its end once at a time."""
        return "0"
