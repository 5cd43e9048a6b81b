# SPDX-License-Identifier: Apache-2.0
"""What one file says about the Node.js it holds: versions, V8's constants, and where the walk's places are before relocation.

Only the file is read, so the answer holds for every process that runs it. V8's constants are dynamic symbols; its code's
are in the table of all symbols. Where an isolate keeps c_entry_fp no constant says: the code by which C++ enters
JavaScript saves and clears it at once (JSEntry), and every call of a plain C function stores its caller's frame.
"""

from __future__ import annotations

import re
import struct
from collections import Counter
from dataclasses import dataclass

from kernelspan_agent.process import elf as elf_reader
from kernelspan_agent.process.errors import ElfError
from kernelspan_agent.runtimes.registry import Unsupported

from .layout import BY_VERSION, CONSTANTS, GIVEN, INTERPRETER_BYTES, NEWEST, OLDEST, Layout, Places

START = "_ZN4node5StartEiPPc"  # node::Start
_MAJOR, _MINOR = (f"_ZN2v88internal7Version6{part}_E" for part in ("major", "minor"))
_VARIABLE = "_ZN2v88internal18g_current_isolate_E"
_KEY = "_ZN2v88internal7Isolate12isolate_key_E"
_ENTRY, _INTERPRETER = "Builtins_JSEntry", "Builtins_InterpreterEntryTrampoline"
_ENTERED = "Builtins_InterpreterEnterAtNextBytecode"
_RELEASE = re.compile(rb"/node-v(\d{1,3}\.\d{1,3}\.\d{1,4}(?:-(?!headers)[a-z0-9.]{1,32})?)\.tar\.gz")
_RELEASE_BYTES = 128
_ROOT_BIAS = 0x80  # the root register points into the isolate
# push rbp; mov rbp, rsp; push type; sub rsp, 8; push r12 to r15, rbx; mov r13, rdi
_PROLOGUE = bytes.fromhex("554889e56a024883ec084154415541564157534c8bef")
_SAVED = re.compile(rb"\x41\xff\xb5(....)\x49\xc7\x85(....)\0\0\0\0", re.DOTALL)  # push [r13+x]; mov qword [r13+x], 0
_STORED_FP = re.compile(rb"\x49\x89(?:\x6d(.)|\xad(....))", re.DOTALL)  # mov [r13+x], rbp
_STORED_PC = re.compile(
    rb"\x4d\x89(?:\x55(.)|\x95(....))|\x4c\x89(?:\x55(.)|\x95(....))", re.DOTALL
)  # mov [r13+x], r10
_SIZES = "_ZN2v88internal11interpreter9Bytecodes14kBytecodeSizesE"
_DISPATCH = re.compile(
    rb"\x4b\x8b\x0c\xd7\xff\xd1(?=\x4c\x8b\x65\xe0)"
)  # mov rcx, [r15+r10*8]; call rcx; mov r12, [rbp-32]
_MAX_INTERPRETER_BYTES = 1 << 14
_AROUND_BYTES = 2 << 20  # V8's own code behind JSEntry


@dataclass(frozen=True, slots=True)
class NodeBuild:
    """A Node.js that can be walked. Addresses are the file's own."""

    version: str
    layout: Layout
    places: Places


def inspect_file(fd: int) -> NodeBuild | Unsupported | None:
    """The Node.js in the open ELF file; None where there is none. Raises ElfError."""
    elf = elf_reader.read_elf(fd)
    names = {name for choice in CONSTANTS.values() for name in choice}
    symbols = elf_reader.symbol_addresses(elf, {START, _MAJOR, _MINOR, _KEY, _VARIABLE, *names}, static=False)
    if START not in symbols or _MAJOR not in symbols:
        return None
    version = _release(elf)
    if not version:
        return Unsupported("RuntimeLayoutUnknown", "the file does not say which Node.js it holds", "nodejs")
    v8 = _number(elf, symbols[_MAJOR]), _number(elf, symbols.get(_MINOR, 0))
    known = BY_VERSION.get(v8)
    if known is None:
        older = v8 < OLDEST
        message = (
            f"Node.js {version} has V8 {v8[0]}.{v8[1]}, {'older' if older else 'newer'} than the layouts that are known"
        )
        if OLDEST < v8 < NEWEST:
            message = f"Node.js {version} has V8 {v8[0]}.{v8[1]}, whose layout is not known"
        return Unsupported("RuntimeUnsupported" if older else "RuntimeLayoutUnknown", message, "nodejs", version)
    try:
        constants = _constants(elf, symbols)
        layout, places = _walkable(elf, symbols)
        found = Layout(known, constants, *layout, _bytecode_sizes(elf))
    except _LayoutError as error:
        return Unsupported("RuntimeLayoutUnknown", f"Node.js {version}: {error}", "nodejs", version)
    return NodeBuild(version, found, places)


class _LayoutError(Exception):
    """The file does not say what the walk needs."""


def _constants(elf: elf_reader.Elf, symbols: dict[str, int]) -> dict[str, int]:
    found = {}
    for name, choice in CONSTANTS.items():
        symbol = next((each for each in choice if each in symbols), None)
        if symbol is None:
            raise _LayoutError(f"it does not export {choice[0]}")
        found[name] = _number(elf, symbols[symbol])
    for name, value in GIVEN.items():
        if found[name] != value:
            raise _LayoutError(f"{CONSTANTS[name][0]} is {found[name]}, not {value}")
    if not all(0 <= value < 1 << 16 for name, value in found.items() if name not in GIVEN):
        raise _LayoutError("its constants contradict themselves")
    shared = [found[name] for name in ("shared_name", "shared_script", "shared_flags")]
    if any(offset % 8 or not 8 <= offset < 64 for offset in shared):
        raise _LayoutError(f"a SharedFunctionInfo with {shared}")
    return found


