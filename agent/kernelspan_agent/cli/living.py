# SPDX-License-Identifier: Apache-2.0
"""What is found out about a running process for `explain`: its runtime, threads, stacks as they are now, libraries.

Everything is read from outside and may change meanwhile: what could not be read says why, nothing is made up.
"""

from __future__ import annotations

import os
import posixpath
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from kernelspan_agent.libraries.base import Libraries, LibraryContext
from kernelspan_agent.model import Library, Origin
from kernelspan_agent.process import procfs
from kernelspan_agent.process.errors import MemoryReadError, ProcessError
from kernelspan_agent.process.memory import ProcessMemory
from kernelspan_agent.process.rootfs import Root
from kernelspan_agent.runtimes import registry
from kernelspan_agent.runtimes.registry import DetectedRuntime

if TYPE_CHECKING:
    from kernelspan_agent.runtimes.registry import Detection, RawFrame

_MAX_SETTINGS_BYTES = 4096
_BOTH = re.compile(rb"^include-system-site-packages\s*=\s*true\s*$", re.MULTILINE | re.IGNORECASE)  # PEP 405


@dataclass(frozen=True, slots=True)
class LiveFrame:
    """A frame and whose code it is. `unresolved`: why it has no name."""

    frame: RawFrame
    origin: Origin
    library: Library | None


@dataclass(frozen=True, slots=True)
class LiveThread:
    """A thread. `tid`: as we see it; 0: not known which. `in_runtime`: whether the runtime lists it."""

    tid: int
    name: str
    scheduler_state: str
    in_runtime: bool
    state: str = ""
    frames: tuple[LiveFrame, ...] = ()


@dataclass(slots=True)
class Living:
    """All of it."""

    process: procfs.Process
    executable: str
    executable_deleted: bool
    working_directory: str
    namespace_pid: int
    detection: Detection
    threads: list[LiveThread] = field(default_factory=list)
    libraries: dict[Library, set[str]] = field(default_factory=dict)  # "stack", "mapped", "module"
    modules: int | None = None  # files of code that it has loaded; None: not asked for, not known
    sites: dict[str, int] = field(default_factory=dict)  # directory to number of distributions


@dataclass(frozen=True, slots=True)
class _Task:
    tid: int
    native_id: int  # in the process's own PID namespace
    name: str
    state: str


def examine(process: procfs.Process, *, modules: bool = False, libraries: Libraries | None = None) -> Living:
    """Raises ProcessError: it has ended, or may not be read.

    `modules`: also which code it has loaded. `libraries`: kept over several looks, what it has indexed is not read again.
    """
    executable, deleted = procfs.read_executable(process)
    detection = registry.detect(process)
    found = Living(
        process, executable, deleted, _cwd(process), procfs.read_status(process).namespace_pids[-1], detection
    )
    tasks = _tasks(process)
    if not isinstance(detection, DetectedRuntime):
        found.threads = [LiveThread(task.tid, task.name, task.state, False) for task in tasks]
        return found
    version = tuple(int(part) for part in detection.version.split(".")[:2] if part.isdigit())
    root = f"{process.path}/root"
    context = LibraryContext(detection.runtime, root, version, found.working_directory, process)
    libraries = libraries or Libraries()
    with ProcessMemory(process) as memory:
        stacks = _stacks(detection, memory, libraries, context)
        files = _loaded(detection, memory) if modules else None
    found.threads = _threads(tasks, stacks, process.pid)
    procfs.read_stat(process)  # the pid is still the same process's, so everything above was
    _add_libraries(found, files, libraries, context)
    found.sites = _sites(found, detection, libraries, context)
    return found


def _loaded(detection: DetectedRuntime, memory: ProcessMemory) -> list[str] | None:
    try:
        return registry.loaded(detection, memory)
    except MemoryReadError:
        return None


def _cwd(process: procfs.Process) -> str:
    try:
        return os.readlink(f"{process.path}/cwd")  # noqa: PTH115 - bytes that are no UTF-8 stay as they are
    except OSError:
        return ""


