# SPDX-License-Identifier: Apache-2.0
"""Eggs, editable installs, Debian, zip files, the standard library and the names that are no files."""

from __future__ import annotations

from pathlib import Path

import pytest

from kernelspan_agent.model import Origin
from tests.unit.libraries.making import SITE, Container

DEBIAN = "/usr/lib/python3/dist-packages"
PKG_INFO = "Metadata-Version: 1.0\nName: {}\nVersion: {}\n"


def egg_info(box: Container, name: str, version: str, site: str = SITE, **files: str) -> None:
    """An `.egg-info` folder with its files, `__` for `.` in their names."""
    folder = f"{site}/{name}-{version}-py3.11.egg-info"
    box.write(f"{folder}/PKG-INFO", PKG_INFO.format(name, version))
    for file, text in files.items():
        box.write(f"{folder}/{file.replace('__', '.')}", text)


def test_egg_info_with_a_list_of_files(box: Container) -> None:
    """installed-files.txt is relative to its own folder."""
    egg_info(box, "old", "1", **{"installed-files__txt": "../old/__init__.py\n../old/a.py\n../oldmod.py\nPKG-INFO\n"})
    assert box.owner(f"{SITE}/old/a.py") == "old 1"
    assert box.owner(f"{SITE}/oldmod.py") == "old 1"


def test_egg_info_with_top_level_names(box: Container) -> None:
    """Names count where no list speaks; a namespace is told apart by SOURCES.txt; a bare file claims nothing."""
    egg_info(box, "plain", "1", top_level__txt="plain\nplainmod\nboth\n")
    egg_info(box, "other", "1", top_level__txt="both\n")
    egg_info(box, "lazr.uri", "1", top_level__txt="lazr\n", namespace_packages__txt="lazr\n",
             SOURCES__txt="setup.py\nsrc/lazr/uri/__init__.py\nsrc/lazr/__init__.py\n")  # fmt: skip
    egg_info(box, "lazr.config", "2", top_level__txt="lazr\n", namespace_packages__txt="lazr\n",
             SOURCES__txt="lazr/config/__init__.py\nsrc/lazr/__init__.py\n")  # fmt: skip
    box.install("sure", "3", ["listed/__init__.py"])
    egg_info(box, "stale", "0", top_level__txt="listed\n")
    box.write(f"{SITE}/bare-1.egg-info", PKG_INFO.format("bare", "1"))
    expected = {
        "plain/a.py": "plain 1",
        "plainmod.py": "plain 1",
        "both/a.py": "Library",
        "lazr/uri/a.py": "lazr.uri 1",
        "lazr/config/a.py": "lazr.config 2",
        "lazr/__init__.py": "Library",
        "listed/a.py": "sure 3",
        "bare.py": "Library",
    }
    assert {file: box.owner(f"{SITE}/{file}") for file in expected} == expected


def test_a_develop_install_leaves_the_source_with_the_app(box: Container) -> None:
    """The egg-info in the working copy lists sources but installs nothing; the egg-link is no metadata."""
    egg_info(box, "mine", "1", site="/src", top_level__txt="mine\n", SOURCES__txt="mine/__init__.py\n")
    box.write(f"{SITE}/mine.egg-link", "/src\n.\n")
    box.write("/src/mine/__init__.py")
    box.write("/src/setup.py")
    assert box.owner("/src/setup.py") == "App"
    assert box.owner("/src/mine/__init__.py") == "App"


def test_an_editable_install_is_the_apps(box: Container) -> None:
    """PEP 660: the source, what links to it, and its scripts; the finder that the build backend wrote is the library's."""
    box.write("/src/mine/__init__.py")
    box.install(
        "mine",
        "1",
        ["__editable___mine_1_finder.py", "__editable__.mine-1.pth", "../../../bin/mine"],
        direct_url__json='{"url": "file:///src", "dir_info": {"editable": true}}',
    )
    box.link(f"{SITE}/linked", "/src/mine")
    record = box.at(f"{SITE}/mine-1.dist-info/RECORD")
    record.write_text(record.read_text() + "linked/__init__.py,,\n")
    assert box.owner("/src/mine/__init__.py") == "App"
    assert box.owner(f"{SITE}/linked/__init__.py") == "App"
    assert box.owner("/app/venv/bin/mine") == "App"
    assert box.owner(f"{SITE}/__editable___mine_1_finder.py") == "mine 1"


