# SPDX-License-Identifier: Apache-2.0
"""Formats of strings: what a field's text must look like beyond its length.

A field names its format in `Meta(extra={"format": NAME})`; FORMATS says how to check it and what to tell the author.
`pattern` and `cel` are what a schema can carry of it (RE2 and Python agree on the patterns); `partial` where that is
not all: what the API server lets through, `kernelspan check` and the operator still refuse.
"""

from __future__ import annotations

import ipaddress
import re
import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

MAX_UNBOUNDED_REPEATS = 3  # backtracking costs up to (length of the text) to this power
_MAX_REGEX_DEPTH = 16


@dataclass(frozen=True, slots=True)
class Format:
    """`says` completes "must be …"; `check` gives None for good text, else what is wrong ("" adds nothing).

    `cel`: an expression of the text that CEL calls {0}, where no pattern can say it.
    """

    says: str
    check: Callable[[str], str | None]
    pattern: str = ""
    cel: str = ""
    partial: bool = False


def _pattern(says: str, pattern: str) -> Format:
    compiled = re.compile(pattern)
    return Format(says, lambda text: None if compiled.search(text) and not text.endswith("\n") else "", pattern)


# Text in which each [ is closed; in [ ] and [! ] the first ] is a member of the set.
_BRACKETS = r"[^\[]*(\[([!^](\]|[^\]])|[^!^])[^\]]*\][^\[]*)*"
# A segment of a path that is not `..`: by its length.
_SEGMENT = r"([^/]|[^/.][^/]|[^/][^/.]|[^/]{3,})?"
_PORT = "([1-9][0-9]{0,3}|[1-5][0-9]{4}|6[0-4][0-9]{3}|65[0-4][0-9]{2}|655[0-2][0-9]|6553[0-5])"
_HOST = r"([^][\x00-\x20\x7f/?#@:\\]+|\[[0-9A-Fa-f:.]+\])"
_ENDPOINT = rf"^({_HOST}:{_PORT}|https?://{_HOST}(:{_PORT})?([/?#][^\x00-\x20\x7f]*)?)?$"


def _glob(text: str) -> str | None:
    """As fnmatch has them, with `**` besides: a bracket that is never closed would match itself, which nobody means."""
    rest = text
    while (start := rest.find("[")) >= 0:
        # A ] directly after [ or [! is a member of the set.
        first = start + (2 if rest[start + 1 : start + 2] in ("!", "^") else 1)
        end = rest.find("]", first + 1)
        if end < 0:
            return "the bracket [ is never closed"
        rest = rest[end + 1 :]
    return None


def _path_glob(text: str) -> str | None:
    if not text.startswith(("/", "*")):
        return "paths are absolute, so it would match nothing"
    return _glob(text)


def _cidr(text: str) -> str | None:
    if not re.fullmatch(r"[0-9A-Fa-f:.]+/(0|[1-9][0-9]{0,2})", text):
        return ""
    try:
        network = ipaddress.ip_network(text, strict=False)
    except ValueError:
        return ""
    address = ipaddress.ip_address(text.partition("/")[0])
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped:
        return f"did you mean {address.ipv4_mapped}?"
    return None if network.network_address == address else f"bits are set outside the range; did you mean {network}?"


def _probe_path(text: str) -> str | None:
    if text == "Auto":
        return None
    if not text.startswith("/"):
        return ""
    return "it holds .." if ".." in text.split("/") else None


def _endpoint(text: str) -> str | None:
    if text == "":
        return None
    if "://" not in text:
        text = "http://" + text
        needs_port = True
    else:
        needs_port = False
    try:
        url = urlsplit(text)
        port = url.port
    except ValueError:
        return ""
    if url.scheme not in ("http", "https") or not url.hostname or any(c.isspace() or not c.isprintable() for c in text):
        return ""
    if url.username is not None or url.password is not None:
        return "credentials do not belong here: use headersSecretRef"
    if port == 0 or (needs_port and (port is None or url.path or url.query)):
        return ""
    return None if re.search(_ENDPOINT, text.removeprefix("http://") if needs_port else text) else ""


def _repeats(tree: Any, depth: int, inside: bool) -> Iterator[str]:
    """Why this parsed regex may take for ever: yields one entry a fault, "" for an unbounded repeat without one."""
    if depth > _MAX_REGEX_DEPTH:
        yield "it is nested too deeply"
        return
    for operator, argument in tree:
        name = str(operator)
        if name in ("GROUPREF", "GROUPREF_EXISTS"):
            yield "back-references are not allowed: they can take for ever"
        repeats = name in ("MAX_REPEAT", "MIN_REPEAT", "POSSESSIVE_REPEAT") and argument[1] > 1
        if (repeats or name == "BRANCH") and inside:
            yield "a repeat or an alternative inside a repeat is not allowed: it can take for ever"
        if repeats:
            yield ""
        for part in _parts(argument):
            yield from _repeats(part, depth + 1, inside or repeats)


def _parts(argument: Any) -> Iterator[Any]:
    """Sub-patterns within a parsed operator's argument, however it holds them."""
    if type(argument).__name__ == "SubPattern":
        yield argument
    elif isinstance(argument, (tuple, list)):
        for one in argument:
            yield from _parts(one)


