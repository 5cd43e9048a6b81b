# SPDX-License-Identifier: Apache-2.0
"""Where a program finds what it was called with: C expressions, by what it is attached to.

An expression is made of numbers and of names of ours. x86_64; another architecture is another table of registers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from kernelspan_agent.errors import KernelspanError
from kernelspan_agent.probes import bpf
from kernelspan_agent.probes.tracefs import Field, FieldKind, Place, Tracepoint
from kernelspan_api.userprobes import Argument

# Offsets in pt_regs are constants of the compile, from the kernel's BTF (constants.OFFSETS). System V ABI, and the order of
# a system call's registers.
_FUNCTION_REGISTERS = ("DI", "SI", "DX", "CX", "R8", "R9")
_GO_REGISTERS = ("AX", "BX", "CX", "DI", "SI", "R8", "R9", "R10", "R11")
_CALL_REGISTERS = ("DI", "SI", "DX", "R10", "R8", "R9")


class ArgumentError(KernelspanError):
    """An argument or a condition that this probe, or this kernel, cannot give."""

    reason = "ArgumentUnsupported"


@dataclass(frozen=True, slots=True)
class Raw:
    """An argument as it lies there.

    `c`: a u64 expression: the value, or with `inline` the address of memory that holds it. `length`: a u64 expression of how
    many bytes are inline. `user`: the program itself has passed it: it leads to memory of the process, or nowhere. `place`: a
    u64 expression of where in memory it has to be read from, 0 where the way there is cut; `c` names it PLACE. `entry`: it
    leads to a struct dentry.
    """

    c: str
    inline: bool = False
    length: str = ""
    user: bool = False
    place: str = ""
    entry: bool = False


PLACE = "KS_OWN_PLACE"
NOWHERE = Raw("0", place="0")  # not to be had here, though it is elsewhere


@dataclass(frozen=True, slots=True)
class Key:
    """C expressions of struct ks_own_key: u64, u32, u32. By itself: a thread has one such call at a time."""

    frame: str = "0"
    thread: str = "KS_THREAD(id)"
    space: str = "0"


class Source(Protocol):
    """What one program is attached to."""

    @property
    def kind(self) -> int:
        """bpf.PROG_*."""

    @property
    def is_user(self) -> bool:
        """Whether it runs for an instruction in user space."""

    def argument(self, index: int) -> Raw:
        """An argument by position. Raises ArgumentError."""

    def named(self, name: str) -> Raw:
        """An argument by name. Raises ArgumentError."""

    def result(self) -> str:
        """A u64 expression of the returned value; of the source where it returns."""

    def key(self, *, returning: bool) -> Key:
        """What is the same at a call's entry and at its return, and of no other call that goes on."""


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

    def argument(self, index: int) -> Raw:
        """The first six lie in registers, the rest behind the return address."""
        if index < len(_FUNCTION_REGISTERS):
            return Raw(_register(_FUNCTION_REGISTERS[index]))
        return Raw(f"KS_KREAD(u64, {_register('SP')} + {8 * (index - len(_FUNCTION_REGISTERS) + 1)})")

    def result(self) -> str:
        """rax."""
        return _register("AX")

    def key(self, *, returning: bool) -> Key:
        """Where the return address lies."""
        return Key(f"(u64)ctx + {self.return_slot}" if returning else _register("SP"))


@dataclass(frozen=True, slots=True)
class SystemCallFunction(_Indexed):
    """The kernel's entry function of a system call, by a kprobe: its one argument is the caller's registers."""

    return_slot: int
    kind: int = bpf.PROG_KPROBE
    is_user: bool = False

    def argument(self, index: int) -> Raw:
        """As the call's registers hold them."""
        return Raw(f"KS_KREAD(u64, {_register('DI')} + KS_REGS_{_call_register(index)})", user=True)

    def result(self) -> str:
        """rax."""
        return _register("AX")

    def key(self, *, returning: bool) -> Key:
        """Where the return address lies."""
        return Key(f"(u64)ctx + {self.return_slot}" if returning else _register("SP"))


