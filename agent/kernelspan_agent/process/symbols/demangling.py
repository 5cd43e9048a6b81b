# SPDX-License-Identifier: Apache-2.0
"""What people call a function whose demangled name is known: Rust's older names read right, parameters set apart.

Rust's legacy scheme is C++'s with the characters that a name may not hold written out (`$LT$` is `<`) and a hash at the
end (rustc_symbol_mangling's legacy.rs has the table); a C++ demangler leaves both.
"""

from __future__ import annotations

import re

_RUST_HASH = re.compile(r"::h[0-9a-f]{16}(?=\Z| \()")
_RUST_ESCAPE = re.compile(r"\$(SP|BP|RF|LT|GT|LP|RP|C|u[0-9a-f]{1,6})\$|\.\.")
_RUST_SIGNS = {"SP": "@", "BP": "*", "RF": "&", "LT": "<", "GT": ">", "LP": "(", "RP": ")", "C": ","}
_CLONE = re.compile(r" \(\.[^()]*\)\Z")  # foo.cold, foo.llvm.123: a part or a copy of the function
_RUST_METHOD = re.compile(r"<((?:(?! as ).)+)>(::[^<>]+(?:::<.*>)?)\Z")  # v0: <krate::Type<i32>>::method
_SUFFIX = re.compile(r"(?: const| volatile| ?&&?| noexcept|\[abi:[^\]]*\])\Z")


def readable(mangled: bytes, demangled: str) -> str:
    """The demangled name as its language writes it."""
    if mangled.startswith(b"_ZN") and _RUST_HASH.search(demangled):
        name = re.sub(r"(^|::)_(?=\$)", r"\1", _RUST_HASH.sub("", demangled))  # no name begins with a sign
        return _RUST_ESCAPE.sub(_rust_sign, name)
    return demangled


def written(mangled: bytes, shown: str) -> tuple[str, ...]:
    """The ways to write the function that `readable` gave: whole, without parameters, Rust's methods without brackets."""
    if mangled.startswith((b"_ZT", b"_ZG")):  # a thunk or a guard is not the function that it is named after
        return (shown,)
    forms = [shown, qualified(shown)]
    if match := _RUST_METHOD.match(shown):
        forms.append(match[1] + match[2])
    return tuple(form for form in forms if form)


def qualified(demangled: str) -> str:
    """It without parameters, return type and qualifiers: `void ns::f<int>(int) const` is `ns::f<int>`.

    A copy or a part of a function (`f() (.cold)`) has none: it is not what is called by the name. Empty then.
    """
    if _CLONE.search(demangled):
        return ""
    text = demangled
    while match := _SUFFIX.search(text):
        text = text[: match.start()]
    if text.endswith(")"):
        text = _without_last_group(text)
    return text[_start_of_name(text) :]


def _rust_sign(match: re.Match[str]) -> str:
    sign = match[1]
    if sign is None:
        return "::"
    if sign in _RUST_SIGNS:
        return _RUST_SIGNS[sign]
    code = int(sign[1:], 16)
    return chr(code) if code < 0x110000 and not 0xD800 <= code < 0xE000 else match[0]


def _without_last_group(text: str) -> str:
    depth = 0
    for index in range(len(text) - 1, -1, -1):
        if text[index] == ")":
            depth += 1
        elif text[index] == "(":
            depth -= 1
            if not depth:
                # `(anonymous namespace)` and `operator()` are part of a name; parameters follow one.
                return text[:index] if index and not text.endswith("(anonymous namespace)") else text
    return text


def _start_of_name(text: str) -> int:
    """Behind the return type that a template's name begins with: the last space outside of brackets."""
    depth = start = 0
    for index, sign in enumerate(text):
        if sign in "<([{":
            depth += 1
        elif sign in ">)]}" and text[index - 1] != "-":
            depth -= 1
        elif sign == " " and depth <= 0 and not text[:index].endswith("operator"):
            start = index + 1
        if text.startswith("operator", index) and (not index or text[index - 1] in ": "):
            break  # what follows may be any sign
    return start
