# SPDX-License-Identifier: Apache-2.0
"""Where V8 keeps what the walk and the symboliser need, by its version, and what the kernel's rows and records hold.

A Node.js says most of it itself: V8 exports constants for debuggers, v8dbg_*, made from its own classes (`Constants`). What
it does not say is fixed within a minor version of V8, from its sources (src/objects/*.tq, src/codegen/source-position-table.cc,
src/execution/frame-constants.h), and held against living processes by the tests: `BY_VERSION`. x86-64, pointers not compressed,
as every Node.js is built.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .operations import V10_2, V11_3, V12_4, V13_6, V14_6
from .translations import Opcodes

# FRAME["owner"] and what else the kernel's programs are compiled with
INTERPRETED = 1  # FRAME["pc"] is the offset in the bytecode, FRAME["check"] the bytecode's size
COMPILED = 2  # FRAME["pc"] is an address, FRAME["check"] a hash of the code around it
BUILTIN = 3  # a function of V8's own, that stack traces show
CUT_NAME, CUT_FILE = 1, 2  # JS_CODE["flags"]: a text is longer than what was sent
MISSING = 4  # times one of these: the kernel could not read it; the string is at its address
FROM_URL = 16  # the script has no name: the text is that of its sourceURL
OUTSIDE = 1  # JS_CODE["source_check"]: the source is not in the heap
EVALUATED = 32  # the script is code of eval or Function

JS_LAYOUT = np.dtype(
    [
        ("isolate", "<i8"),  # of the thread's variable, from the thread pointer
        (
            "isolate_key",
            "<i8",
        ),  # of the key of pthread_getspecific that holds it, from the walk's base; 0: a variable does
        ("builtins", "<i8"),  # V8's own code, from the walk's base
        (
            "interpreter_0",
            "<u8",
        ),  # the code that the interpreter goes on with after a call, 32 bytes: V8 may run a copy
        ("interpreter_1", "<u8"),
        ("interpreter_2", "<u8"),
        ("interpreter_3", "<u8"),
        ("entered_0", "<u8"),  # by which a function goes on there after its optimised code was left
        ("entered_1", "<u8"),
        ("entered_2", "<u8"),
        ("entered_3", "<u8"),
        ("builtins_bytes", "<u4"),
        ("entry_fp", "<u4"),  # c_entry_fp in the isolate
        ("fast_fp", "<u4"),  # fast_c_call_caller_fp
        ("fast_pc", "<u4"),
        ("function_shared", "<u2"),  # in JSFunction
        ("shared_name", "<u2"),  # in SharedFunctionInfo
        ("shared_script", "<u2"),
        ("shared_flags", "<u2"),  # four bytes; the function's number in the script follows
        ("shared_builtin", "<u2"),
        ("script_id", "<u2"),
        ("script_source_url", "<u2"),
        ("debug_info_script", "<u2"),  # 0: a script is never behind a DebugInfo
        ("scope_locals", "<u2"),  # in ScopeInfo: how many variables
        ("scope_variables", "<u2"),  # and where they begin
        ("bytecode_data", "<u2"),  # in BytecodeArray
        ("bytecode_positions", "<u2"),
        ("type_script", "<u2"),
        ("type_debug_info", "<u2"),
        ("type_scope_info", "<u2"),
        ("type_oddball", "<u2"),
        ("type_positions", "<u2"),
        ("frame_builtin_exit", "<u2"),
        ("entry_saves_fast", "<u2"),
        ("unused1", "<u2"),
    ]
)

# Record of the ring that names a function; then come the texts of name and file, and the table of positions.
JS_CODE = np.dtype(
    [
        ("kind", "<u2"),
        ("version", "<u2"),
        ("size", "<u4"),
        ("time", "<u8"),
        ("tgid", "<u4"),
        ("tid", "<u4"),
        ("layout", "<u4"),
        ("flags", "<u4"),
        ("code", "<u8"),  # as FRAME["code"]
        ("shared", "<u8"),  # the SharedFunctionInfo, the Script and the strings, tagged, as they lay then
        ("script", "<u8"),
        ("name_at", "<u8"),
        ("file_at", "<u8"),
        ("check", "<u4"),  # as FRAME["check"] of interpreted code
        ("number", "<u4"),  # of the function in its script
        ("script_id", "<u4"),
        ("source_length", "<u4"),  # characters of the script's source
        ("line_offset", "<i4"),  # of the script's first line
        ("table_bytes", "<u4"),
        ("function_flags", "<u4"),  # of the SharedFunctionInfo
        ("source_check", "<u4"),  # a hash of how the source begins and ends: lines.check_of
        ("name_bytes", "<u2"),
        ("file_bytes", "<u2"),
        ("owner", "u1"),  # as FRAME["owner"]
        ("name_width", "u1"),  # 1: Latin-1, 2: UTF-16
        ("file_width", "u1"),
        ("unused", "u1"),
    ]
)


NO_KIND = 32  # of a function: five bits of its flags


@dataclass(frozen=True, slots=True)
class Code:
    """Where a Code object has what. `stream`: 0 where it is one with its instructions, which begin at `start`."""

    data: int  # bytecode of baseline code, data for leaving optimised code
    positions: int  # offsets of bytecodes, or positions
    start: int
    size: int
    flags: int
    stream: int
    literals: int = 2  # in the data for leaving
    first_exit: int = 11
    shift: int = 0  # of what leads to it, from a multiple of 32


@dataclass(frozen=True, slots=True)
class Version:
    """What a minor version of V8 does not say of itself. Offsets in bytes from an object's beginning."""

    shared_builtin: int  # in SharedFunctionInfo: the number of a function of V8's own
    bytecode_positions: int  # in BytecodeArray
    packed_positions: bool  # see positions.py
    code: Code
    opcodes: Opcodes  # see translations.py
    safepoint_lead: int = 0  # see safepoints.py
    script_source_url: int = 112
    debug_info_script: int = 0
    initializers: tuple[int, int] = (
        NO_KIND,
        NO_KIND,
    )  # kinds of functions that set up an object, and from this on a class


