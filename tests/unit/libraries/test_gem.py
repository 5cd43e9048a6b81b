# SPDX-License-Identifier: Apache-2.0
"""Gems by the files that a frame names; specifications made to mislead claim nothing they do not hold."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kernelspan_agent.libraries.base import Libraries, LibraryContext
from kernelspan_agent.libraries.gem import RECHECK_NS
from kernelspan_agent.libraries.gem.specs import MAX_SPECIFICATION_BYTES, library_of
from kernelspan_agent.model import Origin
from tests.unit.libraries.making import Clock, Container

HOME = "/usr/local/bundle"
OWN = "/usr/local/lib/ruby"


def specification(name: str, version: str, platform: str = "ruby", files: str = "") -> str:
    return (
        f"# -*- encoding: utf-8 -*-\n# stub: {name} {version} {platform} lib\n\nGem::Specification.new do |s|\n"
        f'  s.name = "{name}".freeze\n  s.version = "{version}"\n  s.files = [{files}]\nend\n'
    )


class Site(Container):
    """A container with Ruby as the official images have it, and an application in /app."""

    def __init__(self, path: Path, clock: Clock | None = None) -> None:
        super().__init__(path, clock)
        self.clock = clock or Clock()
        self.libraries = Libraries(self.clock)
        self.context = LibraryContext("ruby", root=str(path), version=(3, 3), cwd="/app")

    def gem(self, name: str, version: str, *files: str, home: str = HOME, platform: str = "") -> None:
        full = f"{name}-{version}{f'-{platform}' if platform else ''}"
        self.write(f"{home}/specifications/{full}.gemspec", specification(name, version, platform or "ruby"))
        for file in files:
            self.write(f"{home}/gems/{full}/{file}")

    def verdict(self, file: str) -> str:
        origin, library = self.libraries.classify(file, self.context)
        return f"{origin.value} {library.purl}" if library else origin.value


@pytest.fixture
def site(tmp_path: Path) -> Site:
    """Gems, default gems, Ruby's own."""
    found = Site(tmp_path)
    found.gem("rack", "3.0.8", "lib/rack.rb")
    found.gem("nokogiri", "1.16.0", "lib/nokogiri.rb", platform="x86_64-linux")
    found.write("/app/main.rb")
    files = '"json.rb".freeze, "json/common.rb".freeze, "json/ext/parser.so".freeze, "lib/json/lib.rb".freeze, "../../evil.rb".freeze'
    found.write(
        f"{OWN}/gems/3.3.0/specifications/default/json-2.7.1.gemspec", specification("json", "2.7.1", files=files)
    )
    for file in (
        "set.rb",
        "json.rb",
        "json/common.rb",
        "json/lib.rb",
        "x86_64-linux/rbconfig.rb",
        "x86_64-linux/json/ext/parser.so",
    ):
        found.write(f"{OWN}/3.3.0/{file}")
    found.write(f"{OWN}/3.3.0/x86_64-linux/socket.so")
    return found


def test_gems_and_ruby_itself(site: Site) -> None:
    """Name and version as the specification says; default gems by their files; the rest of Ruby's folder is Ruby's."""
    assert site.verdict(f"{HOME}/gems/rack-3.0.8/lib/rack.rb") == "Library pkg:gem/rack@3.0.8"
    assert (
        site.verdict(f"{HOME}/gems/nokogiri-1.16.0-x86_64-linux/lib/nokogiri.rb") == "Library pkg:gem/nokogiri@1.16.0"
    )
    assert site.verdict(f"{OWN}/3.3.0/json/common.rb") == "Library pkg:gem/json@2.7.1"
    assert site.verdict(f"{OWN}/3.3.0/json/lib.rb") == "Library pkg:gem/json@2.7.1"
    assert site.verdict(f"{OWN}/3.3.0/x86_64-linux/json/ext/parser.so") == "Library pkg:gem/json@2.7.1"
    assert site.verdict(f"{OWN}/3.3.0/set.rb") == "Runtime"
    assert site.verdict(f"{OWN}/3.3.0/x86_64-linux/socket.so") == "Runtime"
    assert site.verdict("/app/main.rb") == "App"
    assert site.verdict("main.rb") == "App"
    assert site.verdict("/app/gone.rb") == "unknown"


def test_names_that_ruby_makes_up(site: Site) -> None:
    """Code of eval is whose the file is that it stands in, where that is said."""
    assert site.verdict("<internal:kernel>") == "Runtime"
    assert site.verdict("/usr/lib/libruby-3.3.so.3.3.8") == "Runtime"
    assert site.verdict("-e") == site.verdict("-") == "App"
    assert site.verdict("(eval)") == site.verdict("") == site.verdict("(eval") == "unknown"
    assert site.verdict("(eval at /app/main.rb:3)") == "App"
    assert site.verdict(f"(eval at (eval at {HOME}/gems/rack-3.0.8/lib/rack.rb:1):9)") == "Library pkg:gem/rack@3.0.8"
    assert site.verdict("(eval at " * 50 + "/app/main.rb" + ":1)" * 50) == "unknown"


