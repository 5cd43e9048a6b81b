# SPDX-License-Identifier: Apache-2.0
"""Go programs made of parts: what a linker writes, as far as it is read."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass, field

from kernelspan_agent.process.symbols.gopclntab import GO_1_18, GO_1_20
from tests.unit.process.symbols import crafting

TEXT = crafting.BASE + 128  # the first section
_MARK = b"\0" * 16
Values = Sequence[tuple[int, int]]  # a value, and the instruction that it holds up to


@dataclass(frozen=True)
class Inlined:
    """A call that was inlined. `caller`: the instruction that it stands for, from the function's first one."""

    name: str
    caller: int
    kind: int = 0


@dataclass(frozen=True)
class Fn:
    """A function. `lines`, `stack`, `inlined`: values by instructions from its first one."""

    name: str
    start: int
    size: int
    lines: Values
    stack: Values = ()
    inlined: Values = ()
    tree: tuple[Inlined, ...] = ()
    file: str = "/src/app/main.go"
    kind: int = 0
    flags: int = 0


@dataclass
class Program:
    """A program of these functions, whose code is as long as they say."""

    functions: Sequence[Fn]
    version: str = "go1.26.1"
    modules: str = "path\texample.com/app\nmod\texample.com/app\t(devel)\t\n"
    magic: int = GO_1_20
    code: bytes = b""
    names: bytearray = field(default_factory=lambda: bytearray(b"\0"))

    def content(self) -> bytes:
        """The file."""
        trees = bytearray(b"\0" * 8)
        table = self._table(trees)
        made = crafting.File()
        made.section(".text", self.code or b"\x90" * (self.functions[-1].start + self.functions[-1].size))
        at = crafting.BASE + made.offset(made.section(".gopclntab", table))
        made.section(".go.buildinfo", self._build_info())
        data = crafting.BASE + made.offset(made.section(".go.func", bytes(trees)))
        module = crafting.BASE + made.offset(made.section(".go.module", b"\0" * 384))
        gofunc = 304 if self.magic == GO_1_18 else 320
        words = {0: at, 8: at + 72, 160: TEXT, 176: TEXT, gofunc: data}
        rows = b"".join(struct.pack("<QQq", module + place, 8, value) for place, value in words.items())
        made.section(".rela.dyn", rows, crafting.SHT_RELA)
        return made.content()

    def _name(self, name: str) -> int:
        at = len(self.names)
        self.names += name.encode() + b"\0"
        return at

    def _build_info(self) -> bytes:
        modules = _MARK + self.modules.encode() + _MARK if self.modules else b""
        head = b"\xff Go buildinf:" + bytes([8, 2]) + b"\0" * 16
        return head + _number(len(self.version)) + self.version.encode() + _number(len(modules)) + modules

    def _table(self, trees: bytearray) -> bytes:
        values, files, units, records = bytearray(b"\0"), bytearray(b"\0"), bytearray(), bytearray()
        rows = []
        count = len(self.functions)
        first = 8 * count + 8
        for index, each in enumerate(self.functions):
            units += struct.pack("<I", len(files))
            files += each.file.encode() + b"\0"
            tree = len(trees) if each.tree else 0xFFFFFFFF
            for call in each.tree:
                name = self._name(call.name)
                if self.magic == GO_1_18:
                    trees += struct.pack("<hBBiiii", 0, call.kind, 0, 0, 0, name, call.caller)
                else:
                    trees += struct.pack("<B3xiii", call.kind, name, call.caller, 1)
            places = [_add(values, each.stack), _add(values, [(0, each.size)]), _add(values, each.lines)]
            lists = (0, 0, _add(values, each.inlined))
            rows.append(struct.pack("<II", each.start, first + len(records)))
            name = self._name(each.name)
            records += struct.pack("<IiIIIIIII", each.start, name, 0, 0, *places, len(lists), index)
            records += b"" if self.magic == GO_1_18 else struct.pack("<I", 1)
            records += bytes([each.kind, each.flags, 0, 4]) + struct.pack("<7I", *lists, *[0xFFFFFFFF] * 3, tree)
        end = self.functions[-1].start + self.functions[-1].size
        array = b"".join(rows) + struct.pack("<II", end, 0)
        parts = [bytes(self.names), bytes(units), bytes(files), bytes(values), array + records]
        places, at = [], 72
        for part in parts:
            places.append(at)
            at += len(part)
        head = struct.pack("<IBBBB8Q", self.magic, 0, 0, 1, 8, count, 1, TEXT, *places)
        return head + b"".join(parts) + b"\0" * 64


def _add(values: bytearray, wanted: Values) -> int:
    if not wanted:
        return 0
    at, value, pc = len(values), -1, 0
    for new, end in wanted:
        step = new - value
        values += _number(-2 * step - 1 if step < 0 else 2 * step) + _number(end - pc)
        value, pc = new, end
    values.append(0)
    return at


def _number(number: int) -> bytes:
    found = bytearray()
    while number > 127:
        found.append(number & 127 | 128)
        number >>= 7
    return bytes([*found, number])
