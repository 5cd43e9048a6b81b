# SPDX-License-Identifier: Apache-2.0
"""Text of a YAML document to plain values, with nothing left to surprise.

The text is hostile: its size, its depth and the number of values after aliases are expanded are bounded, tags are
refused, nothing is constructed but dict, list, str, int, float, bool and None. Ambiguity is refused too: a key twice,
a key that is not a string, a second document. Of YAML 1.1's implicit types only JSON's are known, and yes/no/on/off
(refused later where a string is wanted, as Kubernetes would): no dates, no 1:30 as ninety, no 010 as eight. 123e45
is a float, as it is to Kubernetes, though not to PyYAML: where text is wanted it has to be quoted.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field

import yaml

from .problems import MISSING, UNREADABLE, Findings, item, member

MAX_BYTES = 256 * 1024  # a profile is a few KiB; PyYAML reads about 100 KiB a second
MAX_DEPTH = 32  # the deepest place of a profile is 9
MAX_VALUES = 20_000
_MAX_NUMBER_CHARACTERS = 40

Plain = object  # dict[str, Plain] | list[Plain] | str | int | float | bool | None


@dataclass(slots=True)
class Document:
    """`value`, and the line (from 1) that each path begins at. `read` is False where there is no whole value."""

    value: Plain = None
    read: bool = False
    lines: dict[str, int] = field(default_factory=dict)


class _TooDeepError(yaml.MarkedYAMLError):
    """Nested deeper than MAX_DEPTH."""


class _Loader(yaml.SafeLoader):
    """SafeLoader's parser with our own idea of scalars and a bound on depth. Composes only: nothing is constructed."""

    yaml_implicit_resolvers: dict[str, list[tuple[str, re.Pattern[str]]]] = {}  # noqa: RUF012  # PyYAML's own way
    depth = 0

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        """One node and what it holds."""
        self.depth += 1
        if self.depth > MAX_DEPTH:
            mark = self.peek_event().start_mark  # type: ignore[no-untyped-call]
            raise _TooDeepError(None, None, f"must not be nested deeper than {MAX_DEPTH}", mark)
        try:
            return super().compose_node(parent, index)
        finally:
            self.depth -= 1


_NULL, _BOOL, _INT, _FLOAT, _STR = (f"tag:yaml.org,2002:{name}" for name in ("null", "bool", "int", "float", "str"))
_TRUE = ("true", "yes", "on")
_PATTERNS = {
    _NULL: (re.compile(r"^(?:~|null|Null|NULL|)$"), ["~", "n", "N", ""]),
    _BOOL: (
        re.compile(r"^(?:true|True|TRUE|false|False|FALSE|yes|Yes|YES|no|No|NO|on|On|ON|off|Off|OFF)$"),
        list("tTfFyYnNoO"),
    ),
    _INT: (re.compile(r"^[-+]?(?:0|[1-9][0-9]*|0x[0-9a-fA-F]+|0o[0-7]+)$"), list("-+0123456789")),
    _FLOAT: (
        re.compile(
            r"^(?:[-+]?(?:[0-9]+(?:\.[0-9]*)?(?:[eE][-+]?[0-9]+)?|\.[0-9]+(?:[eE][-+]?[0-9]+)?|\.(?:inf|Inf|INF))|\.(?:nan|NaN|NAN))$"
        ),
        list("-+0123456789."),
    ),
}
for _tag, (_regex, _first) in _PATTERNS.items():
    if _tag is not _FLOAT:
        _Loader.add_implicit_resolver(_tag, _regex, _first)
# A number with a leading zero is neither decimal nor octal to everyone: it stays text.
_Loader.add_implicit_resolver(
    _FLOAT, re.compile(rf"(?![-+]?0[0-9]){_PATTERNS[_FLOAT][0].pattern}"), list("-+0123456789.")
)


