# SPDX-License-Identifier: Apache-2.0
"""Source maps: what they say, against a plain reading of the same; and maps that are made to mislead."""

from __future__ import annotations

import base64
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kernelspan_agent.process.procfs import Process, open_process
from kernelspan_agent.runtimes.nodejs import maps
from kernelspan_agent.runtimes.nodejs.lines import Lines, are_feeds, line_ends
from kernelspan_agent.runtimes.nodejs.maps import (
    MAX_MAP_BYTES,
    MAX_MAPPINGS,
    MAX_PLACES,
    MAX_SOURCES,
    SourceMap,
    map_of,
    parse,
)

DIGITS = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"


@dataclass(frozen=True)
class Segment:
    column: int
    source: int | None = None
    line: int = 0
    named: bool = False


def number(value: int) -> str:
    left, text = abs(value) << 1 | (value < 0), ""
    while True:
        left, digit = left >> 5, left & 31
        text += DIGITS[digit | (32 if left else 0)]
        if not left:
            return text


def encoded(lines: list[list[Segment]]) -> str:
    source = line = 0
    groups = []
    for each in lines:
        column, parts = 0, []
        for segment in each:
            text = number(segment.column - column)
            column = segment.column
            if segment.source is not None:
                text += number(segment.source - source) + number(segment.line - line) + number(0)
                source, line = segment.source, segment.line
                text += number(0) if segment.named else ""
            parts.append(text)
        groups.append(",".join(parts))
    return ";".join(groups)


def written(mappings: str, sources: list[Any], **more: Any) -> bytes:
    return json.dumps({"version": 3, "sources": sources, "names": ["n"], "mappings": mappings, **more}).encode()


def made(mappings: str, sources: list[Any], **more: Any) -> SourceMap:
    found = parse(written(mappings, sources, **more), "/app/dist")
    assert found is not None
    return found


segments = st.builds(
    Segment,
    st.integers(0, 300),
    st.one_of(st.none(), st.integers(0, 2)),
    st.integers(0, 1 << 20),
    st.booleans(),
)


@given(st.lists(st.lists(segments, max_size=9), max_size=6), st.sampled_from([40, 64, 1 << 15]))
def test_every_place(lines: list[list[Segment]], at_once: int) -> None:
    """The nearest segment before a column of its line, or none; however much is read at once."""
    lines = [sorted(line, key=lambda segment: segment.column) for line in lines]
    with mock.patch.object(maps, "_AT_ONCE", at_once):
        found = made(encoded(lines), ["a.ts", "b.ts", "c.ts"])
    for at, line in enumerate(lines, 1):
        for column in range(0, 310, 7):
            before = [segment for segment in line if segment.column <= column]
            last = before[-1] if before else None
            expected = None
            if last is not None and last.source is not None:
                expected = f"/app/dist/{'abc'[last.source]}.ts", last.line + 1
            assert found.find(at, column) == expected
    assert found.find(len(lines) + 1, 0) is None
    assert found.find(0, 0) is None


@pytest.mark.parametrize(
    ("root", "source", "path"),
    [
        ("", "../src/a.ts", "/app/src/a.ts"),
        (None, "a%20b.ts", "/app/dist/a b.ts"),
        ("../src", "a.ts", "/app/src/a.ts"),
        ("/src/", "a.ts", "/src/a.ts"),
        ("", "/src/a.ts", "/src/a.ts"),
        ("", "file:///src/a.ts", "/src/a.ts"),
    ],
)
def test_where_sources_are(root: str | None, source: str, path: str) -> None:
    """Below the map's own folder, or the root that it names."""
    assert made("AAAA", [source], sourceRoot=root).find(1, 5) == (path, 1)


NO_FILES = [
    "webpack://app/a.ts",
    "https://host/a.ts",
    "//host/a.ts",
    "",
    None,
    "a%00b.ts",
    "file://host/a.ts",
    "./a.vue?9f3c",
]


@pytest.mark.parametrize("source", [*NO_FILES, "../node_modules/a/a.ts", "a" * 4200, "webpack:///./src/a.ts"])
@pytest.mark.parametrize("root", ["", "/app", "b" * 200])
def test_sources_that_are_no_files(source: str | None, root: str) -> None:
    """Nor the program's own: the place stays what it is in the script."""
    assert made("AAAA", [source], sourceRoot=root).find(1, 5) is None


@pytest.mark.parametrize(
    "mappings",
    ["AAA", "AA", "AAAAAA", "AAAA,!", "AAAg", "AAAg,AAAA", "gggggggA", "ACAA", "ADAA", "AADA", "D", "C,D", "AAAA;é"],
)
def test_mappings_that_contradict_themselves(mappings: str) -> None:
    """Segments of another length, numbers that do not end or are too long, sources and lines that are not there, columns that go back."""
    assert parse(written(mappings, ["a.ts"]), "/app") is None


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"[]",
        b"{",
        b'{"version": 2, "sources": ["a"], "mappings": "AAAA"}',
        b'{"version": 3, "sections": []}',
        b'{"version": 3, "sources": "a", "mappings": "AAAA"}',
        b'{"version": 3, "sources": ["a"], "mappings": 5}',
        b"\xff" * 100,
        b'{"version": 3, "sources": ["\xe9"], "mappings": "AAAA"}',
        b'{"version": 3, "sources": ["a"], "mappings": "AAAA", "x": ' + b"[" * 5000,
        written("AAAA", ["a"] * (MAX_SOURCES + 1)),
        written("AAAA", [f"{at}{'a' * 1000}" for at in range(1000)]),
        written("A" * (MAX_MAPPINGS + 4), ["a"]),
        written("AAAA," * (MAX_PLACES + 1), ["a"]),
    ],
)
def test_what_is_no_map(text: bytes) -> None:
    """And one of several parts."""
    assert parse(text, "/app") is None


