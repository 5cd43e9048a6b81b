# SPDX-License-Identifier: Apache-2.0
"""A function in PHP's memory: what it is shown by, and the hash that the kernel makes of that (FRAME["code"]).

Memory may be anything: every length is bounded, nothing is followed further than from a function to its class's name.
Layouts: Zend/zend_compile.h, Zend/zend_types.h. The kernel's side: bpf/runtimes/php.bpf.h.
"""

from __future__ import annotations

import itertools
import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING

from kernelspan_agent.process.memory import read_u64
from kernelspan_agent.runtimes.mixing import mix, mix_lanes

from .layout import (
    CLASS_NAME,
    EVAL,
    FUNCTION_CLASS,
    FUNCTION_NAME,
    INTERNAL,
    MAIN,
    STRING_HASH,
    STRING_TEXT,
    UNREAD,
    USER,
)

if TYPE_CHECKING:
    from kernelspan_agent.process.memory import Memory

    from .layout import Offsets

MAX_TEXT_BYTES = 4096
MAX_STRING_BYTES = 1 << 31  # longer than any name: a stray word
ELLIPSIS = "…"
_TAIL_BYTES = 128
_MASK = (1 << 64) - 1


class CorruptFunctionError(ValueError):
    """The memory does not hold the function that it should."""


@dataclass(frozen=True, slots=True)
class Text:
    """A string: where it is, its words in an identity, its text."""

    address: int
    mixed: int
    text: bytes
    cut: bool

    @classmethod
    def read(cls, memory: Memory, address: int) -> Text:
        """The zend_string at `address`; 0: none. Raises MemoryReadError, CorruptFunctionError."""
        if not address:
            return NO_TEXT
        text_hash, length = struct.unpack("<QQ", memory.read(address + STRING_HASH, 16))
        if length > MAX_STRING_BYTES:
            raise CorruptFunctionError(f"no string at {address:#x}")
        text = memory.read(address + STRING_TEXT, min(length, MAX_TEXT_BYTES))
        mixed = mix(0, text_hash, length)
        if not text_hash:
            size = min(length, _TAIL_BYTES)
            mixed = mix(mixed, mix_lanes(memory.read(address + STRING_TEXT + length - size, size)))
        return cls(address, mixed, text, len(text) < length)


def is_whole(memory: Memory, text: Text) -> bool:
    """Whether the string bears the hash of its own text (zend_inline_hash_func): it is one, and no part of it is another's.

    Raises MemoryReadError.
    """
    if text.cut:
        return False
    said = read_u64(memory, text.address + STRING_HASH)
    found = 5381
    for byte in text.text:
        found = (found * 33 + byte) & _MASK
    return said == found | 1 << 63


NO_TEXT = Text(0, 0, b"", False)


@dataclass(frozen=True, slots=True)
class Function:
    """What a frame is shown by. `kind`: INTERNAL, USER or EVAL; of a frame of MAIN it is USER."""

    kind: int
    name: Text
    class_name: Text
    file: Text
    lines: int  # first; last << 32
    opcodes: int

    def is_shown_as(self, code: int, owner: int) -> bool:
        """Whether the kernel made this identity of it, of a frame with that FRAME["owner"]."""
        kind = owner & ~UNREAD
        if self.kind != (USER if kind == MAIN else kind):
            return False
        texts = (self.name, self.class_name, self.file)
        if not owner & UNREAD:
            return self.identity(kind) == code
        # some of the strings were not resident: their addresses stood for them
        ways = itertools.product(*({text.mixed, text.address} for text in texts))
        return any(mix(self._identity(kind, list(way)), UNREAD) == code for way in ways)

    def identity(self, owner: int) -> int:
        """FRAME["code"] of a frame of it, where all could be read."""
        return mix(self._identity(owner, [self.name.mixed, self.class_name.mixed, self.file.mixed]), 0)

    def _identity(self, kind: int, texts: list[int]) -> int:
        name, class_name, file = texts
        mixed = mix(self.kind, name, class_name)
        if self.kind != INTERNAL:
            mixed = mix(mixed, file, self.lines)
        return mix(mixed, MAIN) if kind == MAIN else mixed


def read_function(memory: Memory, address: int, offsets: Offsets) -> Function:
    """The zend_function at `address`. Raises MemoryReadError, CorruptFunctionError."""
    header = memory.read(address, FUNCTION_CLASS + 8)
    kind = header[0]
    name, scope = (struct.unpack_from("<Q", header, at)[0] for at in (FUNCTION_NAME, FUNCTION_CLASS))
    if kind not in (INTERNAL, USER, EVAL):
        raise CorruptFunctionError(f"no function at {address:#x}")
    class_name = Text.read(memory, read_u64(memory, scope + CLASS_NAME) if scope else 0)
    if kind == INTERNAL:
        return Function(kind, Text.read(memory, name), class_name, NO_TEXT, 0, 0)
    file, lines = struct.unpack("<QQ", memory.read(address + offsets.op_array_file, 16))
    opcodes = read_u64(memory, address + offsets.op_array_opcodes)
    return Function(kind, Text.read(memory, name), class_name, Text.read(memory, file), lines, opcodes)
