# SPDX-License-Identifier: Apache-2.0
"""Static probes (USDT) of a file: where each stands, what raises it, and where its arguments are.

A probe is one name and any number of sites, each a NOP with its own places of the arguments. A site whose semaphore is
not raised is skipped by the program: the kernel raises it while a uprobe with `semaphore_offset` is attached. Facts:
SystemTap's wiki, "User-space probe implementation", and <sys/sdt.h> for the layout of a note.
"""

from __future__ import annotations

import struct
from collections.abc import Generator, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass

from kernelspan_agent.process.elf import SHT_NOTE, Elf, file_offset, read_at, read_elf, symbol_addresses
from kernelspan_agent.process.errors import ElfError, ProcessEndedError, ProcessError, SymbolError
from kernelspan_agent.process.procfs import Process, printable

from .identity import Identity
from .nearest import nearest
from .patterns import Pattern, decode, encode
from .usdt_arguments import Argument, parse_arguments, symbols_of
from .where import AUTO, Binary, mapped_binaries, open_binary, open_mapped

MAX_NOTES_BYTES = 32 << 20
MAX_NOTES = 1 << 17
MAX_SITES = 512  # of one probe; a probe in an inlined function has as many as callers
MAX_TEXT_BYTES = 4096  # of one note
_OWNER, _KIND = b"stapsdt\0", 3
_NEAR_NAMES = 3


@dataclass(frozen=True, slots=True)
class Site:
    """One place of a probe. `offset`, `semaphore_offset`: in the file; 0: it has no semaphore. `address`: before relocation."""

    offset: int
    address: int
    semaphore_offset: int
    arguments: tuple[Argument, ...]
    text: str  # the arguments as the note has them


@dataclass(frozen=True, slots=True)
class StaticProbe:
    """A probe with all its sites, in the order of their offsets."""

    provider: str
    name: str
    sites: tuple[Site, ...]

    @property
    def argument_count(self) -> int:
        """Of the site that has fewest: what every event has."""
        return min((len(site.arguments) for site in self.sites), default=0)


def find_probe(binary: Binary, provider: str, name: str) -> StaticProbe:
    """The probe of exactly these names. Raises SymbolError (UsdtNotFound), ElfError."""
    elf = read_elf(binary.fd)
    wanted = (encode(provider), encode(name))
    notes: list[_Note] = []
    others: set[str] = set()
    for note in _notes(elf):
        if (note.provider, note.name) == wanted:
            notes.append(note)
            if len(notes) > MAX_SITES:
                raise SymbolError(f"probe {provider}:{name} has more than {MAX_SITES} sites", reason="UsdtNotFound")
        elif len(others) < MAX_SITES:
            others.add(f"{decode(note.provider)}:{decode(note.name)}")
    if notes:
        return _probe(elf, notes)
    raise SymbolError(
        f"{printable(binary.path)} has no static probe {printable(provider)}:{printable(name)}{_near(others, provider, name)}",
        reason="UsdtNotFound",
        hint="`kernelspan list usdt` shows what there is" if others else "the program is built without static probes",
    )


def list_probes(binary: Binary, pattern: str = "*", limit: int = 4096) -> tuple[list[StaticProbe], int]:
    """Probes whose `provider:name`, or name, the pattern stands for, and how many there are. Raises ElfError."""
    elf = read_elf(binary.fd)
    wanted = Pattern(pattern)
    found: dict[tuple[bytes, bytes], list[_Note]] = {}
    names: set[tuple[bytes, bytes]] = set()
    for note in _notes(elf):
        whole = note.provider + b":" + note.name
        if not any(wanted.name == each or wanted.matches(each) for each in (whole, note.name)):
            continue
        key = (note.provider, note.name)
        names.add(key)
        if key in found or len(found) < limit:
            sites = found.setdefault(key, [])
            if len(sites) < MAX_SITES:
                sites.append(note)
    return [_probe(elf, notes) for _, notes in sorted(found.items())], len(names)


