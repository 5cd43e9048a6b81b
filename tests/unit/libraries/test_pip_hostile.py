# SPDX-License-Identifier: Apache-2.0
"""Metadata made to mislead, to hurt or torn by accident: bounded work, no error, nothing claimed without proof."""

from __future__ import annotations

import os
import struct
import tracemalloc
import zipfile

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kernelspan_agent.libraries.pip import index as index_module
from kernelspan_agent.libraries.pip import trees
from kernelspan_agent.libraries.pip.metadata import MAX_LIST_BYTES
from kernelspan_agent.libraries.pip.trees import Budget
from kernelspan_agent.model import Origin
from kernelspan_agent.process.rootfs import MAX_DEPTH
from tests.unit.libraries.making import SITE, Container

INFO = f"{SITE}/one-1.dist-info"


def metadata(box: Container, name: str = "one", version: str = "1") -> None:
    """A dist-info without RECORD."""
    box.write(f"{INFO}/METADATA", f"Name: {name}\nVersion: {version}\n")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (b"Name: real\nVersion: 2\n", "real 2"),
        (b"name: real\r\nVERSION: 2\r\n", "real 2"),
        (b"Name: real\n\nVersion: 2\n", "real "),
        (b"Name: real\nVersion: 2\nName: other\n", "real 2"),
        (b"Name: real\nVersion: 2; rm -rf\n", "real "),
        (b"Name: ../../etc\nVersion: 2\n", "Library"),
        (b"Name: \xff\xfe\nVersion: 2\n", "Library"),
        (b"Name: " + b"x" * 5000 + b"\nVersion: 2\n", "Library"),
        (b"Name: evil\x1b[31m\nVersion: 2\n", "Library"),
        (b"Name: real\nVersion: \xff\n", "real "),
        (b"\0" * 100_000, "one 1"),
        (b"", "one 1"),
        (None, "one 1"),
    ],
)
def test_headers(box: Container, text: bytes | None, expected: str) -> None:
    """A name or version outside the specification is not taken; with no metadata the folder's own name is."""
    box.write(f"{INFO}/RECORD", "one/__init__.py,,\n")
    if text is not None:
        box.write(f"{INFO}/METADATA", text)
    assert box.owner(f"{SITE}/one/a.py") == expected


def test_a_list_cannot_claim_what_lies_elsewhere(box: Container) -> None:
    """Absolute paths and `..` in RECORD claim no file outside, but for scripts in the bin beside."""
    metadata(box)
    lines = ["/app/main.py", "../../../../main.py", "../x/main.py", "../../../bin/../main.py", "../../../bin/a/b",
             "one/../../../main.py", ".", "..", "", "one/../stray.py", "x\0y"]  # fmt: skip
    box.write(f"{INFO}/RECORD", "".join(f"{line},,\n" for line in lines))
    for file in ("/app/main.py", "/app/venv/main.py", "/app/venv/bin/a/b", "/main.py", f"{SITE}/../x/main.py"):
        box.write(file)
        assert box.owner(file) == "App"
    assert box.owner(f"{SITE}/stray.py") == "one 1"


def test_a_huge_list_is_read_up_to_its_bound(box: Container) -> None:
    """A sparse gigabyte after the honest lines costs neither memory nor the honest lines."""
    metadata(box)
    box.write(f"{INFO}/RECORD", "one/__init__.py,,\n")
    os.truncate(box.at(f"{INFO}/RECORD"), 1 << 30)
    tracemalloc.start()
    try:
        assert box.owner(f"{SITE}/one/a.py") == "one 1"
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak_bytes < MAX_LIST_BYTES // 4


def test_a_list_of_very_many_names_is_bounded(box: Container) -> None:
    """More top-level names than an index holds: the rest is nobody's."""
    metadata(box)
    box.write(f"{INFO}/RECORD", "".join(f"m{number}.py\n" for number in range(150_000)))
    assert box.owner(f"{SITE}/m5.py") == "one 1"
    assert box.owner(f"{SITE}/m149999.py") == "Library"


def test_a_namespace_of_very_many_files_is_bounded(box: Container, monkeypatch: pytest.MonkeyPatch) -> None:
    """Files beyond what an index holds are nobody's, those before them keep their owner."""
    monkeypatch.setattr(index_module, "MAX_CLAIMS", 50)
    box.install("many", "1", [f"ns/m{number}.py" for number in range(100)])
    assert box.owner(f"{SITE}/ns/m5.py") == "many 1"
    assert box.owner(f"{SITE}/ns/m99.py") == "Library"


