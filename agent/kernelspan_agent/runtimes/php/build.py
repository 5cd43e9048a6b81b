# SPDX-License-Identifier: Apache-2.0
"""What one file says about the PHP it holds: version, API number, and where its globals lie before relocation.

Only the file is read, so the answer holds for every process that runs it. `executor_globals` is a dynamic symbol of every
build without threads that can load extensions. The version is the one in the header that PHP sends by itself; the API's
number, and whether the build has threads or is a debug build, is in the text that an extension must bear to be loaded.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from kernelspan_agent.process import elf as elf_reader
from kernelspan_agent.runtimes.registry import Unsupported

from .layout import BY_VERSION, NEWEST, OLDEST, Offsets, Symbols

GLOBALS, GENERATOR, FRAMELESS = "executor_globals", "zend_ce_generator", "zend_flf_functions"
THREADED = "executor_globals_offset"
_TEXT = re.compile(
    rb"X-Powered-By: PHP/([0-9]{1,2}\.[0-9]{1,2}\.[0-9]{1,3}[-+.~A-Za-z0-9]{0,24})\0"
    rb"|(?<=\0)API(20[0-9]{6}),(N?TS)((?:,[a-z]{1,16})?)(?=\0)"
)
_TEXT_BYTES = 128
_NUMBERS = re.compile(r"(\d+)\.(\d+)\.(\d+)")
_UNSETTLED = re.compile(r"alpha|beta|dev", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class PhpBuild:
    """A PHP that can be walked. Addresses are the file's own."""

    version: str
    number: int  # PHP_VERSION_ID
    offsets: Offsets
    symbols: Symbols


def inspect_file(fd: int, name: str = "") -> PhpBuild | Unsupported | None:
    """The PHP in the open ELF file with this base name; None where there is none. Raises ElfError."""
    elf = elf_reader.read_elf(fd)
    # The table of all symbols is large in other programs; PHP's own are exported, but where nothing can be loaded.
    symbols = elf_reader.symbol_addresses(elf, (GLOBALS, GENERATOR, FRAMELESS, THREADED), static="php" in name)
    if GLOBALS not in symbols and THREADED not in symbols and "php" not in name:
        return None
    versions, builds = _texts(elf)
    if len(versions) != 1:
        if GLOBALS not in symbols:  # something of PHP's without its engine: a tool, an extension
            return None
        return Unsupported("RuntimeLayoutUnknown", "the file does not say which version of PHP it holds", "PHP")
    version = versions.pop()
    if THREADED in symbols:
        return Unsupported("RuntimeUnsupported", f"PHP {version} is built with threads (ZTS)", "PHP", version)
    if GLOBALS not in symbols:
        message = f"PHP {version}: the file has no symbol {GLOBALS}"
        return Unsupported("RuntimeLayoutUnknown", message, "PHP", version)
    return _build(version, builds, symbols)


def _build(version: str, builds: set[tuple[int, bool]], symbols: dict[str, int]) -> PhpBuild | Unsupported:
    match = _NUMBERS.match(version)
    assert match is not None
    major, minor, patch = int(match[1]), int(match[2]), int(match[3])
    if (major, minor) < OLDEST:
        message = f"PHP {version} is older than {OLDEST[0]}.{OLDEST[1]}"
        return Unsupported("RuntimeUnsupported", message, "PHP", version)
    offsets = BY_VERSION.get((major, minor))
    if offsets is None:
        message = f"PHP {version} is newer than {NEWEST[0]}.{NEWEST[1]}, the newest whose layout is known"
        return Unsupported("RuntimeLayoutUnknown", message, "PHP", version)
    if _UNSETTLED.search(version) or builds != {(offsets.api, True)}:
        said = ", ".join(f"{api}{'' if plain else ' (debug)'}" for api, plain in sorted(builds)) or "none"
        message = f"PHP {version}: its API is {said}, not that of a release, {offsets.api}: its layout may be any"
        return Unsupported("RuntimeLayoutUnknown", message, "PHP", version)
    number = major * 10000 + minor * 100 + patch
    addresses = Symbols(symbols[GLOBALS], symbols.get(GENERATOR, 0), symbols.get(FRAMELESS, 0))
    return PhpBuild(version, number, offsets, addresses)


def _texts(elf: elf_reader.Elf) -> tuple[set[str], set[tuple[int, bool]]]:
    """The versions, and the APIs with whether they are those of a usual build without threads, that the file names."""
    section = elf.section(".rodata")
    versions: set[str] = set()
    builds: set[tuple[int, bool]] = set()
    if section is None or section.kind == elf_reader.SHT_NOBITS:
        return versions, builds
    for _, chunk in elf_reader.section_chunks(elf, section, overlap=_TEXT_BYTES):
        for match in _TEXT.finditer(chunk):
            if match[1]:
                versions.add(match[1].decode("ascii"))
            else:
                builds.add((int(match[2]), match[3] == b"NTS" and not match[4]))
    return versions, builds