def _walkable(elf: elf_reader.Elf, symbols: dict[str, int]) -> tuple[tuple[int, int, int, bool], Places]:
    code = elf_reader.symbol_extents(elf, {_ENTRY, _INTERPRETER, _ENTERED, _VARIABLE})
    if any(name not in code for name in (_ENTRY, _INTERPRETER, _ENTERED)):
        raise _LayoutError("it has no symbols of V8's own code")
    entry = code[_ENTRY][0]
    interpreter, after = _interpreter(elf, *code[_INTERPRETER])
    variable = symbols.get(_VARIABLE) or code.get(_VARIABLE, (0, 0))[0]
    text = elf_reader.read_address(elf, entry, 128)
    saved = [struct.unpack("<i", match[1])[0] for match in _SAVED.finditer(text) if match[1] == match[2]]
    if not text.startswith(_PROLOGUE) or len(saved) not in (1, 3):
        raise _LayoutError("its JSEntry is not as the known ones")
    begin, size = _builtins(elf, entry)
    around = elf_reader.read_address(elf, entry, min(_AROUND_BYTES, begin + size - entry))
    fast_fp, fast_pc = _fast_call(around)
    if len(saved) == 3 and saved[1:] != [fast_fp, fast_pc]:
        raise _LayoutError(f"JSEntry saves {saved}, calls store {fast_fp}, {fast_pc}")
    offsets = [each + _ROOT_BIAS for each in (saved[0], fast_fp, fast_pc)]
    if not all(0 <= each < 1 << 20 for each in offsets):
        raise _LayoutError(f"an isolate with {offsets}")
    isolate, key = _of_thread(elf, variable, symbols.get(_KEY, 0))
    entered = elf_reader.read_address(elf, code[_ENTERED][0], INTERPRETER_BYTES)
    places = Places(interpreter, after, entered, begin, size, isolate, key)
    return (offsets[0], offsets[1], offsets[2], len(saved) == 3), places


def _of_thread(elf: elf_reader.Elf, variable: int, key: int) -> tuple[int, int]:
    """Where a thread has its isolate: (from the thread pointer, 0), or (0, the address of a key)."""
    if not variable and not key:
        raise _LayoutError("it does not say where a thread has its isolate")
    segment = next((each for each in elf.segments if each.kind == elf_reader.PT_TLS), None)
    if not variable:
        return 0, key
    if segment is None or not any(each.kind == elf_reader.PT_INTERP for each in elf.segments):
        raise _LayoutError("its isolates are in a variable of a library's threads")
    align = max(segment.alignment, 1)
    if align & align - 1 or segment.address % align or variable > segment.memory_bytes:
        raise _LayoutError("its threads' variables are laid out otherwise")
    return variable - (segment.memory_bytes + align - 1 & -align), 0


def _bytecode_sizes(elf: elf_reader.Elf) -> bytes:
    """Of each bytecode, three times as many as there are; nothing where the file does not say."""
    address, size = elf_reader.symbol_extents(elf, {_SIZES}).get(_SIZES, (0, 0))
    return elf_reader.read_address(elf, address, size) if size and size % 3 == 0 and size <= 3 * 256 else b""


def _interpreter(elf: elf_reader.Elf, address: int, size: int) -> tuple[int, bytes]:
    """Where the interpreter goes on after it has called a bytecode's handler, and with what."""
    code = elf_reader.read_address(elf, address, min(size, _MAX_INTERPRETER_BYTES))
    calls = [match.end() for match in _DISPATCH.finditer(code)]
    if len(calls) != 1 or calls[0] + INTERPRETER_BYTES > len(code):
        raise _LayoutError("its interpreter is not as the known ones")
    return address + calls[0], code[calls[0] : calls[0] + INTERPRETER_BYTES]


def _builtins(elf: elf_reader.Elf, entry: int) -> tuple[int, int]:
    """The segment of the file's code that V8's own code is in: address and size."""
    for each in elf.segments:
        if each.is_code and each.address <= entry < each.address + each.file_bytes:
            return each.address, each.file_bytes
    raise _LayoutError("its JSEntry is in no code")


def _fast_call(code: bytes) -> tuple[int, int]:
    """Where a call of a C function stores the frame and the address that it comes from, from the root register."""
    frames = Counter(_displacement(match) for match in _STORED_FP.finditer(code))
    places = Counter(_displacement(match) for match in _STORED_PC.finditer(code))
    if frames:
        fp, often = frames.most_common(1)[0]
        beside = [pc for pc in (fp + 8, fp - 8) if places[pc] * 2 > often]
        if often >= 100 and len(beside) == 1:
            return fp, beside[0]
    raise _LayoutError("its calls of C functions are not as the known ones")


def _displacement(match: re.Match[bytes]) -> int:
    return int.from_bytes(match[match.lastindex or 0], "little", signed=True)


def _release(elf: elf_reader.Elf) -> str:
    section = elf.section(".rodata")
    if section is None or section.kind == elf_reader.SHT_NOBITS:
        return ""
    found: set[str] = set()
    for _, chunk in elf_reader.section_chunks(elf, section, overlap=_RELEASE_BYTES):
        found.update(match[1].decode("ascii") for match in _RELEASE.finditer(chunk))
    return found.pop() if len(found) == 1 else ""


def _number(elf: elf_reader.Elf, address: int) -> int:
    """The int at an address; what the file has no bytes of is 0."""
    try:
        return int.from_bytes(elf_reader.read_address(elf, address, 4), "little", signed=True)
    except ElfError:
        return 0
