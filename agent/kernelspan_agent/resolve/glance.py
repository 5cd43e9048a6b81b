# SPDX-License-Identifier: Apache-2.0
"""What /proc tells of a process, taken at once when it starts: a short-lived one is gone before anything else is asked.

A glance keeps the process's root directory open, so files can be looked up in it after the process has ended.
"""

from __future__ import annotations

import contextlib
import os
import re
import resource
from dataclasses import dataclass, replace

from kernelspan_agent.process import procfs
from kernelspan_agent.process.errors import ProcessError

SHARE_OF_DESCRIPTORS = 0.5
_CONTAINER_ID = re.compile(r"[0-9a-f]{64}")


@dataclass(slots=True)
class Glance:
    """One process as it was when it started. `root`: the path that its `/` has for us."""

    process: procfs.Process
    executable: str  # empty: not known
    arguments: tuple[str, ...]
    namespace_pid: int  # its pid in its own PID namespace; 0: not known
    container_id: str  # empty: none
    cwd: str
    root: str
    root_fd: int = -1

    def close(self) -> None:
        """Lets go of the root directory."""
        if self.root_fd >= 0:
            os.close(self.root_fd)
            self.root_fd = -1


def glance(tgid: int, proc_root: str = "/proc") -> Glance | None:
    """Takes a glance at a process; None: it has ended."""
    try:
        process = procfs.open_process(tgid, proc_root)
        executable, _ = procfs.read_executable(process)
        status = procfs.read_status(process)
        arguments = procfs.read_cmdline(process)
        cwd = os.readlink(f"{process.path}/cwd")  # noqa: PTH115 - bytes that are no UTF-8 stay as they are
    except (ProcessError, OSError):
        return None
    root, root_fd = f"{process.path}/root", -1
    with contextlib.suppress(OSError):  # too many descriptors: then only as long as the process lives
        root_fd = _unless_too_many(os.open(root, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC))
    if root_fd >= 0:
        root = f"/proc/self/fd/{root_fd}"
    return Glance(process, executable, arguments, status.namespace_pids[-1], _container_id(process), cwd, root, root_fd)


def glance_at_twin(tgid: int, of_parent: Glance) -> Glance:
    """What is known of a forked child that had ended before anybody could look: what its parent was when it forked.

    Its process has no start, so that it is never taken for whoever has its pid now.
    """
    return _held_again(replace(of_parent, process=procfs.Process(tgid, 0), namespace_pid=0))


def glance_after_exec(tgid: int, before: Glance, *, same_cwd: bool) -> Glance:
    """What is known of a program that had ended before anybody could look, but has the root of what it was before."""
    cwd = before.cwd if same_cwd else ""
    process = procfs.Process(tgid, 0)
    return _held_again(replace(before, process=process, executable="", arguments=(), container_id="", cwd=cwd))


def _held_again(seen: Glance) -> Glance:
    root_fd = -1
    if seen.root_fd >= 0:
        with contextlib.suppress(OSError):
            root_fd = _unless_too_many(os.dup(seen.root_fd))
    return replace(seen, root=f"/proc/self/fd/{root_fd}" if root_fd >= 0 else seen.root, root_fd=root_fd)


def _unless_too_many(fd: int) -> int:
    """A new descriptor; -1, and it is closed, where processes that start would use up those that all else needs."""
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    if limit != resource.RLIM_INFINITY and fd > limit * SHARE_OF_DESCRIPTORS:  # the kernel gives out the lowest
        os.close(fd)
        return -1
    return fd


def _container_id(process: procfs.Process) -> str:
    """The container's id as its cgroup path names it (cri-containerd-, docker-, crio-); empty: none."""
    try:
        entries = procfs.read_cgroups(process)
    except ProcessError:
        return ""
    for entry in entries:
        found = _CONTAINER_ID.findall(entry.path)
        if found:
            return str(found[-1])
    return ""
