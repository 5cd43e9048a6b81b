# SPDX-License-Identifier: Apache-2.0
"""Files of site directories belong to the distributions whose metadata proves it."""

from __future__ import annotations

import pytest

from kernelspan_agent.model import Library, Origin
from tests.unit.libraries.making import SITE, Container


def test_name_version_and_purl_come_from_the_metadata(box: Container) -> None:
    """The name is the project's own spelling, the package URL has it normalised and the version encoded."""
    box.install("ruamel.yaml", "1!0.18+local", ["ruamel/yaml/__init__.py"])
    library = Library("ruamel.yaml", "1!0.18+local", "pkg:pypi/ruamel-yaml@1%210.18%2Blocal")
    assert box.classify(f"{SITE}/ruamel/yaml/main.py") == (Origin.LIBRARY, library)


def test_packages_modules_and_extensions(box: Container) -> None:
    """A regular package owns all below it, data and vendored metadata included; modules and extensions are files."""
    box.install("six", "1.16", ["six.py", "__pycache__/six.cpython-311.pyc"])
    box.install("pip", "24", ["pip/__init__.py", "pip/_vendor/urllib3/__init__.py"])
    box.install("urllib3", "2", ["urllib3/__init__.py", "_fast.cpython-311-x86_64-linux-gnu.so", "a,b.py"])
    box.install("vendored", "9", ["urllib3/__init__.py"], site=f"{SITE}/pip/_vendor")
    assert box.owner(f"{SITE}/six.py") == "six 1.16"
    assert box.owner(f"{SITE}/__pycache__/six.cpython-311.opt-1.pyc") == "six 1.16"
    assert box.owner(f"{SITE}/pip/_vendor/urllib3/__init__.py") == "pip 24"
    assert box.owner(f"{SITE}/urllib3/templates/x.html") == "urllib3 2"
    assert box.owner(f"{SITE}/_fast.cpython-311-x86_64-linux-gnu.so") == "urllib3 2"
    assert box.owner(f"{SITE}/a,b.py") == "urllib3 2"


def test_sourceless_packages_are_named_by_their_missing_sources(box: Container) -> None:
    """co_filename ends in .py where only a .pyc is installed, at its place or in __pycache__."""
    box.install("a", "1", ["ns/a/mod.pyc"])
    box.install("b", "1", ["ns/b/__pycache__/mod.cpython-311.pyc"])
    assert box.owner(f"{SITE}/ns/a/mod.py") == "a 1"
    assert box.owner(f"{SITE}/ns/b/mod.py") == "b 1"
    box.write("/app/only.pyc")
    assert box.owner("/app/only.py") == "App"


def test_namespace_packages_are_told_apart_file_by_file(box: Container) -> None:
    """What no RECORD lists inside a shared directory is a library's, but nobody knows whose."""
    box.install("google-cloud-core", "1", ["google/cloud/client/__init__.py", "google/cloud/version.py"])
    box.install("google-cloud-storage", "2", ["google/cloud/storage/__init__.py", "google/cloud/storage/blob.py"])
    assert box.owner(f"{SITE}/google/cloud/storage/blob.py") == "google-cloud-storage 2"
    assert box.owner(f"{SITE}/google/cloud/storage/made/later.py") == "google-cloud-storage 2"
    assert box.owner(f"{SITE}/google/cloud/version.py") == "google-cloud-core 1"
    assert box.classify(f"{SITE}/google/cloud/mine.py") == (Origin.LIBRARY, None)
    assert box.classify(f"{SITE}/google/mine/__init__.py") == (Origin.LIBRARY, None)


def test_a_namespace_with_one_owner_is_not_all_its_own(box: Container) -> None:
    """Without an __init__ in RECORD a directory is open to others, who may not be listed."""
    box.install("zope.event", "5", ["zope/event/__init__.py"])
    assert box.owner(f"{SITE}/zope/event/classhandler.py") == "zope.event 5"
    assert box.owner(f"{SITE}/zope/mine/__init__.py") == "Library"


