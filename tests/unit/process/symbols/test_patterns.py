# SPDX-License-Identifier: Apache-2.0
"""What a user's text stands for."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kernelspan_agent.process.symbols.patterns import Pattern, without_version

LETTERS = st.text("ab.(*?[]", max_size=12)


def reference(glob: str, name: str) -> bool:
    """By the regular expression that a glob stands for."""
    expression = "".join({"*": ".*", "?": "."}.get(sign, re.escape(sign)) for sign in glob)
    return re.fullmatch(expression, name, re.DOTALL) is not None


@given(LETTERS, LETTERS)
def test_a_glob_is_what_a_regular_expression_says(glob: str, name: str) -> None:
    """`*` and `?` alone are special, and every text is also its own name."""
    pattern = Pattern(glob)
    assert pattern.matches(name.encode()) == (pattern.is_glob and bool(glob) and reference(glob, name))
    assert pattern.is_name(name.encode()) == (bool(glob) and glob == name)


@given(LETTERS, LETTERS)
def test_what_matches_holds_the_needle(glob: str, name: str) -> None:
    """The search by needles leaves nothing out."""
    pattern = Pattern(glob)
    if pattern.matches(name.encode()) or pattern.is_name(name.encode()):
        assert pattern.needle in name.encode()


def test_a_hostile_glob_is_linear() -> None:
    """What would keep a backtracking matcher for years."""
    assert not Pattern("*a" * 100 + "b").matches(b"a" * 60_000)


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("memcpy@@GLIBC_2.14", "memcpy"),
        ("memcpy@GLIBC_2.2.5", "memcpy"),
        ("memcpy", "memcpy"),
        ("@plt", "@plt"),
        ("a@", "a@"),
        ("core::ops::f@1", "core::ops::f@1"),
    ],
)
def test_a_version_is_no_part_of_a_name(text: str, name: str) -> None:
    """Versions begin with a letter."""
    assert without_version(text) == name
    assert Pattern(name).is_name(b"memcpy@@GLIBC_2.14") == (name == "memcpy")


@pytest.mark.parametrize(
    ("text", "pieces"),
    [
        ("ns::Engine::quote(int)", {b"ns", b"Engine", b"quote"}),
        ("std::vector<int>::push_back", {b"vector", b"push_back"}),
        ("operator new", set()),
        ("A::operator()(int) const", set()),
        ("ns::A::~A()", {b"ns"}),
        ("ns::Foo::~Foo()", {b"ns", b"Foo"}),
        ("core::ptr::drop_in_place<T>", {b"core", b"ptr", b"drop_in_place"}),
        ("(anonymous namespace)::hidden", {b"hidden"}),
        ("*::getFunction*", {b"getFunction"}),
        ("*ostream*", set()),  # std::ostream is written So
        ("std::string::append", {b"append"}),
    ],
)
def test_pieces_are_what_a_mangled_name_must_hold(text: str, pieces: set[bytes]) -> None:
    """Only what no scheme abbreviates."""
    assert set(Pattern(text).pieces) == pieces


@pytest.mark.parametrize("text", ["", "a\0b", "\ud800"])
def test_what_no_name_can_be_stands_for_nothing(text: str) -> None:
    """A text with a NUL or half a character."""
    assert not Pattern(text).is_name(b"a")
    assert not Pattern(text).matches(b"a")
