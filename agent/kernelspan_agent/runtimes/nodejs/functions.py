# SPDX-License-Identifier: Apache-2.0
"""What a function is shown by, read from its SharedFunctionInfo: for functions that the kernel has not told of, which were
made part of others' code. The rules are those of bpf/runtimes/nodejs_code.bpf.h.
"""

from __future__ import annotations

import struct
import urllib.parse
from dataclasses import dataclass
from typing import TYPE_CHECKING

from kernelspan_agent.process.memory import read_u64
from kernelspan_agent.process.procfs import printable

from .heap import FIRST_NON_STRING, STRING_LENGTH, CorruptHeapError, read_script, read_text, type_of
from .layout import HEADER_BYTES

if TYPE_CHECKING:
    from kernelspan_agent.process.memory import Memory

    from .layout import Layout

MAX_NAME_CHARS = 256
MAX_FILE_CHARS = 4096
ELLIPSIS = "…"
NO_CHECK = -1  # read from the memory itself: only where code that is at work leads to it
ANONYMOUS = "<anonymous>"  # as V8's own traces have it
NATIVE_FILE = "[native code]"  # as Function.prototype.toString has it
_INLINE_LOCALS, _SCOPE_SLOTS = 75, 6
_NATIVE = 0x20  # of its flags: shown in traces though it is no user's


@dataclass(frozen=True, slots=True)
class Function:
    """A function as it is shown, and where its script was when this was learnt."""

    name: str
    file: str
    number: int  # in its script
    script: int
    script_id: int
    source_length: int
    line_offset: int
    check: int = NO_CHECK  # of its script's source: lines.check_of

    def is_of(self, other: Function) -> bool:
        """Whether both are one function of one script."""
        mine = self.script_id, self.number, self.source_length
        return mine == (other.script_id, other.number, other.source_length)


def read_shown(memory: Memory, shared: int, layout: Layout) -> Function | None:
    """The function of the SharedFunctionInfo that a tagged value is; None: V8's own, that no trace shows.

    Raises MemoryReadError, CorruptHeapError.
    """
    if type_of(memory, shared) != layout["type_shared"]:
        raise CorruptHeapError(f"no function at {shared:#x}")
    words = memory.read(shared - 1, 64)
    script, name, builtin = (
        struct.unpack_from("<Q", words, at)[0]
        for at in (layout["shared_script"], layout["shared_name"], layout.version.shared_builtin)
    )
    if type_of(memory, script) in (layout["type_script"], layout["type_debug_info"]):
        return read_function(memory, shared, layout)
    (flags,) = struct.unpack_from("<I", words, layout["shared_flags"])
    if not flags & _NATIVE or builtin & 1 or builtin >> 63:
        return None
    return Function(short(_name(memory, name, layout)) or ANONYMOUS, NATIVE_FILE, builtin >> 32, 0, 0, 0, 0)


def read_function(memory: Memory, shared: int, layout: Layout) -> Function:
    """The function of the SharedFunctionInfo that a tagged value is. Raises MemoryReadError, CorruptHeapError."""
    if type_of(memory, shared) != layout["type_shared"]:
        raise CorruptHeapError(f"no function at {shared:#x}")
    words = memory.read(shared - 1, 64)
    script, name = (struct.unpack_from("<Q", words, layout[at])[0] for at in ("shared_script", "shared_name"))
    function_flags, number = struct.unpack_from("<II", words, layout["shared_flags"])
    if type_of(memory, script) == layout["type_debug_info"] and layout.version.debug_info_script:
        script = read_u64(memory, script - 1 + layout.version.debug_info_script)
    found = read_script(memory, script, layout)
    shown = _string(memory, read_u64(memory, script - 1 + layout["script_name"]), MAX_FILE_CHARS, layout)
    if shown is None:
        shown = _string(memory, read_u64(memory, script - 1 + layout.version.script_source_url), MAX_FILE_CHARS, layout)
    if not 0 <= type_of(memory, found.source) < FIRST_NON_STRING:
        raise CorruptHeapError(f"a script without a source at {script:#x}")
    (length,) = struct.unpack("<I", memory.read(found.source - 1 + STRING_LENGTH, 4))
    flags = read_u64(memory, script - 1 + layout.version.script_source_url - 8) >> 32
    return Function(
        initializer(function_flags, layout) or short(_name(memory, name, layout)) or unnamed(evaluated=bool(flags & 1)),
        path_of(shown or ""),
        number,
        script,
        found.number,
        length,
        found.line_offset,
    )


def _name(memory: Memory, value: int, layout: Layout) -> str:
    if not value & 1:
        return ""  # it has neither a name nor a scope
    if type_of(memory, value) != layout["type_scope_info"]:
        return _string(memory, value, MAX_NAME_CHARS + 1, layout) or ""
    count = read_u64(memory, value - 1 + HEADER_BYTES + 8 * layout["scope_locals"]) >> 32
    words = 2 * count if count < _INLINE_LOCALS else count + 1
    at = value - 1 + HEADER_BYTES + 8 * (layout["scope_first"] + words)
    for (each,) in struct.iter_unpack("<Q", memory.read(at, 8 * _SCOPE_SLOTS)):
        if not each & 1:
            continue
        kind = type_of(memory, each)
        if kind < 0:
            raise CorruptHeapError(f"no object at {each:#x}")
        if kind < FIRST_NON_STRING:
            if found := _string(memory, each, MAX_NAME_CHARS + 1, layout):
                return found
        elif kind != layout["type_oddball"]:
            break
    return ""


def _string(memory: Memory, value: int, limit: int, layout: Layout) -> str | None:
    """A text; None where undefined is in its place. Whatever else is there makes it unknown."""
    kind = type_of(memory, value)
    if kind == layout["type_oddball"] or not value & 1:
        return None
    if not 0 <= kind < FIRST_NON_STRING:
        raise CorruptHeapError(f"no string at {value:#x}")
    return read_text(memory, value, limit)


def short(text: str, *, cut: int = 0) -> str:
    """A name as a frame has it; `cut`: not 0 where only its beginning is known."""
    whole = not cut and len(text) <= MAX_NAME_CHARS
    return printable(text if whole else text[: MAX_NAME_CHARS - 1] + ELLIPSIS)


def initializer(function_flags: int, layout: Layout) -> str:
    """What V8 calls a function that it has made of a class's fields and static blocks; empty: it is none."""
    of_object, of_class = layout.version.initializers
    kind = function_flags & 31
    if kind == of_object:
        return "<instance_members_initializer>"
    return "<static_initializer>" if of_class <= kind <= of_class + 2 else ""


def unnamed(*, evaluated: bool) -> str:
    """What V8 calls a function without a name."""
    return "eval" if evaluated else ANONYMOUS


def path_of(file: str) -> str:
    """The file that a script's name stands for: modules of ECMAScript are named by URLs."""
    if file.startswith("file:///"):
        path = file.removeprefix("file://").partition("?")[0].partition("#")[0]
        return urllib.parse.unquote(path, errors="surrogateescape")
    return file or ANONYMOUS
