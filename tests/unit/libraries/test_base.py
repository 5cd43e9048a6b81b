# SPDX-License-Identifier: Apache-2.0
"""The registry of library managers, and the profile's globs before and after them."""

from __future__ import annotations

from pathlib import Path

import pytest

from kernelspan_agent.libraries.base import LibraryContext, claim, matches_glob
from kernelspan_agent.model import Origin
from tests.unit.libraries.making import SITE, Container


@pytest.mark.parametrize(
    ("glob", "file", "expected"),
    [
        ("/app/**", "/app/a/b.py", True),
        ("/app/**", "/app", True),
        ("/app/**", "/apple/b.py", False),
        ("/app", "/app/a/b.py", True),
        ("/app/", "/app/a/b.py", True),
        ("/app", "/application/b.py", False),
        ("/app/*.py", "/app/a.py", True),
        ("/app/*.py", "/app/sub/a.py", False),
        ("/app/*", "/app/sub/a.py", False),
        ("/srv/*/src", "/srv/shop/src/deep/a.py", True),
        ("**/mine/**", "/x/y/mine/a.py", True),
        ("**/a*b", "/ax/ab", True),
        ("/**/b.py", "/b.py", True),
        ("/[ab]/?.py", "/b/x.py", True),
        ("/[!ab]/?.py", "/b/x.py", False),
        ("/a.py", "/axpy", False),
        ("**", "relative.py", False),
        ("**", "<string>", False),
        ("", "/a.py", False),
    ],
)
def test_globs(glob: str, file: str, expected: bool) -> None:
    """Signs stay within a component, `**` spans any number, a plain last name covers what is below it."""
    assert matches_glob(file, glob) is expected


def test_a_glob_made_to_backtrack_ends() -> None:
    """Many `**` and `*` against a long path is polynomial work, not exponential."""
    assert not matches_glob("/a" * 200 + "/b", "/**/a*" * 30 + "/**/c*")


def test_app_paths_come_first_and_library_paths_before_app_and_runtime(tmp_path: Path) -> None:
    """appPaths beats a library manager's proof; libraryPaths beats app and runtime, and keeps a name that is known."""
    app_paths = (f"{SITE}/mine", "/both")
    library_paths = ("/vendored", "/both", SITE, "/usr/lib/python3.11/json")
    box = Container(tmp_path)
    box.install("mine", "1", ["mine/__init__.py"])
    box.install("other", "2", ["other/__init__.py"])
    found = {}
    for file in ("/vendored/a.py", "/both/a.py", "/usr/lib/python3.11/os.py", "/usr/lib/python3.11/json/x.py"):
        box.write(file)
    for file in (
        f"{SITE}/mine/a.py", "/both/a.py", "/vendored/a.py", f"{SITE}/other/a.py", "/usr/lib/python3.11/json/x.py",
        "/usr/lib/python3.11/os.py",
    ):  # fmt: skip
        origin, library = claim(box.classify(file), file, app_paths, library_paths)
        found[file] = (origin, library and library.name)
    assert found == {
        f"{SITE}/mine/a.py": (Origin.APP, None),
        "/both/a.py": (Origin.APP, None),
        "/vendored/a.py": (Origin.LIBRARY, None),
        f"{SITE}/other/a.py": (Origin.LIBRARY, "other"),
        "/usr/lib/python3.11/json/x.py": (Origin.LIBRARY, None),
        "/usr/lib/python3.11/os.py": (Origin.RUNTIME, None),
    }


def test_files_of_a_runtime_without_a_manager_are_unknown_but_for_the_globs(tmp_path: Path) -> None:
    """Nobody knows whose they are, unless the profile says so."""
    box = Container(tmp_path)
    context = LibraryContext("Fortran", root=str(tmp_path))
    files = ("/app/a.f", "/lib/a.f", "/a.f")
    found = [claim(box.libraries.classify(file, context), file, ("/app",), ("/lib",))[0] for file in files]
    assert found == [Origin.APP, Origin.LIBRARY, Origin.UNKNOWN]
