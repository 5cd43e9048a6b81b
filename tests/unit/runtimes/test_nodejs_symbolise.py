# SPDX-License-Identifier: Apache-2.0
"""Names of JavaScript's functions from what the kernel sent and from memory that is made to mislead."""

from __future__ import annotations

import hashlib
import struct
from dataclasses import dataclass, field
from typing import ClassVar
from unittest import mock

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kernelspan_agent.process.errors import MemoryReadError
from kernelspan_agent.ring.records import FRAME
from kernelspan_agent.runtimes.mixing import mix_lanes
from kernelspan_agent.runtimes.nodejs import compiled
from kernelspan_agent.runtimes.nodejs.build import NodeBuild
from kernelspan_agent.runtimes.nodejs.compiled import HASHED_BEFORE, HASHED_BYTES
from kernelspan_agent.runtimes.nodejs.detect import NodeDetails
from kernelspan_agent.runtimes.nodejs.layout import (
    BUILTIN,
    BY_VERSION,
    COMPILED,
    CUT_FILE,
    CUT_NAME,
    EVALUATED,
    INTERPRETED,
    INTERPRETER_BYTES,
    JS_CODE,
    MISSING,
    Layout,
    Places,
    kernel_row,
)
from kernelspan_agent.runtimes.nodejs.lines import check_of
from kernelspan_agent.runtimes.nodejs.symbolise import NodeSymboliser

# What Node.js 24 says of itself.
CONSTANTS = {
    "function_shared": 32, "shared_name": 24, "shared_script": 40, "shared_flags": 56, "script_source": 8,
    "script_name": 16, "script_line_ends": 56, "bytecode_data": 64, "map_type": 12, "string_length": 12, "scope_first": 5,
    "scope_locals": 2, "type_script": 167, "type_debug_info": 154, "type_scope_info": 280, "type_oddball": 131,
    "type_positions": 196, "type_shared": 282, "type_code": 187, "type_stream": 188, "type_bytecode": 186,
    "type_interpreter_data": 188, "code_kind_baseline": 10, "frame_builtin_exit": 27,
}  # fmt: skip
LAYOUT = Layout(BY_VERSION[13, 6], CONSTANTS, 320, 296, 288, True, bytes(600))
PLACES = Places(0x1000, *[bytes(INTERPRETER_BYTES)] * 2, 0x800, 0x10000, -160, 0)
DETAILS = NodeDetails(NodeBuild("24.1.0", LAYOUT, PLACES), 0)
TABLE = bytes.fromhex("019c010238091c11000c300b2823000a5c")


@dataclass
class Heap:
    """Memory in which objects are made."""

    cells: dict[int, int] = field(default_factory=dict)
    top: int = 0x10000
    SHAPES: ClassVar[int] = 0x8000

    def read(self, address: int, size: int) -> bytes:
        try:
            return bytes(self.cells[at] for at in range(address, address + size))
        except KeyError:
            raise MemoryReadError(address, size, "nothing there") from None

    def write(self, address: int, data: bytes) -> None:
        self.cells.update({address + at: byte for at, byte in enumerate(data)})

    def make(self, kind: int, body: bytes) -> int:
        """An object of a type: its tagged value."""
        shape, self.top = self.top, self.top + 16
        self.write(shape, struct.pack("<QIHH", self.SHAPES + 1, 0, kind, 0))
        self.write(self.SHAPES, struct.pack("<QQ", self.SHAPES + 1, 0))
        address, self.top = self.top, self.top + 8 + (len(body) + 7 & ~7)
        self.write(address, struct.pack("<Q", shape + 1) + body)
        return address + 1

    def string(self, text: str) -> int:
        data = text.encode("latin-1")
        return self.make(8, struct.pack("<II", 0, len(data)) + data)

    def script(self, source: str, number: int = 5) -> int:
        words = [self.string(source), self.string("/app/a.js"), 0, 0, 0, 0, 0, number << 32, *[0] * 8]
        return self.make(CONSTANTS["type_script"], struct.pack(f"<{len(words)}Q", *words))


def record(
    name: str = "f", file: str = "/app/a.js", code: int = 7, table: bytes = TABLE, width: int = 1, **values: int
) -> bytes:
    texts = [text.encode("latin-1" if width == 1 else "utf-16-le") for text in (name, file)]
    row = np.zeros(1, JS_CODE)
    row["code"], row["owner"], row["table_bytes"] = code, INTERPRETED, len(table)
    row["name_bytes"], row["file_bytes"], row["name_width"], row["file_width"] = *map(len, texts), width, width
    for key, value in values.items():
        row[key] = value
    return row.tobytes() + b"".join(texts) + table + bytes(8)


def rows(*frames: tuple[int, int, int, int]) -> np.ndarray:
    """Of (code, pc, check, owner)."""
    found = np.zeros(len(frames), FRAME)
    for column, name in enumerate(("code", "pc", "check", "owner")):
        found[name] = [frame[column] for frame in frames]
    return found


def test_a_line_of_interpreted_code() -> None:
    """Function and file from the record, the line from the script's source."""
    heap = Heap()
    source = "\n" * 20 + "x" * 100
    script = heap.script(source)
    symboliser = NodeSymboliser(heap, DETAILS)
    symboliser.learn(
        record(script=script, script_id=5, source_length=len(source), source_check=check_of(source.encode()))
    )
    (frame,) = symboliser.frames(rows((7, 4, 0, INTERPRETED)))
    assert (frame.function, frame.file, frame.line, frame.call_site) == ("f", "/app/a.js", 21, 59)


