# SPDX-License-Identifier: Apache-2.0
"""Packages of Composer and PEAR by the files that a frame names; lists made to mislead claim nothing they do not hold."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kernelspan_agent.libraries.base import Libraries, LibraryContext
from kernelspan_agent.libraries.composer import RECHECK_NS
from kernelspan_agent.libraries.composer.installed import MAX_LIST_BYTES
from kernelspan_agent.libraries.composer.pear import SerializedError, unserialize
from kernelspan_agent.model import Origin
from tests.unit.libraries.making import Clock, Container

MONOLOG = {"name": "monolog/monolog", "version": "3.5.0", "install-path": "../monolog/monolog"}
CONSOLE = {"name": "Symfony/Console", "version": "v7.1.2", "install-path": "../symfony/console"}


class Site(Container):
    """A container with an application in /app."""

    def __init__(self, path: Path, clock: Clock | None = None) -> None:
        super().__init__(path, clock)
        self.clock = clock or Clock()
        self.libraries = Libraries(self.clock)
        self.context = LibraryContext("php", root=str(path), version=(8, 4), cwd="/app")

    def installed(self, packages: Any, vendor: str = "/app/vendor") -> None:
        self.write(f"{vendor}/composer/installed.json", json.dumps(packages))

    def verdict(self, file: str) -> str:
        origin, library = self.libraries.classify(file, self.context)
        return f"{origin.value} {library.purl}" if library else origin.value


@pytest.fixture
def site(tmp_path: Path) -> Site:
    """An application with two packages."""
    found = Site(tmp_path)
    found.write("/app/src/Main.php")
    found.write("/app/vendor/autoload.php")
    found.write("/app/vendor/monolog/monolog/src/Logger.php")
    found.write("/app/vendor/symfony/console/Application.php")
    found.installed({"packages": [MONOLOG, CONSOLE], "dev": True})
    return found


def test_packages_of_composer_2(site: Site) -> None:
    """Name and version as Composer lists them; the package URL has the name in small letters."""
    assert site.verdict("/app/vendor/monolog/monolog/src/Logger.php") == "Library pkg:composer/monolog/monolog@3.5.0"
    assert site.verdict("/app/vendor/symfony/console/Application.php") == "Library pkg:composer/symfony/console@v7.1.2"
    _, library = site.libraries.classify("/app/vendor/symfony/console/Application.php", site.context)
    assert library is not None
    assert (library.name, library.version) == ("Symfony/Console", "v7.1.2")
    assert site.verdict("/app/src/Main.php") == "App"
    assert site.verdict("/app/vendor/autoload.php") == "Library"
    assert site.verdict("src/Main.php") == "App"
    assert site.verdict("/app/src/Gone.php") == "unknown"


def test_packages_of_composer_1(site: Site) -> None:
    """A plain list without places: vendor/NAME."""
    site.installed([{"name": "monolog/monolog", "version": "1.27.1"}])
    assert site.verdict("/app/vendor/monolog/monolog/src/Logger.php") == "Library pkg:composer/monolog/monolog@1.27.1"
    assert site.verdict("/app/vendor/symfony/console/Application.php") == "Library"


def test_packages_in_other_places(site: Site) -> None:
    """A plug-in puts them beside the vendor directory; a path repository is a link, and PHP names where it leads."""
    site.write("/app/web/modules/token/token.module")
    site.write("/srv/shared/src/Shared.php")
    site.link("/app/vendor/acme/shared", "/srv/shared")
    token = {"name": "drupal/token", "version": "1.15.0", "install-path": "../../web/modules/token/"}
    shared = {"name": "acme/shared", "version": "dev-main", "install-path": "../acme/shared"}
    site.installed({"packages": [token, shared, {"name": "acme/meta", "version": "1", "install-path": None}]})
    assert site.verdict("/app/web/modules/token/token.module") == "Library pkg:composer/drupal/token@1.15.0"
    assert site.verdict("/app/vendor/acme/shared/src/Shared.php") == "Library pkg:composer/acme/shared@dev-main"
    # Nothing around /srv/shared says that it is one: it is not below the application.
    assert site.verdict("/srv/shared/src/Shared.php") == "App"


def test_names_that_php_makes_up(site: Site) -> None:
    """Code of eval is whose the file is; what PHP does itself is the runtime's."""
    evaluated = "/app/src/Main.php(12) : eval()'d code"
    assert site.verdict(evaluated) == "App"
    assert site.verdict(f"{evaluated}(3) : eval()'d code") == "App"
    library = "/app/vendor/monolog/monolog/src/Logger.php(2) : runtime-created function"
    assert site.verdict(library) == "Library pkg:composer/monolog/monolog@3.5.0"
    assert site.verdict("[internal function]") == "Runtime"
    assert site.verdict("Command line code") == "App"
    for name in ("", "phar:///usr/bin/composer/src/a.php", "vfs://top/a.php", "/app/\0.php", "/" + "a/" * 5000):
        assert site.verdict(name) == "unknown"


def test_an_update_is_seen(site: Site) -> None:
    """After `composer update`, the version is the new one."""
    file = "/app/vendor/monolog/monolog/src/Logger.php"
    assert site.verdict(file) == "Library pkg:composer/monolog/monolog@3.5.0"
    site.installed({"packages": [{**MONOLOG, "version": "3.6.0"}]})
    site.clock.now_ns += RECHECK_NS
    assert site.verdict(file) == "Library pkg:composer/monolog/monolog@3.6.0"


