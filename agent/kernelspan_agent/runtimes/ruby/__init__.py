# SPDX-License-Identifier: Apache-2.0
"""CRuby 2.7 to 3.4: `layout` and `build` (what the kernel needs), `objects`, `symbolise`, `walk`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kernelspan_agent.runtimes.registry import DetectedRuntime, LiveStack, Runtime, Walker

from . import layout
from .detect import NAME, NUMBER, detect, inspect

if TYPE_CHECKING:
    from kernelspan_agent.process.memory import Memory

    from .symbolise import RubySymboliser


def _symboliser(found: DetectedRuntime, memory: Memory) -> RubySymboliser:
    from .symbolise import RubySymboliser

    return RubySymboliser(memory, found.details)


def _walk(found: DetectedRuntime, memory: Memory) -> list[LiveStack]:
    from .walk import read_stacks

    return read_stacks(found, memory)


WALKER = Walker(
    ("ks_ruby", "ks_ruby_find", "ks_ruby_codes"),
    {"ks_ruby_layout": layout.RUBY_LAYOUT, "ks_ruby_code_rec": layout.RUBY_CODE},
    {
        "KS_RUBY_CFUNC": layout.CFUNC,
        "KS_RUBY_KIND": layout.KIND,
        "KS_RUBY_SINGLETON": layout.SINGLETON,
        "KS_RUBY_UNREAD": layout.UNREAD,
        "KS_RUBY_MISSING": layout.MISSING,
        "KS_RUBY_CUT_NAME": layout.CUT_NAME,
        "KS_RUBY_CUT_CLASS": layout.CUT_CLASS,
        "KS_RUBY_CUT_FILE": layout.CUT_FILE,
        "KS_RUBY_TEXT": layout.TEXT_BYTES,
        "KS_RUBY_TLS_NONE": layout.TLS_NONE,
        "KS_RUBY_TLS_FIXED": layout.TLS_FIXED,
    },
)
RUNTIME = Runtime(NAME, NUMBER, WALKER, detect, _symboliser, _walk, inspect)
