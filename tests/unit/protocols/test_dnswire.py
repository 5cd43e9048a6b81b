# SPDX-License-Identifier: Apache-2.0
"""Messages of DNS: names, codes, addresses; whatever else their bytes may be."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kernelspan_agent.protocols import dnswire
from tests.support.dnsmessages import answer, opt, question


@pytest.mark.parametrize(
    ("labels", "text"),
    [
        ([], "."),
        ([b"a", b"b-c"], "a.b-c"),
        ([b"a.b"], r"a\.b"),
        ([b'"\\\t\r\n'], r"\"\\\t\r\n"),
        ([b"\0\x7f\xff "], r"\000\127\255 "),
    ],
)
def test_names(labels: list[bytes], text: str) -> None:
    """As OpenTelemetry has it."""
    name = b"".join(bytes([len(each)]) + each for each in labels) + b"\0"
    message = struct.pack(">HHHHHH", 1, 0, 1, 0, 0, 0) + name + struct.pack(">HH", 1, 1)
    found = dnswire.parse(message, len(message))
    assert found is not None
    assert found.text == text


@pytest.mark.parametrize(
    "name",
    [b"\xc0\x0c", b"\x40" + b"a" * 64 + b"\0", (b"\x3f" + b"a" * 63) * 4 + b"\0", b"\x05abc"],
)
def test_names_that_are_none(name: bytes) -> None:
    """A pointer that leads to itself, a label or a name that is too long, one that does not end."""
    message = struct.pack(">HHHHHH", 1, 0, 1, 0, 0, 0) + name + struct.pack(">HH", 1, 1)
    assert dnswire.parse(message, len(message)) is None


def test_codes_of_more_bits() -> None:
    """OPT has the upper ones."""
    message = answer(7, more=opt(1))
    found = dnswire.parse(message, len(message))
    assert found is not None
    assert dnswire.rcode_name(found.rcode) == "BADVERS"
    assert dnswire.type_name(65400) == "TYPE65400"


@given(st.integers(0, 70), st.integers(0, 2000))
def test_only_whole_lists_of_addresses(count: int, seen: int) -> None:
    """All addresses or none, wherever the bytes end."""
    addresses = [f"10.0.0.{each}" for each in range(count)]
    message = answer(7, addresses=addresses)
    found = dnswire.parse(message[:seen], len(message))
    if found is not None:
        expected = tuple(addresses) if seen >= len(message) and count <= dnswire.MAX_ADDRESSES else None
        assert found.addresses == expected


mutations = st.lists(st.tuples(st.integers(0, 200), st.integers(0, 255)), max_size=4)


@given(
    st.binary(max_size=100)
    | st.tuples(st.sampled_from([question(7), answer(7, addresses=["10.0.0.1", "::1"])]), mutations)
)
@settings(max_examples=500)
def test_any_bytes(made: bytes | tuple[bytes, list[tuple[int, int]]]) -> None:
    """They are a message or none; one that is has a name that fits into one."""
    if isinstance(made, tuple):
        data = bytearray(made[0])
        for at, value in made[1]:
            data[at % len(data)] = value
        made = bytes(data)
    found = dnswire.parse(made, len(made))
    if found is not None and found.question is not None:
        assert len(found.question.name) <= dnswire.MAX_NAME
        assert found.text.isprintable()
        assert found.text.isascii()
