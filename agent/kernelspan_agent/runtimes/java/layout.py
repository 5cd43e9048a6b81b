# SPDX-License-Identifier: Apache-2.0
"""Where a HotSpot keeps what the walk and the symboliser need, and what the kernel's rows and records hold.

What vmStructs publishes is taken from there, by the names that a field has had in JDK 8 to 28. The rest is by version:
words of interpreted frames (cpu/x86/frame_x86.hpp), the bit of hidden methods (oops/method.hpp, constMethodFlags.hpp), how
numbers are written (utilities/unsigned5.hpp). A version outside of these is RuntimeLayoutUnknown.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from .structs import Structs

ABSENT = 0xFFFF
OLDEST, NEWEST = 8, 28

# FRAME["owner"] and what else the kernel's programs are compiled with
INTERPRETED, COMPILED, WRAPPER = 1, 2, 3  # WRAPPER: compiled code around a native method
UNREAD = 0x80  # a name's page was not resident: the frame's code is made of its address, see bpf/runtimes/java.bpf.h
CUT = 1  # JAVA_CODE["flags"]: a name is longer than what was sent, or could not be read; times 2: the file's
LINE_BYTES = 32  # of the table of lines, in an identity

_U2, _U4, _I8 = "<u2", "<u4", "<i8"
JAVA_LAYOUT = np.dtype(
    [
        # addresses of variables, minus the address where the walk begins; 0: there is none
        ("thread_list", _I8),
        ("code_heaps", _I8),
        ("call_stub", _I8),
        ("interpreter", _I8),
        ("in_java", _U4),
        ("unused", _U2),
        ("const_size", _U2),  # in words
        ("list_length", _U2),
        ("list_threads", _U2),  # ABSENT: the threads are a chain
        ("thread_next", _U2),
        ("thread_os", _U2),
        ("thread_anchor", _U2),
        ("thread_state", _U2),
        ("thread_object", _U2),
        ("thread_virtual", _U2),
        ("thread_continuation", _U2),
        ("os_pthread", _U2),
        ("wrapper_anchor", _U2),
        ("array_length", _U2),
        ("array_data", _U2),  # ABSENT: there is one heap
        ("heap_memory", _U2),
        ("heap_segments", _U2),
        ("heap_shift", _U2),
        ("space_low", _U2),
        ("space_high", _U2),
        ("block_bytes", _U2),
        ("queue_buffer", _U2),
        ("queue_limit", _U2),
        ("blob_name", _U2),
        ("blob_frame_size", _U2),
        ("nmethod_number", _U2),
        ("nmethod_deopt", _U2),
        ("nmethod_orig_pc", _U2),
        ("deopt_bytes", _U2),
        ("deopt_is_address", _U2),
        ("frame_bcp", _U2),  # words below the frame pointer
        ("frame_wrapper", _U2),
        ("method_const", _U2),
        ("method_access", _U2),
        ("hidden_at", _U2),
        ("hidden_in_const", _U2),
        ("const_pool", _U2),
        ("const_bytes", _U2),
        ("const_code_size", _U2),
        ("const_name", _U2),
        ("const_signature", _U2),
        ("const_number", _U2),
        ("const_flags", _U2),
        ("pool_bytes", _U2),
        ("pool_holder", _U2),
        ("source_file", _U2),
        ("source_in_pool", _U2),
        ("klass_name", _U2),
        ("symbol_length", _U2),
        ("symbol_body", _U2),
    ]
)

# Record of the ring that names a method; then come the texts of class, name and file, and the table of lines.
JAVA_CODE = np.dtype(
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
        ("method", "<u8"),
        ("klass", "<u8"),
        ("access", "<u4"),
        ("method_flags", "<u4"),  # what has the bit of hidden methods
        ("const_flags", "<u4"),
        ("code_size", "<u2"),
        ("class_bytes", "<u2"),
        ("name_bytes", "<u2"),
        ("file_bytes", "<u2"),
        ("table_bytes", "<u2"),  # more than it is long: it ends itself
        ("unused", "<u2"),
    ]
)

_CODE_BLOB, _NMETHOD, _COMPILED = "CodeBlob", "nmethod", "CompiledMethod"
_FIELDS: dict[str, tuple[tuple[str, str], ...]] = {
    "thread_os": (("JavaThread", "_osthread"), ("Thread", "_osthread")),
    "thread_anchor": (("JavaThread", "_anchor"),),
    "thread_state": (("JavaThread", "_thread_state"),),
    "os_pthread": (("OSThread", "_pthread_id"),),
    "wrapper_anchor": (("JavaCallWrapper", "_anchor"),),
    "heap_memory": (("CodeHeap", "_memory"),),
    "heap_segments": (("CodeHeap", "_segmap"),),
    "heap_shift": (("CodeHeap", "_log2_segment_size"),),
    "space_low": (("VirtualSpace", "_low_boundary"),),
    "space_high": (("VirtualSpace", "_high_boundary"),),
    "queue_buffer": (("StubQueue", "_stub_buffer"),),
    "queue_limit": (("StubQueue", "_buffer_limit"),),
    "blob_name": ((_CODE_BLOB, "_name"),),
    "blob_frame_size": ((_CODE_BLOB, "_frame_size"),),
    "nmethod_number": ((_NMETHOD, "_compile_id"),),
    "nmethod_orig_pc": ((_NMETHOD, "_orig_pc_offset"),),
    "method_const": (("Method", "_constMethod"),),
    "method_access": (("Method", "_access_flags"),),
    "const_pool": (("ConstMethod", "_constants"),),
    "const_size": (("ConstMethod", "_constMethod_size"),),
    "const_code_size": (("ConstMethod", "_code_size"),),
    "const_name": (("ConstMethod", "_name_index"),),
    "const_signature": (("ConstMethod", "_signature_index"),),
    "const_number": (("ConstMethod", "_method_idnum"),),
    "const_flags": (("ConstMethod", "_flags._flags"), ("ConstMethod", "_flags")),
    "pool_holder": (("ConstantPool", "_pool_holder"),),
    "klass_name": (("Klass", "_name"),),
    "symbol_length": (("Symbol", "_length"),),
    "symbol_body": (("Symbol", "_body"),),
}
_OPTIONAL: dict[str, tuple[tuple[str, str], ...]] = {
    "thread_next": (("JavaThread", "_next"),),
    "thread_object": (("JavaThread", "_threadObj"),),
    "thread_virtual": (("JavaThread", "_vthread"),),
    "thread_continuation": (("JavaThread", "_cont_entry"),),
    "list_length": (("ThreadsList", "_length"),),
    "list_threads": (("ThreadsList", "_threads"),),
    "array_length": (("GrowableArrayBase", "_len"), ("GenericGrowableArray", "_len")),
    "array_data": (("GrowableArray<int>", "_data"),),
}
_SIZES = {"block_bytes": "HeapBlock", "const_bytes": "ConstMethod", "pool_bytes": "ConstantPool"}
_DEOPT = (
    (_COMPILED, "_deopt_handler_begin"),
    (_NMETHOD, "_deopt_handler_entry_offset"),
    (_NMETHOD, "_deopt_handler_offset"),
    (_NMETHOD, "_deoptimize_offset"),
)
_ANCHOR = ("_last_Java_sp", "_last_Java_pc", "_last_Java_fp")
_C_BYTES = {"int": 4, "uint": 4, "u2": 2, "uint16_t": 2, "int16_t": 2, "u4": 4, "int32_t": 4, "uint32_t": 4}
_LIST, _CHAIN = ("ThreadsSMRSupport", "_java_thread_list"), ("Threads", "_thread_list")
_HEAPS, _HEAP = ("CodeCache", "_heaps"), ("CodeCache", "_heap")
_STUB, _CODE = ("StubRoutines", "_call_stub_return_address"), ("AbstractInterpreter", "_code")
MAX_OFFSET = 4096
_HIDDEN_IN_CONST = 1 << 12  # ConstMethodFlags, JDK 21 and later


class LayoutError(ValueError):
    """A JVM does not publish what is needed, or something else than it should; says what."""


@dataclass(frozen=True, slots=True)
class ScopeOffsets:
    """What is needed to find the methods in compiled code. Offsets in the nmethod; ABSENT: not in this version."""

    code_begin: int  # an address
    code_offset: int  # else: from the nmethod, of `code_offset_bytes`
    code_offset_bytes: int
    scopes_pcs: int
    scopes_pcs_bytes: int
    scopes_data: int  # an offset
    scopes_data_bytes: int
    scopes_data_begin: int  # an address
    pcs_end: int  # the offset of what comes after the pcs
    pcs_end_bytes: int
    metadata: int
    metadata_bytes: int
    immutable_data: int  # what the offsets of pcs and data start from; ABSENT: the nmethod itself
    mutable_data: int  # has the metadata after the relocations
    relocation_size: int
    pc_desc_bytes: int
    method: int
    used: int  # a byte of the block that the nmethod lies in


@dataclass(frozen=True, slots=True)
class JavaOffsets:
    """Of one process. `at`: by the names of JAVA_LAYOUT."""

    major: int
    at: dict[str, int]
    scopes: ScopeOffsets
    hidden_mask: int
    os_thread_id: int
    excludes_zero: int  # 1: numbers are written without zero bytes


def read_offsets(structs: Structs, major: int) -> JavaOffsets:
    """All offsets. Raises LayoutError."""
    at: dict[str, int] = {}
    for name, fields in _FIELDS.items():
        at[name] = _needed(structs.offset(*fields), "::".join(fields[0]))
    for name, fields in _OPTIONAL.items():
        found = structs.offset(*fields)
        at[name] = ABSENT if found is None else _needed(found, "::".join(fields[0]))
    for name, type_name in _SIZES.items():
        at[name] = _needed(structs.size(type_name), type_name)
    anchors = [structs.offset(("JavaFrameAnchor", name)) for name in _ANCHOR]
    if anchors != [0, 8, 16]:
        raise LayoutError(f"JavaFrameAnchor has its members at {anchors}")
    variables = structs.tables.variables
    if _LIST not in variables:
        at["list_threads"] = ABSENT
    if _HEAPS not in variables:
        at["array_data"] = ABSENT
    if at["list_threads"] == ABSENT and (at["thread_next"] == ABSENT or _CHAIN not in variables):
        raise LayoutError("the JVM does not publish its threads")
    if (
        (_HEAP if at["array_data"] == ABSENT else _HEAPS) not in variables
        or _STUB not in variables
        or _CODE not in variables
    ):
        raise LayoutError("the JVM does not publish where its code is")
    at["nmethod_deopt"] = _needed(structs.offset(*_DEOPT), "::".join(_DEOPT[1]))
    deopt_type = structs.type_of(*_DEOPT)
    at["deopt_is_address"] = int(deopt_type == "address")
    at["deopt_bytes"] = 8 if at["deopt_is_address"] else _bytes(deopt_type)
    at["frame_bcp"] = 7 if major == OLDEST else 8
    at["frame_wrapper"] = -_constant(structs, "frame::entry_frame_call_wrapper_offset")
    at["in_java"] = _constant(structs, "_thread_in_Java")
    in_pool = structs.offset(("ConstantPool", "_source_file_name_index"))
    in_klass = structs.offset(("InstanceKlass", "_source_file_name_index"))
    at["source_in_pool"] = int(in_pool is not None)
    at["source_file"] = _needed(in_klass if in_pool is None else in_pool, "InstanceKlass::_source_file_name_index")
    hidden_mask = _hidden(structs, major, at)
    thread_id = structs.offset(("OSThread", "_thread_id"))
    return JavaOffsets(
        major, at, _scope_offsets(structs), hidden_mask, ABSENT if thread_id is None else thread_id, int(major >= 20)
    )


def _hidden(structs: Structs, major: int, at: dict[str, int]) -> int:
    """The bit of methods that Java leaves out of its own traces."""
    at["hidden_in_const"] = int(major >= 21)
    if major >= 21:
        at["hidden_at"] = at["const_flags"]
        return _HIDDEN_IN_CONST
    if major == OLDEST:  # a byte of bits behind this one
        at["hidden_at"] = _needed(structs.offset(("Method", "_intrinsic_id")), "Method::_intrinsic_id") + 1
        return 8
    at["hidden_at"] = _needed(structs.offset(("Method", "_flags")), "Method::_flags")
    return _constant(structs, "Method::_hidden")


def _scope_offsets(structs: Structs) -> ScopeOffsets:
    def offset(*names: tuple[str, str]) -> int:
        found = structs.offset(*names)
        return ABSENT if found is None else _needed(found, "::".join(names[0]))

    def width(name: tuple[str, str]) -> int:
        return _bytes(structs.type_of(name)) if name in structs.tables.fields else 0

    pcs, data = (_NMETHOD, "_scopes_pcs_offset"), (_NMETHOD, "_scopes_data_offset")
    immutable = (_NMETHOD, "_immutable_data")
    end = data if immutable in structs.tables.fields else (_NMETHOD, "_dependencies_offset")
    metadata = (_NMETHOD, "_metadata_offset")
    return ScopeOffsets(
        offset((_CODE_BLOB, "_code_begin")),
        offset((_CODE_BLOB, "_code_offset")),
        width((_CODE_BLOB, "_code_offset")),
        offset(pcs),
        width(pcs),
        offset(data),
        width(data),
        offset((_COMPILED, "_scopes_data_begin")),
        offset(end),
        width(end),
        offset(metadata),
        width(metadata),
        offset(immutable),
        offset((_CODE_BLOB, "_mutable_data")),
        offset((_CODE_BLOB, "_relocation_size")),
        structs.size("PcDesc") or 0,
        offset((_COMPILED, "_method"), (_NMETHOD, "_method")),
        _needed(structs.offset(("HeapBlock::Header", "_used")), "HeapBlock::Header::_used"),
    )


def _needed(found: int | None, what: str) -> int:
    if found is None:
        raise LayoutError(f"the JVM does not publish {what}")
    if not 0 <= found < MAX_OFFSET:
        raise LayoutError(f"{what} is {found}")
    return found


def _constant(structs: Structs, name: str) -> int:
    found = structs.constant(name)
    if found is None or not -64 < found < 64:
        raise LayoutError(f"{name} is {found}")
    return found


def _bytes(type_name: str) -> int:
    if type_name not in _C_BYTES:
        raise LayoutError(f"a field is of type {type_name!r}")
    return _C_BYTES[type_name]


def kernel_row(offsets: JavaOffsets, structs: Structs, start: int) -> np.ndarray:
    """The JAVA_LAYOUT row (shape (1,)); `start`: the file's own address of where the walk begins."""
    row, variables = np.zeros(1, JAVA_LAYOUT), structs.tables.variables
    chain, heap = offsets.at["list_threads"] == ABSENT, offsets.at["array_data"] == ABSENT
    row["thread_list"] = variables[_CHAIN if chain else _LIST] - start
    row["code_heaps"] = variables[_HEAP if heap else _HEAPS] - start
    row["call_stub"] = variables[_STUB] - start
    row["interpreter"] = variables[_CODE] - start
    for name, value in offsets.at.items():
        row[name] = value
    return row