@dataclass(frozen=True, slots=True)
class Trampoline(_Indexed):
    """fentry and fexit of a function of `count` arguments; of a system call's entry function with `is_call`."""

    count: int
    is_call: bool = False
    kind: int = bpf.PROG_TRACING
    is_user: bool = False

    def argument(self, index: int) -> Raw:
        """In the trampoline's array."""
        if self.is_call:
            return Raw(f"KS_KREAD(u64, KS_OWN_WORD(0) + KS_REGS_{_call_register(index)})", user=True)
        if index >= self.count:
            raise ArgumentError(f"the function has {self.count} arguments, from 0; there is no argument {index}")
        return Raw(f"KS_OWN_WORD({index})")

    def result(self) -> str:
        """Behind the arguments."""
        return f"KS_OWN_WORD({1 if self.is_call else self.count})"

    def key(self, *, returning: bool) -> Key:  # noqa: ARG002 - as of every source
        """One trampoline calls both programs: their context is the same place of its stack."""
        return Key("(u64)ctx")


def _call_register(index: int) -> str:
    if index >= len(_CALL_REGISTERS):
        raise ArgumentError(f"a system call has at most {len(_CALL_REGISTERS)} arguments; there is no argument {index}")
    return _CALL_REGISTERS[index]


@dataclass(frozen=True, slots=True)
class TracepointRecord:
    """A tracepoint by its own record. `is_call`: of a system call, whose number is no argument."""

    event: Tracepoint
    is_call: bool = False
    kind: int = bpf.PROG_TRACEPOINT
    is_user: bool = False

    @property
    def fields(self) -> Sequence[Field]:
        """Those that count as arguments, in their order."""
        return self.event.fields[1:] if self.is_call else self.event.fields

    def field(self, argument: Argument) -> Field:
        """The field that an argument names. Raises ArgumentError, MachineError."""
        if argument.field is not None:
            return self.event.field(argument.field)
        index = argument.index or 0
        if index >= len(self.fields):
            raise ArgumentError(f"{self._name} has {len(self.fields)} fields; there is no field {index}")
        return self.fields[index]

    @property
    def _name(self) -> str:
        return f"tracepoint {self.event.category}:{self.event.name}"

    def argument(self, index: int) -> Raw:
        """The field at that position."""
        if index >= len(self.fields):
            raise ArgumentError(f"{self._name} has {len(self.fields)} fields; there is no field {index}")
        return self._raw(self.fields[index])

    def named(self, name: str) -> Raw:
        """The field of that name."""
        return self._raw(self.event.field(name))

    def _raw(self, at: Field) -> Raw:
        if at.place is not Place.RECORD:
            location = f"KS_OWN_FIELD(u32, {at.offset})"
            base = at.offset + 4 if at.place is Place.REL_LOC else 0
            return Raw(f"(u64)ctx + {base} + ({location} & 0xffff)", inline=True, length=f"({location} >> 16)")
        if at.kind in (FieldKind.STRING, FieldKind.ARRAY, FieldKind.STRUCT):
            return Raw(f"(u64)ctx + {at.offset}", inline=True, length=str(at.size))
        kind = f"{'s' if at.signed else 'u'}{8 * at.size}"
        value = f"KS_OWN_FIELD({kind}, {at.offset})"
        return Raw(f"(u64)(s64){value}" if at.signed else f"(u64){value}", user=self.event.category == "syscalls")

    def result(self) -> str:
        """The field `ret`, by which a system call's end tells how it ended."""
        return self.named("ret").c

    def key(self, *, returning: bool) -> Key:  # noqa: ARG002 - as of every source
        """A thread is in one such call at a time."""
        return Key()


@dataclass(frozen=True, slots=True)
class RawTracepoint(_Indexed):
    """A raw tracepoint of `count` arguments."""

    event: str
    count: int
    kind: int = bpf.PROG_RAW_TRACEPOINT
    is_user: bool = False

    def argument(self, index: int) -> Raw:
        """As the kernel hands them on."""
        if index >= self.count:
            raise ArgumentError(f"raw tracepoint {self.event} has {self.count} arguments; there is no argument {index}")
        return Raw(f"KS_OWN_WORD({index})")

    def result(self) -> str:
        """It has none."""
        raise ArgumentError("a raw tracepoint returns nothing")

    def key(self, *, returning: bool) -> Key:  # noqa: ARG002 - as of every source
        """A thread is in one such call at a time."""
        return Key()


