# SPDX-License-Identifier: Apache-2.0
"""PHP's functions in memory that is made to mislead: a name is given only where it is the frame's."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kernelspan_agent.process.errors import MemoryReadError
from kernelspan_agent.ring.records import FRAME
from kernelspan_agent.runtimes.mixing import mix
from kernelspan_agent.runtimes.php import symbolise
from kernelspan_agent.runtimes.php.detect import PhpDetails
from kernelspan_agent.runtimes.php.functions import read_function
from kernelspan_agent.runtimes.php.layout import (
    BY_VERSION,
    CALL_TOP,
    CUT_CLASS,
    CUT_FILE,
    EVAL,
    HANDLE_EXCEPTION,
    INTERNAL,
    MAIN,
    MISSING,
    OBJECT_TYPE,
    PHP_CODE,
    UNREAD,
    USER,
    Symbols,
    head_of,
    kernel_row,
)
from kernelspan_agent.runtimes.php.symbolise import PhpSymboliser
from kernelspan_agent.runtimes.php.walk import MAX_FRAMES, read_stacks
from kernelspan_agent.runtimes.registry import COMPLETE, TRUNCATED, UNREADABLE, DetectedRuntime
from tests.support.noise import Noise

OFFSETS = BY_VERSION[8, 4]
SYMBOLS = Symbols(0x1000, 0x2000, 0x2008)
DETAILS = PhpDetails(OFFSETS, SYMBOLS)
HEAD = head_of(OFFSETS, SYMBOLS)
FOUND = DetectedRuntime("php", 2, "PHP", "8.4.1", "/usr/bin/php", kernel_row(OFFSETS, 80401, SYMBOLS), HEAD, DETAILS)


@dataclass
class Heap:
    """Memory in which objects are made."""

    cells: dict[int, int] = field(default_factory=dict)
    top: int = 0x10000

    def read(self, address: int, size: int) -> bytes:
        try:
            return bytes(self.cells[at] for at in range(address, address + size))
        except KeyError as error:
            raise MemoryReadError(address, size, "nothing is there") from error

    def write(self, address: int, data: bytes) -> None:
        self.cells.update(zip(range(address, address + len(data)), data, strict=True))

    def put(self, data: bytes) -> int:
        at, self.top = self.top, self.top + len(data) + 64 & ~15
        self.write(at, data)
        return at

    def string(self, text: str, *, hashed: bool = True) -> int:
        data = text.encode()
        text_hash = 1 << 63 | zlib.crc32(data) if hashed else 0
        return self.put(struct.pack("<QQQ", 1, text_hash, len(data)) + data + b"\0")

    def function(
        self, kind: int, name: str | None, *, cls: str = "", file: str = "/a.php", lines: int = 3, hashed: bool = True
    ) -> int:
        scope = self.put(struct.pack("<QQ", 0, self.string(cls, hashed=hashed))) if cls else 0
        data = bytearray(200)
        struct.pack_into("<QQQ", data, 0, kind, self.string(name, hashed=hashed) if name is not None else 0, scope)
        struct.pack_into("<Q", data, OFFSETS.op_array_opcodes, self.put(bytes(320)))
        struct.pack_into("<QII", data, OFFSETS.op_array_file, self.string(file, hashed=hashed), lines, lines + 9)
        return self.put(bytes(data))

    def call(self, function: int, line: int = 0, *, previous: int = 0, opcode: int = 60, info: int = 0) -> int:
        opline = 0
        if function and self.read(function, 1)[0] != INTERNAL:
            opcodes = struct.unpack("<Q", self.read(function + OFFSETS.op_array_opcodes, 8))[0]
            opline = opcodes + 64
            self.write(opline + 20, struct.pack("<IIB", 0, line, opcode))
        return self.put(struct.pack("<QQQQQQQ", opline, 0, 0, function, 0, info, previous))

    def run(self, call: int) -> None:
        self.write(HEAD, struct.pack("<Q", call))


def row(heap: Heap, function: int, line: int = 7, owner: int = USER, **changed: int) -> np.ndarray:
    rows = np.zeros(1, FRAME)
    code = read_function(heap, function, OFFSETS).identity(owner & ~UNREAD)
    for name, value in ({"code": code, "pc": line | 64 << 32, "globals": function, "owner": owner} | changed).items():
        rows[name] = value
    return rows


@pytest.mark.parametrize(
    ("kind", "owner", "name", "cls", "function", "file", "line"),
    [
        (USER, USER, "find", "App\\Repo", "App\\Repo::find", "/a.php", 7),
        (USER, USER, "app\\main", "", "app\\main", "/a.php", 7),
        (USER, USER, "{closure}", "class@anonymous\0/a.php:3$0", "class@anonymous::{closure}", "/a.php", 7),
        (USER, MAIN, None, "", "{main}", "/a.php", 7),
        (USER, USER, None, "", "{include}", "/a.php", 7),
        (EVAL, EVAL, None, "", "{eval}", "/a.php", 7),
        (INTERNAL, INTERNAL, "fread", "", "fread", "[internal function]", 0),
        (INTERNAL, INTERNAL, "query", "PDO", "PDO::query", "[internal function]", 0),
    ],
)
def test_names(kind: int, owner: int, name: str | None, cls: str, function: str, file: str, line: int) -> None:
    """Read from memory, every kind of frame is shown as PHP's own traces show it."""
    heap = Heap()
    at = heap.function(kind, name, cls=cls)
    (frame,) = PhpSymboliser(heap, DETAILS).frames(row(heap, at, line, owner))
    assert (frame.function, frame.file, frame.line, frame.call_site) == (function, file, line, 64)


