# SPDX-License-Identifier: Apache-2.0
"""What the kernel is told of a process besides what runs it, and may change as long as it lives: see registry.Runtime."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

from kernelspan_agent.process.errors import ProcessError
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
