# SPDX-License-Identifier: Apache-2.0
"""Paths from the names the kernel sends, joined, redacted, forgotten."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kernelspan_agent.resolve import paths
from kernelspan_agent.resolve.paths import PathTable, Redactor, text_of
from kernelspan_agent.ring.records import PathFlag
from tests.unit.resolve.making import path_record

RAW = PathFlag.RAW


@pytest.mark.parametrize(
    ("names", "flags", "text"),
    [
        (b"c\0b\0a\0", 0, "/a/b/c"),
        (b"", 0, "/"),
        (b"c\0b\0a\0/\0", PathFlag.UNREACHABLE, "a/b/c"),
        (b"c\0b\0", PathFlag.TRUNCATED, "b/c"),
        (b"c\0b\0a\0", PathFlag.DELETED, "/a/b/c"),
        (b"\xff\nz\0", 0, "/\udcff\nz"),
        (b"relative/x\0", RAW, "relative/x"),
        (b"/abs\0rest", RAW, "/abs"),
        (b"\0abstract\0name", RAW, "@abstract\0name"),
        (b"\0", RAW, ""),
        (b"", RAW, ""),
    ],
)
def test_text(names: bytes, flags: int, text: str) -> None:
    """Names from the leaf to the root; raw paths as the program passed them."""
    assert text_of(path_record(7, names, flags=flags))[:2] == (7, text)


def table(**known: tuple[bytes, int]) -> PathTable:
    """A table that knows paths by numbers named f1, f2, …"""
    made = PathTable(lambda _ids: None)
    for name, (names, flags) in known.items():
        made.learn(path_record(int(name[1:]), names, flags=flags))
    return made


def test_joined() -> None:
    """A path as passed stands where it is relative to; what is not known gives nothing rather than a part."""
    made = table(
        f1=(b"dir\0", 0), f2=(b"file\0", RAW), f3=(b"/abs\0", RAW), f4=(b"../up\0", RAW), f5=(b"./here\0", RAW), f6=(b"", 0),
        f7=(b"", RAW),
    )  # fmt: skip
    assert made.resolve(1, 0) == "/dir"
    assert made.resolve(1, 2) == "/dir/file"
    assert made.resolve(0, 3) == made.resolve(1, 3) == "/abs"
    assert made.resolve(1, 4) == "/dir/../up"
    assert made.resolve(1, 5) == "/dir/here"
    assert made.resolve(6, 2) == "/file"
    assert made.resolve(1, 7) == "/dir"
    assert made.resolve(0, 2) == made.resolve(99, 2) == made.resolve(1, 99) == made.resolve(99, 0) == ""


def test_shown() -> None:
    """What matches is gone, what would break a line is escaped."""
    made = Redactor([r"s3cret\d*", "x{3,}"])
    assert made.shown("/a/s3cret12/b") == "/a/[redacted]/b"
    assert made.shown("/xxxx\n\udcff") == "/[redacted]\\n\\xff"


def test_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """The least recently used goes, and the kernel is told so that it sends it again."""
    monkeypatch.setattr(paths, "MAX_PATHS", 3)
    forgotten: list[int] = []
    made = PathTable(forgotten.extend)
    for number in (1, 2, 3):
        made.learn(path_record(number, b"%d\0" % number))
    assert made.resolve(1, 0) == "/1"
    made.learn(path_record(4, b"4\0"))
    assert forgotten == [2]
    assert made.resolve(2, 0) == ""
    assert [made.resolve(number, 0) for number in (1, 3, 4)] == ["/1", "/3", "/4"]


@given(st.binary(max_size=4096), st.sampled_from(list(range(16))))
def test_any_names(names: bytes, flags: int) -> None:
    """Names are bytes: any of them make a text that can be shown."""
    made = table()
    made.learn(path_record(1, names, flags=flags))
    shown = Redactor().shown(made.resolve(1, 0))
    assert shown.isprintable()
    shown.encode("utf-8")