@pytest.mark.parametrize(
    "packages",
    [
        {"packages": [{**MONOLOG, "install-path": "../.."}]},
        {"packages": [{**MONOLOG, "install-path": "../../../../.."}]},
        {"packages": [{**MONOLOG, "install-path": "/"}]},
        {"packages": [{**MONOLOG, "install-path": ".."}]},
        {"packages": [{**MONOLOG, "name": "../../etc"}]},
        {"packages": [{**MONOLOG, "name": "a" * 300 + "/b"}]},
        {"packages": [{**MONOLOG, "name": 5, "version": []}, None, [], "x"]},
        {"packages": {"0": MONOLOG}},
        {"packages": None},
        "text",
        None,
        5,
    ],
)
def test_a_list_claims_nothing_it_may_not(site: Site, packages: Any) -> None:
    """Neither the application nor the whole machine is a package."""
    site.installed(packages)
    assert site.verdict("/app/src/Main.php") == "App"
    assert site.verdict("/app/vendor/monolog/monolog/src/Logger.php") == "Library"


def test_lists_that_are_none(site: Site) -> None:
    """Too long, nested without an end, no JSON."""
    for data in (
        b"{",
        b"[" * 100_000,
        b" " * (MAX_LIST_BYTES + 1),
        b"\xff\xfe",
        b'{"packages": [' + b"{}," * 5000 + b"{}]}",
    ):
        site.write("/app/vendor/composer/installed.json", data)
        site.clock.now_ns += RECHECK_NS
        assert site.verdict("/app/vendor/monolog/monolog/src/Logger.php") == "Library"


def test_a_version_that_is_none(site: Site) -> None:
    """The package is known all the same."""
    site.installed({"packages": [{**MONOLOG, "version": 3}]})
    assert site.verdict("/app/vendor/monolog/monolog/src/Logger.php") == "Library pkg:composer/monolog/monolog"


# --- PEAR ---------------------------------------------------------------------------------------------------------


def serialized(value: Any) -> bytes:
    """As PHP's serialize() writes it."""
    if isinstance(value, dict):
        inner = b"".join(serialized(key) + serialized(each) for key, each in value.items())
        return b"a:%d:{%s}" % (len(value), inner)
    if isinstance(value, bool | int):
        return b"b:%d;" % value if isinstance(value, bool) else b"i:%d;" % value
    if value is None:
        return b"N;"
    data = value if isinstance(value, bytes) else str(value).encode()
    return b's:%d:"%s";' % (len(data), data)


def package(name: str, files: list[str], version: Any) -> dict[str, Any]:
    listed = {f"f{index}": {"role": "php", "installed_as": file} for index, file in enumerate(files)}
    return {"attribs": {"version": "2.0"}, "name": name, "version": version, "filelist": listed, "_lastmodified": 5}


def test_packages_of_pear(site: Site) -> None:
    """By the files that each package says it has installed, of whatever channel."""
    base = "/usr/share/php"
    tar, other = f"{base}/Archive/Tar.php", f"{base}/Other/Base.php"
    for file in (tar, other, f"{base}/mine.php"):
        site.write(file)
    site.write(f"{base}/.registry/archive_tar.reg", serialized(package("Archive_Tar", [tar], {"release": "1.4.14"})))
    mine = package("Other", [other, "/app/src/Main.php", "/etc/passwd", 5], "2.0")  # type: ignore[list-item]
    site.write(f"{base}/.registry/.channel.pear.example.com/other.reg", serialized(mine))
    site.write(f"{base}/.registry/broken.reg", b"a:1:{")
    assert site.verdict(tar) == "Library pkg:pear/pear.php.net/Archive_Tar@1.4.14"
    assert site.verdict(other) == "Library pkg:pear/pear.example.com/Other@2.0"
    assert site.verdict(f"{base}/mine.php") == "App"
    assert site.verdict("/app/src/Main.php") == "App"  # the registry does not stand around it


@settings(max_examples=300)
@given(
    st.recursive(
        st.one_of(st.none(), st.booleans(), st.integers(-(10**9), 10**9), st.binary(max_size=20)),
        lambda inner: st.dictionaries(st.one_of(st.integers(0, 99), st.binary(max_size=9)), inner, max_size=4),
        max_leaves=20,
    )
)
def test_what_serialize_writes_is_read(value: Any) -> None:
    """Arrays with their entries, strings whole, whatever is in them."""

    def plain(each: Any) -> Any:
        if isinstance(each, dict):
            return {plain(key): plain(inner) for key, inner in each.items()}
        return each if each is None or isinstance(each, bytes) else str(int(each)).encode()

    def same(one: Any, other: Any) -> bool:
        if isinstance(one, dict) and isinstance(other, dict):
            return all(key in other for key in one) and len(other) <= len(one)
        return bool(one == other)

    assert same(plain(value), unserialize(serialized(value)))


@given(st.one_of(st.binary(max_size=80), st.text(alphabet='as:{};"0123456789iN', max_size=80).map(str.encode)))
def test_what_is_no_serialized_value(data: bytes) -> None:
    """It is refused, and nothing else."""
    try:
        unserialize(data)
    except SerializedError:
        return


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.binary(max_size=300))
def test_hostile_lists(site: Site, data: bytes) -> None:
    """Whatever the lists hold, an answer."""
    site.write("/app/vendor/composer/installed.json", data)
    site.write("/app/.registry/x.reg", data)
    site.clock.now_ns += RECHECK_NS
    origin, _ = site.libraries.classify("/app/src/Main.php", site.context)
    assert origin is Origin.APP


def test_depth_is_bounded() -> None:
    """An array in an array without an end."""
    with pytest.raises(SerializedError):
        unserialize(b"a:1:{i:0;" * 1000)
