# SPDX-License-Identifier: Apache-2.0
"""All threads' stacks as they are now, read from outside: for people who look, never for tracing."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from kernelspan_agent.process.memory import Memory
    from kernelspan_agent.runtimes.registry import DetectedRuntime, LiveStack


def read_stacks(_found: DetectedRuntime, _memory: Memory) -> list[LiveStack]:
    """To be written."""
    return []
