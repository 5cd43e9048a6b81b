# SPDX-License-Identifier: Apache-2.0
"""Go 1.18 to 1.26: `layout` and `build` (what the kernel needs), `table`, `modules` and `symbolise`, `walk`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kernelspan_agent.runtimes.registry import DetectedRuntime, LiveStack, Runtime, Walker

from .detect import KNOWN, NAME, NUMBER, detect, foresee, inspect
from .layout import FRAME, GO_LAYOUT, LEFT, OWN, SYSTEM

if TYPE_CHECKING:
    from kernelspan_agent.process.memory import Memory

    from .symbolise import GoSymboliser


def _symboliser(found: DetectedRuntime, memory: Memory) -> GoSymboliser:
    from .symbolise import GoSymboliser

    del memory  # all names are in the file
    return GoSymboliser(found.details.file, KNOWN)


def _walk(found: DetectedRuntime, memory: Memory) -> list[LiveStack]:
    from .walk import read_stacks

    return read_stacks(found, memory)


WALKER = Walker(
    ("ks_go",),
    {"ks_go_layout": GO_LAYOUT},
    {"KS_GO_OWN": OWN, "KS_GO_SYSTEM": SYSTEM, "KS_GO_LEFT": LEFT, "KS_GO_FRAME": FRAME},
)
RUNTIME = Runtime(NAME, NUMBER, WALKER, detect, _symboliser, _walk, inspect, scripts=False, foresee=foresee)