def test_vendored_by_bundler(site: Site) -> None:
    """In the application's own folder; a clone of a repository, whose version is only there where it is written."""
    home = "/app/vendor/bundle/ruby/3.3.0"
    site.gem("puma", "6.4.2", "lib/puma.rb", home=home)
    site.write(f"{home}/extensions/x86_64-linux/3.3.0/puma-6.4.2/puma/puma_http11.so")
    site.write(f"{home}/bundler/gems/shop-0123abcd/lib/shop.rb")
    site.write(
        f"{home}/bundler/gems/shop-0123abcd/shop.gemspec",
        "Gem::Specification.new do |s|\n  s.name = 'shop'\n  s.version = Shop::VERSION\nend\n",
    )
    site.write(f"{home}/bundler/gems/cart-0123abcd/lib/cart.rb")
    site.write(
        f"{home}/bundler/gems/cart-0123abcd/cart.gemspec",
        "Gem::Specification.new do |spec|\n  spec.name = \"cart\"\n  spec.version = '1.2.3.pre'\nend\n",
    )
    assert site.verdict(f"{home}/gems/puma-6.4.2/lib/puma.rb") == "Library pkg:gem/puma@6.4.2"
    assert (
        site.verdict(f"{home}/extensions/x86_64-linux/3.3.0/puma-6.4.2/puma/puma_http11.so")
        == "Library pkg:gem/puma@6.4.2"
    )
    assert site.verdict(f"{home}/bundler/gems/shop-0123abcd/lib/shop.rb") == "Library pkg:gem/shop"
    assert site.verdict(f"{home}/bundler/gems/cart-0123abcd/lib/cart.rb") == "Library pkg:gem/cart@1.2.3.pre"


def test_debians_vendor_ruby(site: Site) -> None:
    """Files of no folder of their own: by the package's list, where it brings one specification; RubyGems is Ruby's own."""
    site.write(
        "/usr/share/rubygems-integration/all/specifications/tilt-2.0.11.gemspec", specification("tilt", "2.0.11")
    )
    site.write("/usr/lib/ruby/vendor_ruby/tilt/erb.rb")
    site.write("/usr/lib/ruby/vendor_ruby/other.rb")
    site.write("/usr/lib/ruby/vendor_ruby/rubygems/core_ext/kernel_require.rb")
    site.write(
        "/var/lib/dpkg/info/ruby-tilt.list",
        "/.\n/usr\n/usr/lib/ruby/vendor_ruby\n/usr/lib/ruby/vendor_ruby/tilt\n/usr/lib/ruby/vendor_ruby/tilt/erb.rb\n"
        "/usr/share/rubygems-integration/all/specifications/tilt-2.0.11.gemspec\n",
    )
    assert site.verdict("/usr/lib/ruby/vendor_ruby/tilt/erb.rb") == "Library pkg:gem/tilt@2.0.11"
    assert site.verdict("/usr/lib/ruby/vendor_ruby/other.rb") == "Library"
    assert site.verdict("/usr/lib/ruby/vendor_ruby/rubygems/core_ext/kernel_require.rb") == "Runtime"


def test_what_misleads(site: Site) -> None:
    """A file that says another name than its own, or too much, claims nothing; below gems/ it is still somebody's library."""
    site.write(f"{HOME}/specifications/evil-1.0.0.gemspec", specification("rack", "9.9.9"))
    site.write(f"{HOME}/gems/evil-1.0.0/lib/evil.rb")
    site.write(
        f"{HOME}/specifications/large-1.0.0.gemspec",
        " " * (MAX_SPECIFICATION_BYTES + 1) + specification("large", "1.0.0"),
    )
    site.write(f"{HOME}/gems/large-1.0.0/lib/large.rb")
    assert site.verdict(f"{HOME}/gems/evil-1.0.0/lib/evil.rb") == "Library"
    assert site.verdict(f"{HOME}/gems/large-1.0.0/lib/large.rb") == "Library"
    assert site.verdict(f"{HOME}/gems/rack-3.0.8/lib/rack.rb") == "Library pkg:gem/rack@3.0.8"
    site.write("/usr/local/evil.rb")
    assert site.verdict("/usr/local/evil.rb") == "App"  # a default gem's file that leaves its folder is none


def test_gems_that_change(site: Site) -> None:
    """An upgrade is seen some seconds later."""
    file = f"{HOME}/gems/rack-3.1.0/lib/rack.rb"
    site.write(file)
    assert site.verdict(file) == "Library"
    site.gem("rack", "3.1.0")
    site.clock.now_ns += RECHECK_NS
    assert site.verdict(file) == "Library pkg:gem/rack@3.1.0"


def test_sites(site: Site) -> None:
    """Homes around files, with how many gems each has."""
    found = site.libraries.sites([f"{HOME}/gems/rack-3.0.8/lib/rack.rb", f"{OWN}/3.3.0/set.rb"], [], site.context)
    assert found == {HOME: 2, f"{OWN}/gems/3.3.0/specifications/default": 1}


@given(st.binary(max_size=400))
def test_hostile_specifications(data: bytes) -> None:
    """Whatever a file holds is a gem with a proper name, or none."""
    for each in (data, b"# stub: " + data, b"  s.name = '" + data + b"'\n  s.version = '1'\n"):
        library = library_of(each)
        assert library is None or library.purl.startswith("pkg:gem/")


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(file=st.text(max_size=60))
def test_hostile_files(site: Site, file: str) -> None:
    """Whatever a file is called, it is not a library without a record."""
    origin, library = site.libraries.classify(file, site.context)
    assert library is None
    assert origin is not Origin.LIBRARY