def _regex(text: str) -> str | None:
    """Python's syntax, less what backtracks without bound: these run over text of traced programs."""
    parser: Any = getattr(re, "_parser")  # noqa: B009  # no public name gives the parsed tree
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # a pattern whose meaning is about to change is refused, not guessed
            re.compile(text)
            tree = parser.parse(text)
    except (re.error, OverflowError, RecursionError, Warning) as error:
        return str(error)
    found = list(_repeats(tree, 0, inside=False))
    if faults := [fault for fault in found if fault]:
        return faults[0]
    return f"it has more than {MAX_UNBOUNDED_REPEATS} repeats" if len(found) > MAX_UNBOUNDED_REPEATS else None


_LABEL = "[a-z0-9]([-a-z0-9]*[a-z0-9])?"
_NAME = "[A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?"
_HOST_LABEL = "[A-Za-z0-9_]([-A-Za-z0-9_]{0,61}[A-Za-z0-9_])?"
_SHORT_NAME = "[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?"
_DNS = "lower-case letters, digits and -, with a letter or digit at both ends"

_IDENTIFIER = "[A-Za-z_][A-Za-z0-9_]*"
_MEMBER = rf"({_IDENTIFIER}|\((struct |union )?{_IDENTIFIER} ?\*\))"
_ELEMENT = r"\[[0-9]{1,6}\]"

FORMATS: dict[str, Format] = {
    "dnsLabel": _pattern(f"a DNS label (RFC 1123: {_DNS})", f"^{_LABEL}$"),
    "dnsSubdomain": _pattern(f"a DNS name (RFC 1123: labels of {_DNS}, joined by dots)", rf"^{_LABEL}(\.{_LABEL})*$"),
    "serverName": _pattern(
        "a host's name, in ASCII, or address, as a certificate has it",
        rf"^({_HOST_LABEL}(\.{_HOST_LABEL})*\.?|[0-9A-Fa-f:]*[0-9A-Fa-f]:[0-9A-Fa-f:.]*|::[0-9A-Fa-f:.]+)?$",
    ),
    "labelKey": _pattern("a label's key: [DNS name/]name", rf"^({_LABEL}(\.{_LABEL})*/)?{_SHORT_NAME}$"),
    "labelValue": _pattern("a label's value: letters, digits, - _ .", f"^({_NAME})?$"),
    "glob": Format("a glob, each [ closed by a ]", _glob, f"^{_BRACKETS}$"),
    "pathGlob": Format("a glob that begins with / or *, each [ closed by a ]", _path_glob, f"^[/*]{_BRACKETS}$"),
    "regex": Format("a regular expression", _regex, partial=True),
    "cidr": Format(
        "an address range such as 10.0.0.0/8 or fd00::/8",
        _cidr,
        cel="isCIDR({0}) && [cidr({0})].all(range, range.masked() == range)",  # parsed once: parsing is what costs
    ),
    "header": _pattern("the name of an HTTP header", r"^[A-Za-z0-9!#$%&'*+.^_`|~-]+$"),
    "route": _pattern("a route that begins with /", r"^/[^\x00-\x20?#]*$"),
    "probePath": Format("Auto, or an absolute path without ..", _probe_path, f"^(Auto|(/{_SEGMENT})+)$"),
    "kernelSymbol": _pattern("the name of a kernel function", r"^[A-Za-z_][A-Za-z0-9_.]*$"),
    "identifier": _pattern("a name of letters, digits and _", r"^[A-Za-z_][A-Za-z0-9_]*$"),
    "optionalIdentifier": _pattern("a name of letters, digits and _, or empty", r"^([A-Za-z_][A-Za-z0-9_]*)?$"),
    "memberPath": _pattern(
        "names of struct members joined by dots, with [2] for elements and (struct name *) for casts, or empty",
        rf"^(({_MEMBER}|{_ELEMENT})({_ELEMENT})*(\.{_MEMBER}({_ELEMENT})*)*)?$",
    ),
    "symbol": _pattern("the name of a function in the executable", r"^[^\x00-\x20]([^\x00-\x1f]*[^\x00-\x20])?$"),
    "attribute": _pattern("an attribute's name: letters, digits, . _ - /", r"^[A-Za-z][A-Za-z0-9_./-]*$"),
    "apiVersion": _pattern("an API version such as apps/v1", r"^[a-z0-9.-]+/v[0-9][a-z0-9]*$"),
    "endpoint": Format("host:port, an http:// or https:// address, or empty", _endpoint, _ENDPOINT, partial=True),
    # Cheaper in CEL than the pattern, which would go over the budget of a rule on all values of all conditions.
    "port": Format(
        "a port, 1 to 65535",
        _pattern("", f"^{_PORT}$").check,
        cel="{0}.matches('^[0-9]+$') && !{0}.startsWith('0') && "
        "({0}.size() < 5 || ({0}.size() == 5 && {0} <= '65535'))",
    ),
    # What fits 64 bits, signed or not, by its length alone.
    "number": _pattern(
        "a whole number: up to 19 digits, 18 if negative, or 0x with up to 16, 15 if negative",
        r"^([0-9]{1,19}|-[0-9]{1,18}|0[xX][0-9a-fA-F]{1,16}|-0[xX][0-9a-fA-F]{1,15})$",
    ),
}
