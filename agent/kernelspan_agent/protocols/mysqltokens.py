# SPDX-License-Identifier: Apache-2.0
"""SQL as MySQL and MariaDB read it, in tokens, each literal as `?`: no value is left in them.

It must never let a literal through, whatever the statement is (MySQL's manual, "Language Structure", and MariaDB's). How a
backslash in a string is read, what double quotes and comments for certain versions are, settings and the server decide:
where that changes where a literal ends nothing that follows is shown. Text in double quotes is a literal, as it is by default.
"""

from __future__ import annotations

import re

_TOKEN = re.compile(
    r"""
    (?P<space>[ \t\r\n\f\v]+ | (?:\#|--(?=[\x01-\x20\x7f]|\Z))[^\n]*)
  | (?P<comment>/\*(?P<executed>M?!\d*)?)
  | (?P<string>[xXbBnN]?(?P<quote>['"]))
  | (?P<name>`(?:[^`\0]|``)*(?P<end>`?))
  | (?P<number>(?:\d|\.\d)[\w.$\x80-\U0010ffff]*(?:(?<=[eE])[+-]\d\w*)?)
  | (?P<shown>
        @{1,2}[A-Za-z_\x80-\U0010ffff][\w.$\x80-\U0010ffff]*
      | [A-Za-z_\x80-\U0010ffff][\w$\x80-\U0010ffff]*
      | \\N\b
      | [-+*/<>=~!@%^&|?()\[\],;:.{}]
    )
    """,
    re.VERBOSE | re.DOTALL | re.ASCII,
)
_ESCAPED = {quote: re.compile(rf"(?:[^{quote}\\]|\\.|{quote}{quote})*+{quote}", re.DOTALL) for quote in "'\""}
_PLAIN = {quote: re.compile(rf"(?:[^{quote}]|{quote}{quote})*+{quote}", re.DOTALL) for quote in "'\""}
_WIDE = re.compile(r"""[\x80-\U0010ffff]\\[\\'"]""")  # in some character sets the backslash is part of the one before
_NOT_SIMPLE = re.compile(r"""['"`#\\$\0]|--|/\*""")  # in a comment that may be none: they may hide where it ends
_PASSWORD = re.compile(r"password|identified", re.IGNORECASE)


def tokens_of(statement: str, escapes: bool | None = None) -> tuple[list[str], bool]:
    """The tokens; and whether these are all: False where a literal has no certain end.

    `escapes`: whether a backslash in a string does, in the first statement of these; None: not known.
    """
    found: list[str] = []
    at = 0
    inside_until = -1  # the end of a comment whose inside is shown
    while 0 <= at < len(statement):
        if at == inside_until:
            at += 2
            continue
        matched = _TOKEN.match(statement, at)
        if matched is None:
            return found, False  # a NUL, a lone backslash, what begins with `$`
        at = matched.end()
        if matched["comment"] is not None:
            at, inside_until = _after_comment(statement, at, is_executed=matched["executed"] is not None)
        elif matched["quote"] is not None:
            found.append("?")
            at = _after_string(statement, at, matched["quote"], escapes)
        elif matched["space"] is None:
            found.append(_shown(matched))
            if found[-1] == ";":
                escapes = None  # the statement before may have changed it
        if _is_doubtful(matched):
            at = -1
    return found, at >= 0


def _shown(matched: re.Match[str]) -> str:
    """What stands for a token that is no string."""
    is_literal = matched["number"] is not None or (matched["name"] is not None and not matched["end"])
    return "?" if is_literal else matched[0]


def _is_doubtful(matched: re.Match[str]) -> bool:
    """Whether it may end elsewhere: a comment at a NUL; a name without an end, or with a last character that is part of
    another in some character sets, as a backtick or a backslash behind what is not ASCII may be.
    """
    if matched["space"] is not None:
        return "\0" in matched[0]
    if matched["name"] is not None:
        return not matched["end"]
    return ord(matched[0][-1]) > 0x7F and matched.string[matched.end() : matched.end() + 1] == "`"


def has_password(statement: str) -> bool:
    """Whether it may bear one, which is not to be shown with other values."""
    return _PASSWORD.search(statement) is not None


def _after_string(statement: str, at: int, quote: str, escapes: bool | None) -> int:
    """Where a string ends; -1: that is not certain. Text in double quotes may be a name, in which nothing is escaped."""
    escaped, plain = _ESCAPED[quote].match(statement, at), _PLAIN[quote].match(statement, at)
    ends = [each.end() if each is not None else -1 for each in (escaped, plain)]
    if escapes is False:
        return ends[1]
    if (ends[0] != ends[1] and (quote == '"' or escapes is None)) or _WIDE.search(statement, at, max(ends)):
        return -1
    return ends[0]


def _after_comment(statement: str, at: int, *, is_executed: bool) -> tuple[int, int]:
    """Where what is shown goes on, and where then the comment's end is; -1: not certain. Comments do not nest.

    The inside of one that is for certain versions only is shown.
    """
    end = statement.find("*/", at)
    inside = statement[at:end]
    if end < 0 or ((is_executed or inside.startswith("+")) and _NOT_SIMPLE.search(inside + "*")):
        return -1, -1  # hints have strings of their own
    return (at, end) if is_executed else (end + 2, -1)
