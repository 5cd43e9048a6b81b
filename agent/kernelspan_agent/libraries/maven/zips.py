# SPDX-License-Identifier: Apache-2.0
"""What a jar holds, by its central directory: names as hashes, and the few members that say what it is.

A jar of a large application has 50,000 members, for which zipfile would make as many objects; here one has eight bytes. A
jar stored in another one as it is (Spring Boot) is read where it lies. Files may hold anything: what is read is bounded, and what is
not as it should be gives ZipError. Layout: APPNOTE.TXT of the ZIP format, 4.3.
"""

from __future__ import annotations

import os
import struct
import zlib
from dataclasses import dataclass
from hashlib import blake2b
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterator

MAX_DIRECTORY_BYTES = 32 << 20
MAX_MEMBERS = 400_000
MAX_NESTED = 1024  # jars in a jar
_END = struct.Struct("<4sHHHHIIH")
_END_BYTES = _END.size + 0xFFFF
_END64 = struct.Struct("<4sQHHIIQQQQ")
_LOCATOR = struct.Struct("<4sIQI")
_MEMBER = struct.Struct("<4sHHHHHHIIIHHHHHII")
_LOCAL = struct.Struct("<4sHHHHHIIIHH")
_STORED, _DEFLATED = 0, 8
_ENCRYPTED = 1
_METADATA = b"META-INF/maven/"
MANIFEST = b"META-INF/MANIFEST.MF"
PROPERTIES = b"/pom.properties"


class ZipError(ValueError):
    """No zip file, or one that contradicts itself or is larger than any jar."""


@dataclass(frozen=True, slots=True)
class Member:
    """Where a member lies. `at`: of its local header, from the beginning of the zip."""

    at: int
    size: int  # as it lies there
    is_stored: bool


@dataclass(frozen=True, slots=True)
class Zip:
    """`start`, `size`: in its file. `hashes`: of all names, sorted, uint64."""

    start: int
    size: int
    hashes: np.ndarray
    known: dict[bytes, Member]  # the manifest, pom.properties
    nested: dict[bytes, Member]  # jars

    def has(self, name: str) -> bool:
        """Whether it has a member of that name."""
        return has_name(self.hashes, name)


def has_name(hashes: np.ndarray, name: str) -> bool:
    """Whether a name is among these, which are sorted."""
    wanted = np.uint64(name_hash(name.encode("utf-8", "surrogateescape")))
    place = int(np.searchsorted(hashes, wanted))
    return place < len(hashes) and bool(hashes[place] == wanted)


def name_hash(name: bytes) -> int:
    """64 bits of a member's name."""
    return int.from_bytes(blake2b(name, digest_size=8).digest(), "little")


def read_zip(fd: int, start: int = 0, size: int | None = None) -> Zip:
    """The zip file at `start` of an open file, to its end where no size is given. Raises ZipError, OSError."""
    if size is None:
        size = os.fstat(fd).st_size - start
    directory, shift = _directory(fd, start, size)
    hashes: list[int] = []
    known: dict[bytes, Member] = {}
    nested: dict[bytes, Member] = {}
    for name, member, flags in _members(directory, shift):
        hashes.append(name_hash(name))
        if flags & _ENCRYPTED:
            continue
        if name == MANIFEST or (name.startswith(_METADATA) and name.endswith(PROPERTIES)):
            known[name] = member
        elif name.endswith(b".jar") and len(nested) < MAX_NESTED:
            nested[name] = member
    return Zip(start, size, np.unique(np.array(hashes, np.uint64)), known, nested)


def _directory(fd: int, start: int, size: int) -> tuple[bytes, int]:
    """(the central directory, what to add to its offsets: there may be a program before the zip)."""
    tail_at = max(0, size - _END_BYTES)
    tail = _read(fd, start + tail_at, size - tail_at)
    at = tail.rfind(b"PK\x05\x06")
    if at < 0 or at + _END.size > len(tail):
        raise ZipError("no zip file")
    _, _, _, _, _, length, offset, _ = _END.unpack_from(tail, at)
    end = tail_at + at
    if offset == 0xFFFFFFFF or length == 0xFFFFFFFF:
        magic, _, where, _ = _LOCATOR.unpack(_read(fd, start + end - _LOCATOR.size, _LOCATOR.size))
        if magic != b"PK\x06\x07" or not 0 <= where <= size - _END64.size:
            raise ZipError("no end of a large zip file")
        record = _END64.unpack(_read(fd, start + where, _END64.size))
        if record[0] != b"PK\x06\x06":
            raise ZipError("no end of a large zip file")
        length, offset, end = record[8], record[9], where
    shift = end - length - offset
    if length > MAX_DIRECTORY_BYTES or shift < 0:
        raise ZipError(f"a directory of {length} bytes at {offset}")
    return _read(fd, start + offset + shift, length), shift


def _members(directory: bytes, shift: int) -> Iterator[tuple[bytes, Member, int]]:
    """(name, where it is, flags)."""
    at = count = 0
    while at < len(directory):
        if at + _MEMBER.size > len(directory) or count >= MAX_MEMBERS:
            raise ZipError("a directory without an end")
        row = _MEMBER.unpack_from(directory, at)
        if row[0] != b"PK\x01\x02":
            raise ZipError("no entry of a directory")
        flags, method, size, offset = row[3], row[4], row[8], row[16]
        name = directory[at + _MEMBER.size : at + _MEMBER.size + row[10]]
        at += _MEMBER.size + row[10] + row[11] + row[12]
        count += 1
        if method not in (_STORED, _DEFLATED):
            flags |= _ENCRYPTED  # cannot be read either
        yield name, Member(offset + shift, size, method == _STORED), flags


def read_member(fd: int, archive: Zip, member: Member, limit_bytes: int) -> bytes:
    """Its content, at most so much of it. Raises ZipError, OSError."""
    at = content_at(fd, archive, member)
    if member.is_stored:
        return _read(fd, at, min(member.size, limit_bytes))
    unpacker = zlib.decompressobj(-15)
    try:
        return unpacker.decompress(_read(fd, at, min(member.size, 4 * limit_bytes)), limit_bytes)
    except zlib.error as error:
        raise ZipError(str(error)) from error


def content_at(fd: int, archive: Zip, member: Member) -> int:
    """Where in the file a member's bytes begin. Raises ZipError, OSError."""
    header = _LOCAL.unpack(_read(fd, archive.start + member.at, _LOCAL.size))
    if header[0] != b"PK\x03\x04":
        raise ZipError("no member")
    at: int = archive.start + member.at + _LOCAL.size + header[9] + header[10]
    if at + member.size > archive.start + archive.size:
        raise ZipError("a member beyond the end")
    return at


def _read(fd: int, at: int, size: int) -> bytes:
    data = os.pread(fd, size, at) if at >= 0 and size >= 0 else b""
    if len(data) != size:
        raise ZipError(f"the file ends before {at + size}")
    return data
