# SPDX-License-Identifier: Apache-2.0
"""What CPython 3.13+ says about its own structures: `_Py_DebugOffsets`, at the start of `_PyRuntime`.

It comes from a file or a process that may be crafted: the cookie, the version and every offset against the size of its
struct are checked. Fields that are used but not published (a frame's globals, the code's version) follow from the
table only where everything published about the same struct agrees with it; else the layout is unknown.
Source: Include/internal/pycore_runtime.h (3.13), pycore_debug_offsets.h (3.14, 3.15); all words are u64.
"""

from __future__ import annotations

import struct
from dataclasses import replace

from .layout import ABSENT, Offsets
from .versions import BY_MINOR

COOKIE = b"xdebugpy"
MAX_STRUCT_BYTES = 1 << 24  # PyInterpreterState and _PyRuntimeState hold tables of static objects

# struct -> (index of its first word, the size; field -> words after it). The first three words are cookie, version and
# the flag of free-threaded builds.
_FRAME = {"frame_previous": 1, "frame_code": 2, "frame_pc": 3, "frame_localsplus": 4, "frame_owner": 5}
_CODE = {
    "code_file": 1,
    "code_name": 2,
    "code_qualname": 3,
    "code_line_table": 4,
    "code_first_line": 5,
    "code_bytecode": 9,
}
_BYTES = {"bytes_size": 1, "bytes_data": 2}
_STR = {"str_state": 1, "str_length": 2}
_RUNTIME = {"runtime_interpreters_head": 2}
_INTERPRETER = {"interp_next": 2, "interp_threads_head": 3}
_THREAD = {"ts_prev": 1, "ts_next": 2, "ts_frame": 4, "ts_thread_id": 5}
_DICT = {"dict_keys": 1}
_GROUPS: dict[int, dict[str, tuple[int, dict[str, int]]]] = {
    13: {
        "runtime": (3, _RUNTIME),
        "interpreter": (6, _INTERPRETER),
        "thread": (19, _THREAD),
        "frame": (28, _FRAME),
        "code": (34, _CODE),
        "dict": (56, _DICT),
        "bytes": (64, _BYTES),
        "str": (67, _STR),
    },
    14: {
        "runtime": (3, _RUNTIME),
        "interpreter": (6, _INTERPRETER),
        "thread": (22, _THREAD),
        "frame": (31, _FRAME),
        "code": (39, _CODE),
        "dict": (66, _DICT),
        "bytes": (74, _BYTES),
        "str": (77, _STR),
        "generator": (83, {"generator_frame": 2}),
    },
    15: {
        "runtime": (3, _RUNTIME),
        "interpreter": (6, _INTERPRETER),
        "thread": (22, {**_THREAD, "ts_thread_id": 8}),
        "frame": (39, _FRAME),
        "code": (47, _CODE),
        "dict": (78, _DICT),
        "bytes": (86, _BYTES),
        "str": (89, _STR),
        "generator": (99, {"generator_frame": 2}),
    },
}
SIZE_BYTES = {13: 584, 14: 760, 15: 888}
_MUST_AGREE = ("frame", "code", "dict", "str", "bytes", "generator")


class LayoutError(ValueError):
    """The offsets are not what this version of CPython can have written."""


def is_free_threaded(data: bytes) -> bool:
    """Whether the third word says that the build has no GIL."""
    return bool(struct.unpack_from("<Q", data, 16)[0])


def read_offsets(data: bytes, version: int) -> Offsets:
    """Offsets of the interpreter with this PY_VERSION_HEX from its first SIZE_BYTES bytes. Raises LayoutError."""
    minor = version >> 16 & 0xFF
    groups = _GROUPS.get(minor)
    if groups is None or len(data) < SIZE_BYTES[minor]:
        raise LayoutError(f"no debug offsets are known for 3.{minor}")
    words = struct.unpack_from(f"<{SIZE_BYTES[minor] // 8}Q", data)
    if data[:8] != COOKIE:
        raise LayoutError("the debug offsets do not begin with their cookie")
    if words[1] != version:
        raise LayoutError(f"the debug offsets are of version {words[1]:#x}, the interpreter of {version:#x}")
    table = BY_MINOR[minor]
    published: dict[str, int] = {}
    for group, (first, names) in groups.items():
        found = _read_group(group, words, first, names)
        if group in _MUST_AGREE and any(getattr(table, name) != offset for name, offset in found.items()):
            raise LayoutError(f"struct {group} is not laid out as in other builds of 3.{minor}")
        published |= found
    if words[groups["str"][0] + 3] != table.str_data:
        raise LayoutError(f"struct str is not laid out as in other builds of 3.{minor}")
    thread_agrees = all(getattr(table, name) == published[name] for name in _THREAD)
    if thread_agrees:
        return replace(table, **published)
    return replace(table, **published, ts_context_ver=ABSENT, ts_running_task=ABSENT)


def _read_group(group: str, words: tuple[int, ...], first: int, names: dict[str, int]) -> dict[str, int]:
    size = words[first]
    limit = MAX_STRUCT_BYTES if group in ("runtime", "interpreter") else ABSENT - 8
    if not 0 < size <= limit:
        raise LayoutError(f"struct {group} of {size} bytes")
    found = {name: words[first + index] for name, index in names.items()}
    for name, offset in found.items():
        if offset >= size:
            raise LayoutError(f"{name} at {offset} lies outside its struct of {size} bytes")
    return found
