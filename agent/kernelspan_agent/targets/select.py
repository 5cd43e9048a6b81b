# SPDX-License-Identifier: Apache-2.0
"""Which processes a standalone run traces: those named by pid, or all that match the profile's processSelector."""

from __future__ import annotations

import fnmatch
import os
from collections.abc import Iterator, Sequence
from pathlib import PurePosixPath

from kernelspan_agent.errors import UsageError
from kernelspan_agent.process import procfs
from kernelspan_agent.process.errors import ProcessError
from kernelspan_agent.runtimes import registry
from kernelspan_agent.runtimes.look import FileCache

MAX_REFUSED = 65536


def by_pid(pid: int, proc_root: str = "/proc") -> procfs.Process:
    """The process `pid`. Raises UsageError: there is none, it is a kernel thread, it is a thread of another process."""
    try:
        process = procfs.open_process(pid, proc_root)
        stat = procfs.read_stat(process)
    except ProcessError as error:
        raise UsageError(f"--pid {pid}: there is no such process", hint="see ps -e") from error
    if stat.is_kernel_thread:
        raise UsageError(f"--pid {pid} is a kernel thread ({procfs.printable(stat.command)})", hint="it has no program")
    if stat.state in "ZX":
        raise UsageError(f"--pid {pid} has ended already (a zombie)", hint="see ps -e")
    leader = _thread_group(pid, proc_root)
    if leader not in (pid, None):
        raise UsageError(f"--pid {pid} is a thread of process {leader}", hint=f"use --pid {leader}")
    return process


def _thread_group(pid: int, proc_root: str) -> int | None:
    try:
        with open(f"{proc_root}/{pid}/status", "rb") as file:  # noqa: PTH123
            for line in file.read(4096).splitlines():
                if line.startswith(b"Tgid:"):
                    return int(line.split()[1])
    except (OSError, ValueError):
        return None
    return None


def all_processes(proc_root: str = "/proc") -> Iterator[procfs.Process]:
    """Every process with a program, now."""
    try:
        names = os.listdir(proc_root)  # noqa: PTH208 - thousands of entries, each needed as text alone
    except OSError:  # no descriptor is left: the next look finds them
        return
    for name in names:
        if name.isdigit():
            try:
                process = procfs.open_process(int(name), proc_root)
                if not procfs.read_stat(process).is_kernel_thread:
                    yield process
            except ProcessError:
                continue


def descendants(pids: Sequence[int], proc_root: str = "/proc") -> list[procfs.Process]:
    """The processes that come from `pids`, without them."""
    children: dict[int, list[procfs.Process]] = {}
    for process in all_processes(proc_root):
        try:
            children.setdefault(procfs.read_stat(process).parent_pid, []).append(process)
        except ProcessError:
            continue
    found, todo = [], list(pids)
    while todo:
        for child in children.pop(todo.pop(), []):
            found.append(child)
            todo.append(child.pid)
    return found


def process_or_none(pid: int, proc_root: str = "/proc") -> procfs.Process | None:
    """The process `pid`; None: it has ended."""
    try:
        return procfs.open_process(pid, proc_root)
    except ProcessError:
        return None


def name_of(process: procfs.Process) -> str:
    """The base name of its executable; `?`: it has ended."""
    try:
        return PurePosixPath(procfs.read_executable(process)[0]).name
    except ProcessError:
        return "?"


def matches(path: str, executables: Sequence[str]) -> bool:
    """Whether an executable is meant by one of the globs: by its whole path where the glob has a slash."""
    name = PurePosixPath(path).name
    return any(fnmatch.fnmatchcase(path if "/" in glob else name, glob) for glob in executables)


class Selection:
    """What a processSelector means by all processes that match; remembers whom it has refused, until they exec."""

    def __init__(self, executables: Sequence[str], runtimes: Sequence[str]) -> None:
        """`executables` empty: any. `runtimes`: names; empty: any, or none that can be walked."""
        self._executables, self._runtimes = executables, [name.lower() for name in runtimes]
        self._refused: set[tuple[int, int, str]] = set()
        self._files = FileCache()

    def wants(self, process: procfs.Process) -> bool:
        """Whether the process is one of them now."""
        try:
            path, _ = procfs.read_executable(process)
        except ProcessError:
            return False
        key = (process.pid, process.start_ticks, path)
        if key in self._refused:
            return False
        if self._executables and not matches(path, self._executables):
            if len(self._refused) > MAX_REFUSED:
                self._refused.clear()
            self._refused.add(key)
            return False
        return not self._runtimes or self._has_runtime(process)

    def _has_runtime(self, process: procfs.Process) -> bool:
        try:
            found = registry.detect(process, self._files)
        except ProcessError:
            return False
        return isinstance(found, registry.DetectedRuntime) and found.runtime in self._runtimes