@dataclass(frozen=True, slots=True)
class UserFunction(_Indexed):
    """A function that takes its arguments as C does. `at_ret`: it is seen at its RET instructions, not by a uretprobe."""

    at_ret: bool = False
    kind: int = bpf.PROG_KPROBE
    is_user: bool = True

    def argument(self, index: int) -> Raw:
        """The first six lie in registers, the rest behind the return address."""
        if index < len(_FUNCTION_REGISTERS):
            return Raw(_register(_FUNCTION_REGISTERS[index]), user=True)
        return Raw(f"KS_UREAD(u64, {_register('SP')} + {8 * (index - len(_FUNCTION_REGISTERS) + 1)})", user=True)

    def result(self) -> str:
        """rax."""
        return _register("AX")

    def key(self, *, returning: bool) -> Key:
        """Where the return address lies; a return has taken it off, a RET has not yet. A coroutine may be gone on with by another
        thread: what stays is its stack, and no two of a process are in one place.
        """
        return Key(f"{_register('SP')} - 8" if returning and not self.at_ret else _register("SP"), "0", "tgid")


@dataclass(frozen=True, slots=True)
class Operand:
    """An argument of a USDT probe: a u64 expression, or why there is none."""

    c: str = ""
    problem: str = ""


@dataclass(frozen=True, slots=True)
class StaticProbe(_Indexed):
    """A USDT probe, at places that take their arguments alike."""

    operands: Sequence[Operand]
    kind: int = bpf.PROG_KPROBE
    is_user: bool = True

    def argument(self, index: int) -> Raw:
        """As the note in the file says."""
        if index >= len(self.operands):
            raise ArgumentError(f"the probe has {len(self.operands)} arguments; there is no argument {index}")
        if self.operands[index].problem:
            raise ArgumentError(self.operands[index].problem)
        return Raw(self.operands[index].c, user=True)

    def result(self) -> str:
        """It has none."""
        raise ArgumentError("a USDT probe returns nothing")

    def key(self, *, returning: bool) -> Key:  # noqa: ARG002 - as of every source
        """A thread is between a probe and its end once at a time."""
        return Key()


@dataclass(frozen=True, slots=True)
class GoFunction(_Indexed):
    """A function of a Go program, probed at its entry and at its RET instructions. Arguments are counted in words: a string
    takes two, a slice three.

    A call may go on in another thread, and its stack may be moved; what stays is the goroutine, and how far below the top
    of its stack the call's frame is. `stack`: Go before 1.17, which passes all on the stack.
    """

    stack: bool = False
    kind: int = bpf.PROG_KPROBE
    is_user: bool = True

    def argument(self, index: int) -> Raw:
        """In Go's own order of registers (abi-internal), or behind the return address."""
        if self.stack:
            return Raw(f"KS_UREAD(u64, {_register('SP')} + {8 * index + 8})", user=True)
        if index >= len(_GO_REGISTERS):
            raise ArgumentError(f"Go passes {len(_GO_REGISTERS)} words in registers; word {index} cannot be read")
        return Raw(_register(_GO_REGISTERS[index]), user=True)

    def result(self) -> str:
        """The first word."""
        if self.stack:
            raise ArgumentError("what Go before 1.17 returns lies behind the arguments, whose size is not known")
        return _register(_GO_REGISTERS[0])

    def key(self, *, returning: bool) -> Key:  # noqa: ARG002 - as of every source
        """runtime.g begins with its stack's bounds: lo, hi (runtime/runtime2.go)."""
        goroutine = "KS_OWN_OLD_GOROUTINE" if self.stack else _register("R14")
        return Key(goroutine, f"KS_UREAD(u64, {goroutine} + 8) - {_register('SP')}", "tgid")


# What a task does itself, or what it has done by being there: never on behalf of an interrupt.
_OF_TASKS = {
    *(("sched", f"sched_process_{what}") for what in ("exec", "exit", "fork", "wait")),
    ("sched", "sched_switch"),
    ("signal", "signal_deliver"),
    ("exceptions", "page_fault_user"),
}


def of_task(source: Source) -> bool:
    """Whether it is the current task that acts whenever the program runs: no interrupt ever comes to it."""
    if isinstance(source, TracepointRecord):
        is_call = source.event.category in ("syscalls", "raw_syscalls")
        return is_call or (source.event.category, source.event.name) in _OF_TASKS
    if isinstance(source, RawTracepoint):
        return source.event in ("sys_enter", "sys_exit", *(name for _, name in _OF_TASKS))
    return (
        source.is_user or isinstance(source, SystemCallFunction) or (isinstance(source, Trampoline) and source.is_call)
    )


def is_event(source: Source) -> bool:
    """Whether a call of it is two events, which their thread alone holds together."""
    return isinstance(source, TracepointRecord | RawTracepoint)


def of_program(source: Source) -> bool:
    """Whether what returns there is the program's own, and may be any address."""
    return source.is_user or isinstance(source, SystemCallFunction) or getattr(source, "is_call", False)
