# SPDX-License-Identifier: Apache-2.0
"""What /proc tells about one process, as data.

Everything is read whole in one bounded read, so that a process that ends in between gives ProcessEndedError and never
half an answer. File names are bytes to the kernel: they are kept as `os.fsdecode` gives them and shown by `printable`.
The /proc root is passed in. Formats: proc(5).
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from .errors import ProcessEndedError, ProcessError

if TYPE_CHECKING:
    from collections.abc import Iterator

MAX_SMALL_BYTES = 64 << 10  # stat, status, cgroup
MAX_CMDLINE_BYTES = 128 << 10  # the kernel allows more; no use for it here
MAX_MAPS_BYTES = 32 << 20  # vm.max_map_count defaults to 65,530 lines of at most about 4,200 bytes
KERNEL_THREAD = 0x00200000  # PF_KTHREAD, include/linux/sched.h
EXITING = 0x4  # PF_EXITING

_MAPS_LINE = re.compile(rb"([0-9a-f]+)-([0-9a-f]+) (\S{4}) ([0-9a-f]+) ([0-9a-f]+):([0-9a-f]+) (\d+) *(.*)")


@dataclass(frozen=True, slots=True)
class Process:
    """One process from its start to its end: a pid alone may be given to another."""

    pid: int
    start_ticks: int  # since boot, in clock ticks
    proc_root: str = "/proc"

    @property
    def path(self) -> str:
        """Its folder under /proc."""
        return f"{self.proc_root}/{self.pid}"


@dataclass(frozen=True, slots=True)
class Stat:
    """Of /proc/PID/stat."""

    command: str  # at most 15 bytes
    state: str  # one letter
    parent_pid: int
    flags: int
    start_ticks: int

    @property
    def is_kernel_thread(self) -> bool:
        """Whether it has no user space at all."""
        return bool(self.flags & KERNEL_THREAD)


@dataclass(frozen=True, slots=True)
class Status:
    """Of /proc/PID/status. `namespace_pids`: its pid in each PID namespace from the reader's to its own."""

    uid: int  # effective
    threads: int
    namespace_pids: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Mapping:
    """One line of /proc/PID/maps. `path` is empty for anonymous memory and without the mark " (deleted)"."""

    start: int
    end: int
    permissions: str
    offset: int
    device: tuple[int, int]
    inode: int
    path: str
    deleted: bool

    @property
    def is_file(self) -> bool:
        """Whether a file lies behind it."""
        return self.path.startswith("/") and self.inode != 0


@dataclass(frozen=True, slots=True)
class CgroupEntry:
    """One line of /proc/PID/cgroup: hierarchy 0 without controllers is cgroup v2."""

    hierarchy: int
    controllers: tuple[str, ...]
    path: str


def open_process(pid: int, proc_root: str = "/proc") -> Process:
    """The process that has `pid` now. Raises ProcessEndedError if there is none."""
    process = Process(pid, 0, proc_root)
    return Process(pid, _parse_stat(_read(process, "stat", MAX_SMALL_BYTES)).start_ticks, proc_root)


def is_alive(process: Process) -> bool:
    """Whether it is still the same process, and not a zombie."""
    try:
        stat = read_stat(process)
    except ProcessError:
        return False
    return stat.state not in "ZX"


def runs(pid: int, proc_root: str = "/proc") -> bool:
    """Whether a thread of the process has not begun to end."""
    try:
        threads = os.listdir(f"{proc_root}/{pid}/task")  # noqa: PTH208 - numbers as text
    except OSError:
        return False
    for thread in threads:
        try:
            stat = _parse_stat(_read(Process(pid, 0, proc_root), f"task/{thread}/stat", MAX_SMALL_BYTES))
        except ProcessError:
            continue
        if not stat.flags & EXITING:
            return True
    return False


def read_stat(process: Process) -> Stat:
    """Raises ProcessEndedError, also where the pid belongs to another process by now."""
    stat = _parse_stat(_read(process, "stat", MAX_SMALL_BYTES))
    if stat.start_ticks != process.start_ticks:
        raise ProcessEndedError(f"process {process.pid} has ended; its pid was given to another")
    return stat


def read_status(process: Process) -> Status:
    """Raises ProcessEndedError."""
    found: dict[bytes, list[bytes]] = {}
    for line in _read(process, "status", MAX_SMALL_BYTES).splitlines():
        key, _, value = line.partition(b":")
        found[key] = value.split()
    try:
        pids = tuple(int(pid) for pid in found.get(b"NSpid", [str(process.pid).encode()]))
        return Status(int(found[b"Uid"][1]), int(found[b"Threads"][0]), pids)
    except (KeyError, IndexError, ValueError) as error:
        raise ProcessError(f"{process.path}/status is not as expected: {error!r}") from error


def read_cmdline(process: Process) -> tuple[str, ...]:
    """Its arguments; empty for kernel threads and zombies. Cut at MAX_CMDLINE_BYTES."""
    data = _read(process, "cmdline", MAX_CMDLINE_BYTES, cut=True)
    return tuple(os.fsdecode(part) for part in data.removesuffix(b"\0").split(b"\0")) if data else ()


