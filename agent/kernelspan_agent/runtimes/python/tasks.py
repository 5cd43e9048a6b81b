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
