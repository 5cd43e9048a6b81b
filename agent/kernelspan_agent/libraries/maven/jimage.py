# SPDX-License-Identifier: Apache-2.0
"""Which classes a JDK's own modules have: lib/modules, the image that a JDK (9 and later) loads its classes from.

Only the names of its entries are looked at, and kept as hashes: there are 30,000. The file may hold anything: sizes are
bounded. Layout: libjimage/imageFile.hpp.
"""

from __future__ import annotations

import os
import struct

import numpy as np

from kernelspan_agent.libraries.maven.zips import name_hash

MAX_IMAGE_INDEX_BYTES = 32 << 20
_HEADER = struct.Struct("<IIIIIII")  # magic, version, flags, resources, table length, bytes of locations, of strings
_MAGIC = 0xCAFEDADA


class ImageError(ValueError):
    """No image, or one that contradicts itself."""


def read_classes(fd: int) -> np.ndarray:
    """Hashes (zips.name_hash) of "com/acme/Some.class" of all classes, sorted, uint64. Raises ImageError, OSError."""
    header = os.pread(fd, _HEADER.size, 0)
    if len(header) != _HEADER.size:
        raise ImageError("no image")
    magic, _, _, _, length, locations, strings = _HEADER.unpack(header)
    if magic != _MAGIC or 8 * length + locations + strings > MAX_IMAGE_INDEX_BYTES:
        raise ImageError("no image")
    at = _HEADER.size + 4 * length
    offsets = os.pread(fd, 4 * length, at)
    attributes = os.pread(fd, locations, at + 4 * length)
    texts = os.pread(fd, strings, at + 4 * length + locations)
    if (len(offsets), len(attributes), len(texts)) != (4 * length, locations, strings):
        raise ImageError("the image ends early")
    found = []
    for (offset,) in struct.iter_unpack("<I", offsets):
        _, parent, base, extension = _location(attributes, offset)
        if _string(texts, extension) == b"class":
            found.append(name_hash(_string(texts, parent) + b"/" + _string(texts, base) + b".class"))
    return np.unique(np.array(found, np.uint64))


def _location(attributes: bytes, at: int) -> tuple[int, int, int, int]:
    """Where the strings of module, parent, base and extension are."""
    found = [0] * 8
    for _ in range(8):
        if at >= len(attributes):
            raise ImageError("a location without an end")
        kind, size = attributes[at] >> 3, (attributes[at] & 7) + 1
        if not kind:
            break
        if kind >= len(found):
            raise ImageError(f"an attribute {kind}")
        found[kind] = int.from_bytes(attributes[at + 1 : at + 1 + size], "big")
        at += 1 + size
    return found[1], found[2], found[3], found[4]


def _string(texts: bytes, at: int) -> bytes:
    end = texts.find(b"\0", at)
    return texts[at:end] if 0 <= at <= end else b""
