# SPDX-License-Identifier: Apache-2.0
"""The registry of library managers, and the profile's globs before and after them."""

from __future__ import annotations

from pathlib import Path

import pytest

from kernelspan_agent.libraries.base import LibraryContext, matches_glob
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
    box = Container(
        tmp_path,
        app_paths=(f"{SITE}/mine", "/both"),
        library_paths=("/vendored", "/both", SITE, "/usr/lib/python3.11/json"),
    )
    box.install("mine", "1", ["mine/__init__.py"])
    box.install("other", "2", ["other/__init__.py"])
    for file in ("/vendored/a.py", "/both/a.py", "/usr/lib/python3.11/os.py", "/usr/lib/python3.11/json/x.py"):
        box.write(file)
    assert box.owner(f"{SITE}/mine/a.py") == "App"
    assert box.owner("/both/a.py") == "App"
    assert box.classify("/vendored/a.py") == (Origin.LIBRARY, None)
    assert box.owner(f"{SITE}/other/a.py") == "other 2"
    assert box.owner("/usr/lib/python3.11/json/x.py") == "Library"
    assert box.owner("/usr/lib/python3.11/os.py") == "Runtime"


def test_files_of_a_runtime_without_a_manager_are_unknown_but_for_the_globs(tmp_path: Path) -> None:
    """Nobody knows whose they are, unless the profile says so."""
    box = Container(tmp_path)
    context = LibraryContext("Fortran", root=str(tmp_path), app_paths=("/app",), library_paths=("/lib",))
    found = [box.libraries.classify(file, context)[0] for file in ("/app/a.f", "/lib/a.f", "/a.f")]
    assert found == [Origin.APP, Origin.LIBRARY, Origin.UNKNOWN]
