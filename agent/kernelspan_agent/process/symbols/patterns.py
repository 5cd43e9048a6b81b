# SPDX-License-Identifier: Apache-2.0
"""What a user writes to name functions: a name as the table has it, a demangled one, or a glob over either.

A symbol may hold anything, `*` and brackets included (Go's `main.(*Engine).Quote`), so a text is a name first and a glob
only where no function has exactly that name. In a glob `*` stands for any bytes and `?` for one; nothing else is special.
A version (`memcpy@@GLIBC_2.14`) is no part of a name. Matching is linear in the name.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from functools import cached_property

_VERSION = re.compile(r"(?s)(.+?)@@?[A-Za-z_][\w.+-]*\Z")
# std's own, which Itanium abbreviates (St, Sa, Ss, ...), and words that are no source name where they stand in a component
_ABBREVIATED = {"std", "allocator", "basic_string", "string", "basic_istream", "basic_ostream", "basic_iostream"} | {
    "istream",
    "ostream",
    "iostream",
    "operator",
}
_IDENTIFIER = re.compile(r"[^\W\d]\w*\Z")
_MIN_PIECE = 2

_Segment = tuple[re.Pattern[bytes], int]  # of a fixed length


def encode(text: str) -> bytes:
    """A name's bytes; empty where no table can hold such a name."""
    try:
        data = text.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        return b""
    return b"" if b"\0" in data else data


def decode(name: bytes) -> str:
    """A name as text; bytes that are no UTF-8 as `os.fsdecode` gives them."""
    return name.decode("utf-8", "surrogateescape")


def without_version(name: str) -> str:
    """`memcpy@@GLIBC_2.14` is `memcpy`."""
    match = _VERSION.match(name)
    return match[1] if match else name


@dataclass(frozen=True)
class Pattern:
    """One text of a user's, and how names are held against it."""

    text: str
    name: bytes = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "name", encode(without_version(self.text)))

    @property
    def is_glob(self) -> bool:
        """Whether it can stand for several names."""
        return "*" in self.text or "?" in self.text

    @cached_property
    def needle(self) -> bytes:
        """Bytes that every table's name it matches holds; empty: nothing is certain."""
        return max(re.split(rb"[*?]", self.name), key=len) if self.is_glob else self.name

    @cached_property
    def pieces(self) -> tuple[bytes, ...]:
        """Bytes that a mangled name holds whose demangled form it matches, longest first; empty: nothing is certain."""
        found = set()
        for part in _components(self.text.removeprefix("~").replace("::~", "::")):
            if _IDENTIFIER.match(part) and part.isascii() and len(part) >= _MIN_PIECE and part not in _ABBREVIATED:
                found.add(part.encode())
        return tuple(sorted(found, key=lambda piece: (-len(piece), piece)))

    @cached_property
    def _segments(self) -> tuple[_Segment, ...]:
        return _segments(self.name)

    @cached_property
    def _squeezed_segments(self) -> tuple[_Segment, ...]:
        return _segments(encode(squeezed(self.text)))

    def is_name(self, name: bytes) -> bool:
        """Whether it is exactly this name of a table, whatever its version."""
        return bool(self.name) and (name == self.name or name.startswith(self.name + b"@"))

    def matches(self, name: bytes) -> bool:
        """Whether it is a glob that stands for this name of a table."""
        return self.is_glob and bool(self.name) and _matches(name, self._segments)

    def is_demangled(self, *forms: str) -> bool:
        """Whether it is one of these forms of a demangled name, spaces aside."""
        return squeezed(self.text) in {squeezed(form) for form in forms}

    def matches_demangled(self, *forms: str) -> bool:
        """Whether it is a glob that stands for one of them."""
        return self.is_glob and any(_matches(encode(squeezed(form)), self._squeezed_segments) for form in forms)


def squeezed(text: str) -> str:
    """Without spaces: `f(int, char)` and `f(int,char)`, `A<B<C> >` and `A<B<C>>` are the same."""
    return "".join(text.split())


def _components(text: str) -> list[str]:
    """The components of a qualified name outside its brackets: `ns::Engine<int>::quote(long)` has three."""
    parts, current, depth = [], "", 0
    for index, sign in enumerate(text):
        if sign in "<([{":
            if not depth and sign == "(" and current:
                break  # the parameters
            depth += 1
        elif sign in ">)]}":
            depth -= 1
        elif depth <= 0 and text[index : index + 2] == "::":
            parts.append(current)
            current = ""
        elif depth <= 0 and sign != ":":
            current += sign
    return [*parts, current]


def _segments(glob: bytes) -> tuple[_Segment, ...]:
    parts = glob.split(b"*")
    return tuple(
        (re.compile(b".".join(re.escape(piece) for piece in part.split(b"?")), re.DOTALL), len(part)) for part in parts
    )


def _matches(name: bytes, segments: tuple[_Segment, ...]) -> bool:
    (first, length), *others = segments
    if not others:
        return first.fullmatch(name) is not None
    if first.match(name) is None:
        return False
    at = length
    for segment, size in others[:-1]:
        found = segment.search(name, at)
        if found is None:
            return False
        at = found.start() + size
    last, size = others[-1]
    return len(name) - size >= at and last.fullmatch(name, len(name) - size) is not None