def _tasks(process: procfs.Process) -> list[_Task]:
    found = []
    try:
        names = sorted(int(name) for name in os.listdir(f"{process.path}/task"))  # noqa: PTH208 - only names
    except OSError:
        return []
    for tid in names:
        try:
            with open(f"{process.path}/task/{tid}/status", "rb") as file:  # noqa: PTH123
                lines = dict(
                    line.split(b":", 1) for line in file.read(procfs.MAX_SMALL_BYTES).splitlines() if b":" in line
                )
            state, ids = lines[b"State"].split()[0].decode("ascii", "replace"), lines.get(b"NSpid", b"").split()
            name = procfs.printable(os.fsdecode(lines[b"Name"].strip()))
            found.append(_Task(tid, int(ids[-1]) if ids else tid, name, state))
        except (OSError, KeyError, IndexError, ValueError):  # it has ended
            continue
    return found


_Stack = tuple[registry.LiveStack, tuple[LiveFrame, ...], str]


def _stacks(
    found: DetectedRuntime, memory: ProcessMemory, libraries: Libraries, context: LibraryContext
) -> list[_Stack]:
    symboliser = registry.symboliser(found, memory)
    stacks = []
    for stack in registry.walk(found, memory):
        frames = symboliser.frames(stack.rows)
        unresolved = next((frame.unresolved for frame in frames if frame.unresolved), "")
        named = tuple(
            LiveFrame(each, *(each.whose or libraries.classify(each.unit or each.file, context)))
            for each in frames
            if not unresolved
        )
        stacks.append((stack, named, unresolved or stack.state))
    return stacks


def _threads(tasks: list[_Task], stacks: list[_Stack], pid: int) -> list[LiveThread]:
    by_native = {task.native_id: task for task in tasks}
    left = dict.fromkeys(task.tid for task in tasks)
    found = []
    for stack, frames, state in reversed(stacks):  # the oldest is the main thread
        task = by_native.get(stack.native_id)
        if stack.main:
            task = next((task for task in tasks if task.tid == pid), None)
        if task is None and len(tasks) == len(stacks) == 1:
            task = tasks[0]
        if task is not None:
            left.pop(task.tid, None)
            found.append(LiveThread(task.tid, task.name, task.state, True, state, frames))
        else:
            name = stack.name or (f"pthread {stack.key:#x}" if stack.key else "")
            found.append(LiveThread(0, name, "", True, state, frames))
    if all(thread.tid for thread in found):
        found += [LiveThread(task.tid, task.name, task.state, False) for task in tasks if task.tid in left]
    return found


def _add_libraries(found: Living, modules: list[str] | None, libraries: Libraries, context: LibraryContext) -> None:
    for thread in found.threads:
        for frame in thread.frames:
            if frame.library is not None:
                found.libraries.setdefault(frame.library, set()).add("stack")
    found.modules = None if modules is None else len(modules)
    for place, paths in (("mapped", _mapped(found.process)), ("module", modules or [])):
        for path in paths:
            _, library = libraries.classify(path, context)
            if library is not None:
                found.libraries.setdefault(library, set()).add(place)


def _mapped(process: procfs.Process) -> list[str]:
    return list(dict.fromkeys(mapping.path for mapping in procfs.read_maps(process) if mapping.is_file))


def _sites(found: Living, detection: DetectedRuntime, libraries: Libraries, context: LibraryContext) -> dict[str, int]:
    """Where packages can be: around files in use, beside the interpreter, in the virtual environment it was started from."""
    files = [frame.frame.file for thread in found.threads for frame in thread.frames]
    try:
        return libraries.sites(files + _mapped(found.process), _prefixes(found, detection), context)
    except OSError:
        return {}


def _prefixes(found: Living, detection: DetectedRuntime) -> list[str]:
    """The interpreter's own; the virtual environment's in its place, unless that says it takes both."""
    own = [posixpath.dirname(posixpath.dirname(path)) for path in (detection.file, found.executable)]
    try:
        program = procfs.read_cmdline(found.process)[0]
    except (ProcessError, IndexError):
        return own
    if "/" not in program:
        return own
    absolute = posixpath.normpath(posixpath.join(found.working_directory or "/", program))
    environment = posixpath.dirname(posixpath.dirname(absolute))
    with Root(f"{found.process.path}/root") as root:
        settings = root.read(f"{environment}/pyvenv.cfg", _MAX_SETTINGS_BYTES)
    if settings is None:
        return own
    return [environment, *own] if _BOTH.search(settings) else [environment]
