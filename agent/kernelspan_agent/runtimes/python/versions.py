# SPDX-License-Identifier: Apache-2.0
"""The offsets of CPython 3.8 to 3.15, 64-bit GIL builds, by minor version.

Up to 3.12 they are offsetof() over the interpreters' own headers, and fixed within a minor version from the first
release candidate on. From 3.13 on `debug_offsets` reads what the interpreter publishes about itself; fields that it
does not publish are taken from here only where all published fields of the same struct agree with this table.
The offsets of asyncio's task, which no header has, were read from debug information and from live objects.
"""

from __future__ import annotations

from dataclasses import replace

from .layout import ABSENT, Offsets

OLDEST_MINOR, NEWEST_MINOR = 8, 15
FIRST_WITH_DEBUG_OFFSETS = 13

_V38 = Offsets(
    minor=8,
    interp_next=0,
    interp_threads_head=8,
    ts_thread_id=176,
    ts_frame=24,
    ts_context_ver=248,
    cframe_current=ABSENT,
    frame_header_bytes=112,
    frame_previous=24,
    frame_code=32,
    frame_pc=104,
    frame_pc_bytes=4,
    frame_globals=48,
    frame_owner=ABSENT,
    frame_generator=96,
    frame_localsplus=360,
    generator_frame=ABSENT,
    code_flags=36,
    code_check=16,  # argument counts, locals, stack size, flags, first line
    code_check_bytes=28,
    code_strings=104,
    str_data=48,
    task_coro=112,
    task_name=120,
    runtime_interpreters_head=32,
    code_first_line=40,
    code_file=104,
    code_name=112,
    code_line_table=120,
    str_compact_data=72,
)
_V39 = replace(_V38, minor=9, task_coro=152, task_name=160)
_V310 = replace(
    _V39,
    minor=10,
    frame_header_bytes=104,
    frame_pc=96,
    frame_generator=88,
    frame_localsplus=352,
    task_coro=160,
    task_name=168,
)
_V311 = replace(
    _V310,
    minor=11,
    interp_threads_head=16,
    ts_thread_id=152,
    ts_frame=56,
    ts_context_ver=232,
    cframe_current=8,
    frame_header_bytes=72,
    frame_previous=48,
    frame_pc=56,
    frame_pc_bytes=8,
    frame_globals=8,
    frame_owner=69,
    frame_generator=ABSENT,
    frame_localsplus=72,
    generator_frame=80,
    code_flags=48,
    code_check=56,  # argument counts, stack size, first line, locals; co_warmup at 52 changes and stays out
    code_check_bytes=32,
    code_strings=112,
    task_coro=136,
    task_name=144,
    runtime_interpreters_head=40,
    code_first_line=72,
    code_file=112,
    code_name=120,
    code_qualname=128,
    code_line_table=136,
    code_bytecode=184,
)
_V312 = replace(
    _V311,
    minor=12,
    interp_threads_head=72,
    ts_thread_id=136,
    ts_context_ver=216,
    cframe_current=0,
    frame_previous=8,
    frame_code=0,
    frame_globals=24,
    frame_owner=70,
    generator_frame=72,
    code_check=64,  # stack size, first line, locals, cells, and co_version at 92: one number a code object
    code_strings=ABSENT,
    owner_skip=3,
    str_data=40,
    str_compact_data=56,
    long_tag=16,
    long_digits=24,
    code_first_line=68,
    code_bytecode=192,
)
_V313 = replace(
    _V312,
    minor=13,
    interp_next=7264,
    interp_threads_head=7344,
    ts_thread_id=152,
    ts_frame=72,
    cframe_current=ABSENT,
    task_coro=120,
    task_name=128,
    runtime_interpreters_head=632,
    code_bytecode=200,
)
_V314 = replace(
    _V313,
    minor=14,
    ts_running_task=872,
    tuple_items=32,
    interp_next=7272,
    frame_header_bytes=80,
    frame_owner=74,
    frame_localsplus=80,
    tag_mask=3,
    task_coro=128,
    task_name=136,
    runtime_interpreters_head=808,
    code_bytecode=208,
)
_V315 = replace(
    _V314,
    minor=15,
    ts_running_task=1032,
    interp_next=7264,
    interp_threads_head=7336,
    ts_thread_id=176,
    ts_context_ver=240,
    runtime_interpreters_head=936,
)
BY_MINOR = {offsets.minor: offsets for offsets in (_V38, _V39, _V310, _V311, _V312, _V313, _V314, _V315)}