BY_VERSION = {
    (10, 2): Version(8, 32, False, Code(16, 24, 128, 40, 48, 0), V10_2, 0, 104, 24),  # Node.js 18
    (11, 3): Version(8, 32, False, Code(16, 24, 40, 56, 48, 32, shift=16), V11_3, 0, 112, 24),  # 20
    (12, 4): Version(8, 24, False, Code(8, 16, 40, 52, 48, 32), V12_4, initializers=(24, 25)),  # 22
    (13, 6): Version(16, 24, False, Code(8, 16, 40, 56, 52, 32, 3, 12), V13_6, 4, initializers=(24, 25)),  # 24
    (14, 6): Version(16, 24, True, Code(8, 16, 40, 56, 52, 32, 3, 12), V14_6, 4, initializers=(24, 25)),  # 26
}
OLDEST, NEWEST = min(BY_VERSION), max(BY_VERSION)

# Names of the constants that V8 exports: the first of each that a build has.
_CLASS, _TYPE = "v8dbg_class_", "v8dbg_type_"
CONSTANTS: dict[str, tuple[str, ...]] = {
    "function_shared": (
        f"{_CLASS}JSFunction__shared__SharedFunctionInfo",
        f"{_CLASS}JSFunction__shared__Tagged_SharedFunctionInfo_",
    ),
    "shared_name": tuple(
        f"{_CLASS}SharedFunctionInfo__name_or_scope_info__{kind}"
        for kind in ("Object", "Tagged_Object_", "Tagged_NameOrScopeInfoT_")
    ),
    "shared_script": tuple(
        f"{_CLASS}SharedFunctionInfo__{kind}"
        for kind in ("script__Tagged_HeapObject_", "script_or_debug_info__HeapObject")
    ),
    "shared_flags": (f"{_CLASS}SharedFunctionInfo__flags__int",),
    "script_source": (f"{_CLASS}Script__source__Object",),
    "script_name": (f"{_CLASS}Script__name__Object",),
    "script_line_ends": (f"{_CLASS}Script__line_ends__Object",),
    "bytecode_data": (f"{_CLASS}BytecodeArray__data__uintptr_t",),
    "map_type": (f"{_CLASS}Map__instance_type__uint16_t",),
    "string_length": (f"{_CLASS}String__length__int32_t",),
    "scope_first": ("v8dbg_scopeinfo_idx_first_vars",),
    "scope_locals": ("v8dbg_scopeinfo_idx_ncontextlocals",),
    "type_script": (f"{_TYPE}Script__SCRIPT_TYPE",),
    "type_debug_info": (f"{_TYPE}DebugInfo__DEBUG_INFO_TYPE",),
    "type_scope_info": (f"{_TYPE}ScopeInfo__SCOPE_INFO_TYPE",),
    "type_oddball": (f"{_TYPE}Oddball__ODDBALL_TYPE",),
    "type_positions": (f"{_TYPE}TrustedByteArray__TRUSTED_BYTE_ARRAY_TYPE", f"{_TYPE}ByteArray__BYTE_ARRAY_TYPE"),
    "type_shared": (f"{_TYPE}SharedFunctionInfo__SHARED_FUNCTION_INFO_TYPE",),
    "type_code": (f"{_TYPE}Code__CODE_TYPE",),
    "type_stream": (f"{_TYPE}InstructionStream__INSTRUCTION_STREAM_TYPE", f"{_TYPE}Code__CODE_TYPE"),
    "type_bytecode": (f"{_TYPE}BytecodeArray__BYTECODE_ARRAY_TYPE",),
    "type_interpreter_data": (f"{_TYPE}InterpreterData__INTERPRETER_DATA_TYPE",),
    "code_kind_baseline": ("v8dbg_CodeKindBaseline",),
    "frame_builtin_exit": ("v8dbg_frametype_BuiltinExitFrame",),
    "fp_context": ("v8dbg_off_fp_context",),
    "fp_function": ("v8dbg_off_fp_function",),
    "fp_bytecode": ("v8dbg_off_fp_bytecode_array",),
    "fp_offset": ("v8dbg_off_fp_bytecode_offset",),
    "smi_shift": ("v8dbg_SmiShiftSize",),
}
# What the walk takes as given: a build that says otherwise is none that it can walk.
GIVEN = {
    "fp_context": -8,
    "fp_function": -16,
    "fp_bytecode": -32,
    "fp_offset": -40,
    "smi_shift": 31,
    "map_type": 12,
    "string_length": 12,
    "script_source": 8,
    "script_name": 16,
}
SCRIPT_LINE_OFFSET, SCRIPT_ID = 24, 64
HEADER_BYTES = 8  # an object's map
INTERPRETER_BYTES = 32


