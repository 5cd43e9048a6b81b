# SPDX-License-Identifier: Apache-2.0
"""From an instruction of a Go program to its function, file and line, and to the calls that were inlined there.

All of it is in the table by which Go itself makes a traceback, however much was stripped; it is read from the file as it is
needed. Facts: src/runtime/symtab.go (`_func`, funcdata, pcvalue), src/runtime/symtabinl.go, internal/abi/symtab.go. A table
may be crafted: every list is bounded, and what contradicts itself raises ElfError.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

import numpy as np

from kernelspan_agent.process.elf import read_at
from kernelspan_agent.process.errors import ElfError
from kernelspan_agent.process.symbols.gopclntab import GO_1_18, GoTable

from .layout import Offsets

MAX_NAME_BYTES = 4096
MAX_VALUES_BYTES = 1 << 20  # of one function's table; the largest of the standard library have some 20,000
MAX_INLINED = 64  # calls at one instruction; a compiler goes some ten deep
_MAX_LISTS = 64  # of one function
_STEP_BYTES = 256
_MAX_SHIFT = 28
_EVERY = 1 << 64  # an instruction behind all
_NEAR = 64  # functions looked at at once
_NO_FILE = 0xFFFFFFFF
_INLINE_VALUES, _INLINE_DATA = 2, 3  # PCDATA_InlTreeIndex, FUNCDATA_InlTree
_TOP = 1  # FuncFlagTopFrame
_HEAD = struct.Struct("<IiIIIIIII")
_FUNCTION = np.dtype([("entry", "<u4"), ("record", "<u4")])


@dataclass(frozen=True, slots=True)
class Call:
    """One level of what an instruction is in. `at`: the instruction, from the function's own first one."""

    name_at: int  # among the table's names
    name: str
    file: str
    line: int
    at: int
    kind: int  # funcID


@dataclass(frozen=True, slots=True)
class Place:
    """What an instruction is in: its calls, innermost first, and what the function does with the stack there."""

    calls: tuple[Call, ...]
    stack_bytes: int  # between the stack pointer and the return address; negative: that was taken from the stack
    is_top: bool  # nothing called the function


@dataclass(frozen=True, slots=True)
class _Function:
    entry: int  # from the start of the text
    name_at: int
    stack_values: int
    file_values: int
    line_values: int
    unit: int
    kind: int
    flags: int
    values: tuple[int, ...]  # places of further tables of values
    data: tuple[int, ...]