def test_a_tree_of_large_lists_is_read_up_to_its_budget(box: Container, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every list may be within its bound and all of them together beyond any."""
    monkeypatch.setattr(trees, "Budget", lambda: Budget(left_bytes=20_000))
    for number in range(10):
        box.install(f"d{number}", "1", [f"d{number}/__init__.py", *(f"d{number}/m{i}.py" for i in range(200))])
    owners = [box.owner(f"{SITE}/d{number}/a.py") for number in range(10)]
    assert owners[0] == "d0 1"
    assert owners[-1] == "Library"


@pytest.mark.parametrize(
    "record",
    [
        b'"' * 200_000,
        b'"unclosed,,\none/__init__.py,,\n',
        b"\xff\xfe\0o\0n\0e",
        b"x" * 300_000,
        b"\r\r\r\n\n,,,\n" * 100,
        ("d/" * (MAX_DEPTH * 3) + "a.py,,\n").encode(),
        b"a/b.py,,\na,,\na/b.py/c.py,,\n" * 2,
        b"a,,\na/b/c.py,,\na/b,,\n",
    ],
)
def test_lists_that_are_no_lists(box: Container, record: bytes) -> None:
    """Whatever RECORD holds, files of others keep their owners and unlisted ones have none."""
    metadata(box)
    box.write(f"{INFO}/RECORD", record)
    box.install("two", "2", ["two/__init__.py", "a/two.py", "d/two.py"])
    assert box.owner(f"{SITE}/two/a.py") == "two 2"
    assert box.owner(f"{SITE}/a/two.py") in {"two 2", "Library"}
    assert box.classify(f"{SITE}/never/listed.py") == (Origin.LIBRARY, None)


def test_special_files_and_loops_in_place_of_metadata(box: Container) -> None:
    """Pipes, directories, loops and links out of the container are no metadata."""
    for number, name in enumerate(("METADATA", "RECORD", "direct_url.json")):
        folder = box.at(f"{SITE}/p{number}-1.dist-info")
        folder.mkdir(parents=True)
        os.mkfifo(folder / name)
    box.link(f"{SITE}/loop-1.dist-info", "loop-1.dist-info")
    box.write("/../outside-2.dist-info/RECORD", "stolen/__init__.py,,\n")
    box.link(f"{SITE}/outside-2.dist-info", "../../../../../../outside-2.dist-info")
    box.at(f"{SITE}/x-1.dist-info/RECORD").mkdir(parents=True)
    box.install("two", "2", ["two/__init__.py"])
    assert box.owner(f"{SITE}/two/a.py") == "two 2"
    assert box.owner(f"{SITE}/stolen/a.py") == "Library"


@pytest.mark.parametrize(
    "text", ["[" * 60_000, "{}", '{"dir_info": 3}', '{"dir_info": {"editable": "x"}}', "\0", "nul"]
)
def test_bad_direct_urls_make_nothing_editable(box: Container, text: str) -> None:
    """Only the word of PEP 610 makes a distribution its author's working copy."""
    box.install("one", "1", ["one/__init__.py", "../../../bin/one"], direct_url__json=text)
    assert box.owner("/app/venv/bin/one") == "one 1"


def test_files_in_place_of_directories(box: Container) -> None:
    """A site directory that is a file, and a path through a file that is no zip, are unknown."""
    box.write(SITE, "not a directory")
    box.write("/app/text.py", "x = 1\n")
    assert box.owner(f"{SITE}/one/a.py") == "unknown"
    assert box.owner("/app/text.py/a.py") == "unknown"


def test_a_zip_with_an_enormous_index_is_refused(box: Container) -> None:
    """The end record promises gigabytes; the sparse file has them; nothing reads them."""
    path = box.write("/app/big.zip")
    end = struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, 60_000, 60_000, 1 << 30, 0, 0)
    with path.open("r+b") as file:
        file.truncate(2 << 30)
        file.seek(0, os.SEEK_END)
        file.write(end)
    tracemalloc.start()
    try:
        assert box.owner("/app/big.zip/a.py") == "unknown"
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak_bytes < 16 << 20


def test_a_list_that_unpacks_to_gigabytes_is_bounded(box: Container) -> None:
    """A RECORD of one character a thousandfold packed is unpacked only up to the bound."""
    path = box.write("/app/bomb.zip")
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("one-1.dist-info/METADATA", "Name: one\nVersion: 1\n")
        with archive.open("one-1.dist-info/RECORD", "w") as record:
            record.write(b"one/__init__.py,,\n")
            for _ in range(40):
                record.write(b"x" * (1 << 20))
    tracemalloc.start()
    try:
        assert box.owner("/app/bomb.zip/one/a.py") == "one 1"
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak_bytes < 8 << 20


@given(
    record=st.binary(max_size=400) | st.text('a/.\n,"_pyc_i', max_size=200).map(str.encode),
    header=st.binary(max_size=200),
    names=st.binary(max_size=100),
    file=st.text(max_size=40),
)
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_random_metadata_never_raises(box: Container, record: bytes, header: bytes, names: bytes, file: str) -> None:
    """Any bytes in any metadata file, asked for any name, give an answer of the known kinds."""
    fresh = Container(box.path)
    box.write(f"{INFO}/RECORD", record)
    box.write(f"{INFO}/METADATA", header)
    box.write(f"{SITE}/two-1.egg-info/installed-files.txt", record)
    box.write(f"{SITE}/three-1.egg-info/top_level.txt", names)
    box.write(f"{SITE}/three-1.egg-info/namespace_packages.txt", names)
    box.write(f"{SITE}/three-1.egg-info/SOURCES.txt", record)
    box.write("/app/x.zip", header)
    for path in (f"{SITE}/{file}", f"/app/x.zip/{file}", file, f"/{file}", f"{SITE}/a/a.py"):
        origin, library = fresh.classify(path)
        assert origin in {Origin.APP, Origin.LIBRARY, Origin.UNKNOWN}
        assert library is None or (origin is Origin.LIBRARY and library.name.isascii())