def test_debian_lists_say_what_its_metadata_does_not(box: Container) -> None:
    """A binary package with one distribution's metadata brings its modules; with two it proves nothing."""
    for name in ("bcc", "x", "y", "lazr.uri", "lazr.config"):
        box.write(f"{DEBIAN}/{name}-1.egg-info", PKG_INFO.format(name, "1"))
    lists = {
        "bpfcc": ["", "bcc", "bcc/table.py", "bcc-1.egg-info"],
        "xy": ["x-1.egg-info", "y-1.egg-info", "xy.py"],
        "lazr.uri": ["", "lazr", "lazr/uri", "lazr/uri/__init__.py", "lazr.uri-1.egg-info"],
        "lazr.config": ["", "lazr", "lazr/config", "lazr/config/__init__.py", "lazr.config-1.egg-info"],
    }
    for package, files in lists.items():
        paths = [f"{DEBIAN}/{file}".rstrip("/") for file in files]
        text = "\n".join(["/.", "/usr", *paths, f"/usr/bin/{package}", "/usr/share/doc", ""])
        box.write(f"/var/lib/dpkg/info/python3-{package}.list", text)
    box.write("/usr/bin/other")
    expected = {
        f"{DEBIAN}/bcc/table.py": "bcc 1",
        f"{DEBIAN}/lazr/uri/a.py": "lazr.uri 1",
        f"{DEBIAN}/lazr/config/a.py": "lazr.config 1",
        f"{DEBIAN}/xy.py": "Library",
        "/usr/bin/bpfcc": "bcc 1",
        "/usr/bin/other": "App",
    }
    assert {file: box.owner(file) for file in expected} == expected


def test_unpacked_and_zipped_eggs(box: Container) -> None:
    """An egg is one distribution as a whole, with its metadata inside."""
    box.write(f"{SITE}/flat-1-py3.11.egg/EGG-INFO/PKG-INFO", PKG_INFO.format("flat", "1"))
    box.write(f"{SITE}/flat-1-py3.11.egg/flat/a.py")
    box.zip(f"{SITE}/packed-2-py3.11.egg", {"EGG-INFO/PKG-INFO": PKG_INFO.format("packed", "2"), "packed/a.py": ""})
    box.zip("/eggs/loose.egg", {"EGG-INFO/PKG-INFO": PKG_INFO.format("loose", "3"), "loose.py": ""})
    assert box.owner(f"{SITE}/flat-1-py3.11.egg/flat/a.py") == "flat 1"
    assert box.owner(f"{SITE}/packed-2-py3.11.egg/packed/a.py") == "packed 2"
    assert box.owner("/eggs/loose.egg/loose.py") == "loose 3"


def wheel(name: str, version: str, files: list[str], prefix: str = "") -> dict[str, str]:
    """Members of a zip that holds a distribution at `prefix`."""
    folder = f"{prefix}{name}-{version}.dist-info"
    members = {prefix + file: "" for file in files}
    members[f"{folder}/METADATA"] = PKG_INFO.format(name, version)
    members[f"{folder}/RECORD"] = "".join(f"{file},,\n" for file in files)
    return members


