# SPDX-License-Identifier: Apache-2.0
"""Programs without a runtime (C, C++, Rust), x86-64.

`ehframe` and `rows` (what a file says of where callers are), `objects` (files), `spaces` (what processes have mapped), `watch`,
`names` and `symbolise`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from kernelspan_agent.runtimes.registry import LiveStack, Runtime, Walker

from .detect import NAME, NUMBER, detect, inspect
from .layout import CONSTANTS, PART

if TYPE_CHECKING:
    from kernelspan_agent.process.memory import Memory
    from kernelspan_agent.process.procfs import Process
    from kernelspan_agent.runtimes.registry import DetectedRuntime, Tables, Watch

    from .symbolise import NativeSymboliser


def _symboliser(found: DetectedRuntime, memory: Memory) -> NativeSymboliser:
    from .symbolise import NativeSymboliser

    del memory  # all names are in files
    return NativeSymboliser(found.file)


def _no_stacks(found: DetectedRuntime, memory: Memory) -> list[LiveStack]:
    """A thread's registers are not to be had without stopping it."""
    del found, memory
    return []


def _watch(
    found: DetectedRuntime, process: Process, memory: Memory, symboliser: NativeSymboliser, tables: Tables
) -> Watch:
    from .watch import Mapped

    return Mapped(found, process, memory, symboliser, tables)


WALKER = Walker(("ks_native",), {"ks_native_part": PART}, CONSTANTS)
RUNTIME = Runtime(
    NAME, NUMBER, WALKER, detect, _symboliser, _no_stacks, inspect, scripts=False, watch=_watch, fallback=True
)
