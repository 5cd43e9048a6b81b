# SPDX-License-Identifier: Apache-2.0
"""Which libraries a program holds for as long as it lives: those that it, or one of them, names as needed.

The dynamic linker maps these before the program begins, and gives back only what was loaded later (dlopen). Names are those of
the dynamic section (System V ABI, chapter 5).
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from kernelspan_agent.process.elf import PT_INTERP, Elf, read_at, read_elf
from kernelspan_agent.process.errors import ElfError, ProcessError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

MAX_DYNAMIC_BYTES = 1 << 16
MAX_NEEDED = 256
MAX_NAME_BYTES = 256
MAX_FOLDERS_BYTES = 4096
_SHT_DYNAMIC, _NEEDED, _SONAME, _RPATH, _RUNPATH = 6, 1, 14, 15, 29
_USUAL = (
    "/usr/local/lib",
    "/lib/x86_64-linux-gnu",
    "/usr/lib/x86_64-linux-gnu",
    "/lib64",
    "/usr/lib64",
    "/lib",
    "/usr/lib",
)


@dataclass(frozen=True, slots=True)
class Linked:
    """`name`: that others need it by; empty: its file's. `needed`: by their names, the linker itself among them.

    `folders`: where it wants them to be looked for.
    """

    name: str = ""
    needed: frozenset[str] = frozenset()
    folders: tuple[str, ...] = ()


def linked(elf: Elf) -> Linked:
    """What a file says of itself. Raises ElfError."""
    name, needed, folders = "", set[str](), list[str]()
    for segment in elf.segments:
        if segment.kind == PT_INTERP and segment.file_bytes <= MAX_NAME_BYTES:
            path = read_at(elf.fd, segment.offset, segment.file_bytes).rstrip(b"\0")
            needed.add(path.rpartition(b"/")[2].decode("utf-8", "surrogateescape"))
    for section in elf.sections:
        if section.kind != _SHT_DYNAMIC or section.size > MAX_DYNAMIC_BYTES or section.link >= len(elf.sections):
            continue
        strings = elf.sections[section.link]
        words = np.frombuffer(read_at(elf.fd, section.offset, section.size // 16 * 16), "<u8").reshape(-1, 2).tolist()
        for tag, at in words:
            if tag not in {_NEEDED, _SONAME, _RPATH, _RUNPATH} or len(needed) >= MAX_NEEDED:
                continue
            if at >= strings.size:
                raise ElfError("a library's name lies outside of the names")
            most = MAX_FOLDERS_BYTES if tag in {_RPATH, _RUNPATH} else MAX_NAME_BYTES
            read = read_at(elf.fd, strings.offset + at, min(most, strings.size - at)).split(b"\0", 1)[0]
            text = read.decode("utf-8", "surrogateescape")
            if tag == _SONAME:
                name = text
            elif tag == _NEEDED:
                needed.add(text)
            else:
                folders += filter(None, text.split(":"))
    return Linked(name, frozenset(needed), tuple(folders))


def candidates(program: str, environ: Mapping[str, str], wanted: Callable[[str], bool]) -> list[str]:
    """The files that the dynamic linker may take for the libraries that a program needs, of those whose names are wanted.

    Which it will take is not known: each is a file of that name in a folder that it may look into.
    """
    try:
        with open(program, "rb") as file:  # noqa: PTH123
            path = os.readlink(f"/proc/self/fd/{file.fileno()}")  # noqa: PTH115 - of a link the file itself
            found = linked(read_elf(file.fileno()))
    except (OSError, ProcessError):
        return []
    own = path.rpartition("/")[0]
    folders = [each.replace("${ORIGIN}", own).replace("$ORIGIN", own) for each in found.folders]
    folders += [*filter(None, environ.get("LD_LIBRARY_PATH", "").split(":")), *_USUAL]
    files = (f"{folder}/{name}" for name in sorted(found.needed) if wanted(name) for folder in folders)
    return list(dict.fromkeys(os.path.realpath(each) for each in files if os.path.isfile(each)))  # noqa: PTH113


def held(program: Linked, others: Mapping[str, Linked]) -> set[str]:
    """The names of those that the program holds, of `others` by their names."""
    found: set[str] = set()
    waiting = set(program.needed)
    while waiting:
        name = waiting.pop()
        if name not in found and name in others:
            found.add(name)
            waiting |= others[name].needed
    return found
