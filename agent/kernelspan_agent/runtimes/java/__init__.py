# SPDX-License-Identifier: Apache-2.0
"""HotSpot, JDK 8 to 28: `structs` and `layout` (what the kernel needs), `methods`, `nmethods`, `symbolise`, `walk`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kernelspan_agent.runtimes.registry import DetectedRuntime, LiveStack, Runtime, Walker

from .detect import NAME, NUMBER, detect, inspect
from .layout import COMPILED, CUT, INTERPRETED, JAVA_CODE, JAVA_LAYOUT, LINE_BYTES, UNREAD, WRAPPER

if TYPE_CHECKING:
    from kernelspan_agent.process.memory import Memory

    from .symbolise import JavaSymboliser


def _symboliser(found: DetectedRuntime, memory: Memory) -> JavaSymboliser:
    from .symbolise import JavaSymboliser

    return JavaSymboliser(memory, found.details)


def _walk(found: DetectedRuntime, memory: Memory) -> list[LiveStack]:
    from .walk import read_stacks

    return read_stacks(found, memory)


WALKER = Walker(
    ("ks_java", "ks_java_codes", "ks_java_find"),
    {"ks_java_layout": JAVA_LAYOUT, "ks_java_code_rec": JAVA_CODE},
    {
        "KS_JAVA_INTERPRETED": INTERPRETED,
        "KS_JAVA_COMPILED": COMPILED,
        "KS_JAVA_WRAPPER": WRAPPER,
        "KS_JAVA_UNREAD": UNREAD,
        "KS_JAVA_CUT": CUT,
        "KS_JAVA_LINE_BYTES": LINE_BYTES,
        "KS_JAVA_THREAD_SCAN": 1024,
    },
)
RUNTIME = Runtime(NAME, NUMBER, WALKER, detect, _symboliser, _walk, inspect)
