# SPDX-License-Identifier: Apache-2.0
"""What the kernel is told of a process besides what runs it, and may change as long as it lives: see registry.Runtime."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

from kernelspan_agent.process.errors import ProcessError
from kernelspan_agent.resolve.glance import Glance, glance_after_exec
from kernelspan_agent.runtimes import registry

if TYPE_CHECKING:
    from kernelspan_agent.resolve.processes import TracedProcess
    from kernelspan_agent.runtimes.registry import DetectedRuntime


def flags_of(traced: TracedProcess, found: DetectedRuntime) -> int:
    """Those of now; 0 where the process has ended."""
    if traced.process is not None:
        with contextlib.suppress(ProcessError):
            return registry.flags(found, traced.process)
    return 0


def words_of(traced: TracedProcess) -> tuple[int, ...]:
    """What is known by now; what was known of a process goes on to be known of its fork."""
    if traced.watch is None:
        return traced.words
    words = traced.watch.words()
    return tuple(now or before for now, before in zip(words, traced.words or words, strict=True))


def seen_after_exec(tgid: int, before: TracedProcess | None, directories: tuple[int, int]) -> Glance | None:
    """What is known of a process by what it was before its exec."""
    if before is None or before.seen is None or not directories[0] or before.directories[0] != directories[0]:
        return None
    return glance_after_exec(tgid, before.seen, same_cwd=before.directories[1] == directories[1])
