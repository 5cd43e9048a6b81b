# SPDX-License-Identifier: Apache-2.0
"""Which functions the running kernel has, by /proc/kallsyms, and which of them can be probed.

Each question is one pass over the kernel's list (120,000 lines, 0.1-0.2 s), for any number of names at once; of `known` the
answers are kept. `traceable` is what ftrace says (fentry, kprobe.multi), `blacklisted` what kprobes say; None where the kernel does
not show it: tracefs or debugfs is not mounted, or may not be read.
"""

from __future__ import annotations

import bisect
import fnmatch
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from kernelspan_agent.errors import MachineError
from kernelspan_agent.probes.nearest import nearest
from kernelspan_agent.probes.tracefs import TRACEFS

KALLSYMS = Path("/proc/kallsyms")
BLACKLIST = Path("/sys/kernel/debug/kprobes/blacklist")
_TRACEABLE = "available_filter_functions"
_CHUNK_BYTES = 1 << 20
_MAX_BYTES = 256 << 20  # of a list; kallsyms of a distribution's kernel with its modules is 10 MB
_TEXT = frozenset((b"t", b"T", b"w", b"W"))  # nm(1): in the text section, local or not, or weak
_NO_FUNCTION = (
    "__pfx_",
    "__cfi_",
    "__SCT__",
    "__SCK__",
    "__kstrtab",
    "__ksymtab",
    "__UNIQUE_ID",
)  # beside or in place of one
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_.]*")  # labels of assembler code begin with a dot
_MADE_LATER = frozenset(
    (b"bpf", b"__builtin__ftrace", b"__builtin__kprobes")
)  # code that comes and goes (kernel/kallsyms.c)
_START_CODE = {b"_sinittext": True, b"_einittext": False}  # around what the kernel gives back when it has started
_PIECES = (".part.", ".cold")  # of a function that is elsewhere


@dataclass(frozen=True, slots=True)
class KernelFunction:
    """A name that the kernel has for functions.

    addresses: of each function of that name, in their order; 0 where the kernel does not show them (kptr_restrict), and
    more than one where static functions share it: by the name alone the kernel attaches to the first, or (Linux 6.7)
    refuses. module: of the first; empty for the kernel itself. clones: names under which the compiler has made copies or
    parts of it; calls of those are not seen by a probe of this one.
    """

    name: str
    module: str
    addresses: tuple[int, ...]
    clones: tuple[str, ...] = ()
    traceable: bool | None = None
    blacklisted: bool | None = None


@dataclass(slots=True)
class _Found:
    addresses: list[int] = field(default_factory=list)
    module: str = ""
    clones: set[str] = field(default_factory=set)


@dataclass(frozen=True, slots=True)
class _Refused:
    """What kprobes may not be put on: by address, as names may be shared; by name where the kernel hides addresses."""

    ranges: list[tuple[int, int]]
    names: set[str]

    def holds(self, name: str, addresses: list[int]) -> bool:
        if not any(addresses) or not self.ranges or not self.ranges[-1][1]:
            return name in self.names
        return any(self._in_range(address) for address in addresses)

    def _in_range(self, address: int) -> bool:
        at = bisect.bisect_right(self.ranges, (address, 1 << 64)) - 1
        return at >= 0 and self.ranges[at][0] <= address < self.ranges[at][1]


MOST_HINTS = 4


