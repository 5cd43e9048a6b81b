# SPDX-License-Identifier: Apache-2.0
"""Where CPython keeps what the walk and the symboliser need, per version: 3.8 to 3.15, 64-bit GIL builds.

The kernel program gets one PY_LAYOUT row per kind of interpreter; user space reads the same numbers from `Offsets`.
Offsets up to 3.12 are offsetof() over the interpreters' own headers (they are fixed within a minor version from the
first release candidate on). From 3.13 on `debug_offsets` reads what the interpreter publishes about itself; fields it
does not publish are taken from the table only where all published fields of the same struct agree with the table.

ABSENT (0xffff) in a field means that this version has no such thing.

What the kernel computes for FRAME.check (`check_word` is the same in user space):
* words 0-3: the `code_check_bytes` (<= 32) bytes at code + code_check, padded with zeros.
* Only where code_strings != ABSENT (before 3.12, whose co_version is unique in a process): four words more.
  At code + code_strings lie two pointers, file and name (both str). word 4 = u64 at name + str_hash; word 5 = u64
  length at file + str_length; words 6-7 = the 16 bytes that end at file + str_data + length where the str is compact
  ASCII (state bits 5 and 6 at str_state) and 16 <= length <= 4096, else zeros.
* h = 0; for each word w: h = (h ^ w) * 0x9E3779B97F4A7C15; h ^= h >> 29. check = (u32)((h >> 32) ^ h).

Fields for asyncio's generation: see `tasks`.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, fields, replace

import numpy as np

ABSENT = 0xFFFF
NO_SKIP = 255
OLDEST_MINOR, NEWEST_MINOR = 8, 15
FIRST_WITH_DEBUG_OFFSETS = 13

PY_LAYOUT = np.dtype(
    [
        ("interp_next", "<u4"),  # in PyInterpreterState
        ("interp_threads_head", "<u4"),
        ("long_type", "<i8"),  # address of PyLong_Type minus interp_head_address; 0: not known
        ("unicode_type", "<i8"),  # address of PyUnicode_Type minus interp_head_address; 0: not known
        ("ts_prev", "<u2"),  # in PyThreadState
        ("ts_next", "<u2"),
        ("ts_thread_id", "<u2"),  # pthread_t, u64
        ("ts_frame", "<u2"),  # frame (3.8-3.10), cframe (3.11, 3.12), current_frame (3.13+)
        ("ts_context_ver", "<u2"),  # u64, counts entered and left contexts of the thread
        ("cframe_current", "<u2"),  # ABSENT: *ts_frame is the frame itself
        ("frame_header_bytes", "<u2"),  # the exact length of the bulk read: a frame is never shorter
        ("frame_previous", "<u2"),
        ("frame_code", "<u2"),  # clear tag_mask's bits
        ("frame_pc", "<u2"),  # f_lasti, prev_instr, instr_ptr
        ("frame_pc_bytes", "<u2"),  # 4 or 8
        ("frame_globals", "<u2"),
        ("frame_owner", "<u2"),  # u8
        ("frame_generator", "<u2"),  # pointer to the generator or coroutine (3.8-3.10); not NULL: a generator's frame
        ("frame_localsplus", "<u2"),  # first local variable: a pointer; clear tag_mask's bits
        ("generator_frame", "<u2"),  # 3.11+: the frame's offset in its generator: generator = frame - generator_frame
        ("code_flags", "<u2"),
        ("code_check", "<u2"),
        ("code_check_bytes", "<u2"),
        ("code_strings", "<u2"),  # two pointers: file, name
        ("tag_mask", "<u2"),  # low bits that are not address: 3 from 3.14 on
        ("minor", "<u2"),
        ("owner_generator", "<u2"),  # value of owner that marks a generator's frame
        ("owner_skip", "<u2"),  # owner values from here on are not Python frames
        ("str_length", "<u2"),
        ("str_hash", "<u2"),
        ("str_state", "<u2"),  # u32; bits 2-4 kind, 5 compact, 6 ASCII
        ("str_data", "<u2"),  # data of a compact ASCII str
        ("handle_callback", "<u2"),  # slot _callback of asyncio's Handle
        ("callback_task", "<u2"),  # task in a step or wake-up wrapper
        ("method_self", "<u2"),  # task in a builtin method
        ("task_coro", "<u2"),  # the task's coroutine: must be the one whose frame is outermost
        ("task_name", "<u2"),  # str "Task-N", or int N from 3.12 on
        ("long_tag", "<u2"),  # u64 of an int: digits << 3 | sign (3.12+)
        ("long_digits", "<u2"),  # u32 each, 30 bits used (3.12+)
        ("reserved", "<u2"),
    ]
)
assert PY_LAYOUT.itemsize % 8 == 0, PY_LAYOUT.itemsize


@dataclass(frozen=True, slots=True)
class Offsets:
    """Every offset of one kind of interpreter, in bytes. The first part bears the names of PY_LAYOUT."""

    minor: int
    interp_next: int
    interp_threads_head: int
    ts_thread_id: int
    ts_frame: int
    ts_context_ver: int
    cframe_current: int
    frame_header_bytes: int
    frame_previous: int
    frame_code: int
    frame_pc: int
    frame_pc_bytes: int
    frame_globals: int
    frame_owner: int
    frame_generator: int
    frame_localsplus: int
    generator_frame: int
    code_flags: int
    code_check: int
    code_check_bytes: int
    code_strings: int
    str_data: int
    task_coro: int
    task_name: int
    tag_mask: int = 0
    owner_skip: int = NO_SKIP
    long_tag: int = ABSENT
    long_digits: int = ABSENT
    ts_prev: int = 0
    ts_next: int = 8
    owner_generator: int = 1
    str_length: int = 16
    str_hash: int = 24
    str_state: int = 32
    handle_callback: int = 24
    callback_task: int = 16
    method_self: int = 24
    # what only user space reads
    runtime_interpreters_head: int = 0
    code_first_line: int = 0
    code_file: int = 0
    code_name: int = 0
    code_qualname: int = ABSENT
    code_line_table: int = 0
    code_bytecode: int = ABSENT  # co_code_adaptive: where frame_pc counts from (3.11+)
    str_compact_data: int = 0  # data of a compact str that is not ASCII
    bytes_size: int = 16
    bytes_data: int = 32
    dict_keys: int = 32


@dataclass(frozen=True, slots=True)
class Types:
    """Addresses of the type objects that tell what an object is; 0: not exported, not known."""

    long: int = 0
    unicode: int = 0
    code: int = 0
    dict: int = 0

    def moved(self, bias: int) -> Types:
        """The same, where the file is loaded with this bias."""
        return Types(*(address + bias if address else 0 for address in (self.long, self.unicode, self.code, self.dict)))


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
    interp_next=7264,
    interp_threads_head=7336,
    ts_thread_id=176,
    ts_context_ver=240,
    runtime_interpreters_head=936,
)
BY_MINOR = {offsets.minor: offsets for offsets in (_V38, _V39, _V310, _V311, _V312, _V313, _V314, _V315)}


def kernel_row(offsets: Offsets, types: Types | None = None, head: int = 0) -> np.ndarray:
    """The PY_LAYOUT row (shape (1,)) of `offsets`; of the types it keeps the distance to `head`."""
    row = np.zeros(1, PY_LAYOUT)
    names = PY_LAYOUT.names or ()
    for item in fields(offsets):
        if item.name in names:
            row[item.name] = getattr(offsets, item.name)
    if types is not None:
        row["long_type"] = types.long - head if types.long else 0
        row["unicode_type"] = types.unicode - head if types.unicode else 0
    return row


def interp_head_address(runtime_address: int, offsets: Offsets) -> int:
    """Address of `_PyRuntime.interpreters.head`, where the kernel's search for the thread begins."""
    return (runtime_address + offsets.runtime_interpreters_head) & 0xFFFFFFFFFFFFFFFF


def check_word(window: bytes, strings: bytes = b"") -> int:
    """FRAME.check of a code object: `window` is at most 32 bytes, `strings` the 32 bytes of words 4-7 or empty."""
    if len(window) > 32 or len(strings) not in (0, 32):
        raise ValueError("a check is made of at most 32 bytes of counts and 0 or 32 bytes of strings")
    data = window.ljust(32, b"\0") + strings
    mixed = 0
    for (word,) in struct.iter_unpack("<Q", data):
        mixed = (mixed ^ word) * 0x9E3779B97F4A7C15 & 0xFFFFFFFFFFFFFFFF
        mixed ^= mixed >> 29
    return (mixed >> 32 ^ mixed) & 0xFFFFFFFF
