# SPDX-License-Identifier: Apache-2.0
"""CPython 3.8 to 3.15, GIL builds: `layout` and `build` (what the kernel needs), `symbolise`, `tasks`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kernelspan_agent.runtimes.registry import DetectedRuntime, Runtime

from .detect import NAME, NUMBER, detect
from .symbolise import PythonSymboliser
from .walk import read_stacks

if TYPE_CHECKING:
    from kernelspan_agent.process.memory import Memory


def _symboliser(found: DetectedRuntime, memory: Memory) -> PythonSymboliser:
    return PythonSymboliser(memory, found.details.offsets, found.details.types)


RUNTIME = Runtime(NAME, NUMBER, detect, _symboliser, read_stacks)
