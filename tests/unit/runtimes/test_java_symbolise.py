# SPDX-License-Identifier: Apache-2.0
"""Java's methods in memory that is made to mislead: names and lines are given only where they are the frame's."""

from __future__ import annotations

import struct
from dataclasses import dataclass, field, replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kernelspan_agent.process.errors import MemoryReadError
from kernelspan_agent.ring.records import FRAME
from kernelspan_agent.runtimes.java.detect import JavaDetails
from kernelspan_agent.runtimes.java.layout import (
    ABSENT,
    COMPILED,
    CUT,
    INTERPRETED,
    JAVA_CODE,
    JAVA_LAYOUT,
    UNREAD,
    WRAPPER,
    JavaOffsets,
    ScopeOffsets,
)
from kernelspan_agent.runtimes.java.methods import (
    CorruptMethodError,
    Method,
    pack_lines,
    read_lines,
    read_method,
    read_numbers,
)
from kernelspan_agent.runtimes.java.symbolise import JavaSymboliser
from kernelspan_agent.runtimes.java.walk import read_stacks
from kernelspan_agent.runtimes.registry import DetectedRuntime

# Of JDK 17, x86-64.
_SAID = """
thread_os=560 thread_anchor=656 thread_state=824 os_pthread=24 wrapper_anchor=32 heap_memory=8
heap_segments=120 heap_shift=256 space_low=0 space_high=8 queue_buffer=8 queue_limit=20 blob_name=96
blob_frame_size=28 nmethod_number=304 nmethod_orig_pc=300 method_const=8 method_access=40 const_pool=8
const_code_size=32 const_name=34 const_signature=36 const_number=38 const_flags=28 pool_holder=24
klass_name=24 symbol_length=4 symbol_body=6 thread_object=648 list_length=4 list_threads=16
array_length=0 array_data=8 block_bytes=16 const_bytes=48 pool_bytes=72 nmethod_deopt=128
deopt_is_address=1 deopt_bytes=8 frame_bcp=8 frame_wrapper=6 in_java=8 source_in_pool=1 source_file=54
hidden_in_const=0 hidden_at=50 const_size=24
"""
AT = {
    **dict.fromkeys(("thread_next", "thread_virtual", "thread_continuation"), ABSENT),
    **{name: int(value) for name, value in (pair.split("=") for pair in _SAID.split())},
}
SCOPES = ScopeOffsets(
    code_begin=32,
    code_offset=ABSENT,
    code_offset_bytes=0,
    scopes_pcs=268,
    scopes_pcs_bytes=4,
    scopes_data=ABSENT,
    scopes_data_bytes=0,
    scopes_data_begin=120,
    pcs_end=272,
    pcs_end_bytes=4,
    metadata=260,
    metadata_bytes=4,
    immutable_data=ABSENT,
    mutable_data=ABSENT,
    relocation_size=ABSENT,
    pc_desc_bytes=16,
    method=112,
    used=8,
)
OFFSETS = JavaOffsets(17, AT, SCOPES, 8, 16, 0)
DETAILS = JavaDetails(OFFSETS)


def number(value: int, excludes_zero: int) -> bytes:
    """UNSIGNED5, as HotSpot writes it."""
    found = b""
    low = 192 - excludes_zero
    for _ in range(4):
        if value < low:
            break
        rest = (value - low) % 64
        found += bytes([excludes_zero + low + rest])
        value = (value - low - rest) // 64
    return found + bytes([value + excludes_zero])


def table(pairs: list[tuple[int, int]], excludes_zero: int) -> bytes:
    """A table of lines, as HotSpot compresses it."""
    found, bci, line = b"", 0, 0
    for at, to in pairs:
        by, up = at - bci, to - line
        if 0 <= by < 32 and 0 <= up < 8 and (by << 3 | up) not in (0, 255):
            found += bytes([by << 3 | up])
        else:
            found += b"\xff" + b"".join(number((each << 1) ^ (each >> 63), excludes_zero) for each in (by, up))
        bci, line = at, to
    return found + b"\0"


