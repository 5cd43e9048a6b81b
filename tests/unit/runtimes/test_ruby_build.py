# SPDX-License-Identifier: Apache-2.0
"""What a file says of the Ruby in it: versions that are known, those that are not, variables that its code shows or does not."""

from __future__ import annotations

import os
import struct
from collections.abc import Mapping

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kernelspan_agent.process.errors import ElfError
from kernelspan_agent.runtimes.registry import Unsupported
from kernelspan_agent.runtimes.ruby.build import (
    API_VERSION,
    NAMES,
    PATCH,
    VERSION,
    VM,
    Launcher,
    RubyBuild,
    inspect_file,
)
from kernelspan_agent.runtimes.ruby.build import TABLE as TABLE_NAME
from kernelspan_agent.runtimes.ruby.layout import BY_VERSION, THREADS, TLS_DYNAMIC, TLS_FIXED, TLS_NONE

CODE, TEXT, NUMBERS, LEVEL = 0x1000, 0x2000, 0x2100, 0x2200
PAIR, TABLE, VARIABLE = 0x9000, 0xA000, 0xB000
PLACES = {
    "rb_thread_current": CODE,
    "rb_block_given_p": CODE + 0x100,
    NAMES: CODE + 0x200,
    "rb_gc_enable": CODE + 0x400,
}


def relative(before: bytes, target: int, at: int, after: bytes = b"") -> bytes:
    """An instruction at `at` that names its target by the distance from its end."""
    return before + struct.pack("<i", target - (at + len(before) + 4)) + after


def dynamic(at: int, pair: int = PAIR) -> bytes:
    start = b"\xf3\x0f\x1e\xfa\x48\x83\xec\x08"
    return start + relative(b"\x66\x48\x8d\x3d", pair, at + len(start), b"\x66\x66\x48\xe8\0\0\0\0\x48\x8b\x00")


def fixed(offset: int = -8, way: int = 0) -> bytes:
    before, after = (
        (b"\x48\x83\xec\x08\x64\x48\x8b\x04\x25", b"\x48\x8b\x40\x30"),  # mov %fs:offset
        (b"\x48\xc7\xc0", b"\x64\x48\x8b\x00"),  # mov $offset; mov %fs:(that)
        (b"\x64\x48\x8b\x04\x25\0\0\0\0\x48\x8d\x80", b"\x48\x8b\x00"),  # mov %fs:0; lea offset(that)
    )[way]
    return before + struct.pack("<i", offset) + after


def names(distance: int = 16) -> bytes:
    """rb_id2str, and what it jumps to."""
    at = PLACES[NAMES]
    head = b"\x48\x89\xf8" + relative(b"\xe9", at + 0x80, at + 3)
    inner = relative(b"\x39\x3d", TABLE, at + 0x80)
    inner += relative(b"\x48\x8b\x3d", TABLE + distance, at + 0x80 + len(inner))
    return head.ljust(0x80, b"\xcc") + inner


def pieces(**changed: bytes) -> dict[int, bytes]:
    """Code of a Ruby since 3.0."""
    found = {name: dynamic(at) for name, at in PLACES.items()}
    found[NAMES] = names()
    found["rb_gc_enable"] = relative(b"\x48\x8d\x05", VARIABLE, PLACES["rb_gc_enable"], b"\x48\x8b\x00")
    return {PLACES[name]: code for name, code in (found | changed).items()}


def elf(
    version: str,
    api: tuple[int, int],
    code: Mapping[int, bytes],
    more: Mapping[str, int] | None = None,
    patch: int = 7,
) -> bytes:
    """An ELF file of which everything is loaded where it lies, with these pieces of code."""
    symbols = {VERSION: TEXT, API_VERSION: NUMBERS, PATCH: LEVEL, **PLACES, **(more or {})}
    strings, table = b"\0", bytes(24)
    for name, value in symbols.items():
        table += struct.pack("<IBBHQQ", len(strings), 0x12, 0, 1, value, 8)
        strings += name.encode() + b"\0"
    data = bytearray(0x3000)
    for at, piece in {
        **code,
        TEXT: version.encode() + b"\0",
        NUMBERS: struct.pack("<3I", *api, 0),
        LEVEL: struct.pack("<i", patch),
    }.items():
        data[at : at + len(piece)] = piece
    titles = b"\0.dynsym\0.dynstr\0.shstrtab\0"
    heads = bytes(64)
    for title, kind, content, link in (
        (b".dynsym", 11, table, 2),
        (b".dynstr", 3, strings, 0),
        (b".shstrtab", 3, titles, 0),
    ):
        heads += struct.pack(
            "<IIQQQQIIQQ", titles.index(title + b"\0"), kind, 0, 0, len(data), len(content), link, 0, 0, 0
        )
        data += content
    load = struct.pack("<IIQQQQQQ", 1, 5, 0, 0, 0, len(data), len(data), 4096)
    head = struct.pack("<16sHHIQQQIHHHHHH", b"\x7fELF\2\1\1", 3, 62, 1, 0, 64, len(data), 0, 64, 56, 1, 64, 4, 3)
    data[: len(head) + len(load)] = head + load
    return bytes(data) + heads


