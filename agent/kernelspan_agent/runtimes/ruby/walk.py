# SPDX-License-Identifier: Apache-2.0
"""The stacks of all threads as they are now, read from outside."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from kernelspan_agent.process.memory import Memory
    from kernelspan_agent.runtimes.registry import DetectedRuntime, LiveStack


def read_stacks(found: DetectedRuntime, memory: Memory) -> list[LiveStack]:
    """One stack a thread."""
    return []
