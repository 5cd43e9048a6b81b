# SPDX-License-Identifier: Apache-2.0
"""The files that a process's request has included so far: EG(included_files), read from outside.

For people who look, never for tracing: nothing stops the process meanwhile. Between requests there are none. Memory may
be hostile: the table's size is bounded, and a key is taken only where its length fits. Layouts: Zend/zend_types.h
(HashTable, Bucket), Zend/zend_globals.h.
"""

from __future__ import annotations

import os
import struct
from typing import TYPE_CHECKING

from kernelspan_agent.process.errors import MemoryReadError

from .functions import CorruptFunctionError, Text

if TYPE_CHECKING:
    from kernelspan_agent.process.memory import Memory
    from kernelspan_agent.runtimes.registry import DetectedRuntime

INCLUDED_FILES = 360  # in EG, in every version of `layout`
MAX_FILES = 16384
_TABLE_BYTES, _BUCKET_BYTES = 56, 32
_USED, _SIZE, _ENTRIES = 24, 32, 16
_BUCKET_KEY = 24


def read_files(found: DetectedRuntime, memory: Memory) -> list[str] | None:
    """Their paths, in the order they came; None: there is no such table. Raises MemoryReadError."""
    table = memory.read(found.details.symbols.globals + INCLUDED_FILES, _TABLE_BYTES)
    (entries,) = struct.unpack_from("<Q", table, _ENTRIES)
    (used,), (size,) = struct.unpack_from("<I", table, _USED), struct.unpack_from("<I", table, _SIZE)
    if not used:
        return []
    if not used <= size <= MAX_FILES or size & size - 1:
        return None
    buckets = memory.read(entries, used * _BUCKET_BYTES)
    paths: dict[str, None] = {}
    for at in range(0, len(buckets), _BUCKET_BYTES):
        (key,) = struct.unpack_from("<Q", buckets, at + _BUCKET_KEY)
        try:
            text = Text.read(memory, key)
        except (MemoryReadError, CorruptFunctionError):
            continue
        if text.text.startswith(b"/") and not text.cut:
            paths[os.fsdecode(text.text)] = None
    return list(paths)