def test_a_file_with_two_owners_has_none_that_is_known(box: Container) -> None:
    """Two distributions with one file; two versions of one distribution (a torn upgrade) keep the name."""
    box.install("one", "1", ["tests/__init__.py", "tests/a.py", "x/__init__.py"])
    box.install("two", "2", ["tests/__init__.py", "tests/b.py"])
    box.install("Torn_Upgrade", "1", ["torn/__init__.py"])
    box.install("torn-upgrade", "2", ["torn/__init__.py"])
    box.write(f"{SITE}/zz.dist-info/RECORD", "tests/a.py,,\ntests/c.py,,\n")
    box.write(f"{SITE}/~wo-1.dist-info/RECORD", "tests/b.py,,\n")  # left over by pip
    assert box.classify(f"{SITE}/tests/__init__.py") == (Origin.LIBRARY, None)
    assert box.owner(f"{SITE}/tests/a.py") == "Library"
    assert box.owner(f"{SITE}/tests/c.py") == "Library"
    assert box.owner(f"{SITE}/tests/b.py") == "two 2"
    origin, library = box.classify(f"{SITE}/torn/__init__.py")
    assert origin is Origin.LIBRARY
    assert library is not None
    assert (library.version, library.purl) == ("", "pkg:pypi/torn-upgrade")


def test_scripts_belong_to_who_lists_them(box: Container) -> None:
    """RECORD's ../../../bin/x is the script in the bin beside; another file there is the app's."""
    box.install("gunicorn", "22", ["gunicorn/__init__.py", "../../../bin/gunicorn"])
    box.write("/app/venv/bin/mine")
    assert box.owner("/app/venv/bin/gunicorn") == "gunicorn 22"
    assert box.owner("/app/venv/bin/mine") == "App"


def test_unlisted_files(box: Container) -> None:
    """A file in a site directory that nobody lists is a library's; the app's files are no site directory's."""
    box.install("one", "1", ["one/__init__.py"])
    box.write(f"{SITE}/stray.py")
    box.write("/app/main.py")
    assert box.classify(f"{SITE}/stray.py") == (Origin.LIBRARY, None)
    assert box.owner("/app/main.py") == "App"
    assert box.owner("/app/gone.py") == "unknown"


def test_target_directories_own_only_what_they_list(box: Container) -> None:
    """`pip install --target` beside or into the app's own folder: the rest of the folder is the app."""
    box.install("requests", "2", ["requests/__init__.py", "../../bin/tool"], site="/task")
    box.install("inner", "7", ["x/__init__.py"], site="/task/requests/_vendor")
    box.install("late", "3", ["late/__init__.py"], site="/task/deps")
    for file in (
        "/task/main.py",
        "/task/deps/mine.py",
        "/task/requests/_vendor/x/a.py",
        "/task/bin/tool",
        "/task/bin/mine",
    ):
        box.write(file)
    assert box.owner("/task/requests/api.py") == "requests 2"
    assert box.owner("/task/requests/_vendor/x/a.py") == "requests 2"
    assert box.owner("/task/deps/late/a.py") == "late 3"
    assert box.owner("/task/bin/tool") == "requests 2"
    assert box.owner("/task/bin/mine") == "App"
    assert box.owner("/task/main.py") == "App"
    assert box.owner("/task/deps/mine.py") == "App"


@pytest.mark.parametrize(
    ("link", "target", "asked"),
    [
        ("/srv/venv", "/app/venv", "/srv/venv/lib/python3.11/site-packages/one/a.py"),
        ("/app/venv/lib64", "lib", "/app/venv/lib64/python3.11/site-packages/one/a.py"),
        ("/srv/deps", SITE, "/srv/deps/one/a.py"),
        ("/srv/one", f"{SITE}/one", "/srv/one/a.py"),
        ("/srv/a.py", f"{SITE}/one/a.py", "/srv/../app/venv/lib/python3.11/site-packages/one/a.py"),
    ],
)
def test_linked_directories(box: Container, link: str, target: str, asked: str) -> None:
    """A linked venv, lib64, site directory or package leads to the same owner; absolute links stay in the container."""
    box.install("one", "1", ["one/__init__.py", "one/a.py"])
    box.link(link, target)
    assert box.owner(asked) == "one 1"


def test_a_script_in_usr_bin_by_relative_site_names(box: Container) -> None:
    """/usr/local/bin of Debian's pip and of a container image look in their own lib."""
    for site in ("/usr/local/lib/python3.11/dist-packages", "/home/u/.local/lib/python3.11/site-packages"):
        box.install("tool", "1", ["tool/__init__.py", "../../../bin/tool"], site=site)
    assert box.owner("/usr/local/bin/tool") == "tool 1"
    assert box.owner("/home/u/.local/bin/tool") == "tool 1"
    assert box.owner("/home/u/.local/lib/python3.11/site-packages/tool/x.py") == "tool 1"
