# SPDX-License-Identifier: Apache-2.0
"""A Java method: its names, its file, its lines; from a record of the kernel's, or from the JVM's memory.

Memory may be anything: every length is bounded. Layouts: oops/constMethod.hpp, oops/symbol.hpp; tables of lines:
code/compressedStream.hpp (CompressedLineNumberReadStream).
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING

from kernelspan_agent.process.errors import MemoryReadError
from kernelspan_agent.process.memory import read_u64
from kernelspan_agent.runtimes.mixing import mix, mix_lanes

from .layout import LINE_BYTES

if TYPE_CHECKING:
    from collections.abc import Iterable

    from kernelspan_agent.process.memory import Memory

    from .layout import JavaOffsets

MAX_TABLE_BYTES = 1 << 16
MAX_LINES = 65536
_NATIVE = 0x100
_HAS_LINES = 1
_TAIL_BYTES = 128
_PAGE_BYTES = 4096
_MASK = (1 << 64) - 1
_PAIR = struct.Struct("<HH")


class CorruptMethodError(ValueError):
    """The memory does not hold what it should."""


@dataclass(frozen=True, slots=True)
class Method:
    """What is shown of a method. `class_name`: as the JVM has it, with slashes. `lines`: see `pack_lines`."""

    class_name: bytes
    name: bytes
    source: bytes  # the class's SourceFile; empty: it has none
    klass: int
    is_native: bool
    is_hidden: bool
    code_size: int
    lines: bytes
    identities: tuple[
        int, ...
    ] = ()  # what FRAME["code"] of an interpreted frame of it may be, where it was read from memory

    def line_of(self, bci: int) -> int:
        """The line of a bytecode, as Java itself tells it (Method::line_number_from_bci); 0: not known."""
        if self.is_native or not 0 <= bci < self.code_size:
            return 0
        best, found = 0, 0
        at: int
        line: int
        for at, line in _PAIR.iter_unpack(self.lines):
            if at == bci:
                return line
            if best <= at < bci:
                best, found = at, line
        return found


def read_numbers(data: bytes, at: int, excludes_zero: int) -> tuple[int, int]:
    """(number, where the next begins) of an UNSIGNED5. Raises CorruptMethodError."""
    total = shift = 0
    for place in range(5):
        if at >= len(data):
            raise CorruptMethodError("a number without an end")
        byte = data[at]
        at += 1
        if byte < excludes_zero:
            raise CorruptMethodError("a number with a zero byte")
        total += (byte - excludes_zero) << shift
        shift += 6
        if byte < 192 or place == 4:
            break
    return total & 0xFFFFFFFF, at


def read_lines(data: bytes, excludes_zero: int) -> tuple[tuple[int, int], ...]:
    """(bci, line) of a table of lines. Raises CorruptMethodError where it does not end."""
    found: list[tuple[int, int]] = []
    at = bci = line = 0
    while len(found) < MAX_LINES:
        if at >= len(data):
            raise CorruptMethodError("a table of lines without an end")
        head = data[at]
        at += 1
        if head == 0:
            return tuple(found)
        if head == 0xFF:
            steps = []
            for _ in range(2):
                number, at = read_numbers(data, at, excludes_zero)
                steps.append((number >> 1) ^ -(number & 1))
            bci, line = bci + steps[0], line + steps[1]
        else:
            bci, line = bci + (head >> 3), line + (head & 7)
        found.append((bci, line))
    raise CorruptMethodError("a table of lines without an end")


def pack_lines(lines: Iterable[tuple[int, int]]) -> bytes:
    """(bci, line) in the order of the table, two bytes each, as in a class file: there are many. Raises CorruptMethodError."""
    try:
        return b"".join(_PAIR.pack(*pair) for pair in lines)
    except struct.error as error:
        raise CorruptMethodError("a line that no class file could have") from error


def make_method(
    texts: tuple[bytes, bytes, bytes], klass: int, bits: tuple[int, int, int, int], table: bytes, offsets: JavaOffsets
) -> Method:
    """From texts (class, name, source) and bits (access, those with the hidden one, of ConstMethod, size of its code).

    Raises CorruptMethodError.
    """
    access, hidden, const_flags, code_size = bits
    lines = pack_lines(read_lines(table, offsets.excludes_zero)) if const_flags & _HAS_LINES else b""
    is_hidden = bool(hidden & offsets.hidden_mask)
    return Method(*texts, klass, bool(access & _NATIVE), is_hidden, code_size, lines)


def read_method(memory: Memory, address: int, offsets: JavaOffsets) -> Method:
    """The Method at `address`. Raises MemoryReadError, CorruptMethodError."""
    at = offsets.at
    const = read_u64(memory, address + at["method_const"])
    header = memory.read(const, at["const_bytes"])
    (pool,) = struct.unpack_from("<Q", header, at["const_pool"])
    name_index, signature, number, code_size = (
        struct.unpack_from("<H", header, at[name])[0]
        for name in ("const_name", "const_signature", "const_number", "const_code_size")
    )
    klass = read_u64(memory, pool + at["pool_holder"])
    class_at = read_u64(memory, klass + at["klass_name"])
    name_at = read_u64(memory, pool + at["pool_bytes"] + name_index * 8)
    class_name, name = read_symbol(memory, class_at, offsets), read_symbol(memory, name_at, offsets)
    source_base = pool if at["source_in_pool"] else klass
    (source_index,) = struct.unpack("<H", memory.read(source_base + at["source_file"], 2))
    source = b""
    if source_index:
        source = read_symbol(memory, read_u64(memory, pool + at["pool_bytes"] + source_index * 8), offsets)
    (access,) = struct.unpack("<I", memory.read(address + at["method_access"], 4))
    (const_flags,) = struct.unpack_from("<I", header, at["const_flags"])
    hidden_base = const if at["hidden_in_const"] else address
    (hidden,) = struct.unpack("<I", memory.read(hidden_base + at["hidden_at"], 4))
    table_at = const + at["const_bytes"] + code_size
    lines = pack_lines(_read_table(memory, table_at, offsets)) if const_flags & _HAS_LINES else b""
    (words,) = struct.unpack_from("<I", header, at["const_size"])
    start = memory.read(table_at, min((const + (words & 0xFFFFFF) * 8 - table_at) & _MASK, LINE_BYTES))
    numbers = code_size | name_index << 16 | signature << 32 | number << 48
    ways = tuple(
        mix(each_class, each_name, numbers, mix_lanes(start))
        for each_class in (_text_mix(class_name), class_at)
        for each_name in (_text_mix(name), name_at)
    )
    is_hidden = bool(hidden & offsets.hidden_mask)
    return Method(class_name, name, source, klass, bool(access & _NATIVE), is_hidden, code_size, lines, ways)


def _text_mix(text: bytes) -> int:
    """As ks_java_text in bpf/runtimes/java.bpf.h."""
    return mix(len(text), mix_lanes(text[-_TAIL_BYTES:]))


def read_symbol(memory: Memory, address: int, offsets: JavaOffsets) -> bytes:
    """The text of the Symbol at `address`. Raises MemoryReadError."""
    (length,) = struct.unpack("<H", memory.read(address + offsets.at["symbol_length"], 2))
    return memory.read(address + offsets.at["symbol_body"], length)


def _read_table(memory: Memory, address: int, offsets: JavaOffsets) -> tuple[tuple[int, int], ...]:
    data = b""
    while len(data) < MAX_TABLE_BYTES:
        at = address + len(data)
        try:
            data += memory.read(at, _PAGE_BYTES - at % _PAGE_BYTES)
        except MemoryReadError:
            if not data:
                raise
            break
        try:
            return read_lines(data, offsets.excludes_zero)
        except CorruptMethodError:
            continue
    raise CorruptMethodError("a table of lines without an end")
