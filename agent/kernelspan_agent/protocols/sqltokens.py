# SPDX-License-Identifier: Apache-2.0
"""SQL in tokens, each literal as `?`: no value is left in them.

It must never let a literal through, whatever the statement is (PostgreSQL's manual, "Lexical Structure"). Where a literal's
end is not certain nothing that follows is shown. Quoted identifiers and `$1` are no literals; comments are left out.
"""

from __future__ import annotations

import re

_TOKEN = re.compile(
    r"""
    (?P<space>[ \t\r\n\f\v]+ | --[^\r\n]*)
  | (?P<comment>/\*)
  | (?P<literal>
        [eE]'(?:[^'\\]|\\.|'')*(?P<escaped>'?)
      | (?:[uU]&|[bBxXnN])?'(?P<inside>(?:[^']|'')*)(?P<string>'?)
    )
  | (?P<dollar>\$(?:[A-Za-z_\x80-\U0010ffff][\w\x80-\U0010ffff]*)?\$)
  | (?P<number>(?:\d|\.\d)[\w.]*(?:(?<=[eE])[+-]\d\w*)?)
  | (?P<quoted>(?:[uU]&)?"(?:[^"]|"")*(?P<name>"?))
  | (?P<shown>
        \$\d+
      | [A-Za-z_\x80-\U0010ffff][\w$\x80-\U0010ffff]*
      | [-+*/<>=~!@\#%^&|`?()\[\],;:.{}]
    )
    """,
    re.VERBOSE | re.DOTALL | re.ASCII,
)
_COMMENT = re.compile(r"/\*|\*/")
_LIST = re.compile(r"\(\?(?:, \?)+\)")
_LISTS = re.compile(r"\(\?\)(?:, \(\?\))+")
_TIGHT_BEFORE, _TIGHT_AFTER = frozenset(",;).]:"), frozenset("(.[:")
_OPERATORS = frozenset("-+*/<>=~!@#%^&|`")
_SPACED = frozenset(  # before a parenthesis
    "IN VALUES AS FROM SELECT WHERE AND OR NOT ON JOIN INTO USING EXISTS ANY ALL UNION SET BY RETURNING OVER".split()  # noqa: SIM905
)


def tokens_of(statement: str) -> tuple[list[str], bool]:
    """The tokens; and whether these are all: False where a literal has no certain end."""
    found: list[str] = []
    at = 0
    while at < len(statement):
        matched = _TOKEN.match(statement, at)
        if matched is None:
            at += 1  # what no statement has
            continue
        at = matched.end()
        if matched["shown"] is not None:
            found.append(matched[0])
        elif matched["space"] is None:
            token, at = _special(matched, statement)
            found += token
            if at < 0:
                return found, False
    return found, True


def _special(matched: re.Match[str], statement: str) -> tuple[list[str], int]:
    """What a token that is no plain word stands for, and where it ends; -1: that is not certain."""
    at = matched.end()
    if matched["comment"] is not None:
        return [], _after_comment(statement, at)
    if matched["number"] is not None:
        # Letters behind a number begin a name, or are an error: the server's version decides, and what `$` is then.
        return ["?"], -1 if statement[at : at + 1] == "$" and not matched[0].isdecimal() else at
    if matched["dollar"] is not None:
        end = statement.find(matched[0], at)
        return ["?"], end + len(matched[0]) if end >= 0 else -1
    if matched["quoted"] is not None:
        return ([matched[0]], at) if matched["name"] else (["?"], -1)
    if matched["inside"] is None:
        return ["?"], at if matched["escaped"] else -1
    # A backslash in a plain string may escape or not: a setting of the server decides.
    return ["?"], at if matched["string"] and "\\" not in matched["inside"] else -1


def _after_comment(statement: str, at: int) -> int:
    """Comments nest. -1: it has no end."""
    depth = 1
    while depth:
        matched = _COMMENT.search(statement, at)
        if matched is None:
            return -1
        depth += 1 if matched[0] == "/*" else -1
        at = matched.end()
    return at


def joined(tokens: list[str]) -> str:
    """As one would write them, the same for the same tokens. Lists of values are as one value."""
    out: list[str] = []
    last = ""
    for token in tokens:
        if out and not _is_tight(last, token):
            out.append(" ")
        out.append(token)
        last = token
    return _LISTS.sub("(?)", _LIST.sub("(?)", "".join(out)))


def _is_tight(last: str, token: str) -> bool:
    if token in _TIGHT_BEFORE or last in _TIGHT_AFTER or (token in _OPERATORS and last in _OPERATORS):
        return True
    return token in {"(", "["} and last[-1:].isalnum() and last.upper() not in _SPACED
