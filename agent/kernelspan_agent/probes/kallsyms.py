# SPDX-License-Identifier: Apache-2.0
"""The kernel's functions by name, from /proc/kallsyms, and which of them may not be probed, from debugfs.

The list has 100,000 to 300,000 lines: it is read in parts, looked through for all names at once, and never held.
Addresses are zeros for a process without CAP_SYSLOG. Source: kernel/kallsyms.c, kernel/kprobes.c (blacklist).
"""

from __future__ import annotations

import difflib
import heapq
import platform
import re
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path

from kernelspan_agent.errors import MachineError

KALLSYMS = Path("/proc/kallsyms")
BLACKLIST = Path("/sys/kernel/debug/kprobes/blacklist")
NEAREST = 5  # names that an error tells
_ARCHITECTURE = {"x86_64": "x64", "aarch64": "arm64"}[platform.machine()]
_MOST_BYTES = 256 << 20
_PART_BYTES = 256 << 10
_COMPARED = 400  # names that difflib looks at: those with most letter pairs in common
_ANY_NAME = re.compile(rb"^[0-9a-f]+ [tTwW] ([^\t\n]+)", re.MULTILINE)
_NOT_FUNCTIONS = frozenset({b"bpf", b"__builtin__ftrace", b"__builtin__kprobes"})  # made while the kernel runs


@dataclass(frozen=True, slots=True)
class Function:
    """A name, and where the functions of that name are: several where files have static ones of one name.

    `addresses`: zeros where the kernel hides them. `module`: empty for the kernel itself, or where it differs.
    """

    name: str
    addresses: tuple[int, ...]
    module: str = ""

    @property
    def hidden(self) -> bool:
        """Whether the kernel does not tell us the addresses."""
        return not any(self.addresses)


def of_system_call(name: str) -> str:
    """The function of a system call. Its only argument is a pointer to the caller's pt_regs, with the call's arguments."""
    return f"__{_ARCHITECTURE}_sys_{name}"


def find(names: Collection[str], path: Path = KALLSYMS) -> dict[str, Function]:
    """Those of the names that functions have, in one pass. Raises MachineError where the list cannot be read."""
    alternatives = b"|".join(re.escape(name.encode()) for name in names)
    pattern = re.compile(rb"^([0-9a-f]+) [tTwW] (" + alternatives + rb")(?:\t\[([^]\n]*)\])?[ \t]*$", re.MULTILINE)
    found: dict[str, list[tuple[int, str]]] = {}
    for part in _parts(path) if names else ():
        for address, name, module in pattern.findall(part):
            if module not in _NOT_FUNCTIONS:
                found.setdefault(name.decode(), []).append((int(address, 16), module.decode("ascii", "replace")))
    return {name: _function(name, places) for name, places in found.items()}


def require(names: Collection[str], path: Path = KALLSYMS) -> dict[str, Function]:
    """The same for all of the names; MachineError (FunctionNotFound) tells the first that is missing, and what is like it."""
    found = find(names, path)
    for name in names:
        if name not in found:
            raise missing(name, path)
    return found


def missing(name: str, path: Path = KALLSYMS) -> MachineError:
    """The error for a function that is not there, with names like it."""
    like = nearest(name, path)
    hint = f"there are {', '.join(like)}; the compiler may have inlined or renamed it" if like else "see /proc/kallsyms"
    return MachineError(f"this kernel has no function {name}", reason="FunctionNotFound", hint=hint)


def nearest(name: str, path: Path = KALLSYMS) -> list[str]:
    """At most NEAREST names of functions that are like `name`, best first."""
    ours = _pairs(name)
    if not ours:
        return []
    most = max(3, len(name) // 3)  # letters more or less
    names = {other for part in _parts(path) for other in _ANY_NAME.findall(part) if abs(len(other) - len(name)) <= most}
    scored = (_likeness(ours, other.decode("ascii", "replace")) for other in names)
    likely = [other for score, other in heapq.nlargest(_COMPARED, scored) if score]
    return difflib.get_close_matches(name, likely, NEAREST, cutoff=0.6)


def blacklisted(function: Function, path: Path = BLACKLIST) -> bool | None:
    """Whether the kernel forbids probes on it; None where it does not say (debugfs is not mounted, or not for us)."""
    try:
        with path.open("rb") as file:
            lines = file.read(_MOST_BYTES).splitlines()
    except OSError:
        return None
    return any(line.split()[-1:] == [function.name.encode()] or _holds(line, function) for line in lines)


def _holds(line: bytes, function: Function) -> bool:
    """Whether a line such as 0xffffffff81a00000-0xffffffff81a00123 name has the function's address in its range."""
    first, _, last = line.partition(b"\t")[0].partition(b"-")
    try:
        begin, end = int(first, 16), int(last, 16)
    except ValueError:
        return False
    return any(begin <= address < end for address in function.addresses if address)


def _parts(path: Path) -> Iterator[bytes]:
    """The list in parts of whole lines."""
    rest, left = b"", _MOST_BYTES
    try:
        with path.open("rb", buffering=0) as file:
            while left > 0 and (read := file.read(_PART_BYTES)):
                left -= len(read)
                whole, newline, rest = (rest + read).rpartition(b"\n")
                yield whole + newline
                rest = rest[-_PART_BYTES:]  # a line without an end is none of the kernel's
            yield rest
    except OSError as error:
        raise MachineError(f"{path}: {error.strerror}", reason="PermissionDenied", hint="mount /proc") from error


def _function(name: str, places: list[tuple[int, str]]) -> Function:
    modules = {module for _, module in places}
    return Function(name, tuple(address for address, _ in places), modules.pop() if len(modules) == 1 else "")


def _likeness(ours: frozenset[str], other: str) -> tuple[float, str]:
    theirs = _pairs(other)
    return 2 * len(ours & theirs) / (len(ours) + len(theirs)), other


def _pairs(name: str) -> frozenset[str]:
    return frozenset(name[i : i + 2] for i in range(len(name) - 1))
