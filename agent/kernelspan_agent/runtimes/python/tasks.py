# SPDX-License-Identifier: Apache-2.0
"""Which asyncio task a coroutine's frame belongs to, when addresses are used again: the task's number.

Tasks one after another get the same addresses; asyncio numbers them (`Task-1`, `Task-2`, ...), so address and number
name one task. The kernel follows the same chain, at the moment of the event, with at most 7 reads:

1. C = the outermost frame that a generator owns (the key of the context); coroutine = C - generator_frame (3.11+), or
   the pointer at C + frame_generator (before). H = the next Python frame outside C (skipping owner >= owner_skip).
   No H: no generation.
2. handle = u64 at H + frame_localsplus, tag bits cleared; callback = u64 at handle + handle_callback.
3. For task in (u64 at callback + callback_task, u64 at callback + method_self), in this order, the second only where
   the first does not fit: u64 at task + task_coro must be `coroutine`. No task fits: no generation. This is what
   makes a wrong answer impossible to come by: whatever the outer frame is, only the task that runs this very
   coroutine holds its address there.
4. name = u64 at task + task_name (the word after task_coro in every version).
5. type = u64 at name + 8, relative to interp_head_address.
   * unicode_type: compact ASCII (state & 0x60 == 0x60), 6 <= length <= 24, the data is "Task-" and 1-19 digits, the
     first not 0: N is that decimal number.
   * long_type and long_tag != ABSENT: sign bits (tag & 3) are 0 and tag >> 3 is 1 or 2: N = digit0 | digit1 << 30.
   * anything else (a name of the user's own): no generation.
The generation is N; 0 stands for none. An int becomes a str of the same number when somebody asks for the name.
"""

from __future__ import annotations

import re
import struct
from typing import TYPE_CHECKING

from kernelspan_agent.process.errors import MemoryReadError
from kernelspan_agent.process.memory import read_u64
from kernelspan_agent.runtimes.mixing import mix

from .layout import ABSENT

if TYPE_CHECKING:
    from kernelspan_agent.process.memory import Memory

    from .layout import Offsets, Types

NONE = 0
_TASK = 1 << 63
MAX_NAME_BYTES = 24  # "Task-" and 19 digits
_COMPACT_ASCII = 0x60
_NUMBERED = re.compile(rb"Task-([1-9][0-9]{0,18})")
_DIGIT_BITS = 30


def generation_of(number: int) -> int:
    """OPERATION["generation"] of the task of this number, without its last two bits."""
    return mix(number | _TASK, 0) & ~3


def task_number(memory: Memory, offsets: Offsets, frame: int, outer: int, types: Types) -> int:
    """The number of the asyncio task whose outermost coroutine's frame is at `frame`, called from that at `outer`.

    NONE where it is not known, for whatever reason.
    """
    if offsets.task_coro == ABSENT or not frame or not outer:
        return NONE
    try:
        if offsets.generator_frame != ABSENT:
            coroutine = frame - offsets.generator_frame
        else:
            coroutine = read_u64(memory, frame + offsets.frame_generator)
        handle = read_u64(memory, outer + offsets.frame_localsplus) & ~offsets.tag_mask
        callback = read_u64(memory, handle + offsets.handle_callback)
        name = _name_of_task(memory, offsets, callback, coroutine)
        return _number(memory, offsets, name, types) if name else NONE
    except MemoryReadError:
        return NONE


def _name_of_task(memory: Memory, offsets: Offsets, callback: int, coroutine: int) -> int:
    for slot in (offsets.callback_task, offsets.method_self):
        try:
            task = read_u64(memory, callback + slot)
            coro, name = struct.unpack("<QQ", memory.read(task + offsets.task_coro, 16))
        except MemoryReadError:
            continue
        if coro == coroutine:
            return int(name)
    return 0


def _number(memory: Memory, offsets: Offsets, name: int, types: Types) -> int:
    kind = read_u64(memory, name + 8)
    if types.unicode and kind == types.unicode:
        length = read_u64(memory, name + offsets.str_length)
        state = struct.unpack("<I", memory.read(name + offsets.str_state, 4))[0]
        if state & _COMPACT_ASCII != _COMPACT_ASCII or length > MAX_NAME_BYTES:
            return NONE
        match = _NUMBERED.fullmatch(memory.read(name + offsets.str_data, length))
        return int(match[1]) if match else NONE
    if types.long and kind == types.long and offsets.long_tag != ABSENT:
        tag = read_u64(memory, name + offsets.long_tag)
        if tag & 3 or tag >> 3 not in (1, 2):
            return NONE
        digits = struct.unpack(f"<{tag >> 3}I", memory.read(name + offsets.long_digits, 4 * (tag >> 3)))
        return sum(digit << _DIGIT_BITS * index for index, digit in enumerate(digits))
    return NONE