@dataclass
class Heap:
    """Memory in which objects are made."""

    data: bytearray = field(default_factory=lambda: bytearray(1 << 16))
    top: int = 0x100

    def read(self, address: int, size: int) -> bytes:
        if not 0 <= address <= len(self.data) - size:
            raise MemoryReadError(address, size, "not here")
        return bytes(self.data[address : address + size])

    def put(self, content: bytes, room: int = 0) -> int:
        at = self.top
        self.data[at : at + len(content)] = content
        self.top += max(len(content), room) + 15 & ~15
        return at

    def set(self, at: int, form: str, *values: int) -> None:
        struct.pack_into(form, self.data, at, *values)

    def symbol(self, text: bytes) -> int:
        return self.put(struct.pack("<IH", 7 << 16 | 1, len(text)) + text)

    def method(
        self,
        class_name: bytes,
        name: bytes,
        source: bytes,
        lines: list[tuple[int, int]],
        *,
        size: int = 40,
        bits: int = 0,
    ) -> int:
        klass = self.put(b"", 128)
        self.set(klass + 24, "<Q", self.symbol(class_name))
        pool = self.put(b"", 72 + 8 * 4)
        self.set(pool + 24, "<Q", klass)
        self.set(pool + 54, "<H", 2 if source else 0)
        self.set(pool + 72 + 8, "<2Q", self.symbol(name), self.symbol(source))
        content = b"\0" * 48 + b"\x2a" * size + table(lines, 0)
        const = self.put(content, len(content) + 8)
        self.set(const + 24, "<I", len(content) + 7 >> 3)
        self.set(const + 8, "<Q", pool)
        self.set(const + 28, "<I", 1 if lines else 0)
        self.set(const + 32, "<4H", size, 1, 3, 5)
        method = self.put(b"", 96)
        self.set(method + 8, "<Q", const)
        self.set(method + 40, "<I", bits & 0xFFFF)
        self.set(method + 50, "<H", bits >> 16)
        return method

    def compiled(self, scopes: list[tuple[int, int]], *, compile_id: int = 9) -> tuple[int, int]:
        """(blob, pc of a call) of code in which methods are inlined, innermost first."""
        blob = self.put(b"\0" * 8 + b"\1", 16 + 1024) + 16
        stream, metadata, offsets, sender = b"\0", [], [], 0
        for method, bci in reversed(scopes):
            metadata.append(method)
            offsets.append(len(stream))
            stream += number(sender, 0) + number(len(metadata), 0) + number(bci + 1, 0)
            sender = offsets[-1]
        data = self.put(stream + b"\0" * 16)
        self.set(blob + 32, "<Q", blob + 512)
        self.set(blob + 120, "<Q", data)
        self.set(blob + 260, "<4i", 768, 0, 640, 640 + 16 * 3)
        self.set(blob + 640, "<12i", -1, 0, 0, 0, 16, sender, 0, 0, 1 << 20, 0, 0, 0)
        self.set(blob + 768, f"<{len(metadata)}Q", *metadata)
        self.set(blob + 304, "<I", compile_id)
        self.set(blob + 112, "<Q", scopes[-1][0])
        return blob, blob + 512 + 16


def row(code: int, pc: int, method: int = 0, check: int = 0, owner: int = INTERPRETED) -> np.ndarray:
    """One FRAME."""
    made = np.zeros(1, FRAME)
    made["code"], made["pc"], made["globals"], made["check"], made["owner"] = code, pc, method, check, owner
    return made


LINES = [(0, 10), (5, 11), (20, 9), (30, 400)]


def test_an_interpreted_frame() -> None:
    """Class, method, file below the class's package, line of the bytecode."""
    heap = Heap()
    at = heap.method(b"com/acme/Some$Inner", b"run", b"Some.java", LINES)
    code = read_method(heap, at, OFFSETS).identities[0]
    symboliser = JavaSymboliser(heap, DETAILS)
    for bci, line in ((0, 10), (4, 10), (5, 11), (19, 11), (20, 9), (31, 400), (40, 0), (1 << 63, 0)):
        (frame,) = symboliser.frames(row(code, bci, at))
        assert (frame.function, frame.file, frame.line) == ("com.acme.Some$Inner.run", "com/acme/Some.java", line)
        assert frame.unit == "com/acme/Some$Inner"


@pytest.mark.parametrize("change", ["class", "name", "lines"])
def test_another_method_at_the_address(change: str) -> None:
    """It is not shown for the one that was there."""
    heap = Heap()
    at = heap.method(b"com/acme/Some", b"run", b"Some.java", LINES)
    code = read_method(heap, at, OFFSETS).identities[0]
    texts = {
        "class": (b"com/acme/Other", b"run"),
        "name": (b"com/acme/Some", b"walk"),
        "lines": (b"com/acme/Some", b"run"),
    }
    lines = LINES if change != "lines" else [(0, 11), *LINES[1:]]
    other = heap.method(*texts[change], b"Some.java", lines)
    (frame,) = JavaSymboliser(heap, DETAILS).frames(row(code, 0, other))
    assert (frame.function, frame.unresolved) == ("", "CodeReplaced")