@pytest.mark.parametrize("broken", ["number", "length", "moved", "gone", "offset", "source"])
def test_a_line_is_right_or_none(broken: str) -> None:
    """Another script at its address, another source, no memory: no line."""
    heap = Heap()
    source = "\n" * 70
    script = heap.script(source, number=6 if broken == "number" else 5)
    if broken == "moved":
        heap.write(script - 1, struct.pack("<Q", 0x999))
    length = len(source) + (broken == "length")
    symboliser = NodeSymboliser(Heap() if broken == "gone" else heap, DETAILS)
    check = check_of(source.encode() if broken != "source" else b"\n" * 69 + b"x")
    table = b"" if broken == "offset" else TABLE
    symboliser.learn(record(script=script, script_id=5, source_length=length, source_check=check, table=table))
    (frame,) = symboliser.frames(rows((7, 4, 0, INTERPRETED)))
    assert (frame.function, frame.line, frame.unresolved) == ("f", 0, "")


def test_names() -> None:
    """Wide ones, cut ones, none; a builtin has no file; what is not known is unresolved."""
    symboliser = NodeSymboliser(Heap(), DETAILS)
    symboliser.learn(record("名前", "file:///app/a%20b/m.mjs?x=1", 1, width=2))
    symboliser.learn(record("f" * 300, "/app/" + "d" * 90, 2, flags=CUT_NAME | CUT_FILE))
    symboliser.learn(record("", "", 3))
    symboliser.learn(record("", "", 4, flags=EVALUATED))
    symboliser.learn(record("map", "", 5, owner=BUILTIN))
    symboliser.learn(record("", "/app/a.js", 6, flags=CUT_NAME * MISSING))
    symboliser.learn(record("f", "", 8, flags=CUT_FILE * MISSING))
    found = symboliser.frames(rows(*((code, 0, 0, INTERPRETED) for code in (1, 2, 3, 4, 5, 6, 8, 9))))
    assert [(frame.function[-3:], frame.file[-6:], frame.unresolved) for frame in found] == [
        ("名前", "/m.mjs", ""),
        ("ff…", "ddddd…", ""),
        ("us>", "ymous>", ""),
        ("val", "ymous>", ""),
        ("map", " code]", ""),
        *[("", "", "MemoryUnreadable")] * 3,
    ]
    assert found[0].file == "/app/a b/m.mjs"
    assert symboliser.unresolved == {"MemoryUnreadable": 3}


def test_compiled_code_that_is_not_known() -> None:
    """It may stand for several functions: none of them is named."""
    symboliser = NodeSymboliser(Heap(), DETAILS)
    symboliser.learn(record())
    (frame,) = symboliser.frames(rows((7, 0x5000, 1, COMPILED)))
    assert (frame.function, frame.unresolved) == ("", "MemoryUnreadable")


class Noise:
    """Memory that has some bytes everywhere, the same ones each time."""

    def __init__(self, seed: bytes, pointers: bool) -> None:
        self._seed, self._pointers = seed, pointers

    def read(self, address: int, size: int) -> bytes:
        if not 0 <= address < 1 << 47 or size > 1 << 20:
            raise MemoryReadError(address, size, "out of bounds")
        first = address // 8
        words = []
        for at in range(first, (address + size) // 8 + 1):
            word = hashlib.blake2b(self._seed + at.to_bytes(8, "little"), digest_size=8).digest()
            if self._pointers and word[0] & 3:
                word = bytes([word[0] & 0xF8 | 1, word[1], word[2], 0, 0, 0, 0, 0])
            elif word[0] & 4:
                word = struct.pack("<HHHH", word[1], 0, word[2] % 40 + 160, 0)
            words.append(word)
        data = b"".join(words)[address - first * 8 :]
        return data[:size]


@mock.patch.object(compiled, "MAX_BACK_BYTES", 4096)
@mock.patch.object(compiled, "MAX_MAPS", 8)
@settings(max_examples=40)
@given(st.binary(max_size=8), st.booleans(), st.lists(st.tuples(*[st.integers(0, (1 << 47) - 1)] * 2), max_size=3))
def test_any_memory(seed: bytes, pointers: bool, places: list[tuple[int, int]]) -> None:
    """Whatever the memory holds: frames with names, or reasons."""
    memory = Noise(seed, pointers)
    for layout in (Layout(version, CONSTANTS, 1, 2, 3, True, bytes([1]) * 300) for version in BY_VERSION.values()):
        symboliser = NodeSymboliser(memory, NodeDetails(NodeBuild("1.2.3", layout, PLACES), 0))
        for code, (script, pc) in enumerate(places):
            missing = (CUT_NAME | CUT_FILE) * MISSING
            symboliser.learn(record(code=code, script=script, script_id=3, source_length=9, flags=missing * (code & 1)))
            check = 0
            if pc > HASHED_BYTES:
                check = mix_lanes(memory.read(pc - HASHED_BEFORE, HASHED_BYTES)) & 0xFFFFFFFF
            wanted = rows((code, pc, check, COMPILED), (code, pc & 0xFF, 0, INTERPRETED))
            wanted["globals"] = script
            assert all(frame.function or frame.unresolved for frame in symboliser.frames(wanted))


@given(st.binary(max_size=400))
def test_any_record(data: bytes) -> None:
    """Whatever a record holds."""
    symboliser = NodeSymboliser(Heap(), DETAILS)
    symboliser.learn(data)
    symboliser.frames(rows((0, 0, 0, INTERPRETED)))


def test_the_kernels_row() -> None:
    """Offsets are the build's; places are counted from where the interpreter goes on."""
    row = kernel_row(LAYOUT, PLACES)[0]
    assert (row["builtins"], row["isolate"], row["isolate_key"]) == (0x800 - 0x1000, -160, 0)
    assert (row["shared_name"], row["script_source_url"], row["scope_variables"]) == (24, 112, 48)
