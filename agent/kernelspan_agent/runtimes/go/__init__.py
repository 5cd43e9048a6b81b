# SPDX-License-Identifier: Apache-2.0
"""Go 1.18 to 1.26: `layout` and `build` (what the kernel needs), `table`, `modules` and `symbolise`, `walk`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kernelspan_agent.runtimes.registry import DetectedRuntime, Runtime, Walker

from .detect import KNOWN, NAME, NUMBER, detect, foresee, inspect
from .layout import FRAME, GO_LAYOUT, LEFT, OWN, SYSTEM
from .symbolise import GoSymboliser
from .walk import read_stacks

if TYPE_CHECKING:
    from kernelspan_agent.process.memory import Memory


def _symboliser(found: DetectedRuntime, memory: Memory) -> GoSymboliser:
    del memory  # all names are in the file
    return GoSymboliser(found.details.file, KNOWN)


WALKER = Walker(
    ("ks_go",),
    {"ks_go_layout": GO_LAYOUT},
    {"KS_GO_OWN": OWN, "KS_GO_SYSTEM": SYSTEM, "KS_GO_LEFT": LEFT, "KS_GO_FRAME": FRAME},
)
RUNTIME = Runtime(NAME, NUMBER, WALKER, detect, _symboliser, read_stacks, inspect, scripts=False, foresee=foresee)
