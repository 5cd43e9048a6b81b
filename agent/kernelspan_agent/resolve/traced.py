# SPDX-License-Identifier: Apache-2.0
"""A traced process: one image of it, from its exec or fork to its end, and what is known of it by now."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from kernelspan_agent.libraries.base import LibraryContext
from kernelspan_agent.model import AttributeValue
from kernelspan_agent.process import procfs
from kernelspan_agent.process.memory import ProcessMemory
from kernelspan_agent.resolve.clock import TICK_NS, boot_ahead_ns
from kernelspan_agent.resolve.glance import Glance, glance_after_exec
from kernelspan_agent.runtimes import registry
from kernelspan_agent.runtimes.registry import DetectedRuntime, Unsupported

if TYPE_CHECKING:
    from kernelspan_agent.runtimes.registry import RawFrame


@dataclass(slots=True, eq=False)
class TracedProcess:
    """One image of one process."""

    tgid: int
    name: str
    start_ns: int  # CLOCK_MONOTONIC
    started_epoch_ns: int
    from_start: bool  # we saw its exec or fork: all its operations are known
    parent: TracedProcess | None  # that forked it
    seen: Glance | None  # None: it had ended before we could look
    context: LibraryContext
    wanted_by: frozenset[str]  # uids of profiles
    directories: tuple[int, int] = (0, 0)  # root and working directory as PROCESS names them; 0: not known
    told: str = ""  # the path of its file, by its exec or its parent; empty: not told
    ended_ns: int = 0  # CLOCK_MONOTONIC; 0: alive
    ended_epoch_ns: int = 0
    surroundings: Mapping[str, AttributeValue] = field(default_factory=dict)  # resource attributes of its pod
    looks: int = 0  # grows with what is known of it
    runtime: DetectedRuntime | None = None
    unsupported: Unsupported | None = None
    symboliser: registry.Symboliser | None = None
    memory: ProcessMemory | None = None
    tries: int = 0
    next_try_ns: int = 0
    flags: int = 0  # see registry.Runtime
    words: tuple[int, ...] = ()
    watch: registry.Watch | None = None
    threads: dict[int, str] = field(default_factory=dict)

    @property
    def executable(self) -> str:
        """The path of the file that it runs; empty: not known."""
        return self.told or (self.seen.executable if self.seen else "")

    @property
    def process(self) -> procfs.Process | None:
        """None: it had ended before we could look."""
        return self.seen.process if self.seen else None

    def has_ended(self, at_ns: int) -> bool:
        """Whether it had before an instant (CLOCK_MONOTONIC)."""
        return bool(self.ended_ns) and self.ended_ns < at_ns

    def is_process_of(self, later: TracedProcess) -> bool:
        """Whether a later image with the same number is of the same process: that had begun when this image did."""
        ticks = later.process.start_ticks if later.process is not None else 0
        return bool(ticks) and ticks * TICK_NS - boot_ahead_ns() <= self.start_ns + TICK_NS

    def symbolise(self, rows: np.ndarray) -> list[RawFrame]:
        """Frames of this process; needs `symboliser`."""
        assert self.symboliser is not None
        return self.symboliser.frames(rows)

    def close(self) -> None:
        """Lets go of what is open of it."""
        if self.memory is not None:
            self.memory.close()
        if self.seen is not None:
            self.seen.close()

    def thread_name(self, tid: int) -> str:
        """The kernel's name of a thread as it was when first seen; empty: it had ended."""
        name = self.threads.get(tid)
        if name is None:
            if len(self.threads) > 65536:
                self.threads.clear()
            try:
                # its pid may be another's by now
                root = self.process.path if self.process and not self.ended_ns else ""
                with open(f"{root}/task/{tid}/comm", "rb") as file:  # noqa: PTH123 - a hot path
                    name = procfs.printable(file.read(64).rstrip(b"\n").decode(errors="surrogateescape"))
            except OSError:
                name = ""
            self.threads[tid] = name
        return name


def seen_after_exec(tgid: int, before: TracedProcess | None, directories: tuple[int, int]) -> Glance | None:
    """What is known of a process by what it was before its exec."""
    if before is None or before.seen is None or not directories[0] or before.directories[0] != directories[0]:
        return None
    return glance_after_exec(tgid, before.seen, same_cwd=before.directories[1] == directories[1])
