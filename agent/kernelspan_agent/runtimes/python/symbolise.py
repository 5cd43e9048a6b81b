# SPDX-License-Identifier: Apache-2.0
"""From the frames of the kernel's walk to function, file and line.

What names a code object comes from the kernel, which read it while the code was on a stack (a CODE record, `learn`).
Where it did not (a page was not resident, a table too long), the process's memory is read here, which takes care:
Never a wrong name: after everything about a frame was read, the code object must still live, and its check word,
computed again from the same memory, must be the one that the kernel computed when the frame ran. Else the object was
freed, its address perhaps used again, and the frame is unresolved. Doing this last is what makes the rest true: an
object that is still the same was the same all along, and so was what it holds. That it lives must be seen apart: a
dead object keeps most of its fields until its memory is used again, what it held does not.
A code object that lives on may be run in one namespace after another (exec of the same code in fresh dicts), and a dict
may get another's address: a frame bears a hash of the module's name, and the name found must have it.
A frame that has not begun its function's own code is left out, as by the interpreter itself (_PyFrame_IsIncomplete): a call
that is being prepared, or the frame of nobody's code that stands below an __init__ since 3.12.
Answers are kept by (code, check, globals, hash): memory that changes later is not asked again. Both caches are bounded.
"""

from __future__ import annotations

import struct
from collections import Counter, OrderedDict
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from kernelspan_agent.process.errors import MemoryReadError
from kernelspan_agent.process.procfs import printable
from kernelspan_agent.runtimes.mixing import mix_lanes
from kernelspan_agent.runtimes.registry import RawFrame

from .layout import ABSENT, NO_MODULE, NOT_TOLD, PY_CODE, check_word, mix_words, module_bits, split_globals
from .lines import line_of
from .objects import ELLIPSIS, CorruptObjectError, find_module_name, is_alive, read_bytes, read_str

if TYPE_CHECKING:
    from kernelspan_agent.process.memory import Memory

    from .layout import Offsets, Types

MAX_NAME_CHARS = 256
MAX_FILE_CHARS = 4096  # PATH_MAX
MAX_TABLE_BYTES = 1 << 20  # memory.MAX_READ_BYTES; a function of some 100,000 lines
MAX_CODES = 8192
MAX_FRAMES = 32768
FREED, REPLACED, UNREADABLE, CORRUPT = "CodeFreed", "CodeReplaced", "MemoryUnreadable", "Corrupt"

_PY_CODE_BYTES = 144  # up to and with the line table's pointer, in every version
_COMPACT, _ASCII = 0x20, 0x40  # bits of a str's state
_TAIL_BYTES = 32
_TABLE_BYTES = 128
_NOT_HASHED = (1 << 64) - 1
_MARKED_MODULE = "anyio._backends._asyncio"
_NAME_CUT, _MODULE_CUT, _FILE_CUT = 1, 2, 4  # PY_CODE["flags"]


_Space = tuple[int, int]  # a namespace: address, bits of the hash of its module's name


@dataclass(frozen=True, slots=True)
class _Code:
    module: str
    qualname: str
    file: str
    first_line: int
    first_traceable: int  # bytes from the start of the code; -1: not told
    table: int | bytes  # address of the line table; from the kernel: the table


_INCOMPLETE = RawFrame("", "", "", "", 0, 0, 0, "Incomplete")


