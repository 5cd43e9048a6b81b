# SPDX-License-Identifier: Apache-2.0
"""Whose a native program's files are: its own, the C library's, a Debian package's, or nobody's that is known."""

from __future__ import annotations

import os
from pathlib import Path

from kernelspan_agent.libraries.base import Libraries, LibraryContext
from kernelspan_agent.model import Library, Origin
from kernelspan_agent.process.procfs import open_process
from tests.support.compiled import run

STATUS = """Package: libone1
Status: install ok installed
Architecture: amd64
Version: 2:1.0+b1~x

Package: libtwo
Architecture: amd64
Version: 3

Package: broken
Architecture: amd64
"""


def tree(folder: Path) -> Path:
    """A root whose packages are known."""
    info = folder / "var/lib/dpkg/info"
    info.mkdir(parents=True)
    (folder / "etc").mkdir()
    (folder / "etc/os-release").write_text('NAME="U"\nID=ubuntu\n')
    (info.parent / "status").write_text(STATUS)
    (info / "libone1:amd64.list").write_text("/.\n/lib\n/lib/x/libone.so.1.2\n/usr/share/doc/libone.so.1.txt\n")
    (info / "libtwo.list").write_bytes(b"/usr/lib/libtwo.so\n/usr/lib/\xff.so.1\n")
    (info / "broken.list").write_text("/usr/lib/libbroken.so.1\n")
    return folder


def test_packages(tmp_path: Path) -> None:
    """By dpkg's lists, also where /usr was merged since; versions are quoted."""
    context = LibraryContext("native", str(tree(tmp_path)))
    libraries = Libraries()
    one = Library("libone1", "2:1.0+b1~x", "pkg:deb/ubuntu/libone1@2%3A1.0%2Bb1~x?arch=amd64")
    two = Library("libtwo", "3", "pkg:deb/ubuntu/libtwo@3?arch=amd64")
    assert libraries.classify("/usr/lib/x/libone.so.1.2", context) == (Origin.LIBRARY, one)
    assert libraries.classify("/lib/x/libone.so.1.2", context) == (Origin.LIBRARY, one)
    assert libraries.classify("/usr/lib/libtwo.so", context) == (Origin.LIBRARY, two)
    assert libraries.classify("/usr/lib/\udcff.so.1", context) == (Origin.LIBRARY, two)
    for unknown in ("libbroken.so.1", "libnone.so"):
        found = libraries.classify(f"/usr/lib/{unknown}", context)
        assert found == (Origin.LIBRARY, Library(unknown, "", f"pkg:generic/{unknown}"))
    for name in ("libc.so.6", "libc-2.31.so", "ld-linux-x86-64.so.2", "libstdc++.so.6.0.30", "ld-musl-x86_64.so.1"):
        assert libraries.classify(f"/opt/{name}", context) == (Origin.RUNTIME, None)
    assert libraries.classify("/usr/lib/locale/C.utf8/LC_CTYPE", context) == (Origin.UNKNOWN, None)
    assert libraries.classify("", context) == (Origin.UNKNOWN, None)
    assert libraries.sites(["/usr/lib/libtwo.so"], [], context) == {}


def test_the_program_itself(tmp_path: Path) -> None:
    """Is the app, whoever has brought it."""
    process = open_process(os.getpid())
    context = LibraryContext("native", str(tree(tmp_path)), process=process)
    assert Libraries().classify(str(Path("/proc/self/exe").readlink()), context) == (Origin.APP, None)


def test_a_tree_without_packages(tmp_path: Path) -> None:
    """Or none at all: files are called by their names."""
    for root in (tmp_path, tmp_path / "none"):
        found = Libraries().classify("/lib/libx.so.1", LibraryContext("native", str(root)))
        assert found == (Origin.LIBRARY, Library("libx.so.1", "", "pkg:generic/libx.so.1"))


def test_this_machine() -> None:
    """As dpkg itself says."""
    path = os.path.realpath("/usr/lib/x86_64-linux-gnu/libz.so.1")
    origin, library = Libraries().classify(path, LibraryContext("native", "/"))
    shown = run("dpkg-query", "-W", "-f", "${Package} ${Version}", "zlib1g")
    assert origin is Origin.LIBRARY
    assert library is not None
    assert f"{library.name} {library.version}" == shown