@pytest.mark.parametrize("hashed", [True, False])
@pytest.mark.parametrize("change", ["", "name", "class", "file", "lines", "kind"])
def test_another_function_at_the_address(change: str, hashed: bool) -> None:
    """What lies there by now is not what ran: no name. Also where nobody has asked for its strings' hashes yet."""
    heap = Heap()
    rows = row(heap, heap.function(USER, "find" * 50, cls="Repo", hashed=hashed))
    rows["globals"] = heap.function(
        EVAL if change == "kind" else USER,
        "find" * 49 + ("seek" if change == "name" else "find"),
        cls="Rope" if change == "class" else "Repo",
        file="/b.php" if change == "file" else "/a.php",
        lines=4 if change == "lines" else 3,
        hashed=hashed,
    )
    symboliser = PhpSymboliser(heap, DETAILS)
    (frame,) = symboliser.frames(rows)
    assert frame.unresolved == (symbolise.REPLACED if change else "")
    assert symboliser.unresolved.total() == bool(change)


def code_record(code: int, name: bytes, cls: bytes, file: bytes, flags: int = 0) -> bytes:
    head = np.zeros(1, PHP_CODE)
    values = {"code": code, "name_bytes": len(name), "class_bytes": len(cls), "file_bytes": len(file), "flags": flags}
    for key, value in values.items():
        head[key] = value
    return head.tobytes() + name + cls + file


def test_a_record_names_what_is_gone() -> None:
    """What the kernel sent is enough, also of texts that are cut or are no UTF-8."""
    symboliser = PhpSymboliser(Heap(), DETAILS)
    symboliser.learn(code_record(5, b"f\xff", b"C", b"/a/" + b"x" * 1020, CUT_FILE))
    rows = np.zeros(1, FRAME)
    rows["code"], rows["pc"], rows["owner"] = 5, 12, USER
    (frame,) = symboliser.frames(rows)
    assert frame.function.startswith("C::f")
    assert frame.function.isprintable()
    assert (frame.file[-1], frame.line) == ("…", 12)


@given(st.binary(max_size=200))
def test_hostile_records(data: bytes) -> None:
    """A record that is none is passed over."""
    symboliser = PhpSymboliser(Heap(), DETAILS)
    symboliser.learn(data)
    symboliser.learn(code_record(5, b"", b"", b"")[:40] + data)
    symboliser.learn(code_record(7, b"", b"", b"", MISSING * 7)[:40] + data)
    rows = np.zeros(1, FRAME)
    rows["code"] = 7
    symboliser.frames(rows)