def test_names_that_were_not_resident() -> None:
    """Their addresses stand for them in the hash; the frame is believed once, and not kept."""
    heap = Heap()
    at = heap.method(b"com/acme/Some", b"run", b"Some.java", LINES)
    symboliser = JavaSymboliser(heap, DETAILS)
    for code in read_method(heap, at, OFFSETS).identities:
        (frame,) = symboliser.frames(row(code, 0, at, owner=INTERPRETED | UNREAD))
        assert frame.function == "com.acme.Some.run"
    assert not symboliser._codes


def test_inlined_methods() -> None:
    """Each scope is a frame of its own; a hidden one is none; a place that is not noted has no line."""
    heap = Heap()
    inner = heap.method(b"a/Inner", b"read", b"Inner.java", LINES)
    hidden = heap.method(b"a/Hidden", b"call", b"Hidden.java", LINES, bits=8 << 16)
    outer = heap.method(b"a/Outer", b"main", b"Outer.java", LINES)
    blob, pc = heap.compiled([(inner, 5), (hidden, 0), (outer, 20)])
    symboliser = JavaSymboliser(heap, DETAILS)
    frames = symboliser.frames(row(blob, pc, check=9, owner=COMPILED))
    assert [(each.function, each.line, each.call_site) for each in frames] == [
        ("a.Inner.read", 11, 5),
        ("a.Outer.main", 9, 20),
    ]
    (frame,) = symboliser.frames(row(blob, pc + 1, check=9, owner=COMPILED))
    assert (frame.function, frame.line) == ("a.Outer.main", 0)
    (frame,) = symboliser.frames(row(blob, 0, check=9, owner=WRAPPER))
    assert (frame.function, frame.line) == ("a.Outer.main", 0)
    (frame,) = symboliser.frames(row(blob, pc, check=8, owner=COMPILED))
    assert frame.unresolved == "CodeReplaced"


@pytest.mark.parametrize("given_up", ["block", "method", "meanwhile"])
def test_code_that_was_given_up(given_up: str) -> None:
    """Its words stay in memory, and what they name may be another class's by now."""
    heap = Heap()
    at = heap.method(b"a/Inner", b"read", b"Inner.java", LINES)
    blob, pc = heap.compiled([(at, 5)])
    memory = heap
    if given_up == "block":
        heap.set(blob - 8, "<B", 0)
    elif given_up == "method":
        heap.set(blob + 112, "<Q", 0)
    else:

        class Changing(Heap):
            def read(self, address: int, size: int) -> bytes:
                if address == blob + 268:
                    self.set(blob - 8, "<B", 0)
                return super().read(address, size)

        memory = Changing(heap.data)
    (frame,) = JavaSymboliser(memory, DETAILS).frames(row(blob, pc, check=9, owner=COMPILED))
    assert frame.unresolved == "CodeReplaced"


def test_one_function_interpreted_and_compiled() -> None:
    """It is one function for who compares stacks, at one call site."""
    heap = Heap()
    at = heap.method(b"a/Inner", b"read", b"Inner.java", LINES)
    blob, pc = heap.compiled([(at, 5)])
    symboliser = JavaSymboliser(heap, DETAILS)
    (one,) = symboliser.frames(row(read_method(heap, at, OFFSETS).identities[0], 5, at))
    (other,) = symboliser.frames(row(blob, pc, check=9, owner=COMPILED))
    assert one == other


def test_a_virtual_threads_carrier_is_not_shown() -> None:
    """What lies beyond the continuation is the carrier's."""
    heap = Heap()
    own = heap.method(b"a/App", b"run", b"App.java", LINES)
    enter = heap.method(b"jdk/internal/vm/Continuation", b"enterSpecial", b"Continuation.java", LINES)
    rows = [row(read_method(heap, at, OFFSETS).identities[0], 0, at) for at in (own, enter, own)]
    assert [frame.function for frame in JavaSymboliser(heap, DETAILS).frames(np.concatenate(rows))] == ["a.App.run"]