class PythonSymboliser:
    """Symbols of one process. Not for several threads at once."""

    def __init__(self, memory: Memory, offsets: Offsets, types: Types) -> None:
        self._memory = memory
        self._offsets = offsets
        self._types = types
        self._codes: OrderedDict[tuple[int, int, _Space], _Code] = OrderedDict()
        self._frames: OrderedDict[tuple[int, int, _Space, int], RawFrame] = OrderedDict()
        self.unresolved: Counter[str] = Counter()  # frames without a name, by reason
        self.has_loops = False  # code of asyncio's has run
        self.marked: dict[str, int] = {}  # the code objects of functions that loops.py asks for

    def learn(self, record: bytes) -> None:
        """Takes in a CODE record; one that makes no text is passed over."""
        if len(record) < PY_CODE.itemsize:
            return
        header = np.frombuffer(record, PY_CODE, 1)[0]
        texts, at = [], PY_CODE.itemsize
        for part in ("name", "module", "file"):
            size = int(header[f"{part}_bytes"])
            texts.append(_text(record[at : at + size], int(header[f"{part}_width"])))
            at += size
        name, module, file = texts
        table = record[at : at + int(header["table_bytes"])]
        flags = int(header["flags"])
        if not name or not file:
            return
        space = split_globals(int(header["globals"]), int(header["tag"]))
        key = (int(header["code"]), int(header["check"]), space)
        name, module = _shown(name, cut=flags & _NAME_CUT), _shown(module, cut=flags & _MODULE_CUT)
        file += ELLIPSIS if flags & _FILE_CUT else ""
        first = int(header["first_traceable"]) * 2 if self._offsets.code_first_traceable != ABSENT else -1
        self._keep(key, _Code(module, name, file, int(header["first_line"]), first, table))

    def _keep(self, key: tuple[int, int, _Space], code: _Code) -> None:
        self._codes[key] = code
        self._codes.move_to_end(key)
        if len(self._codes) > MAX_CODES:
            self._codes.popitem(last=False)
        if code.module.startswith("asyncio."):
            self.has_loops = True
        elif code.module == _MARKED_MODULE:
            self.marked[f"{code.module}.{code.qualname}"] = key[0]

    def frames(self, rows: np.ndarray) -> list[RawFrame]:
        """Frames of the rows (fields code, pc, globals, check, owner and, from the kernel, tag; shape (n,)) in their order.

        Rows whose owner says that they are no Python frame are left out. A frame that could not be resolved has no
        function and says why.
        """
        found = []
        columns = [rows[name].tolist() for name in ("code", "pc", "globals", "check", "owner")]
        tags = rows["tag"].tolist() if "tag" in (rows.dtype.names or ()) else [NOT_TOLD] * len(rows)
        for code, pc, namespace, check, owner, tag in zip(*columns, tags, strict=True):
            if self._offsets.frame_owner != ABSENT and owner >= self._offsets.owner_skip:
                continue
            frame = self._cached(code, pc, split_globals(namespace, tag), check)
            if frame is _INCOMPLETE and owner != self._offsets.owner_generator:
                continue
            if frame.unresolved:
                self.unresolved[frame.unresolved] += 1
            found.append(frame)
        return found

    def _cached(self, code: int, pc: int, space: _Space, check: int) -> RawFrame:
        key = (code, pc, space, check)
        frame = self._frames.get(key)
        if frame is None:
            frame = self._resolve(code, pc, space, check)
            if not frame.unresolved:  # a page may be resident the next time
                self._frames[key] = frame
                if len(self._frames) > MAX_FRAMES:
                    self._frames.popitem(last=False)
        else:
            self._frames.move_to_end(key)
        return frame

    def _resolve(self, address: int, pc: int, space: _Space, check: int) -> RawFrame:
        call_site = _call_site(address, pc, self._offsets)
        identity = address & 0xFFFFFFFFFFFF | (check & 0xFFFF) << 48
        key = (address, check, space)
        code = self._codes.get(key)
        if code is not None and isinstance(code.table, bytes):
            return self._frame(code, code.table, call_site, identity)
        try:
            code = code or self._read_code(address, space)
            assert isinstance(code.table, int)
            table = read_bytes(self._memory, code.table, self._offsets, MAX_TABLE_BYTES)
            if not is_alive(self._memory, address, self._types.code, self._offsets):
                return RawFrame("", "", "", "", 0, call_site, identity, FREED)
            if read_check(self._memory, address, self._offsets) != check:
                return RawFrame("", "", "", "", 0, call_site, identity, REPLACED)
        except MemoryReadError:
            return RawFrame("", "", "", "", 0, call_site, identity, UNREADABLE)
        except CorruptObjectError:
            return RawFrame("", "", "", "", 0, call_site, identity, CORRUPT)
        self._keep(key, code)
        return self._frame(code, table, call_site, identity)

    def _frame(self, code: _Code, table: bytes, call_site: int, identity: int) -> RawFrame:
        if call_site < code.first_traceable:
            return _INCOMPLETE
        line = line_of(table, code.first_line, call_site, self._offsets.minor)
        function = f"{code.module}.{code.qualname}" if code.module else code.qualname
        return RawFrame(function, code.module, code.qualname, code.file, line, call_site, identity)

    def _read_code(self, address: int, space: _Space) -> _Code:
        offsets = self._offsets
        header = self._memory.read(address, _PY_CODE_BYTES)
        name_at = offsets.code_name if offsets.code_qualname == ABSENT else offsets.code_qualname
        file, name, table = (
            struct.unpack_from("<Q", header, at)[0] for at in (offsets.code_file, name_at, offsets.code_line_table)
        )
        return _Code(
            self._module(*space),
            printable(read_str(self._memory, name, offsets, MAX_NAME_CHARS)),
            read_str(self._memory, file, offsets, MAX_FILE_CHARS),
            struct.unpack_from("<i", header, offsets.code_first_line)[0],
            self._first_traceable(address),
            table,
        )

    def _first_traceable(self, address: int) -> int:
        at = self._offsets.code_first_traceable
        if at == ABSENT:
            return -1
        units: int = struct.unpack("<I", self._memory.read(address + at, 4))[0]
        return units * 2

    def _module(self, namespace: int, bits: int) -> str:
        if bits == NO_MODULE:
            return ""
        memory, offsets = self._memory, self._offsets
        try:
            at = find_module_name(memory, namespace, offsets, self._types)
            if not at or (bits != NOT_TOLD and module_bits(mix_words(_text_words(memory, at, offsets))) != bits):
                return ""
            name = printable(read_str(memory, at, offsets, MAX_NAME_CHARS))
            return name if is_alive(memory, namespace, self._types.dict, offsets) else ""
        except (MemoryReadError, CorruptObjectError):
            return ""  # a function without its module is true as well