class KernelFunctions:
    """The functions of the running kernel."""

    def __init__(
        self, kallsyms: Path = KALLSYMS, tracefs: tuple[Path, ...] = TRACEFS, blacklist: Path = BLACKLIST
    ) -> None:
        self._kallsyms, self._tracefs, self._blacklist = kallsyms, tracefs, blacklist
        self._known: dict[str, KernelFunction | None] = {}
        self._hints = MOST_HINTS

    def find(self, names: Iterable[str]) -> dict[str, KernelFunction]:
        """Those of the names that the kernel has. A name with a suffix (`f.isra.0`) is a name of its own."""
        wanted = set(names)
        spelled = {name.encode(errors="replace") for name in wanted}
        found: dict[str, _Found] = {}
        for address, symbol, module in self._symbols():
            if symbol in spelled:
                entry = found.setdefault(symbol.decode(), _Found())
                entry.module = module.decode(errors="replace") if not entry.addresses else entry.module
                entry.addresses.append(_number(address))
            elif b"." in symbol and (base := symbol.partition(b".")[0]) in spelled:
                found.setdefault(base.decode(), _Found()).clones.add(symbol.decode(errors="replace"))
        traceable = self._traceable(wanted)
        refused = self._refused()
        return {
            name: KernelFunction(
                name,
                entry.module,
                tuple(entry.addresses),
                tuple(sorted(entry.clones)),
                None if traceable is None else name in traceable,
                None if refused is None else refused.holds(name, entry.addresses),
            )
            for name, entry in found.items()
        }

    def known(self, names: Iterable[str]) -> dict[str, KernelFunction]:
        """The same; a name is looked for once."""
        asked = set(names)
        if missing := asked - self._known.keys():
            self._known |= dict.fromkeys(missing) | self.find(missing)
        return {name: found for name in asked if (found := self._known[name]) is not None}

    def function(self, name: str) -> KernelFunction:
        """One that a probe may be put on. Raises MachineError, its reason FunctionNotFound or FunctionBlacklisted."""
        found = self.known([name]).get(name)
        if (error := self.refusal(name, found)) is not None:
            raise error
        assert found is not None
        return found

    def refusal(self, name: str, found: KernelFunction | None) -> MachineError | None:
        """Why no probe can be put on what `find` gave for a name; None where one can."""
        if found is not None and found.addresses:
            if found.blacklisted:
                what = f"{name}: kprobes may not be put on this function, since they run it themselves"
                return MachineError(what, reason="FunctionBlacklisted", hint="probe a function that calls it")
            return None
        if found is not None and found.clones:
            return _renamed(name, found.clones)
        self._hints -= 1  # each takes half a second
        near = nearest(name, self.names()) if self._hints >= 0 else []
        hint = f"near it: {', '.join(near)}; " if near else ""
        hint += "a function may be inlined where it is called, or be in a module that is not loaded"
        return MachineError(f"{name}: this kernel has no such function", reason="FunctionNotFound", hint=hint)

    def names(self, pattern: str = "*") -> list[str]:
        """Names of functions that a glob selects, each once, sorted; without those of parts of functions."""
        pick = re.compile(fnmatch.translate(pattern)).match
        listed = (symbol.decode(errors="replace") for _, symbol, _ in self._symbols())
        named = (name for name in listed if pick(name) and _NAME.fullmatch(name))
        return sorted({name for name in named if not name.startswith(_NO_FUNCTION) and is_whole(name)})

    def _symbols(self) -> Iterator[tuple[bytes, bytes, bytes]]:
        """Address, name and module of every function, as they stand there, without those that are gone since the start."""
        gone = False
        for line in _lines(self._kallsyms):  # in the order of addresses, shown or not
            parts = line.split(None, 3)
            if len(parts) < 3 or parts[1] not in _TEXT:
                continue
            if parts[2] in _START_CODE:
                gone = _START_CODE[parts[2]]
            if gone:
                continue
            module = parts[3].strip(b"[]") if len(parts) > 3 else b""
            if module not in _MADE_LATER:
                yield parts[0], parts[2], module

    def _traceable(self, wanted: set[str]) -> set[str] | None:
        for root in self._tracefs:
            if _readable(path := root / _TRACEABLE):
                lines = (line.split(None, 1) for line in _lines(path))
                return wanted.intersection(parts[0].decode(errors="replace") for parts in lines if parts)
        return None

    def _refused(self) -> _Refused | None:
        if not _readable(self._blacklist):
            return None
        ranges, names = [], set()
        for line in _lines(self._blacklist):  # 0xffffffff81a00000-0xffffffff81a00123<tab>name
            where, _, name = line.partition(b"\t")
            begin, _, end = where.partition(b"-")
            ranges.append((_number(begin), _number(end)))
            names.add(name.decode(errors="replace"))
        return _Refused(sorted(ranges), names)


def _number(address: bytes) -> int:
    try:
        return int(address, 16)
    except ValueError:
        return 0


def is_whole(name: str) -> bool:
    """Whether it is the name of a whole function, not of a part of one that the compiler has put elsewhere."""
    return not any(piece in name for piece in _PIECES)


def _renamed(name: str, clones: tuple[str, ...]) -> MachineError:
    whole = [each for each in clones if is_whole(each)]
    if not whole:
        what = f"{name}: inlined: this kernel has only parts of it ({', '.join(clones[:3])})"
        return MachineError(what, reason="FunctionNotFound", hint="probe a function that calls it")
    what = f"{name}: inlined or renamed: this kernel has it only as {', '.join(whole[:3])}"
    hint = (
        f"probe {whole[0]} by that name: the compiler has changed its parameters, and inlined calls of it are not seen"
    )
    return MachineError(what, reason="FunctionNotFound", hint=hint)


def _readable(path: Path) -> bool:
    """By reading: a list may be there and refuse (lockdown)."""
    try:
        with path.open("rb") as file:
            file.read(1)
    except OSError:
        return False
    return True


def _lines(path: Path) -> Iterator[bytes]:
    """Lines without their ends; what follows the bound is left out. Raises MachineError where it cannot be read."""
    try:
        with path.open("rb", buffering=0) as file:
            rest, total = b"", 0
            while total < _MAX_BYTES and (chunk := file.read(_CHUNK_BYTES)):
                total += len(chunk)
                *lines, rest = (rest + chunk).split(b"\n")
                yield from lines
                rest = rest[:_CHUNK_BYTES]
            if rest:
                yield rest
    except OSError as error:
        reason = "PermissionDenied" if isinstance(error, PermissionError) else "MechanismUnsupported"
        raise MachineError(f"{path}: {error.strerror}", reason=reason, hint="run as root") from error