@pytest.mark.parametrize("unread", [(0,), (1,), (2,), (0, 1), (0, 1, 2)])
def test_strings_that_were_not_resident(unread: tuple[int, ...]) -> None:
    """Their addresses stood for them: the function is known by them, but it is read anew each time."""
    heap = Heap()
    at = heap.function(USER, "find", cls="Repo")
    function = read_function(heap, at, OFFSETS)
    texts = [function.name, function.class_name, function.file]
    name, cls, file = (text.address if index in unread else text.mixed for index, text in enumerate(texts))
    code = mix(mix(mix(USER, name, cls), file, function.lines), UNREAD)
    symboliser = PhpSymboliser(heap, DETAILS)
    (frame,) = symboliser.frames(row(heap, at, code=code))
    assert frame.unresolved == symbolise.REPLACED  # without the mark it is some other function's
    (frame,) = symboliser.frames(row(heap, at, code=code, owner=USER | UNREAD))
    assert frame.function == "Repo::find"
    heap.write(function.name.address + 8, bytes(8))
    (frame,) = symboliser.frames(row(heap, at, code=code, owner=USER | UNREAD))
    assert frame.unresolved == ("" if 0 in unread else symbolise.REPLACED)


def test_a_record_of_strings_that_were_not_resident() -> None:
    """What the kernel could not read is read where it said, if it is a whole string, anew each time."""
    heap = Heap()
    text = "Acme\\Repo"
    said = 5381
    for byte in text.encode():
        said = (said * 33 + byte) & (1 << 64) - 1
    at = heap.string(text)
    record = np.frombuffer(code_record(9, b"find", b"", b"/a.php", MISSING * CUT_CLASS), PHP_CODE, 1).copy()
    record["class_at"] = at
    symboliser = PhpSymboliser(heap, DETAILS)
    symboliser.learn(record.tobytes() + b"find/a.php")
    rows = np.zeros(1, FRAME)
    rows["code"], rows["owner"], rows["globals"] = 9, USER | UNREAD, 0x77
    (frame,) = symboliser.frames(rows)
    assert frame.unresolved  # its hash is not its text's
    heap.write(at + 8, struct.pack("<Q", said | 1 << 63))
    (frame,) = symboliser.frames(rows)
    assert (frame.function, frame.file) == ("Acme\\Repo::find", "/a.php")
    heap.write(at + 24, b"X")
    (frame,) = symboliser.frames(rows)
    assert frame.unresolved
    assert 9 not in symboliser._codes


WORDS = st.lists(
    st.one_of(st.integers(0, 64), st.sampled_from([1, 2, 4, 8, OBJECT_TYPE]), st.integers(0, (1 << 64) - 1)),
    min_size=1,
    max_size=64,
).map(lambda words: struct.pack(f"<{len(words)}Q", *words))


@settings(max_examples=300)
@given(WORDS, st.integers(0, 7), st.sampled_from(sorted(BY_VERSION)), st.integers(0, 255), st.integers(0, 1 << 40))
def test_hostile_memory(data: bytes, holes: int, version: tuple[int, int], owner: int, address: int) -> None:
    """Whatever is there: no error but our own, no name without proof, bounded reads."""
    memory = Noise(data, holes=holes)
    details = PhpDetails(BY_VERSION[version], SYMBOLS)
    rows = np.zeros(1, FRAME)
    rows["code"], rows["globals"], rows["owner"] = 12345, address, owner
    (frame,) = PhpSymboliser(memory, details).frames(rows)
    assert frame.unresolved
    assert memory.reads < 20


@settings(max_examples=300, deadline=None)
@given(WORDS, st.integers(0, 7), st.sampled_from(sorted(BY_VERSION)))
def test_hostile_stacks(data: bytes, holes: int, version: tuple[int, int]) -> None:
    """A list without an end, or of nothing, ends."""
    memory = Noise(data, holes=holes)
    details = PhpDetails(BY_VERSION[version], SYMBOLS)
    found = DetectedRuntime("php", 2, "PHP", "", "", FOUND.layout, HEAD, details)
    try:
        (stack,) = read_stacks(found, memory)
    except MemoryReadError:
        return
    assert len(stack.rows) <= MAX_FRAMES + 1
    PhpSymboliser(memory, details).frames(stack.rows)
    assert memory.reads < 2_000_000


