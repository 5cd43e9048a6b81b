# SPDX-License-Identifier: Apache-2.0
"""How an argument of each type is read in the kernel: C statements that fill one `struct ks_own_arg` and its data.

A number is its value. What is longer (texts, bytes, sockets, credentials) lies behind the arguments, at an offset that is
fixed when the program is made; files and paths travel by the id of a PATH record.
"""

from __future__ import annotations

from collections.abc import Callable

from kernelspan_agent.probes.own.sources import ArgumentError, Raw
from kernelspan_agent.resolve.arguments import NUMBERS, Slot
from kernelspan_api.conditions import ArgumentType

DEFAULT_TEXT_BYTES, DEFAULT_BYTES = 128, 64
MAX_DATA_BYTES = 8192  # of all arguments of one probe together
STRING_EXTRA = 2  # its NUL, and one byte more by which a text that is longer is told from one that just fits
SOCKET_BYTES, ADDRESS_BYTES, CREDENTIAL_BYTES = 40, 112, 24

_T = ArgumentType
CASTS = {  # of each of NUMBERS
    _T.INT8: "(u64)(s64)(s8)",
    _T.INT16: "(u64)(s64)(s16)",
    _T.INT32: "(u64)(s64)(s32)",
    _T.INT64: "(u64)",
    _T.UINT8: "(u64)(u8)",
    _T.UINT16: "(u64)(u16)",
    _T.UINT32: "(u64)(u32)",
    _T.UINT64: "(u64)",
    _T.SIZE: "(u64)",
    _T.BOOL: "(u64)!!(u8)",
    _T.POINTER: "(u64)",
    _T.UID: "(u64)(u32)",
    _T.GID: "(u64)(u32)",
    _T.FD: "(u64)(s64)(s32)",
}
BOUNDS = {  # of what a type can hold; any other: 64 bits without a sign
    _T.INT8: (-(1 << 7), (1 << 7) - 1),
    _T.INT16: (-(1 << 15), (1 << 15) - 1),
    _T.INT32: (-(1 << 31), (1 << 31) - 1),
    _T.INT64: (-(1 << 63), (1 << 63) - 1),
    _T.FD: (-(1 << 31), (1 << 31) - 1),
    _T.UINT8: (0, (1 << 8) - 1),
    _T.UINT16: (0, (1 << 16) - 1),
    _T.UINT32: (0, (1 << 32) - 1),
    _T.UID: (0, (1 << 32) - 1),
    _T.GID: (0, (1 << 32) - 1),
    _T.BOOL: (0, 1),
}
ANY_BOUNDS = (0, (1 << 64) - 1)
TEXTS = {_T.STRING, _T.BYTES, _T.GO_STRING, _T.GO_SLICE, _T.IO_VEC}  # compared as bytes
KERNELS = {_T.FILE, _T.PATH, _T.SOCK, _T.CRED}
SOCKETS = {_T.SOCK, _T.SOCK_ADDR}


def data_bytes(kind: ArgumentType, max_bytes: int) -> int:
    """How much room the data of a type takes; 0: none."""
    if kind in (_T.STRING, _T.GO_STRING):
        return (max_bytes or DEFAULT_TEXT_BYTES) + (STRING_EXTRA if kind is _T.STRING else 0)
    if kind in (_T.BYTES, _T.GO_SLICE, _T.IO_VEC):
        return max_bytes or DEFAULT_BYTES
    return {_T.SOCK: SOCKET_BYTES, _T.SOCK_ADDR: ADDRESS_BYTES, _T.CRED: CREDENTIAL_BYTES}.get(kind, 0)


def laid_out(wanted: list[tuple[ArgumentType, int]]) -> list[Slot]:
    """Slots for arguments of these types and bounds. Raises ArgumentError: more than a record holds."""
    slots, at = [], 0
    for number, (kind, most) in enumerate(wanted):
        size = data_bytes(kind, most)
        slots.append(Slot(number, kind, size, at))
        at += (size + 7) & ~7
    if at > MAX_DATA_BYTES:
        raise ArgumentError(f"the arguments take {at} bytes together; at most {MAX_DATA_BYTES} can be read (maxBytes)")
    return slots


def number(kind: ArgumentType, raw: Raw) -> str:
    """A u64 expression of a number of this type, its sign extended; what has no number is its address."""
    if raw.inline and kind in NUMBERS:
        raise ArgumentError(f"{kind.value} cannot be read from an array")
    return f"{CASTS.get(kind, '(u64)')}({raw.c})"


def read(slot: Slot, raw: Raw, value: str, following: Callable[[int], str], *, is_user: bool) -> list[str]:
    """C statements that read an argument into its slot.

    `value`: the u64 expression of `number`. `following`: of an argument that lies so many behind this one.
    """
    kind, size = slot.type, slot.data_bytes
    arg, data = f"&v->arguments[{slot.number}]", f"v->data + {slot.at}"
    if raw.user and kind in KERNELS:
        raise ArgumentError(f"{kind.value} is a struct of the kernel: what a program passes is none")
    if kind is _T.FD:
        return _descriptor(arg, value, is_user=is_user)
    if kind in NUMBERS:
        return [f"ks_own_number({arg}, {value});"]
    if kind in (_T.FILE, _T.PATH):
        place = f"{value} + KS_FILE_PATH" if kind is _T.FILE else value
        intern = "ks_entry_id" if raw.entry else "ks_path_id"
        return [f"ks_own_number({arg}, {value} ? {intern}(s, {place}) : 0);"]
    user = int(raw.user)
    reader, rest = {
        _T.STRING: ("ks_own_text", f"{size}, {value}, {user}"),
        _T.BYTES: ("ks_own_bytes", f"{size}, {value}, {raw.length or size}, {user}"),
        _T.IO_VEC: ("ks_own_vector", f"{size}, {value}, {user}"),
        _T.SOCK_ADDR: ("ks_own_address", f"{value}, {user}"),
        _T.SOCK: ("ks_own_socket", value),
        _T.CRED: ("ks_own_credentials", value),
    }.get(kind, ("ks_own_bytes", ""))
    if not rest:  # a Go string or slice
        rest = f"{size}, {value}, {following(1)}, {user}"
    return [f"{reader}({arg}, (void *)({data}), {rest});"]


def _descriptor(arg: str, value: str, *, is_user: bool) -> list[str]:
    """The path it is open on, and the number itself where the length would be."""
    if is_user:  # a path takes the scratch of a CPU, which a program in user context may lose in the midst
        return [f"ks_own_number({arg}, 0);", f"({arg})->length = {value};"]
    return [
        f"ks_own_number({arg}, ks_own_descriptor(s, {value}));",
        f"({arg})->length = {value};",
    ]
