# SPDX-License-Identifier: Apache-2.0
"""This very process, looked at as any other that runs Python."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator

from kernelspan_agent.process.memory import ProcessMemory
from kernelspan_agent.process.procfs import Process, open_process
from kernelspan_agent.runtimes import registry


@contextlib.contextmanager
def own_python() -> Iterator[tuple[Process, registry.DetectedRuntime, ProcessMemory]]:
    """The process, what was detected of it, and its memory until the block ends."""
    process = open_process(os.getpid())
    found = registry.detect(process)
    assert isinstance(found, registry.DetectedRuntime)
    with ProcessMemory(process) as memory:
        yield process, found, memory
