# SPDX-License-Identifier: Apache-2.0
"""User probes, each attached once: containers of one image share the file below, and a program must not run for each."""

from __future__ import annotations

import os
from collections.abc import Hashable
from types import TracebackType
from typing import Self

from kernelspan_agent.probes import perf, uretprobe
from kernelspan_agent.probes.attach import Attachment
from kernelspan_agent.probes.uprobe import uprobe

_Place = tuple[Hashable, int, bool, int, int]


class UserProbes:
    """What is attached by this agent to instructions of files."""

    def __init__(self) -> None:
        self._attached: dict[_Place, Attachment] = {}

    def attach(
        self,
        program_fd: int,
        file: int,
        offset: int,
        *,
        identity: Hashable = None,
        returns: bool = False,
        semaphore: int = 0,
        pid: int = perf.EVERY_PROCESS,
        name: str = "",
    ) -> bool:
        """Attaches a program to the file open at `file` as uprobe.uprobe does; False where it is attached to that very file.

        `identity`: what descriptors have in common if they are of one file below every overlay; without it device and
        inode, which tell containers of one image apart. Raises MachineError as `uprobe`, and UretprobeUnsafe.
        """
        if identity is None:
            found = os.fstat(file)
            identity = (found.st_dev, found.st_ino)
        place = (identity, offset, returns, pid, program_fd)
        if place in self._attached:
            return False
        if returns:
            uretprobe.require_safe(file)
        self._attached[place] = uprobe(
            file, offset, program_fd, returns=returns, semaphore=semaphore, pid=pid, name=name
        )
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