def read_executable(process: Process) -> tuple[str, bool]:
    """Path of the executable as its own mount namespace names it, and whether it was deleted."""
    try:
        target = str(Path(f"{process.path}/exe").readlink())
    except OSError as error:
        raise ProcessEndedError(f"process {process.pid} has no executable: {error.strerror}") from error
    return target.removesuffix(" (deleted)"), target.endswith(" (deleted)")


def read_name(pid: int, proc_root: str = "/proc") -> str:
    """The kernel's name of whatever has that pid now, fit to be shown; empty: nothing has."""
    try:
        with open(f"{proc_root}/{pid}/comm", "rb") as file:  # noqa: PTH123
            return printable(os.fsdecode(file.read(64).rstrip(b"\n")))
    except OSError:
        return ""


def read_cgroups(process: Process) -> list[CgroupEntry]:
    """Its cgroup in each hierarchy."""
    entries = []
    for line in _read(process, "cgroup", MAX_SMALL_BYTES).splitlines():
        hierarchy, _, rest = line.partition(b":")
        controllers, _, path = rest.partition(b":")
        if hierarchy.isdigit():
            names = tuple(name for name in os.fsdecode(controllers).split(",") if name)
            entries.append(CgroupEntry(int(hierarchy), names, os.fsdecode(path)))
    return entries


def read_namespace(process: Process, kind: str) -> int:
    """Inode number of one of its namespaces: "pid", "mnt", "net", ..."""
    try:
        return Path(f"{process.path}/ns/{kind}").stat().st_ino
    except OSError as error:
        raise ProcessEndedError(f"process {process.pid} has no namespace {kind}: {error.strerror}") from error


def read_maps(process: Process) -> list[Mapping]:
    """Its mappings in the order of their addresses. Raises ProcessEndedError; ProcessError where there are too many."""
    return list(parse_maps(_read(process, "maps", MAX_MAPS_BYTES)))


def parse_maps(data: bytes) -> Iterator[Mapping]:
    """The lines of /proc/PID/maps; what is not such a line is left out."""
    for line in data.split(b"\n"):
        match = _MAPS_LINE.fullmatch(line)
        if match is None:
            continue
        start, end, permissions, offset, major, minor, inode, name = match.groups()
        # seq_path() writes a newline in a name as an octal escape, and nothing else.
        path = os.fsdecode(name.replace(b"\\012", b"\n"))
        deleted = path.endswith(" (deleted)")
        yield Mapping(
            int(start, 16),
            int(end, 16),
            permissions.decode("ascii", "replace"),
            int(offset, 16),
            (int(major, 16), int(minor, 16)),
            int(inode),
            path.removesuffix(" (deleted)"),
            deleted,
        )


def printable(name: str) -> str:
    """A file name or argument for people: what is not valid UTF-8 or would break a line is escaped."""
    try:
        text = os.fsencode(name).decode("utf-8", "backslashreplace")
    except UnicodeEncodeError:  # a lone surrogate that stands for no byte
        text = name.encode("utf-8", "backslashreplace").decode("utf-8")
    if text.isprintable():  # as nearly every name is: a letter at a time takes a dozen times as long
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)


def _parse_stat(data: bytes) -> Stat:
    # The command stands in brackets and may hold brackets, spaces and newlines itself: the last bracket ends it.
    head, _, tail = data.rpartition(b")")
    numbers = tail.split()
    try:
        command = head.split(b"(", 1)[1]
        state, parent, flags, start = numbers[0].decode("ascii"), int(numbers[1]), int(numbers[6]), int(numbers[19])
    except (IndexError, ValueError) as error:
        raise ProcessError(f"/proc/PID/stat is not as expected: {data[:80]!r}") from error
    return Stat(os.fsdecode(command), state, parent, flags, start)


def _read(process: Process, name: str, limit: int, *, cut: bool = False) -> bytes:
    parts: list[bytes] = []
    size = 0
    try:
        fd = os.open(
            f"{process.path}/{name}", os.O_RDONLY | os.O_CLOEXEC
        )  # for each exec of the node: no more than that
        try:
            while size <= limit and (part := os.read(fd, min(1 << 20, limit + 1 - size))):
                parts.append(part)
                size += len(part)
        finally:
            os.close(fd)
    except (FileNotFoundError, ProcessLookupError) as error:
        raise ProcessEndedError(f"process {process.pid} does not exist") from error
    except OSError as error:
        raise ProcessError(
            f"cannot read {process.path}/{name}: {error.strerror}",
            reason="PermissionDenied",
            hint="run as root, or with CAP_SYS_PTRACE and CAP_DAC_READ_SEARCH",
        ) from error
    if size > limit and not cut:
        raise ProcessError(f"{process.path}/{name} is longer than {limit} bytes")
    return b"".join(parts)[:limit]
