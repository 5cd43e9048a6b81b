# SPDX-License-Identifier: Apache-2.0
"""What one file says about the CPython it holds: version, layout, and where its roots lie before relocation.

Only the file is read, so the answer holds for every process that runs it. `_PyRuntime` is a dynamic symbol of every
build; where even those are gone, the section .PyRuntime (3.11+) begins with it. The version is the symbol Py_Version
(3.11+); before that the only version string among the read-only data (often the tail of a longer one: linkers merge
tails), and where there are several or none, the minor version that the file's name gives.
"""

from __future__ import annotations

import re
import struct
from dataclasses import dataclass

from kernelspan_agent.process import elf as elf_reader
from kernelspan_agent.runtimes.registry import Unsupported

from . import debug_offsets
from .layout import Offsets, Types
from .versions import BY_MINOR, FIRST_WITH_DEBUG_OFFSETS, NEWEST_MINOR, OLDEST_MINOR

FIRST_CANDIDATE = 0xC0  # low byte of PY_VERSION_HEX: candidates and releases; layouts move in alphas and betas
RUNTIME_SYMBOL, VERSION_SYMBOL = "_PyRuntime", "Py_Version"
TYPE_SYMBOLS = ("PyLong_Type", "PyUnicode_Type", "PyCode_Type", "PyDict_Type")  # as in Types
_VERSION_TEXT = re.compile(rb"(?<![0-9A-Za-z.])(3\.(?:[789]|10)\.[0-9]{1,3}(?:(?:a|b|rc)[0-9]{1,2})?\+?)(?=\0)")
_VERSION_TEXT_BYTES = 16
_NAMED = re.compile(r"(?:lib)?python3\.([0-9]{1,2})")
_PRE_RELEASE = re.compile(r"[ab][0-9]")


@dataclass(frozen=True, slots=True)
class PythonBuild:
    """A CPython that can be walked. Addresses are the file's own."""

    version: str
    offsets: Offsets
    runtime_address: int
    types: Types


def inspect_file(fd: int, name: str = "") -> PythonBuild | Unsupported | None:
    """The CPython in the open ELF file with this base name; None where there is none. Raises ElfError."""
    elf = elf_reader.read_elf(fd)
    symbols = elf_reader.symbol_addresses(elf, (RUNTIME_SYMBOL, VERSION_SYMBOL, *TYPE_SYMBOLS))
    section = elf.section(".PyRuntime")
    runtime = symbols.get(RUNTIME_SYMBOL) or (section.address if section else 0)
    if not runtime:
        return None
    version, number = _version(elf, symbols.get(VERSION_SYMBOL), name)
    if not version:
        return Unsupported("RuntimeLayoutUnknown", "the file does not say which version of CPython it holds", "CPython")
    refusal = _refuse(version, number)
    if refusal is not None:
        return refusal
    minor = int(version.split(".")[1])
    offsets = BY_MINOR[minor]
    if minor >= FIRST_WITH_DEBUG_OFFSETS:
        published = elf_reader.read_address(elf, runtime, debug_offsets.SIZE_BYTES[minor])
        if debug_offsets.is_free_threaded(published):
            message = f"CPython {version} is a free-threaded build; only builds with a GIL can be walked"
            return Unsupported("RuntimeUnsupported", message, "CPython", version)
        try:
            offsets = debug_offsets.read_offsets(published, number)
        except debug_offsets.LayoutError as error:
            return Unsupported("RuntimeLayoutUnknown", f"CPython {version}: {error}", "CPython", version)
    return PythonBuild(version, offsets, runtime, Types(*(symbols.get(name, 0) for name in TYPE_SYMBOLS)))


def needs_libpython(fd: int) -> bool:
    """Whether the program's dynamic strings name a libpython: it will be mapped soon after exec. Raises ElfError."""
    elf = elf_reader.read_elf(fd)
    strings = elf.section(".dynstr")
    if strings is None:
        return False
    return any(b"libpython3." in chunk for _, chunk in elf_reader.section_chunks(elf, strings, overlap=16))


def _version(elf: elf_reader.Elf, address: int | None, name: str) -> tuple[str, int]:
    """(text, PY_VERSION_HEX); before 3.11 the number is 0. ("", 0): not known."""
    if address is not None:
        number = struct.unpack("<I", elf_reader.read_address(elf, address, 4))[0]
        return _version_text(number), number
    found = _version_strings(elf)
    named = _NAMED.match(name)
    if named is not None:
        found = {version for version in found if version.split(".")[1] == named[1]}
    if len(found) == 1:
        return found.pop(), 0
    return (f"3.{named[1]}" if named else ""), 0


def _version_strings(elf: elf_reader.Elf) -> set[str]:
    section = elf.section(".rodata")
    if section is None or section.kind == elf_reader.SHT_NOBITS:
        return set()
    return {
        match[1].decode("ascii")
        for _, chunk in elf_reader.section_chunks(elf, section, overlap=_VERSION_TEXT_BYTES)
        for match in _VERSION_TEXT.finditer(chunk)
    }


def _version_text(number: int) -> str:
    if number >> 24 != 3:
        return ""
    level = {0xA: "a", 0xB: "b", 0xC: "rc"}.get(number >> 4 & 0xF, "")
    return f"3.{number >> 16 & 0xFF}.{number >> 8 & 0xFF}" + (f"{level}{number & 0xF}" if level else "")


def _refuse(version: str, number: int) -> Unsupported | None:
    minor = int(version.split(".")[1])
    if minor < OLDEST_MINOR:
        message = f"CPython {version} is older than 3.{OLDEST_MINOR}"
        return Unsupported("RuntimeUnsupported", message, "CPython", version)
    if minor > NEWEST_MINOR:
        message = f"CPython {version} is newer than 3.{NEWEST_MINOR}, the newest whose layout is known"
        return Unsupported("RuntimeLayoutUnknown", message, "CPython", version)
    if (number and number & 0xFF < FIRST_CANDIDATE) or _PRE_RELEASE.search(version):
        message = f"CPython {version} is an alpha or beta: its layout may be any"
        return Unsupported("RuntimeLayoutUnknown", message, "CPython", version)
    return None
