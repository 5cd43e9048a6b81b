# SPDX-License-Identifier: Apache-2.0
"""What a file says of the PHP in it: versions that are known, those that are not, files made to mislead."""

from __future__ import annotations

import os
import struct
from collections.abc import Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kernelspan_agent.process.errors import ElfError
from kernelspan_agent.runtimes.php.build import FRAMELESS, GENERATOR, GLOBALS, THREADED, PhpBuild, inspect_file
from kernelspan_agent.runtimes.php.layout import BY_VERSION
from kernelspan_agent.runtimes.registry import Unsupported

SYMBOLS = {GLOBALS: 0x5000, GENERATOR: 0x6000, FRAMELESS: 0x6008}


def elf(texts: bytes, symbols: Mapping[str, int]) -> bytes:
    """An ELF file with these read-only data and dynamic symbols."""
    strings, table = b"\0", bytes(24)
    for name, value in symbols.items():
        table += struct.pack("<IBBHQQ", len(strings), 0x11, 0, 1, value, 8)
        strings += name.encode() + b"\0"
    names = b"\0.rodata\0.dynsym\0.dynstr\0.shstrtab\0"
    parts = [
        (b".rodata", 1, texts, 0),
        (b".dynsym", 11, table, 3),
        (b".dynstr", 3, strings, 0),
        (b".shstrtab", 3, names, 0),
    ]
    data, heads = b"", bytes(64)
    for title, kind, content, link in parts:
        at = 64 + len(data)
        heads += struct.pack("<IIQQQQIIQQ", names.index(title + b"\0"), kind, 0, 0, at, len(content), link, 0, 0, 0)
        data += content
    head = struct.pack("<16sHHIQQQIHHHHHH", b"\x7fELF\2\1\1", 3, 62, 1, 0, 0, 64 + len(data), 0, 64, 56, 0, 64, 5, 4)
    return head + data + heads


def texts(version: str, api: int, build: str = "NTS") -> bytes:
    return f"\0X-Powered-By: PHP/{version}\0API{api},{build}\0API4{api},{build}\0".encode()


def inspect(content: bytes, name: str = "php8.4") -> PhpBuild | Unsupported | None:
    fd = os.memfd_create("elf")
    try:
        os.write(fd, content)
        return inspect_file(fd, name)
    finally:
        os.close(fd)


@pytest.mark.parametrize("version", sorted(BY_VERSION))
def test_every_version_that_is_known(version: tuple[int, int]) -> None:
    """By its number and its API's, whatever else the version's text bears."""
    for suffix in (".0", ".33", ".7-1+deb12u1", ".0RC3"):
        text = f"{version[0]}.{version[1]}{suffix}"
        found = inspect(elf(texts(text, BY_VERSION[version].api), SYMBOLS))
        assert isinstance(found, PhpBuild), found
        assert (found.version, found.offsets) == (text, BY_VERSION[version])
        assert (found.symbols.globals, found.symbols.generator, found.symbols.frameless) == (0x5000, 0x6000, 0x6008)


@pytest.mark.parametrize(
    ("content", "reason", "words"),
    [
        (elf(texts("8.9.0", 20290101), SYMBOLS), "RuntimeLayoutUnknown", "newer than"),
        (elf(texts("9.0.0", 20290101), SYMBOLS), "RuntimeLayoutUnknown", "newer than"),
        (elf(texts("7.3.1", 20180731), SYMBOLS), "RuntimeUnsupported", "older than"),
        (elf(texts("5.6.40", 20131226), SYMBOLS), "RuntimeUnsupported", "older than"),
        (elf(texts("8.4.0", 20240923), SYMBOLS), "RuntimeLayoutUnknown", "20240923"),
        (elf(texts("8.4.0alpha1", 20240924), SYMBOLS), "RuntimeLayoutUnknown", "its API is"),
        (elf(texts("8.4.1-dev", 20240924), SYMBOLS), "RuntimeLayoutUnknown", "its API is"),
        (elf(texts("8.4.1", 20240924, "NTS,debug"), SYMBOLS), "RuntimeLayoutUnknown", "debug"),
        (elf(texts("8.4.1", 20240924, "TS"), SYMBOLS), "RuntimeLayoutUnknown", "its API is"),
        (elf(texts("8.4.1", 20240924, "TS"), {THREADED: 0x100}), "RuntimeUnsupported", "ZTS"),
        (elf(texts("8.4.1", 20240924), {}), "RuntimeLayoutUnknown", "no symbol"),
        (elf(texts("8.4.1", 20240924) + texts("8.3.1", 20230831), SYMBOLS), "RuntimeLayoutUnknown", "which version"),
        (elf(b"\0", SYMBOLS), "RuntimeLayoutUnknown", "which version"),
        (elf(b"\0X-Powered-By: PHP/8.4.1\0", SYMBOLS), "RuntimeLayoutUnknown", "none"),
    ],
)
def test_what_cannot_be_walked_says_why(content: bytes, reason: str, words: str) -> None:
    """Nothing is guessed."""
    found = inspect(content)
    assert isinstance(found, Unsupported)
    assert found.reason == reason
    assert words in found.message
    assert found.implementation == "PHP"


def test_other_programs() -> None:
    """A file without PHP's engine is none, whatever it speaks of; it is read no further than its symbols."""
    assert inspect(elf(texts("8.4.1", 20240924), {"main": 1}), "curl") is None
    assert inspect(elf(b"", {}), "php-tool") is None


@given(st.data())
def test_damaged_files_never_do_more_than_raise(data: st.DataObject) -> None:
    """A file with some bytes changed, or cut, gives an answer or ElfError."""
    content = bytearray(elf(texts("8.4.1", 20240924), SYMBOLS))
    for at in data.draw(st.lists(st.integers(0, len(content) - 1), max_size=8)):
        content[at] = data.draw(st.integers(0, 255))
    try:
        inspect(bytes(content[: data.draw(st.integers(0, len(content)))]))
    except ElfError:
        return
