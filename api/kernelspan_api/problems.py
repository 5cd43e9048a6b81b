# SPDX-License-Identifier: Apache-2.0
"""What is wrong with a profile, said so that its author can mend it: where, what was found, what is allowed.

Every problem of a document is collected before anything is refused: nobody should mend a file line by line.
"""

from __future__ import annotations

import enum
import json
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

MAX_PROBLEMS = 100  # more help nobody, and hostile input must not fill a terminal or a status
MAX_VALUE_CHARACTERS = 60
_PLAIN_KEY = re.compile(r"[A-Za-z_][A-Za-z0-9_-]{0,63}")


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong.

    `path` is like `spec.probes[0].args[1].type`, empty for the document itself; `value` is the offending value as JSON,
    shortened, empty where something is missing; `message` says what is allowed; `line` counts from 1, 0 is not known.
    """

    path: str
    value: str
    message: str
    line: int = 0

    def __str__(self) -> str:
        """One line for a terminal."""
        found = ", ".join(
            part for part in (self.value and f"got {self.value}", self.line and f"line {self.line}") if part
        )
        text = f"{self.path}: {self.message}" if self.path else self.message
        return f"{text} ({found})" if found else text


class ProfileError(ValueError):
    """A document that is not a valid profile. `problems` holds all of them, at least one, in the document's order."""

    reason = "InvalidSpec"

    def __init__(self, problems: Iterable[Problem]) -> None:
        self.problems = tuple(problems)
        super().__init__("\n".join(str(problem) for problem in self.problems))


@dataclass(slots=True)
class Findings:
    """Problems while they are collected: at most MAX_PROBLEMS, with the number of those left out."""

    problems: list[Problem] = field(default_factory=list)
    left_out: int = 0

    def add(self, path: str, value: object, message: str, line: int = 0) -> None:
        """Note a problem; `value` is shortened here, MISSING shows nothing."""
        if len(self.problems) >= MAX_PROBLEMS:
            self.left_out += 1
            return
        self.problems.append(Problem(path, shorten(value), message, line))

    def error(self) -> ProfileError:
        """All that was found, as the exception to raise."""
        more = [Problem("", "", f"and {self.left_out} more problems")] if self.left_out else []
        return ProfileError([*self.problems, *more])


class _Mark(enum.Enum):
    """Stands where a value is not."""

    MISSING = enum.auto()
    UNREADABLE = enum.auto()


MISSING = _Mark.MISSING  # nothing is there
UNREADABLE = _Mark.UNREADABLE  # something is there, and what is wrong with it has been noted


def shorten(value: object) -> str:
    """`value` as one line of JSON, at most MAX_VALUE_CHARACTERS long, safe to print: no control characters."""
    if isinstance(value, _Mark):
        return ""
    if isinstance(value, (dict, list, tuple)):
        kind, items = ("object", "fields") if isinstance(value, dict) else ("list", "items")
        return f"{'an' if kind == 'object' else 'a'} {kind} of {len(value)} {items}"
    if isinstance(value, str):
        # An escaped character takes up to 12, so what is beyond this length can never be shown.
        text = json.dumps(value[: MAX_VALUE_CHARACTERS + 1], ensure_ascii=not value.isprintable())
    elif isinstance(value, int) and not isinstance(value, bool) and value.bit_length() > 256:
        return "a number of more than 256 bits"  # int to text is refused beyond 4300 digits
    else:
        text = json.dumps(value) if value is None or isinstance(value, (bool, int, float)) else type(value).__name__
    return text if len(text) <= MAX_VALUE_CHARACTERS else text[: MAX_VALUE_CHARACTERS - 1] + "…"


def member(path: str, key: object) -> str:
    """Path of the field or map entry `key` of the object at `path`."""
    if isinstance(key, str) and _PLAIN_KEY.fullmatch(key):
        return f"{path}.{key}" if path else key
    return f"{path}[{shorten(key)}]"


def item(path: str, index: int) -> str:
    """Path of the list item `index` (from 0) of the list at `path`."""
    return f"{path}[{index}]"