def shown(heap: Heap) -> list[tuple[str, int]]:
    (stack,) = read_stacks(FOUND, heap)
    assert stack.state == COMPLETE
    assert stack.main
    return [(frame.function, frame.line) for frame in PhpSymboliser(heap, DETAILS).frames(stack.rows)]


def test_a_stack_from_outside() -> None:
    """Calls, a dummy, a Fiber's beginning, a frameless call, an exception: the frames that PHP itself would show."""
    heap = Heap()
    main = heap.call(heap.function(USER, None), 30, info=CALL_TOP)
    included = heap.call(heap.function(USER, None, file="/i.php"), 20, previous=main)
    dummy = heap.call(0, previous=included)
    nameless = heap.call(heap.function(INTERNAL, None), previous=dummy)
    thrown = heap.call(heap.function(USER, "thrown"), 0, previous=nameless, opcode=HANDLE_EXCEPTION)
    frameless = heap.call(heap.function(USER, "calls"), 10, previous=thrown, opcode=OFFSETS.frameless + 1)
    inner = heap.call(heap.function(INTERNAL, "fread"), previous=frameless)
    heap.run(inner)
    heap.write(
        SYMBOLS.frameless, struct.pack("<Q", heap.put(struct.pack("<Q", heap.function(INTERNAL, "class_exists"))))
    )
    before = SYMBOLS.globals + OFFSETS.before_exception
    heap.write(before, struct.pack("<Q", heap.put(bytes(24) + struct.pack("<Q", 77))))
    expected = [("fread", 0), ("class_exists", 0), ("calls", 10), ("thrown", 77), ("{include}", 20), ("{main}", 30)]
    assert shown(heap) == expected
    heap.write(before, bytes(8))  # nothing was thrown before: the function's last line
    assert shown(heap)[3] == ("thrown", 12)


def test_generators_that_delegate() -> None:
    """Those between the one that runs and the one that was asked stand between them."""
    heap = Heap()
    cls = heap.put(bytes(16))
    heap.write(SYMBOLS.generator, struct.pack("<Q", cls))
    main = heap.call(heap.function(USER, "asks"), 9)
    calls = [heap.call(heap.function(USER, name), line) for name, line in (("outer", 1), ("middle", 2), ("runs", 3))]
    parent, generators = 0, []
    for call in reversed(calls):
        data = bytearray(200)
        struct.pack_into("<Q", data, 16, cls)
        struct.pack_into("<Q", data, OFFSETS.generator_frame, call)
        struct.pack_into("<Q", data, OFFSETS.generator_parent, parent)
        parent = heap.put(bytes(data))
        generators.append(parent)
    placeholder = heap.put(struct.pack("<QQQQQQQ", 0, 0, 0, 0, generators[-1], OBJECT_TYPE, main))
    heap.write(calls[2] + 48, struct.pack("<Q", placeholder))
    heap.run(calls[2])
    assert shown(heap) == [("runs", 3), ("middle", 2), ("outer", 1), ("asks", 9)]


def test_too_deep_and_unreadable() -> None:
    """More frames than are read: some of them, and told so; where nothing can be read: nothing."""
    heap = Heap()
    function, call = heap.function(USER, "f"), 0
    for _ in range(MAX_FRAMES + 5):
        call = heap.call(function, 3, previous=call)
    heap.run(call)
    (stack,) = read_stacks(FOUND, heap)
    assert (stack.state, len(stack.rows)) == (TRUNCATED, MAX_FRAMES)
    heap.run(0x99)
    (stack,) = read_stacks(FOUND, heap)
    assert (stack.state, len(stack.rows)) == (UNREADABLE, 0)


def test_layouts_of_the_kernel() -> None:
    """A row says what is absent as such."""
    for version, offsets in BY_VERSION.items():
        (fields,) = kernel_row(offsets, version[0] * 10000 + version[1] * 100, Symbols(0x1000)).tolist()
        named: Mapping[str, int] = dict(zip(kernel_row(offsets, 0, SYMBOLS).dtype.names or (), fields, strict=True))
        assert named["generator_class"] == named["frameless_functions"] == 0
        assert named["frameless"] == 0xFFFF
        assert (named["before_exception"] == 0xFFFF) == (offsets.before_exception == 0xFFFF)
