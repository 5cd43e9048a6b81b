# SPDX-License-Identifier: Apache-2.0
"""Frames of optimised code (Maglev, TurboFan), those of the functions that were made a part of it too.

V8's own traces take them from what it keeps to leave the code: the place that a call returns to leads to an exit, the exit to a
translation, and that to functions and places in their bytecode. A function of V8's own whose loop was made a part of the code
(Array.prototype.map) is named there and nowhere else. Where one of these does not lead on, or contradicts another, nothing is
told. Layouts: src/objects/deoptimization-data.h of V8.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from kernelspan_agent.process.memory import read_u64

from .functions import Function, read_shown
from .heap import CorruptHeapError, bytes_of, entry_of, type_of
from .positions import position_of
from .safepoints import safepoint_at
from .translations import Inlined, TranslationError, frames_of

if TYPE_CHECKING:
    from kernelspan_agent.process.memory import Memory

    from .layout import Layout

_TRANSLATIONS = 0  # in the data for leaving
_EXIT_ENTRIES, _EXIT_TRANSLATION, _EXIT_PLACE = 3, 1, 2
_WEAK = 2  # of a tagged value: V8 may forget it


def frames_in(
    memory: Memory, data: int, table: int, place: int, layout: Layout, *, maglev: bool
) -> list[tuple[Function, int]]:
    """Functions, the innermost first, each with its place in the script (-1: not known), where a call returns to `place`.

    `data`: what the code keeps to be left; `table`: of its safepoints. Raises MemoryReadError; CorruptHeapError: not known.
    """
    at = layout.version.code
    found = safepoint_at(memory, table, place, layout.version.safepoint_lead, maglev=maglev)
    if found is None or found.exit < 0:
        raise CorruptHeapError(f"code that is not left at {place}")
    entry = at.first_exit + found.exit * _EXIT_ENTRIES
    index, where = (entry_of(memory, data, entry + each) for each in (_EXIT_TRANSLATION, _EXIT_PLACE))
    if index & 0xFFFFFFFF or where & 0xFFFFFFFF or where >> 32 not in (found.place, found.jump):
        raise CorruptHeapError(f"the exit {found.exit} is of {where >> 32}, not of {place}")
    translations = bytes_of(memory, entry_of(memory, data, _TRANSLATIONS))
    literals = entry_of(memory, data, at.literals)
    try:
        named = frames_of(translations, index >> 32, layout.version.opcodes)
    except TranslationError as error:
        raise CorruptHeapError(str(error)) from error
    frames = []
    for each in reversed(named):
        shared = _shared(memory, literals, each, layout, maglev=maglev)
        function = read_shown(memory, shared, layout)
        if function is not None:
            position = -1 if each.builtin else position_in(memory, shared, each.offset, layout)
            frames.append((function, position))
    return frames


def _shared(memory: Memory, literals: int, each: Inlined, layout: Layout, *, maglev: bool) -> int:
    """The SharedFunctionInfo of a frame that a translation names.

    Of V8's own functions Maglev names the function outside instead: there the function is what is said to be at work.
    """
    named = _function(memory, entry_of(memory, literals, each.literal), layout)
    if not each.builtin or (each.function < 0 and not maglev):
        return named
    value = entry_of(memory, literals, each.function) & ~_WEAK
    own = _function(memory, read_u64(memory, value - 1 + layout["function_shared"]), layout)
    if own != named and not maglev:
        raise CorruptHeapError(f"a frame of {named:#x} and of {own:#x}")
    return own


def _function(memory: Memory, value: int, layout: Layout) -> int:
    """The SharedFunctionInfo that a literal is or leads to."""
    if value & 3 == 3:
        value &= ~_WEAK
    if type_of(memory, value) == layout["type_shared"]:
        return value
    if value & 3 == 1 and type_of(memory, shared := read_u64(memory, value - 1 + 8)) == layout["type_shared"]:
        return shared
    raise CorruptHeapError(f"no function at {value:#x}")


def position_in(memory: Memory, shared: int, offset: int, layout: Layout) -> int:
    """Where in its script a function is at work, by the offset in its bytecode; -1: it cannot be told."""
    bytecode = read_u64(memory, shared - 1 + 8)
    kind = type_of(memory, bytecode)
    if kind == layout["type_code"]:
        bytecode = read_u64(memory, bytecode - 1 + layout.version.code.data)
        kind = type_of(memory, bytecode)
    if kind == layout["type_interpreter_data"]:
        bytecode = read_u64(memory, bytecode - 1 + 8)
        kind = type_of(memory, bytecode)
    if kind != layout["type_bytecode"]:
        return -1
    table = read_u64(memory, bytecode - 1 + layout.version.bytecode_positions)
    if type_of(memory, table) != layout["type_positions"]:
        return -1
    found = position_of(bytes_of(memory, table), offset, packed=layout.version.packed_positions)
    return -1 if found is None else found
