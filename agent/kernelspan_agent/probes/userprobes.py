# SPDX-License-Identifier: Apache-2.0
"""User probes, each attached once: containers of one image share the file below, and a program must not run for each."""

from __future__ import annotations

import os
from types import TracebackType
from typing import Self

from kernelspan_agent.probes import perf, uretprobe
from kernelspan_agent.probes.attach import Attachment
from kernelspan_agent.probes.inodes import Identity, identity
from kernelspan_agent.probes.uprobe import open_file, uprobe

_Place = tuple[Identity, int, bool, int, int]


class UserProbes:
    """What is attached by this agent to instructions of files."""

    def __init__(self) -> None:
        self._attached: dict[_Place, Attachment] = {}

    def attach(
        self,
        program_fd: int,
        path: str,
        offset: int,
        *,
        returns: bool = False,
        semaphore: int = 0,
        pid: int = perf.EVERY_PROCESS,
    ) -> bool:
        """Attaches a program to the file at `path` as uprobe.uprobe does; False where it is attached to that very file.

        `path` may go through /proc/PID/root. Raises MachineError as `uprobe`, and UretprobeUnsafe.
        """
        file = open_file(path)
        try:
            place = (identity(file), offset, returns, pid, program_fd)
            if place in self._attached:
                return False
            if returns:
                uretprobe.require_safe(file)
            self._attached[place] = uprobe(
                file, offset, program_fd, returns=returns, semaphore=semaphore, pid=pid, name=path
            )
        finally:
            os.close(file)
        return True

    @property
    def names(self) -> list[str]:
        """What is attached, for people, such as /usr/bin/python3+0x1234:return."""
        return [attachment.name for attachment in self._attached.values()]

    def detach(self, program_fd: int) -> int:
        """Takes a program from everything it is attached to; how many places that were."""
        places = [place for place in self._attached if place[-1] == program_fd]
        for place in places:
            self._attached.pop(place).close()
        return len(places)

    def close(self) -> None:
        """Detaches everything."""
        while self._attached:
            self._attached.popitem()[1].close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