@dataclass(frozen=True, slots=True)
class Layout:
    """All of a build's, addresses aside."""

    version: Version
    constants: dict[str, int]
    entry_fp: int
    fast_fp: int
    fast_pc: int
    entry_saves_fast: bool
    bytecode_sizes: bytes = b""  # see positions.bytecode_offset

    def __getitem__(self, name: str) -> int:
        """One of CONSTANTS."""
        return self.constants[name]


@dataclass(frozen=True, slots=True)
class Places:
    """Addresses of a build: of the file's own. `isolate`: from the thread pointer; `isolate_key`: 0 where there is none."""

    interpreter: int  # where the interpreter goes on after a call
    interpreter_code: bytes  # of INTERPRETER_BYTES
    entered_code: bytes  # the same of what goes on in the interpreter for code that was left
    builtins: int
    builtins_bytes: int
    isolate: int
    isolate_key: int


def kernel_row(layout: Layout, places: Places) -> np.ndarray:
    """The JS_LAYOUT row (shape (1,)) of a build, the same in every process that runs it."""
    row = np.zeros(1, JS_LAYOUT)
    row["isolate"] = places.isolate
    row["isolate_key"] = places.isolate_key - places.interpreter if places.isolate_key else 0
    row["builtins"] = places.builtins - places.interpreter
    row["builtins_bytes"] = places.builtins_bytes
    for at in range(0, INTERPRETER_BYTES, 8):
        for name, code in (("interpreter", places.interpreter_code), ("entered", places.entered_code)):
            row[f"{name}_{at // 8}"] = int.from_bytes(code[at : at + 8], "little")
    for name in ("entry_fp", "fast_fp", "fast_pc", "entry_saves_fast"):
        row[name] = getattr(layout, name)
    for name in ("shared_builtin", "bytecode_positions", "debug_info_script", "script_source_url"):
        row[name] = getattr(layout.version, name)
    for name in JS_LAYOUT.names or ():
        if name in layout.constants and name != "scope_locals":
            row[name] = layout[name]
    row["script_id"] = SCRIPT_ID
    row["scope_locals"] = HEADER_BYTES + 8 * layout["scope_locals"]
    row["scope_variables"] = HEADER_BYTES + 8 * layout["scope_first"]
    return row
