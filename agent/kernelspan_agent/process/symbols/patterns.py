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
# std's own that Itanium abbreviates (St, Sa, Ss, ...)
_ABBREVIATED = {
    *("std", "allocator", "basic_string", "string", "operator"),
    *("basic_istream", "basic_ostream", "basic_iostream", "istream", "ostream", "iostream"),
}
# Words of demangled names that are no text of the mangled one: those, types, and what demanglers say.
_WORDS = """
allocator basic_iostream basic_istream basic_ostream basic_string char_traits iostream istream ostream std string
auto bool char char16_t char32_t char8_t const decltype double float int long nullptr_t short signed unsigned void volatile
wchar_t restrict noexcept requires operator new delete co_await __int128 __float128 half decimal32 decimal64 decimal128 _BitInt
complex imaginary enable_if vector objcproto template parameter object block literal string_literal initializer
vtable VTT for typeinfo name guard variable reference temporary construction covariant return thunk to virtual non in
anonymous namespace lambda unnamed anonymous structured binding descriptor TLS init function wrapper routine initialization
i8 i16 i32 i64 i128 isize u8 u16 u32 u64 u128 usize f16 f32 f64 f128 str dyn mut as fn extern unsafe closure shim impl
true false sizeof alignof throw this typeid static_cast dynamic_cast reinterpret_cast const_cast
"""
_IDENTIFIER = re.compile(r"[^\W\d]\w*\Z")
_MIN_PIECE = 2
_RUN = re.compile(r"\w{3,}", re.ASCII)

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
        found: set[str] = set()
        for part in _components(self.text.removeprefix("~").replace("::~", "::")):
            if "*" in part or "?" in part:
                found |= {run for run in _RUN.findall(part) if run not in _WORDS}
            elif _IDENTIFIER.match(part) and part.isascii() and len(part) >= _MIN_PIECE and part not in _ABBREVIATED:
                found.add(part)
        pieces = (piece.encode() for piece in found)
        return tuple(sorted(pieces, key=lambda piece: (-len(piece), piece)))

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
