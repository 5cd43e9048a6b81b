# SPDX-License-Identifier: Apache-2.0
"""CPython 3.8 to 3.15, GIL builds: `layout` and `build` (what the kernel needs), `symbolise`, `tasks`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kernelspan_agent.runtimes.registry import DetectedRuntime, Runtime, Walker

from .detect import GREENLETS, NAME, NUMBER, detect, flags, inspect
from .layout import PY_CODE, PY_LAYOUT
from .loops import Loops
from .modules import read_files
from .symbolise import PythonSymboliser
from .walk import read_stacks

if TYPE_CHECKING:
    from kernelspan_agent.process.memory import Memory


def _symboliser(found: DetectedRuntime, memory: Memory) -> PythonSymboliser:
    return PythonSymboliser(memory, found.details.offsets, found.details.types)


WALKER = Walker(
    ("ks_py", "ks_py_codes", "ks_py_find", "ks_py_task"),
    {"ks_py_layout": PY_LAYOUT, "ks_code_rec": PY_CODE},
    {"KS_RUNTIME_GREENLETS": GREENLETS, "KS_PY_THREAD_SCAN": 512, "KS_CODE_CUT": 1},
)
RUNTIME = Runtime(
    NAME, NUMBER, WALKER, detect, _symboliser, read_stacks, inspect, read_files, usual=True, flags=flags, watch=Loops
)
