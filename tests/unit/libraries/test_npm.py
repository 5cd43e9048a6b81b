# SPDX-License-Identifier: Apache-2.0
"""Packages of npm, pnpm and yarn by the files that a frame names; what a manifest claims counts only where it may."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kernelspan_agent.libraries.base import Libraries, LibraryContext
from kernelspan_agent.libraries.npm import RECHECK_NS, package_of
from kernelspan_agent.libraries.npm.packages import MAX_MANIFEST_BYTES, parse_manifest
from kernelspan_agent.model import Origin
from tests.unit.libraries.making import Clock, Container


class Site(Container):
    """A container with an application in /app."""

    def __init__(self, path: Path, clock: Clock | None = None) -> None:
        super().__init__(path, clock)
        self.clock = clock or Clock()
        self.libraries = Libraries(self.clock)
        self.context = LibraryContext("nodejs", root=str(path), version=(20, 20), cwd="/app")

    def package(self, directory: str, name: str, version: str = "1.0.0", file: str = "index.js") -> str:
        """Writes a package of one file, and gives the file."""
        self.write(f"{directory}/package.json", json.dumps({"name": name, "version": version}))
        self.write(f"{directory}/{file}")
        return f"{directory}/{file}"

    def verdict(self, file: str) -> str:
        origin, library = self.libraries.classify(file, self.context)
        return f"{origin.value} {library.purl}" if library else origin.value


@pytest.fixture
def site(tmp_path: Path) -> Site:
    """An application."""
    found = Site(tmp_path)
    found.package("/app", "shop", "0.1.0", "src/main.js")
    return found


def test_a_tree_of_npm(site: Site) -> None:
    """Plain and scoped packages, one inside another, files deep below; the application's own package is the App's."""
    express = site.package("/app/node_modules/express", "express", "4.19.2", "lib/router/index.js")
    babel = site.package("/app/node_modules/@babel/core", "@babel/core", "7.24.0", "lib/index.js")
    debug = site.package("/app/node_modules/express/node_modules/debug", "debug", "2.6.9", "src/node.js")
    assert site.verdict(express) == "Library pkg:npm/express@4.19.2"
    assert site.verdict(babel) == "Library pkg:npm/%40babel/core@7.24.0"
    assert site.verdict(debug) == "Library pkg:npm/debug@2.6.9"
    assert site.verdict("/app/src/main.js") == "App"
    assert site.verdict("/app/src/gone.js") == "unknown"
    _, library = site.libraries.classify(babel, site.context)
    assert library is not None
    assert (library.name, library.version) == ("@babel/core", "7.24.0")


def test_a_manifest_without_a_name_inside_a_package(site: Site) -> None:
    """dist/esm/package.json says only how files are to be read: the package is the one above."""
    site.package("/app/node_modules/uuid", "uuid", "9.0.1")
    site.write("/app/node_modules/uuid/dist/esm/package.json", '{"type": "module"}')
    site.write("/app/node_modules/uuid/dist/other/package.json", '{"name": "express", "version": "9.9.9"}')
    assert site.verdict("/app/node_modules/uuid/dist/esm/v4.mjs") == "Library pkg:npm/uuid@9.0.1"
    assert site.verdict("/app/node_modules/uuid/dist/other/v4.js") == "Library pkg:npm/uuid@9.0.1"


def test_pnpm(site: Site) -> None:
    """Links from node_modules into the store: Node.js names files by where links lead, and a link is followed as well."""
    store = "/app/node_modules/.pnpm/koa@2.15.3/node_modules"
    koa = site.package(f"{store}/koa", "koa", "2.15.3", "lib/application.js")
    scoped = site.package(
        "/app/node_modules/.pnpm/@koa+router@12.0.1/node_modules/@koa/router", "@koa/router", "12.0.1"
    )
    site.link("/app/node_modules/koa", ".pnpm/koa@2.15.3/node_modules/koa")
    assert site.verdict(koa) == "Library pkg:npm/koa@2.15.3"
    assert site.verdict(scoped) == "Library pkg:npm/%40koa/router@12.0.1"
    assert site.verdict("/app/node_modules/koa/lib/application.js") == "Library pkg:npm/koa@2.15.3"


def test_an_alias(site: Site) -> None:
    """`npm install old@npm:lodash@3`: its name is its own."""
    file = site.package("/app/node_modules/old", "lodash", "3.10.1")
    assert site.verdict(file) == "Library pkg:npm/lodash@3.10.1"


def test_yarns_archives(site: Site) -> None:
    """Plug'n'Play: packages in zip files, also by their virtual names; unplugged ones lie beside."""
    cache = "/app/.yarn/cache/left-pad-npm-1.3.0-0a3a7d7aa2-10c0.zip"
    manifest = json.dumps({"name": "left-pad", "version": "1.3.0"})
    site.zip(cache, {"node_modules/left-pad/package.json": manifest, "node_modules/left-pad/index.js": "x"})
    native = "/app/.yarn/unplugged/sharp-npm-0.33.0-abc/node_modules/sharp"
    site.package(native, "sharp", "0.33.0")
    virtual = f"/app/.yarn/__virtual__/left-pad-virtual-0123/0/cache/{cache.rpartition('/')[2]}"
    for archive in (cache, virtual):
        assert site.verdict(f"{archive}/node_modules/left-pad/index.js") == "Library pkg:npm/left-pad@1.3.0"
        assert site.verdict(f"{archive}/node_modules/left-pad/lib/a.js") == "Library pkg:npm/left-pad@1.3.0"
    assert site.verdict(f"{cache}/node_modules/other/index.js") == "Library"
    assert site.verdict(f"{cache}/index.js") == "unknown"
    assert site.verdict(f"{native}/index.js") == "Library pkg:npm/sharp@0.33.0"


def test_a_workspace(site: Site) -> None:
    """A link from node_modules to a package of the application's own: its files are named by where they are."""
    file = site.package("/app/packages/cart", "@shop/cart", "0.1.0", "src/cart.js")
    site.link("/app/node_modules/@shop/cart", "../../packages/cart")
    assert site.verdict(file) == "App"