def inspect(content: bytes, name: str = "libruby.so") -> RubyBuild | Launcher | Unsupported | None:
    fd = os.memfd_create("elf")
    try:
        os.write(fd, content)
        return inspect_file(fd, name)
    finally:
        os.close(fd)


@pytest.mark.parametrize("version", sorted(BY_VERSION))
def test_every_version_that_is_known(version: tuple[int, int]) -> None:
    """By its number; where its variables are by its code, before 3.0 by a symbol."""
    found = inspect(elf(f"{version[0]}.{version[1]}.9", version, pieces(), {VM: 0xC000}))
    assert isinstance(found, RubyBuild), found
    assert (found.version, found.numbers) == (f"{version[0]}.{version[1]}.9", version)
    assert (found.offsets, found.symbols, found.vm) == (BY_VERSION[version], TABLE, 0xC000)
    assert (found.tls, found.head) == ((TLS_NONE, 0xC000) if version < (3, 0) else (TLS_DYNAMIC, PAIR))
    assert version in THREADS


def test_what_is_no_symbol() -> None:
    """The VM by the code that asks for it; a Ruby that is the program itself has its variable at a fixed distance."""
    found = inspect(elf("3.3.1", (3, 3), pieces()))
    assert isinstance(found, RubyBuild)
    assert found.vm == VARIABLE
    for way, other in ((0, 0), (0, 1), (1, 2), (2, 0)):
        code = pieces(rb_thread_current=fixed(-8, way), rb_block_given_p=fixed(-8, other))
        found = inspect(elf("3.3.1", (3, 3), code), "ruby")
        assert isinstance(found, RubyBuild), found
        assert (found.tls, found.tls_offset) == (TLS_FIXED, -8)
    found = inspect(elf("3.3.1", (3, 3), pieces(), {TABLE_NAME: 0xD000}))
    assert isinstance(found, RubyBuild)
    assert found.symbols == 0xD000


@pytest.mark.parametrize(
    ("content", "reason", "words"),
    [
        (elf("1.9.3", (1, 9), pieces()), "RuntimeUnsupported", "older"),
        (elf("3.2.1", (3, 2), pieces()), "RuntimeLayoutUnknown", "known of 2.7, 3.1, 3.3, 3.4"),
        (elf("9.0.0", (9, 0), pieces()), "RuntimeLayoutUnknown", "known of"),
        (elf("3.3.0dev", (3, 3), pieces()), "RuntimeLayoutUnknown", "does not say"),
        (elf("3.3.0", (3, 4), pieces()), "RuntimeLayoutUnknown", "that of 3.4"),
        (elf("3.3.0", (3, 3), pieces(), patch=-1), "RuntimeLayoutUnknown", "no release"),
        (
            elf("3.3.0", (3, 3), pieces()).replace(b"ruby_patchlevel", b"ruby_patchlevex"),
            "RuntimeLayoutUnknown",
            "has no",
        ),
        (elf("2.7.0", (2, 7), pieces()), "RuntimeLayoutUnknown", "not to be seen"),
        (
            elf("3.3.0", (3, 3), pieces(rb_block_given_p=dynamic(CODE + 0x100, PAIR + 16))),
            "RuntimeLayoutUnknown",
            "not to be seen",
        ),
        (elf("3.3.0", (3, 3), pieces(rb_block_given_p=b"\x90" * 64)), "RuntimeLayoutUnknown", "not to be seen"),
        (elf("3.3.0", (3, 3), pieces(rb_block_given_p=fixed())), "RuntimeLayoutUnknown", "not to be seen"),
    ],
)
def test_what_is_not_known(content: bytes, reason: str, words: str) -> None:
    """It is told by name, and nothing is guessed."""
    found = inspect(content)
    assert isinstance(found, Unsupported), found
    assert (found.reason, found.implementation) == (reason, "Ruby")
    assert words in found.message


def test_names_that_cannot_be_had() -> None:
    """Two variables at another distance are not the table of symbols."""
    found = inspect(elf("3.3.1", (3, 3), pieces(**{NAMES: names(24)})))
    assert isinstance(found, RubyBuild)
    assert found.symbols == 0


def test_other_programs() -> None:
    """What has no Ruby in it is none; a command line of it is told by what it needs."""
    plain = elf("3.3.1", (3, 3), pieces()).replace(b"\0ruby_version\0", b"\0rubx_version\0")
    assert inspect(plain) is None
    assert inspect(plain, "ruby3.3") is None
    command = elf("3.3.1", (3, 3), {}, {"ruby_run_node": 0}).replace(b"\0ruby_version\0", b"\0rubx_version\0")
    assert inspect(command, "ruby3.3") == Launcher()
    assert inspect(command, "sh") is None


@settings(max_examples=200)
@given(st.integers(0, 0x3600), st.binary(min_size=1, max_size=64), st.sampled_from(["libruby.so", "ruby3.3"]))
def test_hostile_files(at: int, garbage: bytes, name: str) -> None:
    """Whatever is changed in it: a build, a reason, or an error of ours."""
    content = bytearray(elf("3.3.1", (3, 3), pieces()))
    content[at : at + len(garbage)] = garbage
    try:
        found = inspect(bytes(content), name)
    except ElfError:
        return
    assert found is None or isinstance(found, RubyBuild | Unsupported | Launcher)
