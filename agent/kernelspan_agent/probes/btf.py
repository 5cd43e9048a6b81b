# SPDX-License-Identifier: Apache-2.0
"""The types of the running kernel and of its modules, from BTF (Documentation/bpf/btf.rst, include/uapi/linux/btf.h).

Types are not turned into objects: one pass notes where each starts and its name, names are found by searches in C, and
only what is asked for is read. The file itself is mapped where the kernel allows that (6.18 does), else read into memory of
its own that `close` gives back whole. Measured on 127,000 types: 50 ms, 1.5 MB while it is open, 5.5 MB more where it cannot
be mapped (docs/design/kernel-types.md).

BTF that contradicts itself gives BtfError, never a read outside of it, and no loop that it has no end for.

Standard library only: the compiling child runs this with Debian's Python.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import struct
from array import array
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

DIRECTORY = Path("/sys/kernel/btf")
VMLINUX = "vmlinux"

(INT, PTR, ARRAY, STRUCT, UNION, ENUM, FWD, TYPEDEF, VOLATILE, CONST, RESTRICT, FUNC, FUNC_PROTO) = range(1, 14)
(VAR, DATASEC, FLOAT, DECL_TAG, TYPE_TAG, ENUM64) = range(14, 20)
MODIFIERS = frozenset({TYPEDEF, VOLATILE, CONST, RESTRICT, TYPE_TAG})
_WORDS = {INT: 1, ARRAY: 3, VAR: 1, DECL_TAG: 1}  # after the three that every type has
_WORDS_EACH = {STRUCT: 3, UNION: 3, ENUM: 2, FUNC_PROTO: 2, DATASEC: 3, ENUM64: 3}
_KINDS = 20
_MAX_BYTES = 64 << 20  # four times what the kernel takes itself (BTF_MAX_SIZE)
_MAX_NAME = 512  # KSYM_NAME_LEN
MAX_DEPTH = 32  # of types in types; the kernel refuses more (MAX_RESOLVE_DEPTH)
MAX_UNNAMED = 256  # structs in one struct; task_struct has 10


class BtfError(Exception):
    """BTF is missing, is not sound, or does not have what is asked for."""


@dataclass(frozen=True, slots=True)
class Record:
    """A type as it stands in BTF. `value`: its size, or the number of the type that it is made of, by its kind.

    `count`: members, parameters or enumerators. `flag`: kind_flag, whose sense depends on the kind. `at`: its first word.
    """

    number: int
    kind: int
    name: str
    count: int
    flag: bool
    value: int
    at: int


@dataclass(frozen=True, slots=True)
class Member:
    """A member of a struct or union; `bit_size` 0: no bit-field."""

    name: str
    type: int
    bit_offset: int
    bit_size: int


class Btf:
    """The types of one kernel, or of one of its modules on top of them (`base`), whose numbers go on where its end."""

    def __init__(self, data: bytes | mmap.mmap, base: Btf | None = None) -> None:
        """`data` is the content of a file of /sys/kernel/btf. Raises BtfError where it is not sound."""
        self._data = data
        self.base = base
        if len(data) < 24 or struct.unpack_from("<H", data)[0] != 0xEB9F:
            raise BtfError("not BTF data")
        header_len, type_off, type_len, str_off, str_len = struct.unpack_from("<IIIII", data, 4)
        types, self._strings = header_len + type_off, header_len + str_off
        self._strings_end = self._strings + str_len
        if header_len < 24 or type_len % 4 or types + type_len > len(data) or self._strings_end > len(data):
            raise BtfError("BTF with parts outside of it")
        self._types_at = types
        self._view = memoryview(data)
        self._words = self._view[types : types + type_len].cast("I")
        self._names_before: int = base.names_bytes if base else 0  # offsets of names go on, too
        self.names_bytes: int = self._names_before + str_len
        self._first: int = base.count if base else 0
        self._starts = array("I") if base else array("I", [0])  # number 0 is void
        self._named = self._starts[:]  # where the name of each is
        try:
            self._scan()
        except BtfError:
            self.close()
            raise
        self.count: int = self._first + len(self._starts)

    @classmethod
    def of_kernel(cls, path: Path = DIRECTORY / VMLINUX) -> Btf:
        """The running kernel's; BtfError where it publishes none."""
        return cls(_content(path))

    @classmethod
    def of_module(cls, path: Path, base: Btf) -> Btf:
        """A loaded module's (Linux 5.11), on top of the kernel's, which must stay open."""
        return cls(_content(path), base)

    def __enter__(self) -> Self:
        """Open as it is."""
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        """Closes."""
        self.close()

    def close(self) -> None:
        """Gives its memory back; nothing of it can be read any more."""
        self._words.release()
        self._view.release()
        self._starts = self._named = array("I")
        self._first = self.count = 0
        if isinstance(self._data, mmap.mmap):
            self._data.close()

    def _scan(self) -> None:
        words, at, end = self._words, 0, len(self._words)
        fixed = [3 + _WORDS.get(kind, 0) for kind in range(_KINDS)]
        each = [_WORDS_EACH.get(kind, 0) for kind in range(_KINDS)]
        note, note_name = self._starts.append, self._named.append
        try:
            while at < end:
                note(at)
                note_name(words[at])
                info = words[at + 1]
                kind = info >> 24 & 0x7F
                at += fixed[kind] + each[kind] * (info & 0xFFFFFF)
        except IndexError:
            raise BtfError(
                f"type {self._first + len(self._starts) - 1} is cut short or of a kind unknown here"
            ) from None
        if at > end:
            raise BtfError("the last type is cut short")

    def name(self, offset: int) -> str:
        """The text at an offset of the names; what cannot be printed becomes U+FFFD."""
        if offset < self._names_before:
            assert self.base is not None
            return self.base.name(offset)
        start = self._strings + offset - self._names_before
        end = self._data.find(b"\0", start, min(start + _MAX_NAME, self._strings_end))
        if end < 0:
            raise BtfError("a name without end")
        found = self._data[start:end].decode(errors="replace")
        return found if found.isprintable() else "".join(each if each.isprintable() else "\ufffd" for each in found)

    def word(self, at: int) -> int:
        """A word of the types of this very file."""
        try:
            return self._words[at]
        except IndexError:
            raise BtfError("a type is cut short") from None

    def record(self, number: int) -> Record:
        """The type of that number, as it stands there."""
        if number < self._first:
            assert self.base is not None
            return self.base.record(number)
        if not 0 <= number < self.count:
            raise BtfError(f"no type has the number {number}")
        if number == 0:
            return Record(0, 0, "void", 0, False, 0, 0)
        at = self._starts[number - self._first]
        info = self.word(at + 1)
        kind, count = info >> 24 & 0x7F, info & 0xFFFFFF
        return Record(number, kind, self.name(self.word(at)), count, bool(info >> 31), self.word(at + 2), at)

    def plain(self, number: int) -> Record:
        """The type without typedefs and qualifiers. Raises BtfError where they lead in a circle."""
        for _ in range(MAX_DEPTH):
            record = self.record(number)
            if record.kind not in MODIFIERS:
                return record
            number = record.value
        raise BtfError(f"type {number}: qualifiers without end")

    def trailer(self, record: Record, index: int, width: int) -> tuple[int, ...]:
        """The words of a type's entry of that index, each of `width` words."""
        if self.base is not None and record.number < self._first:
            return self.base.trailer(record, index, width)
        at = record.at + 3 + index * width
        return tuple(self.word(at + each) for each in range(width))

    def find(self, name: str, *kinds: int) -> int | None:
        """The number of the first type of that name and one of these kinds, in this file and then in its base."""
        wanted = b"\0" + name.encode(errors="replace") + b"\0"
        for number in self._numbers(wanted):
            if self.record(number).kind in kinds:
                return number
        return self.base.find(name, *kinds) if self.base is not None else None

    def _numbers(self, wanted: bytes) -> Iterator[int]:
        """Numbers of types of this file that have the name, which a module takes from the kernel's names where it can."""
        for offset in (self._offset_of(wanted), self.base._offset_of(wanted) if self.base else None):  # noqa: SLF001
            index = -1
            with contextlib.suppress(ValueError):  # no more
                while offset:
                    index = self._named.index(offset, index + 1)
                    yield self._first + index

    def _offset_of(self, wanted: bytes) -> int | None:
        at = self._data.find(wanted, self._strings, self._strings_end)
        return None if at < 0 else at + 1 - self._strings + self._names_before

    def names(self, prefix: str) -> list[str]:
        """Every name that begins so, of whatever it is, sorted; for suggestions and lists."""
        found, start = [], b"\0" + prefix.encode()
        at = self._data.find(start, self._strings, self._strings_end)
        while at >= 0:
            found.append(self.name(at + 1 - self._strings + self._names_before))
            at = self._data.find(start, at + 1, self._strings_end)
        return sorted(found)

    def of_kind(self, kind: int) -> Iterator[tuple[int, str]]:
        """Number and name of every type of that kind in this file, not in its base."""
        for index, at in enumerate(self._starts):
            number = self._first + index
            if number and self._words[at + 1] >> 24 & 0x7F == kind:
                yield number, self.name(self._named[index])

    def members(self, record: Record) -> Iterator[Member]:
        """Of a struct or union, in their order."""
        for index in range(record.count):
            name, number, offset = self.trailer(record, index, 3)
            bits = (offset & 0xFFFFFF, offset >> 24) if record.flag else (offset, 0)
            if not record.flag and (plain := self.plain(number)).kind == INT:
                bits = self._old_bit_field(plain, offset)
            yield Member(self.name(name), number, *bits)

    def _old_bit_field(self, plain: Record, offset: int) -> tuple[int, int]:
        """Before kind_flag an integer type of fewer bits than it has room for was a bit-field."""
        (encoding,) = self.trailer(plain, 0, 1)
        bits, shift = encoding & 0xFF, encoding >> 16 & 0xFF
        return (offset, 0) if bits == plain.value * 8 and not shift else (offset + shift, bits)

    def member(self, number: int, name: str) -> Member | None:
        """A member by its name, also one inside of an unnamed struct or union, its offset from the start of all."""
        return self._member(number, name, set())

    def _member(self, number: int, name: str, seen: set[int]) -> Member | None:
        record = self.plain(number)
        if record.kind not in {STRUCT, UNION} or record.number in seen or len(seen) > MAX_UNNAMED:
            return None
        seen.add(record.number)  # what has it not the first time has it not the second: BTF may lead in circles
        for each in self.members(record):
            if each.name == name:
                return each
            if not each.name and (inner := self._member(each.type, name, seen)):
                return Member(name, inner.type, each.bit_offset + inner.bit_offset, inner.bit_size)
        return None

    def offset(self, path: str) -> int:
        """Offset in bytes of `struct.member.member`; bit fields: of the byte that holds their first bit."""
        name, *members = path.split(".")
        number, bits = self.struct(name), 0
        for member in members:
            found = self.member(number, member)
            if found is None:
                raise BtfError(f"{path}: struct {name} has no member {member} in this kernel's BTF")
            bits += found.bit_offset
            number = found.type
        return bits // 8

    def function(self, name: str) -> int:
        """The number of a function; BtfError where the kernel has none of that name."""
        return self._needed(name, "function", FUNC)

    def struct(self, name: str) -> int:
        """The number of a struct; BtfError where the kernel has none of that name."""
        return self._needed(name, "struct", STRUCT)

    def _needed(self, name: str, what: str, kind: int) -> int:
        number = self.find(name, kind)
        if number is None:
            raise BtfError(f"{what} {name}: not in this kernel's BTF")
        return number

    def enumerator(self, path: str) -> int:
        """The value of `enum.name`. Raises BtfError."""
        name, _, wanted = path.partition(".")
        record = self.record(self._needed(name, "enum", ENUM))
        values = (self.trailer(record, index, 2) for index in range(record.count))
        found = next((value for number, value in values if self.name(number) == wanted), None)
        if found is None:
            raise BtfError(f"enum {name} has no {wanted} in this kernel's BTF")
        return found

    def size(self, name: str) -> int:
        """Size in bytes of a struct."""
        return self.record(self.struct(name)).value


def _content(path: Path) -> bytes | mmap.mmap:
    """The file mapped, or read into a mapping: memory that goes back whole, unlike that of bytes."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            size = os.fstat(fd).st_size
            if not 0 < size <= _MAX_BYTES:
                raise BtfError(f"{path}: {size} bytes are no BTF")
            try:
                return mmap.mmap(fd, size, mmap.MAP_PRIVATE, mmap.PROT_READ)
            except OSError:
                return _read(fd, size)
        finally:
            os.close(fd)
    except OSError as error:
        raise BtfError(f"{path}: {error.strerror}") from error


def _read(fd: int, size: int) -> mmap.mmap:
    memory = mmap.mmap(-1, size, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    with memoryview(memory) as view:
        at = 0
        while at < size and (got := os.readv(fd, [view[at:]])):
            at += got
    return memory
