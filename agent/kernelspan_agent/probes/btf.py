# SPDX-License-Identifier: Apache-2.0
"""Offsets of kernel structs from BTF (Documentation/bpf/btf.rst): the running kernel's own, never another's.

Standard library only: the compiling child runs this with Debian's Python. Types are not turned into objects: one pass
notes where each starts (0.1-0.2 s for 130,000 types), and only structs that are asked for are read.
"""

from __future__ import annotations

import struct
from array import array
from pathlib import Path

_INT, _ARRAY, _STRUCT, _UNION, _ENUM, _FUNC, _FUNC_PROTO, _VAR, _DATASEC, _DECL_TAG, _ENUM64 = (
    1,
    3,
    4,
    5,
    6,
    12,
    13,
    14,
    15,
    17,
    19,
)
_MODIFIERS = {8, 9, 10, 11, 18}  # typedef, volatile, const, restrict, type tag
_TRAILER = {_INT: 4, _ARRAY: 12, _VAR: 4, _DECL_TAG: 4}
_TRAILER_EACH = {_STRUCT: 12, _UNION: 12, _ENUM: 8, _FUNC_PROTO: 8, _DATASEC: 12, _ENUM64: 12}


class BtfError(Exception):
    """BTF is missing, or does not have what is asked for."""


class Btf:
    """The types of one kernel."""

    def __init__(self, data: bytes) -> None:
        """`data` is the content of /sys/kernel/btf/vmlinux."""
        if len(data) < 24 or struct.unpack_from("<H", data)[0] != 0xEB9F:
            raise BtfError("not BTF data")
        header_len, type_off, type_len, str_off, str_len = struct.unpack_from("<IIIII", data, 4)
        self._types = data[header_len + type_off : header_len + type_off + type_len]
        self._strings = data[header_len + str_off : header_len + str_off + str_len]
        self._starts = array("I", [0])
        self._scan()

    @classmethod
    def of_kernel(cls, path: Path = Path("/sys/kernel/btf/vmlinux")) -> Btf:
        """The running kernel's; BtfError where it publishes none."""
        try:
            return cls(path.read_bytes())
        except OSError as error:
            raise BtfError(f"{path}: {error.strerror}") from error

    def _scan(self) -> None:
        types, starts, at, end = self._types, self._starts, 0, len(self._types)
        unpack = struct.Struct("<I").unpack_from
        while at < end:
            starts.append(at)
            (info,) = unpack(types, at + 4)
            kind = info >> 24 & 31
            at += 12 + _TRAILER.get(kind, 0) + _TRAILER_EACH.get(kind, 0) * (info & 0xFFFF)

    def _name(self, offset: int) -> str:
        return self._strings[offset : self._strings.index(b"\0", offset)].decode()

    def _type(self, number: int) -> tuple[int, int, int, int]:
        """Position, kind, number of members and size (or type) of a type, modifiers removed."""
        while True:
            at = self._starts[number]
            _, info, size = struct.unpack_from("<III", self._types, at)
            kind = info >> 24 & 31
            if kind not in _MODIFIERS:
                return at, kind, info, size
            number = size

    def _find(self, name: str, wanted_kind: int = _STRUCT) -> int:
        wanted = self._strings.find(b"\0" + name.encode() + b"\0") + 1
        for number in range(1, len(self._starts) if wanted else 0):
            at = self._starts[number]
            name_off, info = struct.unpack_from("<II", self._types, at)
            if name_off == wanted and info >> 24 & 31 == wanted_kind:
                return number
        what = "function" if wanted_kind == _FUNC else "struct"
        raise BtfError(f"{what} {name}: not in this kernel's BTF")

    def _member(self, number: int, name: str) -> tuple[int, int] | None:
        """Offset in bits and type of a member, also of one inside an unnamed struct or union."""
        at, kind, info, _ = self._type(number)
        if kind not in (_STRUCT, _UNION):
            return None
        for index in range(info & 0xFFFF):
            name_off, type_number, offset = struct.unpack_from("<III", self._types, at + 12 + 12 * index)
            offset = offset & 0xFFFFFF if info >> 31 else offset
            member = self._name(name_off)
            if member == name:
                return offset, type_number
            if not member and (inner := self._member(type_number, name)):
                return offset + inner[0], inner[1]
        return None

    def offset(self, path: str) -> int:
        """Offset in bytes of `struct.member.member`; bit fields: of the byte that holds their first bit."""
        name, *members = path.split(".")
        number, bits = self._find(name), 0
        for member in members:
            found = self._member(number, member)
            if found is None:
                raise BtfError(f"{path}: struct {name} has no member {member} in this kernel's BTF")
            bits += found[0]
            number = found[1]
        return bits // 8

    def function(self, name: str) -> int:
        """The number of a function; BtfError where the kernel has none of that name."""
        return self._find(name, _FUNC)

    def struct(self, name: str) -> int:
        """The number of a struct; BtfError where the kernel has none of that name."""
        return self._find(name)

    def size(self, name: str) -> int:
        """Size in bytes of a struct."""
        return self._type(self._find(name))[3]
