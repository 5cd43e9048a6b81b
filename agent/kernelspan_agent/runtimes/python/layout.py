# SPDX-License-Identifier: Apache-2.0
"""Where CPython keeps what the walk and the symboliser need: what the numbers mean; `versions` has them.

The kernel program gets one PY_LAYOUT row per kind of interpreter; user space reads the same numbers from `Offsets`.

ABSENT (0xffff) in a field means that this version has no such thing.

What the kernel computes for FRAME.check (`check_word` is the same in user space):
* words 0-3: the `code_check_bytes` (<= 32) bytes at code + code_check, padded with zeros.
* Only where code_strings != ABSENT (before 3.12, whose co_version is unique in a process), more words. At
  code + code_strings lie pointers to str: file, name and, in 3.11, the qualified name. First the name (3.11: the
  qualified one): u64 length at str + str_length; u64 hash behind it; and only where the hash is -1 (nobody has asked for
  it yet) and the str is compact (state bit 5), the last 32 bytes of its text, padded with zeros. Then the file: one word,
  the h that these words of its str alone would give.
  Then the line table: u64 size at table + bytes_size; u64 hash behind it (the compiler leaves it there since 3.10); and
  only where that is -1, one word: `mix_lanes` of its first 128 bytes. So before 3.10, and for code from a .pyc, the same
  function with another line table from the 129th byte on (64 lines in 3.8, some 40 instructions in 3.11) and nothing
  else changed is not told apart from the one whose address it got.
The hash of a module's name (FRAME.tag and the upper bits of FRAME.globals) is made of the same words of its str.
* h = 0; for each word w: h = (h ^ w) * 0x9E3779B97F4A7C15; h ^= h >> 29. check = (u32)((h >> 32) ^ h).

Fields for asyncio's generation: see `tasks`.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, fields

import numpy as np

from kernelspan_agent.runtimes.mixing import mix_all

ABSENT = 0xFFFF
NO_SKIP = 255
ADDRESS_BITS = 48  # of FRAME.globals; above them, and in FRAME.tag, are 32 bits of a hash of the module's name
NOT_TOLD, NO_MODULE = 0, 1  # of these 32 bits: nobody has hashed it; the first entry of the globals is no name

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
        ("code_strings", "<u2"),  # pointers: file, name; in 3.11 qualified name
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
        ("code_first_line", "<u2"),
        ("code_name", "<u2"),  # co_qualname, before 3.11 co_name
        ("code_file", "<u2"),
        ("code_line_table", "<u2"),  # bytes; at most 24 behind code_strings
        ("str_compact_data", "<u2"),  # data of a compact str that is not ASCII
        ("bytes_size", "<u2"),
        ("bytes_data", "<u2"),
        ("dict_keys", "<u2"),
        ("code_first_traceable", "<u2"),  # i32, in code units (3.11+)
        ("ts_running_task", "<u2"),  # 3.14+: the task whose step the thread is in
        ("future_callback", "<u2"),  # the first of a future's callbacks
        ("task_waiter", "<u2"),  # the future that a task waits for
        ("unused", "<u2"),
    ]
)

# Record of the ring that names a code object; then come name, module, file and line table, one after the other.
PY_CODE = np.dtype(
    [
        ("kind", "<u2"),
        ("version", "<u2"),
        ("size", "<u4"),
        ("time", "<u8"),
        ("tgid", "<u4"),
        ("tid", "<u4"),
        ("layout", "<u4"),  # number of the layout in the kernel
        ("check", "<u4"),  # as FRAME["check"]
        ("code", "<u8"),
        ("globals", "<u8"),
        ("first_line", "<i4"),
        ("first_traceable", "<u4"),  # code units before which a frame is not complete; 0 before 3.11
        ("name_bytes", "<u2"),
        ("module_bytes", "<u2"),  # 0: not known
        ("file_bytes", "<u2"),
        ("table_bytes", "<u2"),
        ("name_width", "u1"),  # bytes a character: 1 latin-1, 2 UTF-16, 4 UTF-32
        ("module_width", "u1"),
        ("file_width", "u1"),
        ("flags", "u1"),  # which text was too long and is cut: 1 name, 2 module, 4 file
        ("tag", "<u2"),  # as FRAME["tag"]
        ("unused", "<u2"),
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
    ts_running_task: int = ABSENT
    future_callback: int = 24
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
    tuple_items: int = 24

    @property
    def code_first_traceable(self) -> int:
        """co_firsttraceable stands two words before the code units, in every version that has it."""
        return ABSENT if self.code_bytecode == ABSENT else self.code_bytecode - 16

    @property
    def task_waiter(self) -> int:
        """What a task waits for stands before its coroutine, in every version."""
        return self.task_coro - 8


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


def kernel_row(offsets: Offsets, types: Types | None = None, head: int = 0) -> np.ndarray:
    """The PY_LAYOUT row (shape (1,)) of `offsets`; of the types it keeps the distance to `head`."""
    row = np.zeros(1, PY_LAYOUT)
    names = PY_LAYOUT.names or ()
    for item in fields(offsets):
        if item.name in names:
            row[item.name] = getattr(offsets, item.name)
    row["code_first_traceable"], row["task_waiter"] = offsets.code_first_traceable, offsets.task_waiter
    if offsets.code_qualname != ABSENT:
        row["code_name"] = offsets.code_qualname
    if types is not None:
        row["long_type"] = types.long - head if types.long else 0
        row["unicode_type"] = types.unicode - head if types.unicode else 0
    return row


def interp_head_address(runtime_address: int, offsets: Offsets) -> int:
    """Address of `_PyRuntime.interpreters.head`, where the kernel's search for the thread begins."""
    return (runtime_address + offsets.runtime_interpreters_head) & 0xFFFFFFFFFFFFFFFF


def check_word(window: bytes, strings: bytes = b"") -> int:
    """FRAME.check of a code object: `window` is at most 32 bytes, `strings` the words that come after or empty."""
    if len(window) > 32 or len(strings) % 8:
        raise ValueError("a check is made of at most 32 bytes of counts and whole words of strings")
    data = window.ljust(32, b"\0") + strings
    mixed = mix_words(data)
    return (mixed >> 32 ^ mixed) & 0xFFFFFFFF


def mix_words(data: bytes) -> int:
    """64 bits of a hash of whole words; not for secrets."""
    return mix_all(0, (word for (word,) in struct.iter_unpack("<Q", data)))


def split_globals(namespace: int, tag: int) -> tuple[int, int]:
    """(address of the globals, 32 bits of the hash of the module's name) of FRAME.globals and FRAME.tag."""
    return namespace & (1 << ADDRESS_BITS) - 1, (namespace >> ADDRESS_BITS) << 16 | tag


def module_bits(mixed: int) -> int:
    """What `split_globals` gives for a hash of a module's name."""
    return (mixed >> ADDRESS_BITS) << 16 | mixed & 0xFFFF