def probes_of(process: Process, path: str, provider: str, name: str) -> Generator[tuple[Binary, StaticProbe]]:
    """Each file of the process that has the probe, open until the next is asked for.

    `path`, or with `Auto` its executable and whatever else it may run code of now. Raises SymbolError (UsdtNotFound) where
    none has it, ElfError, ProcessEndedError.
    """
    missing: ProcessError | None = None
    seen: set[Identity] = set()
    found = False
    for opened in _files(process, path):
        try:
            with opened as binary:
                if binary.identity in seen:
                    continue
                seen.add(binary.identity)
                probe = find_probe(binary, provider, name)
                found = True
                yield binary, probe
        except ProcessError as error:
            if path != AUTO or isinstance(error, ProcessEndedError):
                raise
            missing = missing or error  # the executable's
    if missing and not found:
        raise missing


def _files(process: Process, path: str) -> Iterator[AbstractContextManager[Binary]]:
    yield open_binary(process, path)
    if path == AUTO:
        yield from (open_mapped(process, mapping) for mapping in mapped_binaries(process))


@dataclass(frozen=True, slots=True)
class _Note:
    provider: bytes
    name: bytes
    text: bytes
    address: int
    semaphore: int


def _notes(elf: Elf) -> Iterator[_Note]:
    base = elf.section(".stapsdt.base")
    count = 0
    for section in elf.sections:
        if section.name != ".note.stapsdt" or section.kind != SHT_NOTE:
            continue
        if section.size > MAX_NOTES_BYTES:
            raise ElfError(f".note.stapsdt of {section.size} bytes")
        data = read_at(elf.fd, section.offset, section.size)
        position = 0
        while position + 12 <= len(data):
            name_bytes, value_bytes, kind = struct.unpack_from("<III", data, position)
            value_at = position + 12 + (name_bytes + 3 & ~3)
            end = value_at + value_bytes
            if end > len(data):
                raise ElfError(".note.stapsdt ends in the middle of a note")
            if kind == _KIND and data[position + 12 : position + 12 + name_bytes] == _OWNER:
                note = _note(data[value_at:end], base.address if base else 0)
                if note is not None:
                    yield note
            count += 1
            if count > MAX_NOTES:
                raise ElfError(f".note.stapsdt holds more than {MAX_NOTES} notes")
            position = end + 3 & ~3


def _note(value: bytes, base: int) -> _Note | None:
    if not 27 <= len(value) <= MAX_TEXT_BYTES:
        return None
    address, linked_base, semaphore = struct.unpack_from("<QQQ", value)
    parts = value[24:].split(b"\0")
    if len(parts) < 3 or not parts[0] or not parts[1]:
        return None
    # Prelink may have moved the file after the notes were written.
    moved = base - linked_base if base else 0
    mask = (1 << 64) - 1
    return _Note(parts[0], parts[1], parts[2], address + moved & mask, semaphore + moved & mask if semaphore else 0)


def _probe(elf: Elf, notes: list[_Note]) -> StaticProbe:
    texts = {note.text: decode(note.text) for note in notes}
    names = {name for text in texts.values() for name in symbols_of(text)}
    symbols = symbol_addresses(elf, sorted(names)) if names else {}
    sites = {}
    for note in notes:
        offset = file_offset(elf, note.address, code=True)
        if offset is None:
            raise ElfError(f"a site of {decode(note.name)} lies at {note.address:#x}, where no code is loaded")
        semaphore = file_offset(elf, note.semaphore, code=False) if note.semaphore else 0
        if semaphore is None:
            raise ElfError(f"the semaphore of {decode(note.name)} lies at {note.semaphore:#x}, where nothing is loaded")
        text = texts[note.text]
        sites[offset] = Site(offset, note.address, semaphore, parse_arguments(text, elf.machine, symbols), text)
    return StaticProbe(decode(notes[0].provider), decode(notes[0].name), tuple(sites[each] for each in sorted(sites)))


def _near(others: set[str], provider: str, name: str) -> str:
    close = nearest(f"{provider}:{name}", others, _NEAR_NAMES)
    return f"; it has {', '.join(map(printable, close))}" if close else ""
