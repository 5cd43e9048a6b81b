# SPDX-License-Identifier: Apache-2.0
"""Node.js 18 to 26: `build` and `layout` (what the kernel needs), `heap`, `positions`, `lines`, `maps`, `symbolise`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kernelspan_agent.runtimes.registry import DetectedRuntime, LiveStack, Runtime, Walker

from .detect import LIBRARY, NAME, NUMBER, detect, foresee, inspect
from .layout import (
    BUILTIN,
    COMPILED,
    CUT_FILE,
    CUT_NAME,
    EVALUATED,
    FROM_URL,
    INTERPRETED,
    JS_CODE,
    JS_LAYOUT,
    MISSING,
    OUTSIDE,
)

if TYPE_CHECKING:
    from kernelspan_agent.process.memory import Memory

    from .symbolise import NodeSymboliser


def _symboliser(found: DetectedRuntime, memory: Memory) -> NodeSymboliser:
    from .symbolise import NodeSymboliser

    return NodeSymboliser(memory, found.details)


def _walk(_found: DetectedRuntime, _memory: Memory) -> list[LiveStack]:
    return []  # which isolate a thread has is known to the thread alone


WALKER = Walker(
    ("ks_nodejs", "ks_nodejs_codes"),
    {"ks_js_layout": JS_LAYOUT, "ks_js_code_rec": JS_CODE},
    {
        "KS_JS_INTERPRETED": INTERPRETED,
        "KS_JS_COMPILED": COMPILED,
        "KS_JS_BUILTIN": BUILTIN,
        "KS_JS_CUT_NAME": CUT_NAME,
        "KS_JS_CUT_FILE": CUT_FILE,
        "KS_JS_MISSING": MISSING,
        "KS_JS_FROM_URL": FROM_URL,
        "KS_JS_EVALUATED": EVALUATED,
        "KS_JS_OUTSIDE": OUTSIDE,
    },
)
RUNTIME = Runtime(NAME, NUMBER, WALKER, detect, _symboliser, _walk, inspect, library=LIBRARY, foresee=foresee)
