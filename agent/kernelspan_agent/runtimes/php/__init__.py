# SPDX-License-Identifier: Apache-2.0
"""PHP 7.4 to 8.6, builds without threads: `layout` and `build` (what the kernel needs), `functions`, `symbolise`, `walk`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kernelspan_agent.runtimes.registry import DetectedRuntime, LiveStack, Runtime, Walker

from .detect import LIBRARY, NAME, NUMBER, detect, foresee, inspect
from .layout import CUT_CLASS, CUT_FILE, CUT_NAME, MAIN, MISSING, PHP_CODE, PHP_LAYOUT, UNREAD

if TYPE_CHECKING:
    from kernelspan_agent.process.memory import Memory

    from .symbolise import PhpSymboliser


def _symboliser(found: DetectedRuntime, memory: Memory) -> PhpSymboliser:
    from .symbolise import PhpSymboliser

    return PhpSymboliser(memory, found.details)


def _walk(found: DetectedRuntime, memory: Memory) -> list[LiveStack]:
    from .walk import read_stacks

    return read_stacks(found, memory)


def _loaded(found: DetectedRuntime, memory: Memory) -> list[str] | None:
    from .included import read_files

    return read_files(found, memory)


WALKER = Walker(
    ("ks_php", "ks_php_codes"),
    {"ks_php_layout": PHP_LAYOUT, "ks_php_code_rec": PHP_CODE},
    {
        "KS_PHP_MAIN": MAIN,
        "KS_PHP_UNREAD": UNREAD,
        "KS_PHP_MISSING": MISSING,
        "KS_PHP_CUT_NAME": CUT_NAME,
        "KS_PHP_CUT_CLASS": CUT_CLASS,
        "KS_PHP_CUT_FILE": CUT_FILE,
    },
)
RUNTIME = Runtime(NAME, NUMBER, WALKER, detect, _symboliser, _walk, inspect, _loaded, library=LIBRARY, foresee=foresee)