def read(text: bytes | str, findings: Findings) -> Document:
    """The one document of `text`; what is wrong with it goes to `findings`."""
    document = Document()
    size = len(text) if isinstance(text, bytes) else len(text.encode("utf-8", "surrogatepass"))
    if size > MAX_BYTES:
        findings.add("", MISSING, f"must be at most {MAX_BYTES} bytes long; this is {size}")
        return document
    try:
        if isinstance(text, bytes):
            text = text.decode("utf-8-sig")
        loader = _Loader(text)
        try:
            root = loader.get_node() if loader.check_node() else None
            if root is None:
                findings.add("", MISSING, "must hold a profile; there is nothing in it")
                return document
            if loader.check_node():
                line = loader.peek_event().start_mark.line + 1  # type: ignore[no-untyped-call]
                findings.add("", MISSING, "must be exactly one YAML document; a second one begins here", line)
                return document
        finally:
            loader.dispose()
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 0
        findings.add("", MISSING, _reason(error), line)
        return document
    # ValueError, OverflowError: PyYAML gives chr() whatever \U escape it reads; UnicodeDecodeError is one too.
    except (yaml.YAMLError, ValueError, OverflowError) as error:
        findings.add("", MISSING, f"must be YAML in UTF-8: {' '.join(str(error).split())[:200]}")
        return document
    builder = _Builder(document.lines, findings)
    document.value = builder.build(root, "", 0)
    document.read = builder.values <= MAX_VALUES
    return document


def _reason(error: yaml.MarkedYAMLError) -> str:
    if isinstance(error, _TooDeepError):
        return str(error.problem)
    return "must be YAML: " + ", ".join(" ".join(part.split())[:200] for part in (error.context, error.problem) if part)


@dataclass(slots=True)
class _Builder:
    """Values from nodes; lives for one document."""

    lines: dict[str, int]
    findings: Findings
    values: int = 0

    def build(self, node: yaml.Node, path: str, depth: int) -> Plain:
        """The node's value; UNREADABLE where there is a problem with it, which is noted."""
        line = node.start_mark.line + 1
        self.lines.setdefault(path, line)
        self.values += 1
        if self.values > MAX_VALUES or depth > MAX_DEPTH:
            # An alias of what it is inside of is endless, an alias of aliases nearly so.
            if self.values <= MAX_VALUES or self.values == MAX_VALUES + 1:
                self.findings.add(
                    path, MISSING, f"must hold at most {MAX_VALUES} values, {MAX_DEPTH} deep, aliases expanded", line
                )
            self.values = MAX_VALUES + 1
            return UNREADABLE
        if isinstance(node, yaml.MappingNode) and node.tag.endswith(",2002:map"):
            return self._mapping(node, path, depth)
        if isinstance(node, yaml.SequenceNode) and node.tag.endswith(",2002:seq"):
            return [self.build(child, item(path, index), depth + 1) for index, child in enumerate(node.value)]
        if isinstance(node, yaml.ScalarNode) and (node.tag == _STR or node.tag in _PATTERNS):
            return self._scalar(node, path, line)
        self.findings.add(path, node.tag, "must not have a tag of its own", line)
        return UNREADABLE

    def _mapping(self, node: yaml.MappingNode, path: str, depth: int) -> dict[str, Plain]:
        value: dict[str, Plain] = {}
        for key, child in node.value:
            line = key.start_mark.line + 1
            if not isinstance(key, yaml.ScalarNode) or key.tag != _STR:
                shown = key.value if isinstance(key, yaml.ScalarNode) else [None] * len(key.value)
                self.findings.add(path, shown, "must have strings as keys; quote this one", line)
                continue
            where = member(path, key.value)
            if key.value in value:
                self.findings.add(
                    where, MISSING, f"must be given once; it is on line {self.lines[where]} already", line
                )
                continue
            self.lines[where] = line
            value[key.value] = self.build(child, where, depth + 1)
        return value

    def _scalar(self, node: yaml.ScalarNode, path: str, line: int) -> Plain:
        text, tag = node.value, node.tag
        if tag == _STR:
            return text
        if len(text) > _MAX_NUMBER_CHARACTERS or not _PATTERNS[tag][0].search(text):
            self.findings.add(
                path, text, f"must be a plain value that its tag or its length allows ({tag.rpartition(':')[2]})", line
            )
            return UNREADABLE
        if tag == _NULL:
            return None
        if tag == _BOOL:
            return text.lower() in _TRUE
        return _integer(text) if tag == _INT else float(text.replace(".inf", "inf").replace(".nan", "nan"))


def _integer(text: str) -> int:
    sign, digits = (-1, text[1:]) if text[0] == "-" else (1, text.lstrip("+"))
    return sign * int(digits, {"0x": 16, "0o": 8}.get(digits[:2], 10))
