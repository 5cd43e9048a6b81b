# SPDX-License-Identifier: Apache-2.0
"""Which mechanisms this kernel has, by proof: a program that counts is attached, its function called, the count read.

Never told by a version number: a kernel may load a program and refuse the link, or take both and never run it. What was
found holds for as long as the process lives. Everything made is given back at once.
"""

from __future__ import annotations

import contextlib
import errno
import os
import platform
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache, partial

from kernelspan_agent.errors import MachineError
from kernelspan_agent.probes import bpf, fentry, kprobe
from kernelspan_agent.probes.attach import Attachment
from kernelspan_agent.probes.btf import Btf, BtfError
from kernelspan_agent.probes.loader import with_locked_memory
from kernelspan_agent.probes.refusals import refused
from kernelspan_agent.probes.syscalls import PREFIXES
from kernelspan_api.userprobes import Mechanism

CALLS = 3


def _call() -> None:
    os.getpgid(0)


FUNCTION = f"{PREFIXES[platform.machine()]}getpgid"  # rare, there since Linux 4.17, and called at will
IN_ORDER = (Mechanism.FENTRY, Mechanism.KPROBE_MULTI, Mechanism.KPROBE)  # the cheapest first
_OF = {Mechanism.FENTRY: "fentry", Mechanism.KPROBE_MULTI: "kprobe.multi", Mechanism.KPROBE: "kprobe"}
_NONE = "this kernel has none of fentry, kprobe.multi and kprobe"


@dataclass(frozen=True, slots=True)
class Proof:
    """How a mechanism was tried, at the entry or the return of a function. `error`: None where it works."""

    mechanism: Mechanism
    returns: bool
    error: MachineError | None

    @property
    def works(self) -> bool:
        """Whether it counted what was called."""
        return self.error is None


_found: dict[tuple[Mechanism, bool], Proof] = {}


def prove(mechanism: Mechanism, *, returns: bool = False) -> Proof:
    """The proof of one mechanism for functions of the kernel; `Auto` is none. Never raises."""
    if (known := _found.get((mechanism, returns))) is not None:
        return known
    error: MachineError | None = None
    lasts = True
    try:
        with counting() as counter:
            _tries()[mechanism](counter, returns)
    except MachineError as refusal:
        error, lasts = refusal, not _passes(refusal.__cause__)
    except OSError as refusal:
        error, lasts = refused(_OF[mechanism], refusal), not _passes(refusal)
    proof = Proof(mechanism, returns, error)
    if lasts:
        _found[mechanism, returns] = proof
    return proof


def _passes(error: BaseException | None) -> bool:
    """Whether a refusal says something of this moment, and nothing of the kernel."""
    return isinstance(error, OSError) and error.errno in {errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EAGAIN}


def usable(wanted: Mechanism) -> list[Mechanism]:
    """The mechanisms to try, cheapest first: the one that is wanted, or all there are. Raises MachineError where none is."""
    if wanted is not Mechanism.AUTO:
        refusal = prove(wanted).error
        if refusal is None:
            return [wanted]
        there = [each.value for each in IN_ORDER if prove(each).works]
        told = f"this kernel has {', '.join(there)}" if there else _NONE
        raise _cannot(f"{wanted.value} cannot be used ({refusal}); {told}", refusal)
    found = [each for each in IN_ORDER if prove(each).works]
    if not found:
        refusal = prove(IN_ORDER[-1]).error
        assert refusal is not None
        raise _cannot(f"{_NONE}: {refusal}", refusal)
    return found


def _cannot(words: str, refusal: MachineError) -> MachineError:
    if refusal.reason in {"PermissionDenied", "LockdownActive"}:
        return MachineError(words, reason=refusal.reason, hint=refusal.hint)
    return MachineError(words, hint="leave mechanism at Auto; `kernelspan check` lists what this machine can do")


@dataclass(frozen=True, slots=True)
class Counter:
    """A number in the kernel, and the program that adds one to it whenever it runs."""

    map_fd: int

    @property
    def program(self) -> bytes:
        """Its instructions, of any kind of program."""
        return bpf.counts(self.map_fd)

    @contextlib.contextmanager
    def loaded(self, kind: int, target: bpf.Target = bpf.ANYWHERE) -> Iterator[int]:
        """A descriptor of the program, for as long as it is needed."""
        fd = with_locked_memory(partial(bpf.prog_load, kind, self.program, "ks_count", target))
        try:
            yield fd
        finally:
            os.close(fd)

    def value(self) -> int:
        """How often it ran."""
        found = bpf.map_lookup(self.map_fd, bytes(4), 8)
        return int(struct.unpack("<Q", found)[0]) if found else 0


@contextlib.contextmanager
def counting() -> Iterator[Counter]:
    """A counter, for as long as it is needed. Raises OSError."""
    fd = with_locked_memory(partial(bpf.map_create, bpf.MAP_TYPES["array"], 4, 8, 1, 0, "ks_count"))
    try:
        yield Counter(fd)
    finally:
        os.close(fd)


@cache
def tells_missed() -> bool:
    """Whether the kernel keeps a program from being entered while it runs on the CPU, and tells how often (Linux 5.12)."""
    try:
        fd = with_locked_memory(partial(bpf.prog_load, bpf.PROG_RAW_TRACEPOINT, bpf.NOTHING, "ks_try"))
    except OSError:
        return False
    try:
        return bpf.prog_missed(fd) is not None
    finally:
        os.close(fd)


@cache
def _number() -> int:
    try:
        with Btf.of_kernel() as btf:
            return btf.function(FUNCTION)
    except BtfError as error:
        hint = "a kernel with CONFIG_DEBUG_INFO_BTF=y has it"
        raise MachineError(f"fentry: {error}", reason="KernelTooOld", hint=hint) from error


def _fentry(counter: Counter, returns: bool) -> None:
    target = fentry.target(_number(), returns=returns)
    with counter.loaded(fentry.KIND, target) as program:
        _counted(counter, fentry.attach(program, FUNCTION))


def _multi(counter: Counter, returns: bool) -> None:
    with counter.loaded(bpf.PROG_KPROBE, kprobe.MULTI) as program:
        _counted(counter, kprobe.multi([FUNCTION], program, returns=returns))


def _kprobe(counter: Counter, returns: bool) -> None:
    with counter.loaded(bpf.PROG_KPROBE) as program:
        _counted(counter, kprobe.kprobe(FUNCTION, program, returns=returns))


def _tries() -> dict[Mechanism, Callable[[Counter, bool], None]]:
    return {Mechanism.FENTRY: _fentry, Mechanism.KPROBE_MULTI: _multi, Mechanism.KPROBE: _kprobe}


def _counted(counter: Counter, attachment: Attachment) -> None:
    try:
        for _ in range(CALLS):
            _call()
    finally:
        attachment.close()
    if counter.value() < CALLS:
        raise MachineError(f"attached to {attachment.name}, but it counted {counter.value()} of {CALLS} calls")