def test_zip_imports(box: Container) -> None:
    """A zipapp with distributions beside the app, a pex with one folder a wheel, a wheel on the path."""
    box.zip("/app/shop.pyz", {"__main__.py": "", "shop/a.py": "", **wheel("dep", "1", ["dep/__init__.py"])})
    box.zip("/app/shop.pex", {"shop/a.py": "", **wheel("dep", "2", ["dep/__init__.py"], ".deps/dep-2.whl/"),
                              **wheel("bad", "9", ["x.py"], ".deps/dep-2.whl/dep/_vendor/")})  # fmt: skip
    box.zip(f"{SITE}/virtualenv/embed/pip-24.whl", wheel("pip", "24", ["pip/__init__.py"]))
    box.zip(f"{SITE}/virtualenv/embed/bare.zip", {"a.py": ""})
    box.install("virtualenv", "20", ["virtualenv/__init__.py"])
    assert box.owner("/app/shop.pyz/__main__.py") == "App"
    assert box.owner("/app/shop.pyz/shop/a.py") == "App"
    assert box.owner("/app/shop.pyz/dep/x/a.py") == "dep 1"
    assert box.owner("/app/shop.pex/.deps/dep-2.whl/dep/a.py") == "dep 2"
    assert box.owner("/app/shop.pex/.deps/dep-2.whl/dep/_vendor/x.py") == "dep 2"
    assert box.owner("/app/shop.pex/shop/a.py") == "App"
    assert box.owner(f"{SITE}/virtualenv/embed/pip-24.whl/pip/a.py") == "pip 24"
    assert box.owner(f"{SITE}/virtualenv/embed/bare.zip/a.py") == "virtualenv 20"


def test_the_standard_library(box: Container) -> None:
    """A python3.N with CPython's landmark, on disk or zipped; site directories in it are not of it."""
    box.write("/usr/lib/python3.11/os.py")
    box.write("/opt/sourceless/lib/python3.11/os.pyc")
    box.write("/opt/other/lib/python3.12/os.py")
    box.write("/opt/other/lib/python3.12/json/__init__.py")
    box.write("/app/lib/python3.11/mine.py")
    box.zip("/usr/lib/python311.zip", {"os.pyc": "", "json/__init__.pyc": ""})
    box.zip("/app/python311.zip", {"mine.py": ""})
    box.install("one", "1", ["one/__init__.py"], site="/usr/lib/python3.11/site-packages")
    expected = {
        "/usr/lib/python3.11/json/decoder.py": "Runtime",
        "/usr/lib/python3.11/lib-dynload/_json.cpython-311-x86_64-linux-gnu.so": "Runtime",
        "/opt/sourceless/lib/python3.11/json/decoder.py": "Runtime",
        "/opt/other/lib/python3.12/json/__init__.py": "App",
        "/app/lib/python3.11/mine.py": "App",
        "/usr/lib/python311.zip/json/__init__.py": "Runtime",
        "/app/python311.zip/mine.py": "App",
        "/usr/lib/python3.11/site-packages/one/__init__.py": "one 1",
        "/usr/lib/python3.11/site-packages/json.py": "Library",
    }
    assert {file: box.owner(file) for file in expected} == expected


@pytest.mark.parametrize(
    ("name", "origin"),
    [
        ("<frozen importlib._bootstrap>", Origin.RUNTIME),
        ("<frozen runpy>", Origin.RUNTIME),
        ("<frozen getpath>", Origin.RUNTIME),
        ("<frozen shop.main>", Origin.UNKNOWN),
        ("<frozen ", Origin.UNKNOWN),
        ("<stdin>", Origin.APP),
        ("<string>", Origin.UNKNOWN),
        ("<attrs generated init shop.Order>", Origin.UNKNOWN),
        ("", Origin.UNKNOWN),
        ("/a\0b.py", Origin.UNKNOWN),
        ("/" + "x/" * 3000 + "a.py", Origin.UNKNOWN),
        ("/\ud800.py", Origin.UNKNOWN),
        ("/", Origin.UNKNOWN),
        ("json/decoder.py", Origin.UNKNOWN),
    ],
)
def test_names_that_are_no_files(box: Container, name: str, origin: Origin) -> None:
    """Only what the interpreter itself is known to make is claimed for anybody."""
    assert box.classify(name) == (origin, None)


def test_relative_names_start_at_the_directory_of_the_process(tmp_path: Path) -> None:
    """They count where the file is really there."""
    box = Container(tmp_path, cwd="/app")
    box.write("/app/main.py")
    box.install("one", "1", ["one/__init__.py"])
    assert box.owner("main.py") == "App"
    assert box.owner("./venv/lib/python3.11/site-packages/one/__init__.py") == "one 1"
    assert box.owner("../app/main.py") == "App"
    assert box.owner("gone.py") == "unknown"