@given(st.binary(max_size=200))
def test_any_bytes(text: bytes) -> None:
    """Nothing is raised."""
    parse(text, "/app")


@given(st.text("ABCDgh+/,;9", max_size=60))
def test_any_mappings(text: str) -> None:
    """Whatever is taken can be asked for every place."""
    found = parse(written(text, ["a.ts", "b.ts"]), "/app")
    for line in range(4) if found is not None else ():
        for column in (0, 1, 1 << 30):
            found.find(line, column)


def test_bytes_before_the_text() -> None:
    """Some servers put them there."""
    assert parse(b")]}'\n" + written("AAAA", ["a.ts"]), "/app") is not None


class Program:
    """A compiled script and its map, in files that a process (this one) sees."""

    def __init__(self, folder: Path, comment: str = "//# sourceMappingURL=a.js.map\n") -> None:
        self.file, self.process = folder / "a.js", open_process(os.getpid())
        self.text = f"first();\nsecond();\n{comment}"
        self.file.write_text(self.text)
        (folder / "a.js.map").write_bytes(written("AAEA;AAQA", ["a.ts"]))

    def map(
        self, text: str | None = None, process: Process | None = None, file: Path | None = None
    ) -> SourceMap | None:
        source = (self.text if text is None else text).encode()
        return map_of(process or self.process, str(file or self.file), source, 1)


def test_beside_the_file(tmp_path: Path) -> None:
    """Positions count from the begin of their line."""
    program = Program(tmp_path)
    lines = Lines(line_ends(program.text.encode(), 1), program.map())
    assert [lines.origin_of(at) for at in (0, 7, 9, 15)] == [(f"{tmp_path}/a.ts", at) for at in (3, 3, 11, 11)]


def test_characters_of_two_bytes(tmp_path: Path) -> None:
    """V8 keeps a source so that has one that needs it."""
    program = Program(tmp_path)
    text = program.text.replace("first", "fürst\u2192")
    program.file.write_text(text, encoding="utf-8")
    assert map_of(program.process, str(program.file), text.encode("utf-16-le"), 2) is not None


def test_a_mark_at_the_begin(tmp_path: Path) -> None:
    """Node.js leaves it out of the source."""
    program = Program(tmp_path)
    program.file.write_bytes(b"\xef\xbb\xbf" + program.text.encode())
    assert program.map() is not None


def test_inside_the_source(tmp_path: Path) -> None:
    """What compiles while the program is loaded leaves no other."""
    inside = base64.b64encode(written("AAEA;AAQA", ["a.ts"]) + b" " * 5000).decode()
    program = Program(tmp_path, f"//# sourceMappingURL=data:application/json;charset=utf-8;base64,{inside}\n")
    program.file.unlink()
    found = program.map()
    assert found is not None
    assert found.find(2, 0) == (f"{tmp_path}/a.ts", 11)


def test_another_source_than_the_file_has_now(tmp_path: Path) -> None:
    """It was compiled again: the map is of what nobody runs."""
    program = Program(tmp_path)
    program.file.write_text(program.text.replace("first", "third"))
    assert program.map() is None


@pytest.mark.parametrize(
    "comment",
    [
        "",
        "// a.js.map\n",
        "//# sourceMappingURL=data:application/json;base64,\u00e9\n",
        "//# sourceMappingURL=b.js.map\n",
        "//# sourceMappingURL=https://host/a.js.map\n",
        "//# sourceMappingURL=data:application/json;base64,AAAA!\n",
        "//# sourceMappingURL=a.js.map\nthird();\n",
    ],
)
def test_sources_that_name_none(tmp_path: Path, comment: str) -> None:
    """Or one that is not there, or elsewhere; or not in their last line."""
    assert Program(tmp_path, comment).map() is None


def test_a_source_that_is_made_to_take_long() -> None:
    """Of millions of beginnings of a comment the last line alone is looked at."""
    source = b"//#sourceMappingURL=x" * 60_000 + b" " + b"a" * 1100
    assert map_of(open_process(os.getpid()), "/a.js", source, 1) is None
    wide = ("x\u0a00\u000a" * 200_000 + "//# sourceMappingURL=data:" + "a" * 2000).encode("utf-16-le")
    assert map_of(open_process(os.getpid()), "/a.js", wide, 2) is None


def test_lines_that_writers_of_maps_do_not_count() -> None:
    """They know feeds alone."""
    for text, expected in (("a\nb\r\nc", True), ("a\rb\n", False), ("a\u2028b\n", False)):
        wide = text.encode("utf-16-le")
        assert are_feeds(wide, 2, line_ends(wide, 2)) == expected


def test_packages_have_their_own_files(tmp_path: Path) -> None:
    """What theirs were compiled from is mostly not there."""
    folder = tmp_path / "node_modules/a"
    folder.mkdir(parents=True)
    assert Program(folder).map() is None


def test_files_that_are_none(tmp_path: Path) -> None:
    """A pipe is not waited for; a map that is too large is not read."""
    program = Program(tmp_path)
    place = tmp_path / "a.js.map"
    place.unlink()
    os.mkfifo(place)
    assert program.map() is None
    place.unlink()
    place.write_bytes(written("AAEA;AAQA", ["a.ts"]) + b" " * MAX_MAP_BYTES)
    assert program.map() is None


def test_a_process_that_is_another_by_now(tmp_path: Path) -> None:
    """Its number was given away: the files are not those of the script."""
    program = Program(tmp_path)
    assert program.map(process=Process(os.getpid(), program.process.start_ticks + 1)) is None
