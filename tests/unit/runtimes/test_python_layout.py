# SPDX-License-Identifier: Apache-2.0
"""Layouts: the kernel's row, the check word, and published offsets that may be crafted."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kernelspan_agent.runtimes.python import debug_offsets
from kernelspan_agent.runtimes.python.layout import (
    ABSENT,
    PY_LAYOUT,
    Types,
    check_word,
    kernel_row,
)
from kernelspan_agent.runtimes.python.versions import BY_MINOR, FIRST_WITH_DEBUG_OFFSETS

PUBLISHING = [minor for minor in BY_MINOR if minor >= FIRST_WITH_DEBUG_OFFSETS]


def published(minor: int, **changed: int) -> bytes:
    """Debug offsets as an interpreter with this table writes them."""
    words = [0] * (debug_offsets.SIZE_BYTES[minor] // 8)
    words[0] = int.from_bytes(debug_offsets.COOKIE, "little")
    words[1] = version(minor)
    for group, (first, names) in debug_offsets._GROUPS[minor].items():
        words[first] = 20000 if group in ("runtime", "interpreter") else 1000
        for name, index in names.items():
            words[first + index] = changed.get(name, getattr(BY_MINOR[minor], name))
        if group == "str":
            words[first + 3] = changed.get("str_data", BY_MINOR[minor].str_data)
    return struct.pack(f"<{len(words)}Q", *words)


def version(minor: int) -> int:
    return 0x030000F0 | minor << 16 | 2 << 8


@pytest.mark.parametrize("minor", BY_MINOR)
def test_rows_hold_the_offsets(minor: int) -> None:
    """Each field is the table's; a frame's header holds all that is taken from it."""
    row = kernel_row(BY_MINOR[minor], Types(long=900, unicode=1100), 1000)[0]
    assert (row["minor"], row["long_type"], row["unicode_type"]) == (minor, -100, 100)
    for name, width in (
        ("frame_previous", 8),
        ("frame_code", 8),
        ("frame_globals", 8),
        ("frame_owner", 1),
        ("frame_generator", 8),
    ):
        assert row[name] == ABSENT or row[name] + width <= row["frame_header_bytes"]
    assert row["frame_pc"] + row["frame_pc_bytes"] <= row["frame_header_bytes"]
    assert row["code_check_bytes"] <= 32
    assert row["task_name"] == row["task_coro"] + 8
    assert PY_LAYOUT.itemsize % 8 == 0


@pytest.mark.parametrize("minor", PUBLISHING)
def test_published_offsets_are_taken(minor: int) -> None:
    """What moves between patch releases comes from the interpreter."""
    offsets = debug_offsets.read_offsets(published(minor, interp_next=8888), version(minor))
    assert offsets.interp_next == 8888
    assert offsets.ts_context_ver == BY_MINOR[minor].ts_context_ver


@pytest.mark.parametrize("minor", PUBLISHING)
def test_unpublished_offsets_are_not_guessed(minor: int) -> None:
    """Where a struct is laid out otherwise, its other fields are not known."""
    moved = debug_offsets.read_offsets(published(minor, ts_thread_id=160), version(minor))
    assert moved.ts_context_ver == ABSENT
    for name in ("frame_owner", "code_name", "str_data", "dict_keys"):
        with pytest.raises(debug_offsets.LayoutError, match="not laid out"):
            debug_offsets.read_offsets(published(minor, **{name: 16}), version(minor))


@pytest.mark.parametrize("minor", PUBLISHING)
def test_crafted_offsets(minor: int) -> None:
    """A wrong cookie, another version, offsets outside their struct, too few bytes."""
    good = published(minor)
    for data, message in (
        (b"y" + good[1:], "cookie"),
        (good[:8] + b"\1" + good[9:], "of version"),
        (published(minor, interp_next=20000), "outside"),
        (published(minor, ts_frame=1 << 63), "outside"),
        (good[:-8], "no debug offsets"),
    ):
        with pytest.raises(debug_offsets.LayoutError, match=message):
            debug_offsets.read_offsets(data, version(minor))
    assert not debug_offsets.is_free_threaded(good)
    assert debug_offsets.is_free_threaded(good[:16] + b"\1" + good[17:])


@given(st.sampled_from(PUBLISHING), st.binary(min_size=888, max_size=888))
def test_random_offsets_are_refused(minor: int, noise: bytes) -> None:
    """Random words behind the right cookie and version are never a layout."""
    data = published(minor)[:24] + noise
    with pytest.raises(debug_offsets.LayoutError):
        debug_offsets.read_offsets(data, version(minor))


def test_check_word_is_the_documented_one() -> None:
    """Worked out by the formula for one word; each byte counts; sizes are bounded."""
    value = 7 * 0x9E3779B97F4A7C15 % 2**64
    value ^= value >> 29
    for _ in range(3):
        value = value * 0x9E3779B97F4A7C15 % 2**64
        value ^= value >> 29
    assert check_word(b"\7") == (value >> 32 ^ value) & 0xFFFFFFFF
    seen = {check_word(bytes(32))}
    for index in range(96):
        data = bytes(index) + b"\1" + bytes(95 - index)
        seen.add(check_word(data[:32], data[32:]))
    assert len(seen) == 97
    with pytest.raises(ValueError, match="at most 32"):
        check_word(bytes(33))
    with pytest.raises(ValueError, match="at most 32"):
        check_word(bytes(32), bytes(7))