def test_a_record_names_what_is_gone() -> None:
    """The kernel's record alone names an interpreted frame; a cut one does not."""
    header = np.zeros(1, JAVA_CODE)
    texts, lines = (b"com/acme/Some", b"run", b"Some.java"), table(LINES, 0) + b"junk"
    header["code"], header["code_size"], header["const_flags"] = 77, 40, 1
    for name, text in zip(("class_bytes", "name_bytes", "file_bytes", "table_bytes"), (*texts, lines), strict=True):
        header[name] = len(text)
    record = header.tobytes() + b"".join(texts) + lines
    symboliser = JavaSymboliser(Heap(bytearray(0)), DETAILS)
    symboliser.learn(record)
    (frame,) = symboliser.frames(row(77, 30))
    assert (frame.function, frame.file, frame.line) == ("com.acme.Some.run", "com/acme/Some.java", 400)
    header["flags"] = CUT
    other = JavaSymboliser(Heap(bytearray(0)), DETAILS)
    other.learn(header.tobytes() + record[JAVA_CODE.itemsize :])
    (frame,) = other.frames(row(77, 30))
    assert frame.unresolved == "MemoryUnreadable"


@given(st.integers(0, (1 << 32) - 1), st.sampled_from([0, 1]))
def test_numbers(value: int, excludes_zero: int) -> None:
    """What is written is read."""
    text = number(value, excludes_zero)
    assert read_numbers(text + b"\xff", 0, excludes_zero) == (value, len(text))
    assert not excludes_zero or 0 not in text


@given(st.lists(st.tuples(st.integers(0, 65535), st.integers(1, 65535)), max_size=20), st.sampled_from([0, 1]))
def test_tables_of_lines(pairs: list[tuple[int, int]], excludes_zero: int) -> None:
    """The same, in any order; a line is that of the nearest entry before, or the one at the very bytecode."""
    lines = read_lines(table(pairs, excludes_zero) + b"\x77", excludes_zero)
    assert lines == tuple(pairs)
    method = Method(b"", b"", b"", 0, False, False, 65536, pack_lines(pairs))
    for bci, _ in pairs:
        assert method.line_of(bci) == next(to for at, to in pairs if at == bci)


@given(st.binary(max_size=300))
def test_hostile_records(data: bytes) -> None:
    """A record may hold anything."""
    symboliser = JavaSymboliser(Heap(bytearray(0)), DETAILS)
    symboliser.learn(data)
    symboliser.learn(np.zeros(1, JAVA_CODE).tobytes()[: -len(data) or None] + data)


@given(
    st.binary(min_size=64, max_size=4096), st.integers(0, 4096), st.sampled_from([INTERPRETED, COMPILED, WRAPPER, 0x81])
)
def test_hostile_memory(data: bytes, address: int, owner: int) -> None:
    """Memory that leads everywhere: a frame has a name or a reason, and nothing is read without end."""
    (frame,) = JavaSymboliser(Heap(bytearray(data * 3)), DETAILS).frames(row(address, address, address, 0, owner)) or (
        None,
    )
    assert frame is None or bool(frame.function) != bool(frame.unresolved)


@given(st.binary(min_size=64, max_size=4096), st.integers(0, 2048), st.integers(0, 2048))
def test_hostile_stacks(data: bytes, first: int, second: int) -> None:
    """Threads that lead everywhere: an answer, or the error of memory."""
    layout = np.zeros(1, JAVA_LAYOUT)
    layout["thread_list"], layout["code_heaps"], layout["interpreter"] = first, second, first
    details = JavaDetails(replace(OFFSETS, at={**AT, "thread_anchor": 16, "thread_os": 8}))
    found = DetectedRuntime("java", 5, "OpenJDK", "17", "/libjvm.so", layout, 0, details)
    try:
        for stack in read_stacks(found, Heap(bytearray(data * 4)))[:4]:
            JavaSymboliser(Heap(bytearray(data)), details).frames(stack.rows)
    except MemoryReadError:
        pass


def test_numbers_that_do_not_end() -> None:
    """They are an error."""
    for data, excludes_zero in ((b"", 0), (b"\xff", 0), (b"\xff\xff\xff\xff", 1), (b"\0", 1)):
        with pytest.raises(CorruptMethodError):
            read_numbers(data, 0, excludes_zero)
    with pytest.raises(CorruptMethodError):
        read_lines(b"\x09" * 100, 0)