def test_debians_packages(site: Site) -> None:
    """They have no node_modules around them."""
    file = site.package("/usr/share/nodejs/express", "express", "4.18.2", "lib/express.js")
    scoped = site.package("/usr/share/nodejs/@types/node", "@types/node", "18.11.9")
    native = site.package("/usr/lib/x86_64-linux-gnu/nodejs/bcrypt", "bcrypt", "5.1.0")
    assert site.verdict(file) == "Library pkg:npm/express@4.18.2"
    assert site.verdict(scoped) == "Library pkg:npm/%40types/node@18.11.9"
    assert site.verdict(native) == "Library pkg:npm/bcrypt@5.1.0"


def test_names_that_node_makes_up(site: Site) -> None:
    """Its own modules are the runtime's, what is typed is the user's, the rest nobody's."""
    for name in ("node:fs", "node:internal/modules/cjs/loader", "[native code]"):
        assert site.verdict(name) == "Runtime"
    for name in ("[eval]", "[eval1]", "[stdin]", "[worker eval]", "REPL1"):
        assert site.verdict(name) == "App"
    for name in (
        "",
        "<anonymous>",
        "evalmachine.<anonymous>",
        "wasm://wasm/8a",
        "main.js",
        "/app/\0.js",
        "/" + "a/" * 5000,
    ):
        assert site.verdict(name) == "unknown"


def test_an_update_is_seen(site: Site) -> None:
    """After `npm update`, the version is the new one."""
    file = site.package("/app/node_modules/ms", "ms", "2.0.0")
    assert site.verdict(file) == "Library pkg:npm/ms@2.0.0"
    site.at("/app/node_modules/ms/package.json").unlink()
    site.package("/app/node_modules/ms", "ms", "2.1.3")
    site.clock.now_ns += RECHECK_NS
    assert site.verdict(file) == "Library pkg:npm/ms@2.1.3"


@pytest.mark.parametrize(
    "manifest",
    [
        "",
        "[]",
        "null",
        '{"name": 1}',
        '{"name": "../../x", "version": "1.0.0"}',
        '{"name": "a b"}',
        '{"name": "@/x"}',
        '{"name": "' + "a" * 300 + '"}',
        "[" * 100_000,
        '{"name": "big", "x": "' + "a" * MAX_MANIFEST_BYTES + '"}',
    ],
    ids=range(10),
)
def test_a_broken_manifest(site: Site, manifest: str) -> None:
    """What lies in node_modules is some library's, whatever its manifest holds."""
    site.write("/app/node_modules/odd/package.json", manifest)
    site.write("/app/node_modules/odd/index.js")
    assert site.verdict("/app/node_modules/odd/index.js") == "Library"


def test_a_broken_archive(site: Site, tmp_path: Path) -> None:
    """No zip file; one whose manifest is a bomb."""
    site.write("/app/.yarn/cache/a.zip", b"PK\x03\x04nothing")
    assert site.verdict("/app/.yarn/cache/a.zip/node_modules/a/index.js") == "Library"
    with zipfile.ZipFile(tmp_path / "app/.yarn/cache/b.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("node_modules/b/package.json", b" " * (64 << 20))
    assert site.verdict("/app/.yarn/cache/b.zip/node_modules/b/index.js") == "Library"


def test_sites(site: Site) -> None:
    """Folders of packages around a file, each with how many it has; pnpm's store is none."""
    site.package("/app/node_modules/a", "a")
    site.package("/app/node_modules/@s/b", "@s/b")
    site.package("/app/node_modules/@s/c", "@s/c")
    site.write("/app/node_modules/.pnpm/lock.yaml")
    site.package("/usr/lib/node_modules/npm", "npm")
    found = site.libraries.sites(["/app/src/main.js", "node:fs"], ["/usr"], site.context)
    assert found == {"/usr/lib/node_modules": 1, "/app/node_modules": 3}


@pytest.mark.parametrize(
    ("directory", "package"),
    [
        ("/a/node_modules", ""),
        ("/a/node_modules/.bin", ""),
        ("/a/node_modules/.vite/deps", ""),
        ("/a/node_modules/b/.c/d", "/a/node_modules/b"),
        ("/a/node_modules/@b", "/a/node_modules/@b"),
        ("/a/my_node_modules/b", ""),
        ("/usr/share/nodejs", ""),
        ("/srv/usr/share/nodejs/a", ""),
        ("", ""),
    ],
)
def test_the_package_of_a_directory(directory: str, package: str) -> None:
    """By whole parts of a path."""
    assert package_of(directory) == package


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.text(alphabet="/@.node_modulesa-zip", max_size=60))
def test_any_name(site: Site, name: str) -> None:
    """Whatever a frame names: an answer."""
    assert isinstance(site.libraries.classify(name, site.context)[0], Origin)


@given(st.binary(max_size=200))
def test_any_manifest(data: bytes) -> None:
    """Whatever a manifest holds: a library with a name, or none."""
    found = parse_manifest(data)
    assert found is None or found.name