def read_check(memory: Memory, code: int, offsets: Offsets) -> int:
    """The check word of the code object at `code` as its memory is now: see `layout`. Raises MemoryReadError."""
    window = memory.read(code + offsets.code_check, offsets.code_check_bytes)
    if offsets.code_strings == ABSENT:
        return check_word(window)
    pointers = struct.unpack("<4Q", memory.read(code + offsets.code_strings, 32))
    table_at = (offsets.code_line_table - offsets.code_strings) // 8  # 3.11: the qualified name stands before it
    name, table = pointers[table_at - 1], pointers[table_at]
    words = _text_words(memory, name, offsets)
    words += struct.pack("<Q", mix_words(_text_words(memory, pointers[0], offsets)))
    size, table_hash = struct.unpack("<QQ", memory.read(table + offsets.bytes_size, 16))
    words += struct.pack("<QQ", size, table_hash)
    if table_hash == _NOT_HASHED:
        words += struct.pack("<Q", mix_lanes(memory.read(table + offsets.bytes_data, min(size, _TABLE_BYTES))))
    return check_word(window, words)


def _text_words(memory: Memory, address: int, offsets: Offsets) -> bytes:
    """A str's part in a check word."""
    length, text_hash, state = struct.unpack("<QQI", memory.read(address + offsets.str_length, 20))
    words = struct.pack("<QQ", length, text_hash)
    if text_hash != _NOT_HASHED or not state & _COMPACT:
        return words
    data = address + (offsets.str_data if state & _ASCII else offsets.str_compact_data)
    size = length * (state >> 2 & 7) & 0xFFFFFFFFFFFFFFFF
    tail = memory.read(data + size - min(size, _TAIL_BYTES), min(size, _TAIL_BYTES))
    return words + tail.ljust(_TAIL_BYTES, b"\0")


def _text(data: bytes, width: int) -> str:
    """A str's characters as text; empty where they make none."""
    try:
        return data.decode({1: "latin-1", 2: "utf-16-le", 4: "utf-32-le"}.get(width, "ascii"), "surrogatepass")
    except UnicodeDecodeError:
        return ""


def _shown(text: str, *, cut: int) -> str:
    """A name as a frame has it; `cut`: not 0 where the kernel sent only its beginning."""
    whole = not cut and len(text) <= MAX_NAME_CHARS
    return printable(text if whole else text[: MAX_NAME_CHARS - 1] + ELLIPSIS)


def _call_site(code: int, pc: int, offsets: Offsets) -> int:
    """Bytes from the start of the code to the frame's instruction; -1 or less: not begun."""
    if offsets.code_bytecode != ABSENT:
        return _signed(pc - (code + offsets.code_bytecode), 64)
    last = _signed(pc, 32)
    return last * 2 if offsets.minor == 10 and last > 0 else last  # 3.10 counts code units


def _signed(value: int, bits: int) -> int:
    value &= (1 << bits) - 1
    return value - (1 << bits) if value >> (bits - 1) else value
