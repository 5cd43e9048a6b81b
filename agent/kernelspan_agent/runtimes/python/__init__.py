# SPDX-License-Identifier: Apache-2.0
"""CPython 3.8 to 3.15, GIL builds: `layout` and `build` (what the kernel needs), `symbolise`, `tasks`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kernelspan_agent.runtimes.registry import DetectedRuntime, LiveStack, Runtime, Walker

from .detect import GREENLETS, GREENLETS_LIBRARY, LIBRARY, NAME, NUMBER, detect, flags, foresee, inspect
from .layout import PY_CODE, PY_LAYOUT

if TYPE_CHECKING:
    from kernelspan_agent.process.memory import Memory
    from kernelspan_agent.process.procfs import Process
    from kernelspan_agent.runtimes.registry import Tables, Watch

    from .symbolise import PythonSymboliser


def _symboliser(found: DetectedRuntime, memory: Memory) -> PythonSymboliser:
    from .symbolise import PythonSymboliser

    return PythonSymboliser(memory, found.details.offsets, found.details.types)


def _walk(found: DetectedRuntime, memory: Memory) -> list[LiveStack]:
    from .walk import read_stacks

    return read_stacks(found, memory)


def _loaded(found: DetectedRuntime, memory: Memory) -> list[str] | None:
    from .modules import read_files

    return read_files(found, memory)


def _watch(
    found: DetectedRuntime, process: Process, memory: Memory, symboliser: PythonSymboliser, tables: Tables
) -> Watch:
    from .loops import Loops

    return Loops(found, process, memory, symboliser, tables)


WALKER = Walker(
    ("ks_py", "ks_py_codes", "ks_py_find", "ks_py_task"),
    {"ks_py_layout": PY_LAYOUT, "ks_code_rec": PY_CODE},
    {"KS_RUNTIME_GREENLETS": GREENLETS, "KS_PY_THREAD_SCAN": 512, "KS_CODE_CUT": 1},
)
RUNTIME = Runtime(
    NAME,
    NUMBER,
    WALKER,
    detect,
    _symboliser,
    _walk,
    inspect,
    _loaded,
    usual=True,
    flags=flags,
    flagged_by={GREENLETS_LIBRARY.encode(): GREENLETS},
    watch=_watch,
    library=LIBRARY,
    foresee=foresee,
)