class FunctionTable:
    """One file's table. `table.fd` must stay open."""

    def __init__(self, table: GoTable, offsets: Offsets, function_data: int) -> None:
        self._table, self._offsets, self._function_data = table, offsets, function_data
        self._old = table.magic == GO_1_18

    def place(self, address: int, *, is_return: bool = False) -> Place | None:
        """What the instruction at an address (of the file) is in; None: no function of Go's. Raises ElfError.

        `is_return`: it is where a call returns to, and the one before is meant; the first of a function is itself: the runtime
        leaves such addresses behind where it switches stacks.
        """
        pc = address - self._table.text
        found = self._find(pc)
        if found is None:
            return None
        function = self._function(*found)
        if not function.name_at:
            return None
        pc -= is_return and pc > function.entry
        calls = []
        at = pc
        for _ in range(MAX_INLINED):
            inlined = self._inlined(function, at)
            file, line = self._line(function, at)
            if inlined is None:
                calls.append(self._call(function.name_at, file, line, at - function.entry, function.kind))
                stack = self._value(function.stack_values, function.entry, pc)
                return Place(tuple(calls), stack, bool(function.flags & _TOP))
            kind, name_at, caller = inlined
            calls.append(self._call(name_at, file, line, at - function.entry, kind))
            if not 0 <= caller < 1 << 31:
                raise ElfError("an inlined call that was called from nowhere")
            at = function.entry + caller
        raise ElfError("inlined calls without an end")

    def frame_bytes(self, address: int) -> int:
        """How much of the stack the function that begins at an address takes at most, without the return address.

        Raises ElfError.
        """
        found = self._find(address - self._table.text)
        function = self._function(*found) if found is not None else None
        if function is None or not function.stack_values:
            raise ElfError("no function of Go's with a frame")
        return self._scan(function.stack_values, function.entry, _EVERY)[1]

    def _call(self, name_at: int, file: str, line: int, at: int, kind: int) -> Call:
        return Call(name_at, self._text(self._table.names + name_at), file, line, at, kind)

    def _find(self, pc: int) -> tuple[int, int] | None:
        """(entry, record) of the function that an instruction is in."""
        table = self._table
        low, high = 0, table.count
        while high - low > _NEAR:
            middle = (low + high) // 2
            (entry,) = struct.unpack("<I", read_at(table.fd, table.functions + middle * 8, 4))
            low, high = (middle, high) if entry <= pc else (low, middle)
        # One row more: its entry is where the last function ends.
        rows = np.frombuffer(read_at(table.fd, table.functions + low * 8, (high - low) * 8 + 4) + bytes(4), _FUNCTION)
        if pc < 0 or pc >= int(rows["entry"][-1]):
            return None
        at = int(np.searchsorted(rows["entry"], pc, side="right")) - 1
        return (int(rows["entry"][at]), int(rows["record"][at])) if at >= 0 else None

    def _function(self, entry: int, record: int) -> _Function:
        table, size = self._table, self._offsets.record_bytes
        at = table.records + record
        head = read_at(table.fd, at, size)
        own, name_at, _, _, stack, file, line, values, unit = _HEAD.unpack_from(head)
        kind, flags, _, data = head[size - 4 : size]
        if own != entry or name_at < 0 or values > _MAX_LISTS or data > _MAX_LISTS:
            raise ElfError("a function of Go's that is not where its table says")
        lists = struct.unpack(f"<{values + data}I", read_at(table.fd, at + size, (values + data) * 4))
        return _Function(entry, name_at, stack, file, line, unit, kind, flags, lists[:values], lists[values:])

    def _inlined(self, function: _Function, pc: int) -> tuple[int, int, int] | None:
        """(funcID, place of the name, the call's instruction) of the innermost inlined call; None: it is in none."""
        if len(function.values) <= _INLINE_VALUES or len(function.data) <= _INLINE_DATA:
            return None
        tree = function.data[_INLINE_DATA]
        index = self._value(function.values[_INLINE_VALUES], function.entry, pc)
        if tree == _NO_FILE or index < 0:
            return None
        if not self._function_data:
            raise ElfError("the program does not say where its inlined calls are named")
        size = self._offsets.inlined_bytes
        row = read_at(self._table.fd, self._function_data + tree + index * size, size)
        if self._old:
            kind, (name_at, caller) = row[2], struct.unpack_from("<ii", row, 12)
        else:
            kind, (name_at, caller) = row[0], struct.unpack_from("<ii", row, 4)
        if name_at < 0:
            raise ElfError("an inlined call without a name")
        return kind, name_at, caller

    def _line(self, function: _Function, pc: int) -> tuple[str, int]:
        file = self._value(function.file_values, function.entry, pc)
        line = self._value(function.line_values, function.entry, pc)
        if file < 0 or line < 0:
            return "", 0
        table = self._table
        (name_at,) = struct.unpack("<I", read_at(table.fd, table.units + 4 * (function.unit + file), 4))
        return ("", 0) if name_at == _NO_FILE else (self._text(table.files + name_at), line)

    def _value(self, values: int, entry: int, pc: int) -> int:
        """What a table of values has for an instruction; -1: nothing."""
        return self._scan(values, entry, pc)[0] if values else -1

    def _scan(self, values: int, entry: int, pc: int) -> tuple[int, int]:
        """What a table of values has for an instruction (-1: it ends before), and the largest value up to there."""
        table, at, value, largest = self._table, entry, -1, -1
        number = shift = 0
        first = is_value = True
        for position in range(0, MAX_VALUES_BYTES, _STEP_BYTES):
            start = table.values + values + position
            size = min(_STEP_BYTES, table.end - start)
            if size <= 0:
                break
            for byte in read_at(table.fd, start, size):
                if byte & 128:
                    number |= (byte & 127) << shift
                    shift += 7
                    if shift > _MAX_SHIFT:
                        raise ElfError("a number without an end")
                    continue
                number |= byte << shift
                if is_value:
                    if not number and not first:
                        return -1, largest
                    value += -(number >> 1) - 1 if number & 1 else number >> 1
                    first = False
                    if value > largest:  # noqa: PLR1730
                        largest = value
                else:
                    at += number  # x86-64: an instruction may begin at any byte
                    if pc < at:
                        return value, largest
                is_value = not is_value
                number = shift = 0
        raise ElfError("a table of values without an end")

    def _text(self, at: int) -> str:
        table = self._table
        if not table.start <= at < table.end:
            raise ElfError("a name outside the table")
        text, nul, _ = read_at(table.fd, at, min(MAX_NAME_BYTES, table.end - at)).partition(b"\0")
        if not nul:
            raise ElfError("a name without an end")
        return text.decode("utf-8", "surrogateescape")
